//! HTTP/2 by hand, for what no client does.

/// The kinds of frames that tests speak of (RFC 9113, 6).
pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
/// Nothing follows on the stream.
pub(crate) const END_STREAM: u8 = 1;
/// The headers are complete.
pub(crate) const END_HEADERS: u8 = 4;
/// What a client begins with: the preface, and settings that change nothing.
pub(crate) const BEGINNING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// A frame of a test's size.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a test frame is small").to_be_bytes();
    let head = [length[1], length[2], length[3], kind, flags];
    [&head[..], &stream.to_be_bytes(), payload].concat()
}

/// The head of a QueryTask call.
pub(crate) fn query_headers() -> Vec<u8> {
    headers("QueryTask", None)
}

/// The head of a call of that method, with one field more if it is given.
pub(crate) fn headers(method: &str, more: Option<(&str, &str)>) -> Vec<u8> {
    let path = format!("/federation.v1.FederationTasks/{method}");
    let headers = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", &*path),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    let headers = headers.into_iter().chain(more);
    // Literal fields, never indexed (RFC 7541, 6.2.2), with lengths below 127.
    let field = |(name, value): (&str, &str)| {
        let part = |text: &str| [&[u8::try_from(text.len()).expect("short texts")], text.as_bytes()].concat();
        [vec![0], part(name), part(value)].concat()
    };
    headers.map(field).collect::<Vec<_>>().concat()
}

/// The message of a request for a task, and nothing else.
pub(crate) fn message(task_id: &str) -> Vec<u8> {
    let length = u8::try_from(task_id.len()).expect("a test's ids are short");
    [&[0, 0, 0, 0, length + 2, 0x0a, length], task_id.as_bytes()].concat()
}

/// A whole call as it is sent.
pub(crate) fn call(method: &str, stream: u32, task_id: &str) -> Vec<u8> {
    let head = frame(HEADERS, END_HEADERS, stream, &headers(method, None));
    [head, frame(DATA, END_STREAM, stream, &message(task_id))].concat()
}

/// The end of a call that its caller does not want any longer.
pub(crate) fn reset(stream: u32) -> Vec<u8> {
    const CANCEL: u32 = 8;
    frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes())
}

/// A frame that was read: its kind, flags, stream and payload.
pub(crate) async fn read(
    from: &mut (impl tokio::io::AsyncRead + Unpin),
) -> std::io::Result<(u8, u8, u32, Vec<u8>)> {
    use tokio::io::AsyncReadExt as _;
    let mut head = [0; 9];
    from.read_exact(&mut head).await?;
    let [a, b, c, kind, flags, stream @ ..] = head;
    let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
    from.read_exact(&mut payload).await?;
    Ok((kind, flags, u32::from_be_bytes(stream), payload))
}
