//! HTTP/1.1, as much of it as a vendor needs.

use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

/// A request, read to its end.
pub(super) struct Request {
    pub(super) path: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
}

impl Request {
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

/// The next request; `None` if the other end has left, or makes no sense.
pub(super) async fn request(stream: &mut TcpStream, unread: &mut Vec<u8>) -> Option<Request> {
    let head = loop {
        if let Some(at) = unread.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            break unread.drain(..at + 4).collect::<Vec<_>>();
        }
        if stream.read_buf(unread).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(head).ok()?;
    let mut lines = head.lines();
    let path = lines.next()?.strip_prefix("POST ")?.strip_suffix(" HTTP/1.1")?.to_owned();
    let mut headers = HeaderMap::new();
    for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
        headers.append(HeaderName::try_from(name).ok()?, HeaderValue::try_from(value).ok()?);
    }
    let length: usize = headers.get("content-length")?.to_str().ok()?.parse().ok()?;
    while unread.len() < length {
        if stream.read_buf(unread).await.ok()? == 0 {
            return None;
        }
    }
    Some(Request { path, headers, body: unread.drain(..length).collect() })
}

/// Waits until the other end has left.
pub(super) async fn left(stream: &mut TcpStream, unread: &mut Vec<u8>) {
    while stream.read_buf(unread).await.is_ok_and(|read| read > 0) {}
}

/// An answer's bytes.
pub(super) fn answer(status: u16, headers: &[(&str, String)], body: &str) -> Vec<u8> {
    let mut answer = format!("HTTP/1.1 {status} X\r\n");
    if status != 204 {
        answer.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    for (name, value) in headers {
        answer.push_str(&format!("{name}: {value}\r\n"));
    }
    answer.push_str("\r\n");
    answer.push_str(body);
    answer.into_bytes()
}
