//! A task's id, from a caller's message to the vendor's: taken by the contract's rule and no other, and sent as it came.
//!
//! An input is the id; and, read once more, a whole request.

use std::sync::Arc;
use std::time::SystemTime;

use federation_gateway::grpc::{form, judged};
use federation_gateway::pb::{QueryTaskRequest, QueryTaskResponse, WatchTaskRequest};
use federation_gateway::task::{Answer, InvalidTaskId, Observation, State, TaskId};
use federation_gateway::vendor::wire;
use prost::Message as _;

use super::failures;
use super::json::{self, Json};

/// See this file's head.
pub fn task_ids(data: &[u8]) {
    let mut request = vec![1 << 3 | 2];
    prost::encode_length_delimiter(data.len(), &mut request).expect("a Vec grows");
    request.extend_from_slice(data);
    let read = QueryTaskRequest::decode(&*request).ok().map(|request| request.task_id);
    let watched = WatchTaskRequest::decode(&*request).ok().map(|request| request.task_id);
    assert_eq!(read.as_deref(), std::str::from_utf8(data).ok());
    assert_eq!(read, watched);
    read.iter().for_each(|id| check(id));
    if let Ok(request) = QueryTaskRequest::decode(data) {
        check(&request.task_id);
    }
}

fn check(text: &str) {
    let is_id = (1..=128).contains(&text.len()) && text.bytes().all(|byte| (0x21..=0x7e).contains(&byte));
    let parsed = TaskId::parse(text);
    assert_eq!(parsed.is_ok(), is_id, "{text:?}");
    match (parsed, judged::task_id(text)) {
        (Ok(id), Ok(same)) => {
            assert_eq!(id, same);
            taken(&id, text);
        }
        (Err(error), Err(status)) => {
            refused(&error, text);
            failures::check_field(&status, "task_id", &error.to_string());
        }
        (parsed, judged) => panic!("{parsed:?} and {judged:?}"),
    }
}

fn taken(id: &TaskId, text: &str) {
    assert_eq!((id.as_str(), &*id.to_string()), (text, text));
    let body = wire::query_body(id);
    let expected = Json::Object(vec![(Some("taskId".into()), Json::Text(Some(text.into())))]);
    assert_eq!(json::read(&body), Ok(expected));
    // Printable, and no longer than with every byte escaped.
    assert!(body.iter().all(|byte| (0x21..=0x7e).contains(byte)) && body.len() <= 13 + 2 * text.len());
    let answer = Answer::new(State::default(), String::new(), SystemTime::UNIX_EPOCH);
    let observation = Observation { answer: Arc::new(answer), began: tokio::time::Instant::now() };
    let response = QueryTaskResponse::decode(&*form(id, &observation).bytes).expect("it is one");
    assert_eq!(response.task.expect("an answer has its task").task_id, text);
}

/// What is wrong is told by numbers alone, and its length before its bytes.
fn refused(error: &InvalidTaskId, text: &str) {
    let at = text.bytes().position(|byte| !(0x21..=0x7e).contains(&byte));
    let (expected, what) = match (text.len(), at) {
        (0, _) => (InvalidTaskId::Empty, "is empty; give the id that createTask returned".to_owned()),
        (bytes @ 129.., _) => {
            (InvalidTaskId::TooLong { bytes }, format!("has {bytes} bytes; at most 128 are taken"))
        }
        (_, Some(at)) => (
            InvalidTaskId::NotPrintable { at },
            format!("has a byte that is not printable ASCII, or a space, at offset {at}"),
        ),
        (_, None) => panic!("nothing is wrong with {text:?}"),
    };
    assert_eq!((*error, error.to_string()), (expected, what));
}
