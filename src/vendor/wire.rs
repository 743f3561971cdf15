//! The vendor's loose JSON in, strict types out. Every optional field may be absent, `null`, or a number where a
//! text is documented; what is lost to no caller is the text, every digit of it. No HTTP here, and no errors that
//! hold a value of the document.

mod object;

use std::fmt;
use std::time::Duration;

use serde::de::{self, Deserialize, Deserializer, SeqAccess, Visitor};
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use crate::task::{FailData, FederationUser, State, TaskId};
use object::object;

/// More failed users than this are not believed (contract 2; a createTask carries at most 100).
const MAX_FAILED_USERS: usize = 10_000;
const TOO_MANY: &str = "more than 10,000 failed users";
const BYTE_ORDER_MARK: &str = "\u{feff}";

/// The body of a queryTask request.
#[must_use]
pub fn query_body(task: &TaskId) -> Vec<u8> {
    const AROUND: usize = r#"{"taskId":""}"#.len();
    // To the byte, unless something is escaped: what has room to spare costs one more allocation to share.
    let mut body = Vec::with_capacity(AROUND + task.as_str().len());
    body.extend_from_slice(br#"{"taskId":"#);
    serde_json::to_writer(&mut body, task.as_str()).expect("a text is written to memory");
    body.push(b'}');
    body
}

/// The body of a login; wiped when dropped.
#[must_use]
pub(super) fn login_body(app_key: &str, app_secret: &str) -> Zeroizing<Vec<u8>> {
    // Each byte may need six (`\u0000`): with the whole capacity at once no copy is left behind in growing.
    let mut body = Zeroizing::new(Vec::with_capacity(40 + 6 * (app_key.len() + app_secret.len())));
    body.extend_from_slice(br#"{"app_key":"#);
    serde_json::to_writer(&mut *body, app_key).expect("a text is written to memory");
    body.extend_from_slice(br#","app_secret":"#);
    serde_json::to_writer(&mut *body, app_secret).expect("a text is written to memory");
    body.push(b'}');
    body
}

/// An answer to queryTask, as far as it is documented.
#[derive(Debug, Default, PartialEq)]
pub struct Answer {
    /// `resultCode`, "0" if all went well.
    pub result_code: String,
    /// `resultMessage`; may be empty.
    pub result_message: String,
    /// What it says of the task.
    pub state: State,
}

/// Why a body is not the documented JSON: where, but nothing of what stands there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed {
    what: &'static str,
    line: usize,
    column: usize,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at line {}, column {}", self.what, self.line, self.column)
    }
}

impl From<serde_json::Error> for Malformed {
    // serde_json's own words may quote the document.
    fn from(error: serde_json::Error) -> Self {
        let what = match error.classify() {
            serde_json::error::Category::Io | serde_json::error::Category::Syntax => "no valid JSON",
            // Its words are ours then, and begin with this.
            serde_json::error::Category::Data if error.to_string().starts_with(TOO_MANY) => TOO_MANY,
            serde_json::error::Category::Data => "a value of another type than documented",
            serde_json::error::Category::Eof => "the end of the body in mid-document",
        };
        Self { what, line: error.line(), column: error.column() }
    }
}

/// Reads an answer to queryTask.
///
/// # Errors
/// If it is not the documented JSON.
pub fn answer(body: &[u8]) -> Result<Answer, Malformed> {
    let answer: WireAnswer = serde_json::from_str(text_of(body)?)?;
    let (raw_status, remark) =
        answer.task_info.map(|info| (info.status.0, info.remark.0)).unwrap_or_default();
    let state = State {
        raw_status: raw_status.unwrap_or_default(),
        remark: remark.unwrap_or_default(),
        fail_data: answer.fail_data_list.unwrap_or_default().0,
    };
    let result_code = answer.result_code.0.ok_or(Malformed { what: "no resultCode", line: 1, column: 0 })?;
    Ok(Answer { result_code, result_message: answer.result_message.0.unwrap_or_default(), state })
}

/// Reads the `resultCode` and the `resultMessage` of an error answer, as far as there are any: such bodies are
/// often none of the vendor's own.
#[must_use]
pub(super) fn outcome(body: &[u8]) -> (Option<String>, Option<String>) {
    let read = || serde_json::from_str::<WireOutcome<'_>>(text_of(body).ok()?).ok();
    let lenient = |raw: Option<&RawValue>| raw.and_then(|raw| text(raw).ok()).flatten();
    read().map_or((None, None), |outcome| (lenient(outcome.result_code), lenient(outcome.result_message)))
}

/// What an answer to a login says.
#[derive(Debug, Default)]
pub(super) struct Granted {
    /// The token's text, if there is any.
    pub(super) access_token: Option<Zeroizing<String>>,
    /// The lifetime, if it is a positive number.
    pub(super) expires: Option<Duration>,
}

/// Reads an answer to a login.
///
/// # Errors
/// If it is no JSON. JSON that is not the documented one is no error: it only has no token.
pub(super) fn granted(body: &[u8]) -> Result<Granted, Malformed> {
    let body = text_of(body)?;
    serde_json::from_str::<de::IgnoredAny>(body)?;
    let Ok(login) = serde_json::from_str::<WireLogin<'_>>(body) else {
        return Ok(Granted::default());
    };
    let lenient = |raw: Option<&RawValue>| raw.and_then(|raw| text(raw).ok()).flatten();
    let seconds = lenient(login.expires).and_then(|expires| number(expires.trim()));
    Ok(Granted {
        access_token: lenient(login.access_token).map(Zeroizing::new),
        expires: seconds
            .filter(|seconds| *seconds > 0.0)
            // Beyond what a Duration holds is positive all the same; no life over an hour is believed anyway.
            .map(|seconds| Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)),
    })
}

/// The number that a text says; Rust would also read words as one (`inf`).
fn number(text: &str) -> Option<f64> {
    text.parse().ok().filter(|_| text.bytes().any(|byte| byte.is_ascii_digit()))
}

fn text_of(body: &[u8]) -> Result<&str, Malformed> {
    let text = std::str::from_utf8(body).map_err(|error| {
        let before = &body[..error.valid_up_to()];
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        let column = before.iter().rev().take_while(|byte| **byte != b'\n').count() + 1;
        Malformed { what: "no valid UTF-8", line, column }
    })?;
    Ok(text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text))
}

/// A text, or a number as it was written; `None` for `null`.
fn text(raw: &RawValue) -> Result<Option<String>, serde_json::Error> {
    let quoted = raw.get();
    match quoted.as_bytes().first() {
        // What holds no escape is what it says; its quotes were found when it was read.
        Some(b'"') if !quoted.contains('\\') => Ok(Some(quoted[1..quoted.len() - 1].to_owned())),
        Some(b'"') => serde_json::from_str(quoted).map(Some),
        Some(b'-' | b'0'..=b'9') => Ok(Some(quoted.to_owned())),
        Some(b'n') => Ok(None),
        _ => Err(de::Error::custom("text expected")),
    }
}

/// A field that is documented as a text.
#[derive(Default)]
struct Text(Option<String>);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text(<&RawValue>::deserialize(deserializer)?).map(Self).map_err(de::Error::custom)
    }
}

/// An array whose `null`s are skipped.
struct List<T, const MAX: usize>(Vec<T>);

impl<T, const MAX: usize> Default for List<T, MAX> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for List<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Items<T, const MAX: usize>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for Items<T, MAX> {
            type Value = Vec<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<T>, A::Error> {
                let mut list: Vec<T> = Vec::new();
                while let Some(item) = items.next_element::<Option<T>>()? {
                    if item.is_some() && list.len() == MAX {
                        return Err(de::Error::custom(TOO_MANY));
                    }
                    list.extend(item);
                }
                Ok(list)
            }
        }
        deserializer.deserialize_seq(Items::<T, MAX>(std::marker::PhantomData)).map(List)
    }
}

object! {
    struct WireAnswer<'a> {
        "resultCode" => result_code: Text,
        "resultMessage" => result_message: Text,
        "taskInfo" => task_info: Option<WireTaskInfo<'a>>,
        "failDataList" => fail_data_list: Option<List<FailData, MAX_FAILED_USERS>>,
    }
}

object! {
    struct WireTaskInfo<'a> {
        "status" => status: Text,
        "remark" => remark: Text,
    }
}

object! {
    struct WireFailData<'a> {
        "federationUser" => federation_user: Option<WireUser<'a>>,
        "failCode" => fail_code: Text,
        "failMessage" => fail_message: Text,
    }
}

object! {
    struct WireUser<'a> {
        "action" => action: Text,
        "userName" => user_name: Text,
        "userAccount" => user_account: Text,
        "email" => email: Text,
        "roleIds" => role_ids: Option<List<Text, { usize::MAX }>>,
    }
}

object! {
    struct WireOutcome<'a> {
        "resultCode" => result_code: Option<&'a RawValue>,
        "resultMessage" => result_message: Option<&'a RawValue>,
    }
}

object! {
    struct WireLogin<'a> {
        "AccessToken" => access_token: Option<&'a RawValue>,
        "Expires" => expires: Option<&'a RawValue>,
    }
}

impl<'de> Deserialize<'de> for FailData {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wire = WireFailData::deserialize(deserializer)?;
        Ok(Self {
            federation_user: wire.federation_user.map(FederationUser::from),
            fail_code: wire.fail_code.0.unwrap_or_default(),
            fail_message: wire.fail_message.0.unwrap_or_default(),
        })
    }
}

impl From<WireUser<'_>> for FederationUser {
    fn from(wire: WireUser<'_>) -> Self {
        Self {
            raw_action: wire.action.0.unwrap_or_default(),
            user_name: wire.user_name.0.unwrap_or_default(),
            user_account: wire.user_account.0.unwrap_or_default(),
            email: wire.email.0.unwrap_or_default(),
            role_ids: wire.role_ids.unwrap_or_default().0.into_iter().filter_map(|role| role.0).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = r#"{"failDataList":[],"resultCode":"0","taskInfo":{"remark":"","status":"DONE"},"resultMessage":"The query is successful."}"#;

    fn state(body: &str) -> State {
        answer(body.as_bytes()).expect(body).state
    }

    #[test]
    fn the_references_example_is_read() {
        let read = answer(EXAMPLE.as_bytes()).unwrap();
        assert_eq!((&*read.result_code, &*read.result_message), ("0", "The query is successful."));
        assert!(read.state.is_done() && read.state.fail_data.is_empty());
        let marked = format!("{BYTE_ORDER_MARK}{EXAMPLE}");
        assert_eq!(answer(marked.as_bytes()).unwrap(), read);
    }

    #[test]
    fn optional_fields_may_be_absent_null_or_numbers() {
        assert_eq!(state(r#"{"resultCode":"0"}"#), State::default());
        let nulls = r#"{"resultCode":0,"resultMessage":null,"taskInfo":null,"failDataList":null,"later":[{"x":"\ud800"}]}"#;
        assert_eq!(
            answer(nulls.as_bytes()).unwrap(),
            Answer { result_code: "0".into(), ..Answer::default() }
        );
        let loose = state(
            r#"{"resultCode":"0","taskInfo":{"status":"LATER","remark":12345678901234567890.50},
                "failDataList":[null,{"failCode":60101000108,"failMessage":null,"federationUser":null},
                {"federationUser":{"action":"CREATE","userName":1e400,"userAccount":-0,
                 "roleIds":[7,null,"8",184467440737095516159]}}]}"#,
        );
        assert_eq!((&*loose.raw_status, &*loose.remark), ("LATER", "12345678901234567890.50"));
        assert_eq!(loose.status(), None);
        assert_eq!(loose.fail_data.len(), 2);
        assert_eq!(loose.fail_data[0].fail_code, "60101000108");
        assert!(loose.fail_data[0].federation_user.is_none());
        let user = loose.fail_data[1].federation_user.as_ref().unwrap();
        assert_eq!((&*user.user_name, &*user.user_account, &*user.email), ("1e400", "-0", ""));
        assert_eq!(user.role_ids, ["7", "8", "184467440737095516159"]);
    }

    #[test]
    fn what_is_not_documented_is_malformed() {
        for body in [
            "",
            "null",
            "[]",
            r#""0""#,
            "<html>",
            r#"{"resultCode":"0""#,
            r#"{"resultCode":"0"} x"#,
            "{}",
            r#"{"resultCode":null}"#,
            r#"{"resultCode":true}"#,
            r#"{"resultCode":{"a":1}}"#,
            r#"{"resultCode":["0"]}"#,
            r#"{"resultCode":"0","resultCode":"1"}"#,
            r#"{"resultCode":"0","resultMessage":[]}"#,
            r#"{"resultCode":"0","taskInfo":[1]}"#,
            r#"{"resultCode":"0","taskInfo":"DONE"}"#,
            r#"{"resultCode":"0","taskInfo":{"status":false}}"#,
            r#"{"resultCode":"0","taskInfo":{"status":"\ud800"}}"#,
            r#"{"resultCode":"0","failDataList":{}}"#,
            r#"{"resultCode":"0","failDataList":["x"]}"#,
            r#"{"resultCode":"0","failDataList":[[]]}"#,
            r#"{"resultCode":"0","failDataList":[{"federationUser":{"roleIds":"1"}}]}"#,
            r#"{"resultCode":"0","failDataList":[{"federationUser":{"roleIds":[true]}}]}"#,
        ] {
            assert!(answer(body.as_bytes()).is_err(), "{body}");
        }
        assert!(answer(b"{\"resultCode\":\"\xff\"}").is_err());
    }

    #[test]
    fn ten_thousand_failed_users_are_believed_and_no_more() {
        let body = |users: usize| {
            format!(r#"{{"resultCode":"0","failDataList":[{}{{}}]}}"#, "{},".repeat(users - 1))
        };
        assert_eq!(state(&body(MAX_FAILED_USERS)).fail_data.len(), MAX_FAILED_USERS);
        let error = answer(body(MAX_FAILED_USERS + 1).as_bytes()).unwrap_err();
        assert!(error.to_string().starts_with(TOO_MANY), "{error}");
    }

    #[test]
    fn errors_tell_where_and_never_what() {
        let error = answer(b"{\"resultCode\":\"0\",\n\"taskInfo\":\"Ada Lovelace\"}").unwrap_err();
        assert!(error.to_string().contains("line 2, column "), "{error}");
        assert!(!error.to_string().contains("Ada"));
    }

    #[test]
    fn an_error_answers_code_is_read_if_there_is_one() {
        let some = |text: &str| Some(text.to_owned());
        for (body, expected) in [
            (r#"{"resultCode":"60101900002","resultMessage":"x"}"#, (some("60101900002"), some("x"))),
            (r#"{"resultCode":60101900002,"resultMessage":[],"taskInfo":7}"#, (some("60101900002"), None)),
            (r#"{"resultCode":null}"#, (None, None)),
            ("<html>", (None, None)),
            ("[]", (None, None)),
        ] {
            assert_eq!(outcome(body.as_bytes()), expected, "{body}");
        }
    }

    #[test]
    fn a_login_without_a_token_is_no_error_but_no_json_is() {
        let read =
            |body: &str| granted(body.as_bytes()).map(|granted| (granted.access_token, granted.expires));
        let token = || Some(Zeroizing::new("t".to_owned()));
        let secs = |secs| Some(Duration::from_secs_f64(secs));
        assert_eq!(read(r#"{"AccessToken":"t","Expires":"600","AppKey":1}"#), Ok((token(), secs(600.0))));
        for (expires, life) in [
            ("600", secs(600.0)),
            ("0.5", secs(0.5)),
            ("\" 7 \"", secs(7.0)),
            ("1e99", Some(Duration::MAX)),
            ("0", None),
            ("-5", None),
            ("\"soon\"", None),
            ("\"NaN\"", None),
            ("\"inf\"", None),
            ("\"Infinity\"", None),
            ("1e400", Some(Duration::MAX)),
            ("true", None),
            ("null", None),
            ("[1]", None),
        ] {
            let body = format!(r#"{{"AccessToken":"t","Expires":{expires}}}"#);
            assert_eq!(read(&body), Ok((token(), life)), "{body}");
        }
        for body in ["[]", "7", "{}", r#"{"AccessToken":null}"#, r#"{"AccessToken":{"a":1}}"#] {
            assert_eq!(read(body), Ok((None, None)), "{body}");
        }
        assert!(granted(b"<html>").is_err() && granted(b"").is_err());
    }

    #[test]
    fn requests_are_what_the_reference_shows() {
        let id = TaskId::parse("1659446191820726274").unwrap();
        assert_eq!(query_body(&id), br#"{"taskId":"1659446191820726274"}"#);
        let odd = TaskId::parse("a\"\\b").unwrap();
        assert_eq!(query_body(&odd), br#"{"taskId":"a\"\\b"}"#);
        let body = login_body("key", "s\"\u{1}");
        assert_eq!(&**body, br#"{"app_key":"key","app_secret":"s\"\u0001"}"#);
        assert!(body.capacity() >= body.len());
    }

    proptest::proptest! {
        /// Any text at all: translated or malformed, never a panic.
        #[test]
        fn any_body_is_answered(body: Vec<u8>) {
            let _ = answer(&body);
            let _ = granted(&body);
            let _ = outcome(&body);
        }

        /// Any texts in the documented places come out as they went in.
        #[test]
        fn texts_come_out_as_they_went_in(status: String, remark: String, code: String, role: String) {
            let body = serde_json::json!({
                "resultCode": "0", "taskInfo": {"status": status, "remark": remark},
                "failDataList": [{"failCode": code, "federationUser": {"roleIds": [role]}}],
            });
            let state = state(&body.to_string());
            proptest::prop_assert_eq!((&state.raw_status, &state.remark), (&status, &remark));
            let failed = &state.fail_data[0];
            proptest::prop_assert_eq!(&failed.fail_code, &code);
            proptest::prop_assert_eq!(&failed.federation_user.as_ref().unwrap().role_ids, &[role]);
        }

        /// Numbers in the places of texts keep every digit.
        #[test]
        fn numbers_keep_their_digits(number in "-?(0|[1-9][0-9]{0,40})(\\.[0-9]{1,20})?([eE][+-]?[0-9]{1,4})?") {
            let state = state(&format!(r#"{{"resultCode":0,"taskInfo":{{"status":{number}}}}}"#));
            proptest::prop_assert_eq!(state.raw_status, number);
        }
    }
}
