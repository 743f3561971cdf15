//! What looks odd and is an answer.

use serde_json::json;

use crate::support::{Answer, Step};

/// Answers by how they look, and with each whether its connection may be used again.
pub(super) fn odd_but_good() -> Vec<(&'static str, Answer, bool)> {
    let good = Answer::doing("good");
    let body = good.body();
    let length = format!("Content-Length: {}\r\n", body.len());
    let of =
        |bytes: &[&[u8]], last: Vec<Step>| Answer::raw([vec![Step::Send(bytes.concat())], last].concat());
    let text = |answer: &Answer| String::from_utf8(answer.body().to_vec()).expect("JSON is text");
    let padded = format!("{}{}", text(&good), " ".repeat(1024 * 1024 - body.len()));
    let users = vec![json!({"failCode": "7"}); 10_000];
    let users = json!({
        "resultCode": "0", "taskInfo": {"status": "DOING", "remark": "good"}, "failDataList": users,
    });
    let chunked = [format!("{:x}\r\n", body.len()).as_bytes(), body, b"\r\n0\r\n\r\n"].concat();
    let by_halves = {
        let bytes = good.bytes();
        let (first, second) = bytes.split_at(30);
        Answer::raw([Step::send(first), Step::send(second)])
    };
    vec![
        ("exactly 1 MiB", Answer::new(200, padded), true),
        ("exactly 10,000 failed users", Answer::json(&users), true),
        // Nobody asked for it, and it is not so.
        ("what claims to be gzip", good.clone().header("Content-Encoding", "gzip"), true),
        ("another type", good.clone().header("Content-Type", "text/html"), true),
        ("two pieces", by_halves, true),
        ("HTTP/1.0", of(&[b"HTTP/1.0 200 OK\r\n", length.as_bytes(), b"\r\n", body], vec![]), false),
        ("HTTP/1.0 until its end", of(&[b"HTTP/1.0 200 OK\r\n\r\n", body], vec![Step::Close]), false),
        ("until its end", of(&[b"HTTP/1.1 200 OK\r\n\r\n", body], vec![Step::Close]), false),
        ("the last of its connection", good.clone().header("Connection", "close"), false),
        (
            "interim answers before it",
            of(
                &[
                    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n",
                    b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n",
                    &good.bytes(),
                ],
                vec![],
            ),
            true,
        ),
        ("chunks", of(&[b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", &chunked], vec![]), true),
        (
            "the same length twice",
            of(&[b"HTTP/1.1 200 OK\r\n", length.as_bytes(), &good.bytes()[17..]], vec![]),
            true,
        ),
        // Chunks win (RFC 9112, 6.3); what a reader of the length alone would take for the next answer is nobody's.
        (
            "chunks and a length",
            of(
                &[
                    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n",
                    &chunked,
                    &Answer::doing("somebody else's").bytes(),
                ],
                vec![],
            ),
            false,
        ),
    ]
}
