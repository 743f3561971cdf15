//! The vendor's answers to both calls, status and all: read as a reader of another make reads them, and told to callers
//! as the contract says.
//!
//! An input is a line `query 200 7` or `login 403 -` (the call, the HTTP status, the Retry-After in seconds or none),
//! then the body. With a fourth word, a number about 10,000, a zero byte in the body stands for so many `{},`.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use federation_gateway::pb;
use federation_gateway::task::failure::{Failure, Reason};
use federation_gateway::task::{Answer, FailData, FederationUser, Observation, State, TaskId};
use federation_gateway::token::bearer::Bearer;
use federation_gateway::vendor::error::ExchangeError;
use federation_gateway::vendor::heard::Heard;
use federation_gateway::vendor::wire;
use http::StatusCode;
use prost::Message as _;

use super::failures;
use super::json::{self, Fault, Json, Text};

/// The token that a query is sent with, and that a vendor may echo.
const TOKEN: &str = "hunter2-token";
/// The life that a login asks for.
const ASKED: Duration = Duration::from_secs(600);
const HOUR: Duration = Duration::from_secs(3600);
const MAX_USERS: usize = 10_000;

/// See this file's head.
pub fn vendor_json(data: &[u8]) {
    let Some(line) = data.iter().position(|byte| *byte == b'\n') else { return };
    let words = String::from_utf8_lossy(&data[..line]).into_owned();
    let words: Vec<_> = words.split(' ').collect();
    let status = words.get(1).and_then(|word| StatusCode::from_bytes(word.as_bytes()).ok());
    let retry_after = words.get(2).and_then(|word| word.parse().ok()).map(Duration::from_secs);
    let users = words.get(3).and_then(|word| word.parse::<usize>().ok());
    let body = expanded(&data[line + 1..], users);
    let heard = Heard { status: status.unwrap_or(StatusCode::OK), retry_after, body: &body };
    match words[0] {
        "login" => login(heard),
        _ => query(heard),
    }
}

fn expanded(body: &[u8], users: Option<usize>) -> Vec<u8> {
    let users = users.filter(|users| users.abs_diff(MAX_USERS) < 10);
    match (body.iter().position(|byte| *byte == 0), users) {
        (Some(at), Some(users)) => [&body[..at], &b"{},".repeat(users), &body[at + 1..]].concat(),
        _ => body.to_vec(),
    }
}

/// The document behind the mark that may stand before it.
fn document(body: &[u8]) -> Result<Json, Fault> {
    json::read(body.strip_prefix("\u{feff}".as_bytes()).unwrap_or(body))
}

fn query(heard: Heard<'_>) {
    let bearer = Bearer::new(TOKEN).expect("it is a token");
    let error = match (heard.of_query(&bearer), expected(heard)) {
        (Ok(answer), expected) => {
            assert_eq!((heard.status, &*answer.result_code), (StatusCode::OK, "0"));
            if let Expected::Unknown = expected {
                return;
            }
            let Expected::Answer(expected) = expected else { panic!("what is no good answer was taken") };
            assert!(answer == expected, "an answer was read as another one");
            return handed_out(answer);
        }
        (Err(_), Expected::Answer(_)) => panic!("a good answer was refused"),
        (Err(_), Expected::Unknown) => return,
        (Err(error), Expected::Failure(expected)) => {
            let failure = error.failure();
            let facts = |failure: &Failure| {
                (
                    failure.reason,
                    failure.http_status,
                    failure.result_code.clone(),
                    failure.result_message.clone(),
                )
            };
            assert_eq!(facts(&failure), facts(&expected));
            assert_eq!(failure.retry_after, expected.retry_after);
            assert!(!failure.is_spaced);
            error
        }
    };
    let failure = error.failure();
    assert_eq!(error.reason(), failure.reason);
    failures::check(&failure);
    let texts = [&failure.result_code, &failure.result_message];
    assert!(texts.into_iter().flatten().all(|text| !text.contains(TOKEN)), "the token was echoed");
    match &error {
        ExchangeError::Malformed(_) => {
            let what = failure.detail.strip_prefix("the vendor's answer is not the documented JSON: ");
            assert_place(what.expect("it is said what is wrong"), heard.body);
        }
        // What is said hangs on the status and the reason alone.
        _ => assert_eq!(failure.detail, wordless(heard, failure.reason).detail),
    }
}

/// The failure that another answer with this status and this reason comes to.
fn wordless(heard: Heard<'_>, reason: Reason) -> Failure {
    let body: &[u8] = if reason == Reason::UpstreamResultCode { br#"{"resultCode":"1"}"# } else { br#"{}"# };
    let bearer = Bearer::new("t").expect("it is a token");
    Heard { body, ..heard }.of_query(&bearer).expect_err("it is no good answer").failure()
}

/// A place in the document, and nothing of what stands there.
fn assert_place(text: &str, body: &[u8]) {
    const WHATS: [&str; 6] = [
        "no valid JSON",
        "no valid UTF-8",
        "no resultCode",
        "more than 10,000 failed users",
        "a value of another type than documented",
        "the end of the body in mid-document",
    ];
    let (what, place) = text.split_once(" at line ").expect("there is a place");
    assert!(WHATS.contains(&what), "{what}");
    let (line, column) = place.split_once(", column ").expect("a place has a column");
    let (line, column): (usize, usize) = (line.parse().expect("a number"), column.parse().expect("a number"));
    let longest = body.split(|byte| *byte == b'\n').map(<[u8]>::len).max().unwrap_or_default();
    assert!((1..=body.iter().filter(|byte| **byte == b'\n').count() + 1).contains(&line), "{text}");
    assert!(column <= longest + 1, "{text}");
}

/// What an answer should come to.
enum Expected {
    Answer(wire::Answer),
    Failure(Failure),
    /// It is nested deeper than the other reader goes.
    Unknown,
}

fn expected(heard: Heard<'_>) -> Expected {
    let status = heard.status.as_u16();
    let document = match document(heard.body) {
        Err(Fault::TooDeep) => return Expected::Unknown,
        Err(Fault::NoJson) => None,
        Ok(document) => Some(document),
    };
    let failure = |reason| Failure { http_status: Some(status), ..Failure::new(reason, "") };
    let refused = |reason: fn(Option<&str>) -> Reason, code: Option<String>, message: Option<String>| {
        let kept = |text: Option<String>, most: usize| {
            let mut text = text.filter(|text| !text.contains(TOKEN))?;
            while text.len() > most {
                text.pop();
            }
            Some(text)
        };
        let code = kept(code, usize::MAX);
        Expected::Failure(Failure {
            reason: reason(code.as_deref()),
            result_code: kept(code, 64),
            result_message: kept(message, 512),
            retry_after: heard.retry_after,
            ..failure(Reason::UpstreamMalformed)
        })
    };
    if status == 200 {
        let Some(answer) = document.as_ref().and_then(documented) else {
            return Expected::Failure(failure(Reason::UpstreamMalformed));
        };
        if answer.result_code == "0" {
            return Expected::Answer(answer);
        }
        let message = Some(answer.result_message).filter(|message| !message.is_empty());
        return refused(|_| Reason::UpstreamResultCode, Some(answer.result_code), message);
    }
    // Of an error's body what can be read is taken, and nothing is missed.
    let fields = document.as_ref().and_then(|document| object(document, ["resultCode", "resultMessage"]));
    let [code, message] = fields.unwrap_or_default();
    let lenient = |value| text(value).flatten();
    let reason: fn(Option<&str>) -> Reason = match status {
        400 => |_| Reason::UpstreamBadRequest,
        401 => |_| Reason::UpstreamUnauthorized,
        403 => |_| Reason::UpstreamForbidden,
        404 => |_| Reason::UpstreamPathNotFound,
        408 | 502 | 503 | 504 => |_| Reason::UpstreamUnavailable,
        429 => |_| Reason::UpstreamRateLimited,
        500 => |code| match code {
            None | Some("0") => Reason::UpstreamFailure,
            Some(_) => Reason::UpstreamResultCode,
        },
        300..400 => |_| Reason::UpstreamRedirect,
        _ => |_| Reason::UpstreamHttpStatus,
    };
    refused(reason, lenient(code), lenient(message))
}

/// The documented answer, if the document is one.
fn documented(document: &Json) -> Option<wire::Answer> {
    let [code, message, info, list] =
        object(document, ["resultCode", "resultMessage", "taskInfo", "failDataList"])?;
    let [status, remark] = optional_object(info, ["status", "remark"])?.unwrap_or_default();
    let users = list_of(list)?;
    if users.len() > MAX_USERS {
        return None;
    }
    let state = State {
        raw_status: text(status)?.unwrap_or_default(),
        remark: text(remark)?.unwrap_or_default(),
        fail_data: users.into_iter().map(fail_data).collect::<Option<_>>()?,
    };
    Some(wire::Answer {
        result_code: text(code)??,
        result_message: text(message)?.unwrap_or_default(),
        state,
    })
}

fn fail_data(value: &Json) -> Option<FailData> {
    let [user, code, message] = object(value, ["federationUser", "failCode", "failMessage"])?;
    let user = match optional_object(user, ["action", "userName", "userAccount", "email", "roleIds"])? {
        None => None,
        Some([action, name, account, email, roles]) => Some(FederationUser {
            raw_action: text(action)?.unwrap_or_default(),
            user_name: text(name)?.unwrap_or_default(),
            user_account: text(account)?.unwrap_or_default(),
            email: text(email)?.unwrap_or_default(),
            role_ids: list_of(roles)?.into_iter().map(|role| text(Some(role))?).collect::<Option<_>>()?,
        }),
    };
    let fail_code = text(code)?.unwrap_or_default();
    Some(FailData { federation_user: user, fail_code, fail_message: text(message)?.unwrap_or_default() })
}

/// The values of these keys; `None` if it is no object, or one that says one of them twice.
fn object<'a, const N: usize>(value: &'a Json, keys: [&str; N]) -> Option<[Option<&'a Json>; N]> {
    let Json::Object(members) = value else { return None };
    let mut values = [None; N];
    for (key, value) in members {
        let key: &Text = key;
        if let Some(at) = keys.iter().position(|known| *known == key.as_deref().unwrap_or_default())
            && values[at].replace(value).is_some()
        {
            return None;
        }
    }
    members.iter().all(|(key, _)| key.is_some()).then_some(values)
}

fn optional_object<'a, const N: usize>(
    value: Option<&'a Json>,
    keys: [&str; N],
) -> Option<Option<[Option<&'a Json>; N]>> {
    match value {
        None | Some(Json::Null) => Some(None),
        Some(value) => object(value, keys).map(Some),
    }
}

/// What a text's place holds: a text, a number as it was written, or nothing; `None` if it is anything else.
fn text(value: Option<&Json>) -> Option<Option<String>> {
    match value {
        None | Some(Json::Null) => Some(None),
        Some(Json::Number(text)) | Some(Json::Text(Some(text))) => Some(Some(text.clone())),
        Some(_) => None,
    }
}

/// A list's values that are not null; `None` if it is no list.
fn list_of(value: Option<&Json>) -> Option<Vec<&Json>> {
    match value {
        None | Some(Json::Null) => Some(Vec::new()),
        Some(Json::Array(values)) => Some(values.iter().filter(|value| **value != Json::Null).collect()),
        Some(_) => None,
    }
}

/// Holds what callers get of a good answer against the answer.
fn handed_out(read: wire::Answer) {
    let id = TaskId::parse("7").expect("it is an id");
    let observed_at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_500);
    let wire::Answer { state, result_message, .. } = read;
    let answer = Arc::new(Answer::new(state, result_message, observed_at));
    let observation = Observation { answer: Arc::clone(&answer), began: tokio::time::Instant::now() };
    let form = federation_gateway::grpc::form(&id, &observation);
    let response = pb::QueryTaskResponse::decode(&*form.bytes).expect("it is a QueryTaskResponse");
    assert_eq!(response.result_message, answer.result_message);
    let task = response.task.as_ref().expect("an answer has its task");
    let shared =
        pb::WatchTaskResponse::decode(&form.bytes[..form.shared]).expect("it is a WatchTaskResponse");
    assert!(shared.task.as_ref() == Some(task) && shared.reason == 0);
    assert!(form.bytes == response.encode_to_vec(), "not as the generated types write it");
    assert!(2 * form.bytes.len() <= answer.size(), "an answer takes more memory than is counted");

    assert_eq!((&*task.task_id, &task.raw_status), ("7", &answer.state.raw_status));
    assert_eq!(task.remark, answer.state.remark);
    assert_eq!(task.observed_at, Some(prost_types::Timestamp { seconds: 1, nanos: 500_000_000 }));
    let status = pb::TaskStatus::from_str_name(&format!("TASK_STATUS_{}", task.raw_status));
    assert_eq!(task.status, status.unwrap_or_default() as i32);
    assert_eq!(task.fail_data.len(), answer.state.fail_data.len());
    for (failed, expected) in task.fail_data.iter().zip(&answer.state.fail_data) {
        assert_eq!((&failed.fail_code, &failed.fail_message), (&expected.fail_code, &expected.fail_message));
        assert_eq!(failed.fail_reason, fail_reason(&failed.fail_code));
        let (user, expected) = match (&failed.federation_user, &expected.federation_user) {
            (Some(user), Some(expected)) => (user, expected),
            (user, expected) => {
                assert!(user.is_none() && expected.is_none());
                continue;
            }
        };
        let action = pb::UserAction::from_str_name(&format!("USER_ACTION_{}", user.raw_action));
        assert_eq!(user.action, action.unwrap_or_default() as i32);
        assert_eq!((&user.raw_action, &user.user_name), (&expected.raw_action, &expected.user_name));
        assert_eq!((&user.user_account, &user.email), (&expected.user_account, &expected.email));
        assert_eq!(user.role_ids, expected.role_ids);
    }
}

/// The number of a failCode's reason: its place in the reference's table.
fn fail_reason(code: &str) -> i32 {
    const CODES: &str = "60101040050 60101060003 60101020076 60101020085 60101060007 60101030013 60101900002 \
                         60101000100 60101000101 60101000102 60101000103 60101000104 60101000105 60101000108 \
                         60101000109";
    CODES.split(' ').position(|known| known == code).map_or(0, |at| at as i32 + 1)
}

fn login(heard: Heard<'_>) {
    let status = heard.status.as_u16();
    let read = document(heard.body);
    let failed = match heard.of_login(ASKED) {
        Ok(grant) => {
            assert_eq!(status, 200);
            assert!(grant.life <= HOUR, "{:?}", grant.life);
            assert_eq!(
                format!("{grant:?}"),
                format!("Grant {{ bearer: [redacted], life: {:?} }}", grant.life)
            );
            let Ok(document) = read else {
                return assert_eq!(read, Err(Fault::TooDeep));
            };
            let (token, expires) = granted(&document);
            let token = token.filter(|token| is_token(token)).expect("there is a token");
            assert_eq!(grant.bearer.header_value(), format!("Bearer {token}"));
            return assert_life(grant.life, expires.as_deref().unwrap_or_default());
        }
        Err(failure) => failure,
    };
    let reason = match (status, read) {
        (200, Err(Fault::TooDeep)) => return,
        (200, Err(Fault::NoJson)) => Reason::TokenUnavailable,
        (200, Ok(document)) => {
            assert!(!granted(&document).0.is_some_and(|token| is_token(&token)), "a token was not taken");
            Reason::CredentialsRejected
        }
        (408 | 429, _) => Reason::TokenUnavailable,
        (400..500, _) => Reason::CredentialsRejected,
        _ => Reason::TokenUnavailable,
    };
    let expected = Failure { http_status: Some(status), ..Failure::new(reason, failed.detail.clone()) };
    let wait = heard.retry_after.filter(|_| status != 200);
    assert!(failed == expected.with_retry_after(wait), "{failed:?}");
    let body: &[u8] = if reason == Reason::CredentialsRejected { b"{}" } else { b"" };
    let other = Heard { body, ..heard }.of_login(ASKED).expect_err("there is no token");
    assert_eq!(failed.detail, other.detail, "the detail hangs on the body");
    failures::check(&failed);
}

/// The two fields of a login's answer that count.
fn granted(document: &Json) -> (Option<String>, Option<String>) {
    let [token, expires] = object(document, ["AccessToken", "Expires"]).unwrap_or_default();
    (text(token).flatten(), text(expires).flatten())
}

fn is_token(token: &str) -> bool {
    (1..=8192).contains(&token.len()) && token.bytes().all(|byte| (0x21..=0x7e).contains(&byte))
}

/// A life is the vendor's if that is a positive number, up to an hour, else what was asked for.
fn assert_life(life: Duration, expires: &str) {
    let expires = expires.trim();
    let is_whole = !expires.is_empty() && expires.bytes().all(|byte| byte.is_ascii_digit());
    let digits = expires.trim_start_matches('0');
    if !expires.bytes().any(|byte| byte.is_ascii_digit())
        || expires.starts_with('-')
        || is_whole && digits.is_empty()
    {
        assert_eq!(life, ASKED, "{expires}");
    } else if is_whole {
        let seconds = if digits.len() > 4 { 3600 } else { digits.parse().expect("four digits are a number") };
        assert_eq!(life, Duration::from_secs(seconds).min(HOUR), "{expires}");
    }
}
