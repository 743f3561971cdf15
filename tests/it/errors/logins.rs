//! Logins that bring no token, while every call needs one: the token that was held is refused.

use federation_gateway::task::failure::Reason;
use serde_json::{Value, json};
use tonic::Code;

use super::row::{Cause, Row};
use crate::support::{Answer, Step};

/// One login for a call to wait for; more are a matter of time, not of what is told.
const ONE: &[&str] = &["--max-attempts=1"];
/// What comes before such a login must be answered within that time.
const ONE_IMPATIENT: &[&str] = &["--max-attempts=1", "--attempt-timeout=8s"];

fn login(what: impl Into<String>, answer: Answer, code: Code, reason: Reason) -> Row {
    // The one try is the one whose token was refused. The next login is a second away, or a few if some have failed
    // before the caller came to hear of it.
    Row::new(what, Cause::Login(answer), code, reason).flags(ONE).waits(0.0..=9.0)
}

fn rejected(what: impl Into<String>, answer: Answer, status: u16) -> Row {
    login(what, answer, Code::FailedPrecondition, Reason::CredentialsRejected).http(status)
}

fn unavailable(what: impl Into<String>, answer: Answer) -> Row {
    login(what, answer, Code::Unavailable, Reason::TokenUnavailable)
}

fn broken(what: &str, steps: impl IntoIterator<Item = Step>) -> Row {
    unavailable(what, Answer::raw(steps)).unclean()
}

/// What a login can come to, if not to a token.
pub(super) fn logins() -> Vec<Row> {
    let head = |lines: &str| Step::send(format!("HTTP/1.1 200 OK\r\n{lines}\r\n"));
    let token = |token: Value| Answer::json(&json!({"AccessToken": token, "Expires": "600"}));
    let slow = |what, steps: Vec<Step>| broken(what, steps).flags(ONE_IMPATIENT).says("within 8s");
    let mut rows: Vec<Row> = [400, 401, 402, 403, 404, 405, 409, 422, 451, 499]
        .map(|status| rejected(format!("login: HTTP {status}"), Answer::status(status), status))
        .into();
    rows.extend(
        [201, 204, 301, 302, 307, 408, 429, 500, 501, 502, 503, 504, 599]
            .map(|status| unavailable(format!("login: HTTP {status}"), Answer::status(status)).http(status)),
    );
    rows.extend(
        [
            ("nothing of a token", json!({"error": "no"})),
            ("an empty object", json!({})),
            ("an array", json!(["token"])),
            ("null", Value::Null),
            ("a text", json!("token")),
        ]
        .map(|(what, body)| rejected(format!("login: {what}"), Answer::json(&body), 200)),
    );
    rows.extend(
        [
            ("an empty token", json!("")),
            ("two words", json!("two words")),
            ("a line's end", json!("to\r\nken")),
            ("a zero", json!("to\0ken")),
            ("a delete", json!("to\u{7f}ken")),
            ("no ASCII", json!("tok\u{e9}n")),
            ("null for a token", Value::Null),
            ("a boolean", json!(true)),
            ("an object", json!({"token": "token"})),
            ("an array for a token", json!(["token"])),
            ("a token over 8 KiB", json!("x".repeat(8 * 1024 + 1))),
        ]
        .map(|(what, value)| rejected(format!("login: {what}"), token(value), 200)),
    );
    rows.extend([
        rejected("login: a WAF's page", Answer::new(403, "<html>blocked</html>"), 403),
        unavailable("login: HTML", Answer::new(200, "<html>sign in</html>")).http(200),
        unavailable("login: nothing", Answer::new(200, "")).http(200),
        unavailable("login: half of it", Answer::new(200, r#"{"AccessToken":"token""#)).http(200),
        unavailable("login: more than 1 MiB", Answer::new(200, vec![b' '; 1024 * 1024 + 1])).http(200),
        unavailable("login: Retry-After", Answer::status(429).header("Retry-After", "60"))
            .http(429)
            .waits(40.0..=72.0),
        unavailable("login: a long Retry-After", Answer::status(503).header("Retry-After", "100000"))
            .http(503)
            .waits(280.0..=300.0),
        rejected("login: rejected, with Retry-After", Answer::status(403).header("Retry-After", "60"), 403),
        broken("login: close before the head", [Step::Close]),
        broken("login: reset", [Step::Reset]),
        broken("login: garbage", [Step::send("garbage\r\n\r\n"), Step::Hang]),
        broken(
            "login: cut off",
            [head("Content-Length: 1000\r\n"), Step::send(r#"{"AccessToken":"token"}"#), Step::Close],
        ),
        broken(
            "login: without end",
            [
                head("Transfer-Encoding: chunked\r\n"),
                Step::Endless([&b"10000\r\n"[..], &[b' '; 0x10000], b"\r\n"].concat()),
            ],
        )
        .http(200),
        slow("login: no answer", vec![Step::Hang]),
        slow("login: by the byte", vec![head("Content-Length: 100000\r\n"), Step::Trickle(b" ".to_vec())]),
        slow(
            "login: a head by the byte",
            vec![Step::send("HTTP/1.1 200 OK\r\nX: "), Step::Trickle(b"x".to_vec())],
        ),
        Row {
            flags: ONE_IMPATIENT,
            ..rejected(
                "login: a 403 that hangs",
                Answer::raw([Step::send("HTTP/1.1 403 X\r\nContent-Length: 1000\r\n\r\n"), Step::Hang]),
                403,
            )
            .unclean()
        },
    ]);
    rows
}
