//! Requests in, states out: protobuf's types to the domain's and back.

use std::time::{Duration, SystemTime};

use prost::Message as _;
use tonic::Status;

use super::status;
use crate::pb;
use crate::task::{self, Answer, Form, Observation, TaskId};

/// The range of `google.protobuf.Duration`, in seconds (its own documentation: about 10,000 years).
const LONGEST_SECONDS: i64 = 315_576_000_000;
const NANOS_A_SECOND: i32 = 1_000_000_000;

/// Checks a request's `task_id`.
pub fn task_id(text: &str) -> Result<TaskId, Status> {
    TaskId::parse(text).map_err(|error| status::invalid_field("task_id", &error.to_string()))
}

/// Checks a duration field; an unset one is none.
pub fn duration(
    field: &'static str,
    value: Option<prost_types::Duration>,
) -> Result<Option<Duration>, Status> {
    let Some(prost_types::Duration { seconds, nanos }) = value else { return Ok(None) };
    let is_in_range = seconds.unsigned_abs() <= LONGEST_SECONDS.unsigned_abs()
        && nanos.unsigned_abs() < NANOS_A_SECOND.unsigned_abs();
    let is_one_sign = seconds == 0 || nanos == 0 || (seconds < 0) == (nanos < 0);
    if !is_in_range || !is_one_sign {
        return Err(status::invalid_field(
            field,
            "is not a valid google.protobuf.Duration: out of its range",
        ));
    }
    match (u64::try_from(seconds), u32::try_from(nanos)) {
        (Ok(seconds), Ok(nanos)) => Ok(Some(Duration::new(seconds, nanos))),
        _ => Err(status::invalid_field(field, "is negative; give 0 s or more")),
    }
}

/// An observation as callers get it: made for the first of them, shared by all. Written from the observation's own
/// texts, which the generated types would want copies of.
#[must_use]
pub fn form(id: &TaskId, observation: &Observation) -> Form {
    let make = || {
        let answer = &observation.answer;
        let task = task(id, answer);
        let field = |length| 1 + prost::length_delimiter_len(length) + length;
        let shared = field(task.len());
        let message_length = match answer.result_message.len() {
            0 => 0,
            length => field(length),
        };
        // To the byte: what is kept for long shall be no longer than it is.
        let mut bytes = Vec::with_capacity(shared + message_length);
        message(1, &task, &mut bytes);
        text(2, &answer.result_message, &mut bytes);
        Form { shared, bytes: bytes.into() }
    };
    observation.answer.form.get_or_init(make).clone()
}

fn task(id: &TaskId, answer: &Answer) -> Vec<u8> {
    let state = &answer.state;
    // More than enough: it is copied soon.
    let mut task = Vec::with_capacity(answer.size());
    text(1, id.as_str(), &mut task);
    number(2, status_of(state) as u8, &mut task);
    text(3, &state.raw_status, &mut task);
    text(4, &state.remark, &mut task);
    let mut scratch = Vec::new();
    for failed in &state.fail_data {
        scratch.clear();
        fail_data(failed, &mut scratch);
        message(5, &scratch, &mut task);
    }
    task.push(6 << 3 | 2);
    timestamp(answer.observed_at).encode_length_delimited(&mut task).expect("a Vec grows");
    task
}

fn fail_data(failed: &task::FailData, into: &mut Vec<u8>) {
    if let Some(user) = &failed.federation_user {
        message(1, &federation_user(user), into);
    }
    number(2, fail_reason(&failed.fail_code) as u8, into);
    text(3, &failed.fail_code, into);
    text(4, &failed.fail_message, into);
}

fn federation_user(user: &task::FederationUser) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(64);
    number(1, user_action(&user.raw_action) as u8, &mut bytes);
    text(2, &user.raw_action, &mut bytes);
    text(3, &user.user_name, &mut bytes);
    text(4, &user.user_account, &mut bytes);
    text(5, &user.email, &mut bytes);
    for role in &user.role_ids {
        // Of a list none is left out, empty ones neither.
        message(6, role.as_bytes(), &mut bytes);
    }
    bytes
}

/// A text field; an empty one is left out.
fn text(field: u8, text: &str, into: &mut Vec<u8>) {
    if !text.is_empty() {
        message(field, text.as_bytes(), into);
    }
}

/// A field that is told with its length: a message, or a text of a list.
fn message(field: u8, bytes: &[u8], into: &mut Vec<u8>) {
    into.push(field << 3 | 2);
    prost::encode_length_delimiter(bytes.len(), into).expect("a Vec grows");
    into.extend_from_slice(bytes);
}

/// An enum's field, whose numbers are all below 128 and so one byte long; 0 is left out.
fn number(field: u8, number: u8, into: &mut Vec<u8>) {
    if number != 0 {
        into.extend_from_slice(&[field << 3, number]);
    }
}

fn status_of(state: &task::State) -> pb::TaskStatus {
    match state.status() {
        None => pb::TaskStatus::Unspecified,
        Some(task::Status::Todo) => pb::TaskStatus::Todo,
        Some(task::Status::Doing) => pb::TaskStatus::Doing,
        Some(task::Status::Done) => pb::TaskStatus::Done,
    }
}

fn user_action(text: &str) -> pb::UserAction {
    match text {
        "CREATE" => pb::UserAction::Create,
        "MODIFY" => pb::UserAction::Modify,
        "DISABLE" => pb::UserAction::Disable,
        _ => pb::UserAction::Unspecified,
    }
}

/// The vendor's failCodes (its reference, queryTask).
fn fail_reason(code: &str) -> pb::FailReason {
    match code {
        "60101040050" => pb::FailReason::InvalidParameter,
        "60101060003" => pb::FailReason::MappingFailed,
        "60101020076" => pb::FailReason::AccountLengthInvalid,
        "60101020085" => pb::FailReason::AccountCharactersInvalid,
        "60101060007" => pb::FailReason::UserNotFound,
        "60101030013" => pb::FailReason::RoleNotFound,
        "60101900002" => pb::FailReason::InternalError,
        "60101000100" => pb::FailReason::UserDetailsUnavailable,
        "60101000101" => pb::FailReason::MappingRuleUnavailable,
        "60101000102" => pb::FailReason::ThirdPartySystemIdUnavailable,
        "60101000103" => pb::FailReason::UserDetailsEmpty,
        "60101000104" => pb::FailReason::UserRolesUnavailable,
        "60101000105" => pb::FailReason::CreatedUserIdEmpty,
        "60101000108" => pb::FailReason::UserAlreadyExists,
        "60101000109" => pb::FailReason::InputMappingFailed,
        _ => pb::FailReason::Unspecified,
    }
}

fn timestamp(time: SystemTime) -> prost_types::Timestamp {
    time.into()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::time::Instant;

    use super::*;
    use crate::task::{Answer, FailData, FederationUser, State};

    fn observation(state: State, result_message: &str) -> Observation {
        let observed_at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_500);
        let answer = Arc::new(Answer::new(state, result_message.into(), observed_at));
        Observation { answer, began: Instant::now() }
    }

    fn shown(state: State) -> pb::Task {
        let form = form(&TaskId::parse("7").unwrap(), &observation(state, "fine"));
        let response = pb::QueryTaskResponse::decode(&*form.bytes).unwrap();
        assert_eq!(response.result_message, "fine");
        let task = pb::WatchTaskResponse::decode(&form.bytes[..form.shared]).unwrap().task.unwrap();
        assert_eq!(response.task, Some(task.clone()));
        // Byte for byte what the generated types write.
        assert_eq!(form.bytes, response.encode_to_vec());
        task
    }

    #[tokio::test]
    async fn many_failed_users_are_written_as_the_generated_types_would() {
        let user = |number: usize| FederationUser {
            raw_action: ["CREATE", "MODIFY", "MERGE", ""][number % 4].into(),
            user_name: "\u{4e2d}".repeat(number * 3),
            user_account: format!("account-{number}"),
            email: "e".repeat(number),
            role_ids: (0..number % 5).map(|role| "r".repeat(role)).collect(),
        };
        let failed = |number: usize| FailData {
            federation_user: (!number.is_multiple_of(3)).then(|| user(number)),
            fail_code: ["60101060003", "60101000109", "7", ""][number % 4].into(),
            fail_message: "m".repeat(number * 2),
        };
        let fail_data: Vec<_> = (0..130).map(failed).collect();
        let task = shown(State { raw_status: "DONE".into(), remark: "r".repeat(200), fail_data });
        assert_eq!(task.fail_data.len(), 130);
        let of_user = task.fail_data[128].federation_user.as_ref().unwrap();
        assert_eq!((&*of_user.user_account, of_user.role_ids.len()), ("account-128", 3));
        assert_eq!(task.fail_data[129].federation_user, None);
    }

    #[tokio::test]
    async fn what_is_unknown_keeps_its_text() {
        let user =
            FederationUser { raw_action: "MERGE".into(), user_name: "Ada".into(), ..Default::default() };
        let task = shown(State {
            raw_status: "PAUSED".into(),
            remark: "r".into(),
            fail_data: vec![
                FailData { federation_user: Some(user), fail_code: "7".into(), fail_message: "m".into() },
                FailData::default(),
            ],
        });
        assert_eq!((&*task.task_id, task.status, &*task.raw_status), ("7", 0, "PAUSED"));
        assert_eq!(task.observed_at, Some(prost_types::Timestamp { seconds: 1, nanos: 500_000_000 }));
        let failed = &task.fail_data[0];
        assert_eq!((failed.fail_reason, &*failed.fail_code, &*failed.fail_message), (0, "7", "m"));
        let user = failed.federation_user.as_ref().unwrap();
        assert_eq!((user.action, &*user.raw_action, &*user.user_name), (0, "MERGE", "Ada"));
        assert_eq!(task.fail_data[1].federation_user, None);
    }

    #[tokio::test]
    async fn what_is_known_has_its_number() {
        for (text, number) in [("TODO", 1), ("DOING", 2), ("DONE", 3), ("done", 0), ("", 0)] {
            assert_eq!(shown(State { raw_status: text.into(), ..Default::default() }).status, number);
        }
        for (text, number) in [("CREATE", 1), ("MODIFY", 2), ("DISABLE", 3), ("create", 0)] {
            assert_eq!(user_action(text) as i32, number);
        }
        let codes = "60101040050 60101060003 60101020076 60101020085 60101060007 60101030013 60101900002 60101000100 \
                     60101000101 60101000102 60101000103 60101000104 60101000105 60101000108 60101000109";
        for (at, code) in codes.split_whitespace().enumerate() {
            assert_eq!(fail_reason(code) as usize, at + 1, "{code}");
        }
    }

    #[test]
    fn durations_are_checked() {
        let read = |seconds, nanos| duration("max_age", Some(prost_types::Duration { seconds, nanos }));
        assert_eq!(duration("max_age", None).unwrap(), None);
        assert_eq!(read(0, 0).unwrap(), Some(Duration::ZERO));
        assert_eq!(read(LONGEST_SECONDS, 999_999_999).unwrap().unwrap().as_secs(), 315_576_000_000);
        for (seconds, nanos) in [
            (-1, 0),
            (0, -1),
            (1, -1),
            (-1, 1),
            (0, 1_000_000_000),
            (LONGEST_SECONDS + 1, 0),
            (i64::MIN, i32::MIN),
            (i64::MAX, i32::MAX),
        ] {
            let status = read(seconds, nanos).unwrap_err();
            assert_eq!(status.code(), tonic::Code::InvalidArgument, "{seconds} {nanos}");
            assert!(status.message().starts_with("max_age "), "{}", status.message());
        }
    }
}
