//! The contract's table (section 2), row by row, and the variants of its rows that only the vendor's words make.

use federation_gateway::task::failure::Reason;
use serde_json::json;
use tonic::Code;

use super::row::{Cause, Row};
use crate::support::Answer;

/// A time that is over before a long Retry-After is.
const SHORT: &[&str] = &["--request-timeout=30s"];

/// What a resultCode comes with here.
const SAID: &str = "said the vendor";

/// A status with an empty body.
fn status(status: u16, code: Code, reason: Reason) -> Row {
    refusal(format!("HTTP {status}"), status, Answer::status(status), code, reason)
}

fn refusal(what: impl Into<String>, status: u16, answer: Answer, code: Code, reason: Reason) -> Row {
    let tries = if reason.is_retryable() { 3 } else { 1 };
    Row::new(what, Cause::Answer(answer), code, reason).http(status).tries(tries)
}

fn result(status: u16, result_code: &'static str, code: Code) -> Row {
    let answer = Answer::result(result_code, SAID).with_status(status);
    let what = format!("HTTP {status}, resultCode {result_code}");
    refusal(what, status, answer, code, Reason::UpstreamResultCode).result(result_code, Some(SAID))
}

fn failed(what: &'static str, body: impl Into<Vec<u8>>) -> Row {
    refusal(what, 500, Answer::new(500, body), Code::Internal, Reason::UpstreamFailure)
}

fn malformed(what: &'static str, answer: Answer) -> Row {
    refusal(what, 200, answer, Code::Internal, Reason::UpstreamMalformed)
}

/// What the vendor can say by a status or a resultCode.
pub(super) fn of_the_contract() -> Vec<Row> {
    use Code::{FailedPrecondition, InvalidArgument, ResourceExhausted, Unavailable, Unknown};
    let mut rows = vec![
        Row::new("a bad field", Cause::Field, InvalidArgument, Reason::InvalidField)
            .tries(0)
            // A watch that runs has been asked for with good ones.
            .forms(super::row::AT_FIRST),
        status(400, InvalidArgument, Reason::UpstreamBadRequest),
        result(200, "60101040050", InvalidArgument),
        result(200, "60101900002", Code::Internal),
        result(200, "60101060007", Unknown),
        status(401, FailedPrecondition, Reason::UpstreamUnauthorized).tries(2),
        status(403, FailedPrecondition, Reason::UpstreamForbidden),
        status(404, FailedPrecondition, Reason::UpstreamPathNotFound),
        status(429, ResourceExhausted, Reason::UpstreamRateLimited),
        failed("HTTP 500", ""),
        malformed("200 with HTML", Answer::new(200, "<html>sign in</html>")),
        Row::new("the deadline", Cause::Deadline, Code::DeadlineExceeded, Reason::Deadline),
        Row::new("a limit", Cause::Limit, ResourceExhausted, Reason::GatewayOverloaded).tries(0),
        Row::new("a drain", Cause::Drain, Unavailable, Reason::ShuttingDown).waits(0.0..=1.0),
    ];
    rows.extend(
        [300, 301, 302, 303, 304, 307, 308, 399]
            .map(|code| status(code, FailedPrecondition, Reason::UpstreamRedirect)),
    );
    rows.extend([408, 502, 503, 504].map(|code| status(code, Unavailable, Reason::UpstreamUnavailable)));
    rows.extend(
        [201, 202, 204, 206, 299, 402, 405, 409, 418, 499, 501, 505, 599, 999]
            .map(|code| status(code, Unknown, Reason::UpstreamHttpStatus)),
    );
    rows
}

/// What a body changes of what its status says, or does not.
pub(super) fn of_bodies() -> Vec<Row> {
    let long = "x".repeat(64 * 1024 + 1);
    let early = format!(r#"{{"resultCode":"60101900002","x":"{long}"}}"#);
    let in_words = |status: u16, code, reason| {
        let answer = Answer::result("60101900002", SAID).with_status(status);
        refusal(format!("HTTP {status} in words"), status, answer, code, reason)
            .result("60101900002", Some(SAID))
    };
    let number = Answer::new(500, r#"{"resultCode":60101900002}"#);
    let users = vec![json!({"failCode": "7"}); 10_001];
    let users = json!({"resultCode": "0", "taskInfo": {"status": "DONE"}, "failDataList": users});
    let gzipped: &[u8] =
        b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff\xab\xae\x05\x00\x43\xbf\xa6\xa3\x02\x00\x00\x00";
    let state = |state: &str| Answer::new(200, format!(r#"{{"resultCode":"0","taskInfo":{state}}}"#));
    vec![
        result(500, "60101900002", Code::Internal),
        result(500, "60101040050", Code::InvalidArgument),
        result(500, "60101060007", Code::Unknown),
        refusal("500, a number", 500, number, Code::Internal, Reason::UpstreamResultCode)
            .result("60101900002", None),
        failed("500 with HTML", "<html>oops</html>"),
        failed("500, resultCode \"0\"", r#"{"resultCode":"0"}"#).result("0", None),
        failed("500, resultCode 0", r#"{"resultCode":0}"#).result("0", None),
        failed("500, resultCode null", r#"{"resultCode":null}"#),
        failed("500, resultCode true", r#"{"resultCode":true}"#),
        failed("500 with more than 64 KiB", early),
        in_words(400, Code::InvalidArgument, Reason::UpstreamBadRequest),
        in_words(403, Code::FailedPrecondition, Reason::UpstreamForbidden),
        in_words(429, Code::ResourceExhausted, Reason::UpstreamRateLimited),
        in_words(503, Code::Unavailable, Reason::UpstreamUnavailable),
        refusal(
            "403 with more than 64 KiB",
            403,
            Answer::new(403, long),
            Code::FailedPrecondition,
            Reason::UpstreamForbidden,
        ),
        malformed("an empty body", Answer::new(200, "")),
        malformed("no resultCode", Answer::json(&json!({"taskInfo": {"status": "DONE"}}))),
        malformed("resultCode null", Answer::json(&json!({"resultCode": null}))),
        malformed("an array", Answer::json(&json!([]))),
        malformed("half of it", Answer::new(200, r#"{"resultCode":"0""#)),
        malformed("two of it", Answer::new(200, r#"{"resultCode":"0"}{"resultCode":"0"}"#)),
        malformed("an array for an object", state("[]")),
        malformed("a boolean for a text", state(r#"{"status":true}"#)),
        malformed("half a surrogate pair", state(r#"{"status":"\ud800"}"#)),
        malformed("no UTF-8", Answer::new(200, b"{\"resultCode\":\"\xff\"}")),
        malformed("gzip", Answer::new(200, gzipped).header("Content-Encoding", "gzip")),
        malformed("more than 1 MiB", Answer::new(200, vec![b' '; 1024 * 1024 + 1])).says("1048576"),
        malformed("10,001 failed users", Answer::json(&users)).says("more than 10,000"),
    ]
}

/// When to come back, as the vendor says it.
pub(super) fn of_retry_after() -> Vec<Row> {
    let now = federation_gateway::clock::wall_now();
    let dated = |answer: Answer, seconds| {
        let date = httpdate::fmt_http_date(now + std::time::Duration::from_secs(seconds));
        answer.header("Date", &httpdate::fmt_http_date(now)).header("Retry-After", &date)
    };
    let row = |status, answer| {
        let (code, reason) = match status {
            429 => (Code::ResourceExhausted, Reason::UpstreamRateLimited),
            _ => (Code::Unavailable, Reason::UpstreamUnavailable),
        };
        refusal(format!("{status}, {answer:?}"), status, answer, code, reason)
    };
    let mut rows = Vec::new();
    for status in [408, 429, 502, 503, 504] {
        let seconds = |text| Answer::status(status).header("Retry-After", text);
        // Within the deadline, which is 30 s away, and past it.
        rows.push(row(status, seconds("1")));
        rows.push(row(status, seconds("60")).waits(60.0..=72.0).tries(1).flags(SHORT));
    }
    for status in [429, 503] {
        let seconds = |text| Answer::status(status).header("Retry-After", text);
        let date = |seconds| dated(Answer::status(status), seconds);
        rows.push(row(status, date(2)).waits(2.0..=2.4));
        rows.push(row(status, date(60)).waits(60.0..=72.0).tries(1).flags(SHORT));
        // Past all that is believed.
        rows.push(row(status, seconds("301")).waits(300.0..=300.0).tries(1).flags(SHORT));
        rows.push(row(status, date(3600)).waits(300.0..=300.0).tries(1).flags(SHORT));
        // What can't be read is as good as nothing.
        rows.push(row(status, seconds("soon")));
    }
    // It belongs to what passes; with all else it says nothing.
    let stray = Answer::status(403).header("Retry-After", "60");
    rows.push(refusal("403", 403, stray, Code::FailedPrecondition, Reason::UpstreamForbidden));
    rows
}
