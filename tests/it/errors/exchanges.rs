//! Exchanges that no honest server makes: cut off, endless, slow, ambiguous, or no HTTP at all.

use federation_gateway::task::failure::Reason;
use tonic::Code;

use super::row::{Cause, Row};
use crate::support::{Answer, Step};

/// For what only time ends. What goes well before and after it must go well within that time.
const IMPATIENT: &[&str] = &["--attempt-timeout=4s", "--max-attempts=2"];

/// A good answer's head, with such lines beside the status.
fn head(lines: &str) -> Step {
    Step::send(format!("HTTP/1.1 200 OK\r\n{lines}\r\n"))
}

/// An exchange that breaks: nothing of an answer is known.
fn broken(what: &str, steps: impl IntoIterator<Item = Step>) -> Row {
    let answer = Answer::raw(steps);
    Row::new(what, Cause::Answer(answer), Code::Unavailable, Reason::UpstreamUnreachable).tries(3).unclean()
}

/// One that only `attempt-timeout` ends.
fn slow(what: &str, steps: impl IntoIterator<Item = Step>) -> Row {
    broken(what, steps).flags(IMPATIENT).tries(2).says("within 4s")
}

/// Exchanges that end before an answer is whole.
pub(super) fn cut_off() -> Vec<Row> {
    let half = "x".repeat(500);
    vec![
        broken("close before the head", [Step::Close]),
        broken("close in the head", [Step::send("HTTP/1.1 200 OK\r\nContent-"), Step::Close]),
        broken("close before the body", [head("Content-Length: 10\r\n"), Step::Close]),
        broken(
            "close in the body",
            [head("Content-Length: 1000\r\n"), Step::send("{\"resultC"), Step::Close],
        ),
        broken(
            "a whole answer that claims to be longer",
            [head("Content-Length: 1000\r\n"), Step::send("{\"resultCode\":\"0\"}"), Step::Close],
        ),
        broken(
            "close in a chunk",
            [head("Transfer-Encoding: chunked\r\n"), Step::send("20\r\n{\"resultC"), Step::Close],
        ),
        broken(
            "a whole answer without the last chunk",
            [
                head("Transfer-Encoding: chunked\r\n"),
                Step::send("12\r\n{\"resultCode\":\"0\"}\r\n"),
                Step::Close,
            ],
        ),
        broken("reset before the head", [Step::Reset]),
        broken("reset in the head", [Step::send("HTTP/1.1 200 OK\r\nContent-"), Step::Reset]),
        broken("reset in the body", [head("Content-Length: 1000\r\n"), Step::send(half), Step::Reset]),
        // What a 500 means would stand in its body.
        broken(
            "close in a 500's body",
            [Step::send("HTTP/1.1 500 X\r\nContent-Length: 1000\r\n\r\n{\"resultCode\":\"7\""), Step::Close],
        ),
        // What these mean, their status tells.
        Row::new(
            "close in a 403's body",
            Cause::Answer(Answer::raw([
                Step::send("HTTP/1.1 403 X\r\nContent-Length: 1000\r\n\r\n<html>"),
                Step::Close,
            ])),
            Code::FailedPrecondition,
            Reason::UpstreamForbidden,
        )
        .http(403)
        .unclean(),
        Row::new(
            "a 503's body that hangs",
            Cause::Answer(Answer::raw([
                Step::send("HTTP/1.1 503 X\r\nContent-Length: 1000\r\nRetry-After: 60\r\n\r\n<html>"),
                Step::Hang,
            ])),
            Code::Unavailable,
            Reason::UpstreamUnavailable,
        )
        .http(503)
        .waits(60.0..=72.0)
        .flags(&["--attempt-timeout=8s", "--request-timeout=30s"])
        .unclean(),
        // JSON tells that it is cut off where HTTP does not.
        Row::new(
            "half of an answer that ends with its connection",
            Cause::Answer(Answer::raw([head(""), Step::send("{\"resultCode\":"), Step::Close])),
            Code::Internal,
            Reason::UpstreamMalformed,
        )
        .http(200)
        .unclean(),
    ]
}

/// Exchanges that would never end, fast or slow.
pub(super) fn endless() -> Vec<Row> {
    let chunk = [&b"10000\r\n"[..], &[b' '; 0x10000], b"\r\n"].concat();
    let too_large = |what: &str, steps| {
        Row::new(what, Cause::Answer(Answer::raw(steps)), Code::Internal, Reason::UpstreamMalformed)
            .http(200)
            .says("1048576")
            .unclean()
    };
    let endless_error = |status: u16, code, reason: Reason| {
        let head = format!("HTTP/1.1 {status} X\r\nTransfer-Encoding: chunked\r\n\r\n");
        let answer = Answer::raw([Step::send(head), Step::Endless(chunk.clone())]);
        Row::new(format!("a {status} that never ends"), Cause::Answer(answer), code, reason)
            .http(status)
            .tries(if reason.is_retryable() { 3 } else { 1 })
            .unclean()
    };
    vec![
        too_large(
            "chunks without end",
            vec![head("Transfer-Encoding: chunked\r\n"), Step::Endless(chunk.clone())],
        ),
        too_large(
            "2^62 bytes",
            vec![head("Content-Length: 4611686018427387904\r\n"), Step::Endless(vec![b' '; 0x10000])],
        ),
        too_large("a body until the connection ends", vec![head(""), Step::Endless(vec![b' '; 0x10000])]),
        endless_error(403, Code::FailedPrecondition, Reason::UpstreamForbidden),
        endless_error(500, Code::Internal, Reason::UpstreamFailure),
        endless_error(503, Code::Unavailable, Reason::UpstreamUnavailable),
        broken(
            "a header line without end",
            [Step::send("HTTP/1.1 200 OK\r\nX: "), Step::Endless(vec![b'x'; 0x10000])],
        ),
        broken(
            "headers without end",
            [Step::send("HTTP/1.1 200 OK\r\n"), Step::Endless(b"X-Y: z\r\n".repeat(100))],
        ),
        broken("a reason without end", [Step::send("HTTP/1.1 200 "), Step::Endless(vec![b'x'; 0x10000])]),
        slow("no answer", [Step::Hang]),
        slow("half a head", [Step::send("HTTP/1.1 200 OK\r\nContent-"), Step::Hang]),
        slow("half a body", [head("Content-Length: 1000\r\n"), Step::send("{"), Step::Hang]),
        slow("half a chunk", [head("Transfer-Encoding: chunked\r\n"), Step::send("20\r\n{"), Step::Hang]),
        slow("a head by the byte", [Step::send("HTTP/1.1 200 OK\r\nX: "), Step::Trickle(b"x".to_vec())]),
        slow("a body by the byte", [head("Content-Length: 100000\r\n"), Step::Trickle(b" ".to_vec())]),
        slow(
            "chunks by the byte",
            [head("Transfer-Encoding: chunked\r\n"), Step::Trickle(b"1\r\n \r\n".to_vec())],
        ),
        slow(
            "a body until the connection ends, which it does not",
            [head(""), Step::send("{\"resultCode\":\"0\"}"), Step::Hang],
        ),
        slow("interim answers by the byte", [Step::Trickle(b"HTTP/1.1 102 Processing\r\n\r\n".to_vec())]),
    ]
}

/// The one that keeps the gateway busy for all of its time.
pub(super) fn flood() -> Vec<Row> {
    let interim = b"HTTP/1.1 100 Continue\r\n\r\n".repeat(100);
    // A try's time is short, as all of it is work for the machine.
    let row = slow("interim answers without end", [Step::Endless(interim)]);
    vec![row.flags(&["--attempt-timeout=2s", "--max-attempts=2"]).says("within 2s")]
}

/// What is no answer in HTTP/1.1, or one that can be read in two ways.
pub(super) fn no_http() -> Vec<Row> {
    let body = "{\"resultCode\":\"0\"}";
    let settings_and_goaway = b"\0\0\0\x04\0\0\0\0\0\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec();
    let hung = |what: &str, bytes: &[u8]| broken(what, [Step::send(bytes), Step::Hang]);
    let lines = |what: &str, lines: &str| broken(what, [head(lines), Step::send(body), Step::Hang]);
    vec![
        hung("garbage", b"garbage\r\n\r\n"),
        hung("zeros", &[0; 64]),
        hung("no number for a status", b"HTTP/1.1 abc OK\r\n\r\n"),
        hung("status 000", b"HTTP/1.1 000 OK\r\n\r\n"),
        hung("HTTP/3.7", b"HTTP/3.7 200 OK\r\nContent-Length: 0\r\n\r\n"),
        hung("HTTP/2's preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        hung("HTTP/2's frames", &settings_and_goaway),
        hung("another protocol's greeting", b"220 mail.example.org ESMTP\r\n"),
        hung("a header without a name", b"HTTP/1.1 200 OK\r\n: x\r\n\r\n"),
        hung("a header with a zero", b"HTTP/1.1 200 OK\r\nX: \0\r\n\r\n"),
        lines("two lengths", "Content-Length: 19\r\nContent-Length: 18\r\n"),
        lines("two lengths in one", "Content-Length: 18, 19\r\n"),
        lines("a length below zero", "Content-Length: -1\r\n"),
        lines("a length that no number holds", "Content-Length: 99999999999999999999999\r\n"),
        lines("a chunk of no size", "Transfer-Encoding: chunked\r\n"),
        broken(
            "chunks in HTTP/1.0",
            [
                Step::send("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n12\r\n"),
                Step::send(format!("{body}\r\n0\r\n\r\n")),
                Step::Hang,
            ],
        ),
        Row::new(
            "a change of protocols",
            Cause::Answer(Answer::raw([
                Step::send("HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n"),
                Step::Hang,
            ])),
            Code::Unknown,
            Reason::UpstreamHttpStatus,
        )
        .http(101)
        .unclean(),
        Row::new(
            "two answers",
            Cause::Answer(Answer::status(403).followed_by(Answer::doing("somebody else's"))),
            Code::FailedPrecondition,
            Reason::UpstreamForbidden,
        )
        .http(403)
        .unclean(),
        Row::new(
            "a body where none may be",
            Cause::Answer(Answer::raw([Step::Send(
                Answer::new(204, Answer::doing("somebody else's").bytes()).bytes(),
            )])),
            Code::Unknown,
            Reason::UpstreamHttpStatus,
        )
        .http(204)
        .unclean(),
    ]
}

/// What breaks below HTTP while an answer comes over TLS.
pub(super) fn over_tls() -> Vec<Row> {
    let over_tls = |row: Row| match row.cause.clone() {
        Cause::Answer(answer) => {
            Row { cause: Cause::OverTls(answer), what: format!("TLS: {}", row.what), ..row }
        }
        _ => row,
    };
    [
        broken("close in the body", [head("Content-Length: 1000\r\n"), Step::send("{"), Step::Close]),
        // Over TLS an end without a goodbye is no end: anyone on the way can make it.
        broken(
            "a whole body until an end without a goodbye",
            [head(""), Step::send("{\"resultCode\":\"0\"}"), Step::Close],
        ),
        broken(
            "a record that was tampered with",
            [head("Content-Length: 1000\r\n"), Step::send("{"), Step::Corrupt, Step::Hang],
        )
        .says("TLS failed"),
        broken("a record that was tampered with in the head", [Step::Corrupt, Step::Hang]).says("TLS failed"),
        broken("reset in the body", [head("Content-Length: 1000\r\n"), Step::send("{"), Step::Reset]),
        slow("half a body", [head("Content-Length: 1000\r\n"), Step::send("{"), Step::Hang]),
    ]
    .map(over_tls)
    .into()
}
