//! Messages on the wire: one request in, framed answers out. An answer's encoding is made once and shared by all
//! who get it; what differs between them stands beside it, inline.

use std::error::Error;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use http_body::{Body, Frame};
use tonic::codec::{BufferSettings, Streaming};
use tonic::{Code, Status};
use tonic_prost::ProstCodec;

use crate::pb::WatchReason;
use crate::task::Form;

/// A request over this many bytes is refused (contract 1).
pub const MAX_REQUEST: usize = 64 * 1024;
/// Before every message: a byte that says "not compressed", and its length (gRPC over HTTP/2).
const PREFIX: usize = 5;
/// Field 2 of `WatchTaskResponse`, a varint.
const REASON_TAG: u8 = 2 << 3;
/// How long a refused request may take to come to its end, before it is answered all the same. It comes with the call
/// or right after it; where it came after the answer, HTTP/2 would count it as a fault of the peer's, and close a
/// connection on which many calls were refused for all who share it (h2, "too_many_internal_resets").
pub(super) const REFUSAL_PATIENCE: Duration = Duration::from_millis(100);
/// By which the library hands on that a request broke off: it has no other use for it, and CANCELLED would be to it the
/// request's good end.
const BROKEN_OFF: Code = Code::Aborted;
/// Requests are small: what most of them fit in, in bytes. Larger ones grow.
const REQUEST_BUFFER: usize = 64;
const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
const GRPC_ACCEPT_ENCODING: &str = "grpc-accept-encoding";

/// A request's body, as a server gets it.
pub trait RequestBody:
    Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>> + Send + Unpin> + Send + Unpin + 'static
{
}

impl<B> RequestBody for B where
    B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>> + Send + Unpin> + Send + Unpin + 'static
{
}

/// A request that is one message, and was not read yet.
#[derive(Debug)]
pub(super) struct Unread<B> {
    body: B,
    /// What its head says of its encoding.
    is_readable: Result<(), Status>,
}

impl<B: RequestBody> Unread<B> {
    /// Keeps what is needed of a request.
    pub(super) fn new(request: Request<B>) -> Self {
        let is_readable = check_encoding(request.headers());
        Self { body: request.into_body(), is_readable }
    }

    /// Reads it to its end.
    ///
    /// # Errors
    /// What the gRPC library says of a message that it can't read; CANCELLED where the caller left in the midst of it.
    pub(super) async fn read<T: prost::Message + Default + 'static>(self) -> Result<T, Status> {
        let mut body = self.body;
        if let Err(refusal) = self.is_readable {
            take_in(&mut body).await;
            return Err(refusal);
        }
        let first = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await;
        // Nearly all come whole and in one frame. What does not is the library's to put together, or to refuse.
        if body.is_end_stream()
            && let Some(Ok(frame)) = &first
            && let Some(message) = frame.data_ref().and_then(whole)
            && let Ok(message) = T::decode(message)
        {
            return Ok(message);
        }
        let settings = BufferSettings::new(REQUEST_BUFFER, REQUEST_BUFFER);
        let decoder = ProstCodec::<(), T>::raw_decoder(settings);
        let mut messages =
            Streaming::new_request(decoder, Begun { first, rest: body }, None, Some(MAX_REQUEST));
        let message = messages.message().await.map_err(of_leaver)?;
        let message = message.ok_or_else(|| Status::internal("Missing request message."))?;
        messages.trailers().await.map_err(of_leaver)?;
        Ok(message)
    }
}

/// CANCELLED for a request that broke off; any other refusal as it is.
fn of_leaver(refusal: Status) -> Status {
    if refusal.code() == BROKEN_OFF { Status::cancelled(refusal.message()) } else { refusal }
}

/// Takes in what is left of a request that is refused, as far as it comes in time: the answer is the same.
pub(super) async fn take_in(body: &mut impl RequestBody) {
    let _ = tokio::time::timeout(REFUSAL_PATIENCE, discard(body)).await;
}

/// Takes in what is left of a request.
pub(super) async fn discard(body: &mut impl RequestBody) {
    while let Some(Ok(_)) = poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await {}
}

/// The one message that a frame consists of, if so: neither compressed nor too long.
fn whole(frame: &Bytes) -> Option<&[u8]> {
    let (&[0, a, b, c, d], message) = frame.split_first_chunk::<PREFIX>()? else { return None };
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    (message.len() == length && length <= MAX_REQUEST).then_some(message)
}

/// A body whose first frame was read and is given once more.
struct Begun<B: Body> {
    first: Option<Result<Frame<B::Data>, B::Error>>,
    rest: B,
}

impl<B: RequestBody> Body for Begun<B> {
    type Data = B::Data;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, Status>>> {
        let frame = match self.first.take() {
            Some(first) => Poll::Ready(Some(first)),
            None => Pin::new(&mut self.rest).poll_frame(cx),
        };
        // The stream or its connection is gone, by which fault of either side whatever: nobody waits for an answer.
        frame.map_err(|_| Status::new(BROKEN_OFF, "the request did not come to its end"))
    }
}

/// No compression is offered, and none taken.
fn check_encoding(headers: &HeaderMap) -> Result<(), Status> {
    match headers.get(&GRPC_ENCODING) {
        None => Ok(()),
        Some(encoding) if encoding == "identity" => Ok(()),
        Some(_) => {
            let mut offer = HeaderMap::with_capacity(1);
            offer.insert(GRPC_ACCEPT_ENCODING, HeaderValue::from_static("identity"));
            let mut status =
                Status::new(Code::Unimplemented, "The request is compressed, which isn't supported");
            *status.metadata_mut() = tonic::metadata::MetadataMap::from_headers(offer);
            Err(status)
        }
    }
}

/// A message with its prefix, or a piece of another service's body: what a stream of HTTP/2 sends.
#[derive(Clone)]
pub struct Message {
    prefix: [u8; PREFIX],
    shared: Bytes,
    tail: [u8; 2],
    /// How many bytes of the prefix, and of the tail, are still to be sent.
    left: (u8, u8),
}

impl Message {
    /// A `QueryTaskResponse`.
    pub(super) fn query(form: &Form) -> Self {
        Self::new(form.bytes.clone(), None)
    }

    /// A `WatchTaskResponse`.
    pub(super) fn watch(form: &Form, reason: WatchReason) -> Self {
        // Each reason is one byte long as a varint.
        Self::new(form.bytes.slice(..form.shared), Some([REASON_TAG, reason as u8]))
    }

    fn new(shared: Bytes, tail: Option<[u8; 2]>) -> Self {
        let tail_len = if tail.is_some() { 2 } else { 0 };
        // Answers are bounded to far below what 32 bits hold: the vendor's are read to 1 MiB at most.
        let length = (shared.len() + usize::from(tail_len)) as u32;
        let [a, b, c, d] = length.to_be_bytes();
        Self {
            prefix: [0, a, b, c, d],
            shared,
            tail: tail.unwrap_or_default(),
            left: (PREFIX as u8, tail_len),
        }
    }
}

// Hand-written: the bytes hold people's data.
impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Message").field("bytes", &self.remaining()).finish_non_exhaustive()
    }
}

impl From<Bytes> for Message {
    /// Bytes that some other service has framed.
    fn from(shared: Bytes) -> Self {
        Self { prefix: [0; PREFIX], shared, tail: [0; 2], left: (0, 0) }
    }
}

impl Buf for Message {
    fn remaining(&self) -> usize {
        usize::from(self.left.0) + self.shared.len() + usize::from(self.left.1)
    }

    fn chunk(&self) -> &[u8] {
        match self.left {
            (prefix, _) if prefix > 0 => &self.prefix[PREFIX - usize::from(prefix)..],
            (_, tail) if self.shared.is_empty() => &self.tail[2 - usize::from(tail)..],
            _ => &self.shared,
        }
    }

    fn chunks_vectored<'a>(&'a self, into: &mut [std::io::IoSlice<'a>]) -> usize {
        let (prefix, tail) = (usize::from(self.left.0), usize::from(self.left.1));
        let pieces = [&self.prefix[PREFIX - prefix..], &self.shared, &self.tail[2 - tail..]];
        let pieces = pieces.into_iter().filter(|piece| !piece.is_empty());
        into.iter_mut().zip(pieces).map(|(slot, piece)| *slot = std::io::IoSlice::new(piece)).count()
    }

    fn advance(&mut self, mut count: usize) {
        assert!(count <= self.remaining(), "no more is left than {}", self.remaining());
        let prefix = count.min(usize::from(self.left.0));
        self.left.0 -= prefix as u8;
        count -= prefix;
        let shared = count.min(self.shared.len());
        self.shared.advance(shared);
        count -= shared;
        self.left.1 -= count as u8;
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::pb;

    fn form() -> (pb::Task, Form) {
        let task = pb::Task { task_id: "7".into(), remark: "r".repeat(300), ..Default::default() };
        let response = pb::QueryTaskResponse { task: Some(task.clone()), result_message: "fine".into() };
        let shared = response.encoded_len() - "fine".len() - 2;
        (task, Form { bytes: response.encode_to_vec().into(), shared })
    }

    fn framed(message: &impl prost::Message) -> Vec<u8> {
        let body = message.encode_to_vec();
        [&[0][..], &u32::try_from(body.len()).unwrap().to_be_bytes(), &body].concat()
    }

    #[test]
    fn what_is_shared_reads_as_the_generated_types_write_it() {
        let (task, form) = form();
        let response = pb::QueryTaskResponse { task: Some(task.clone()), result_message: "fine".into() };
        let mut query = Message::query(&form);
        assert_eq!(query.copy_to_bytes(query.remaining()), framed(&response));
        for reason in [WatchReason::Initial, WatchReason::Changed, WatchReason::Heartbeat] {
            let response = pb::WatchTaskResponse { task: Some(task.clone()), reason: reason.into() };
            let mut watch = Message::watch(&form, reason);
            assert_eq!(watch.copy_to_bytes(watch.remaining()), framed(&response));
        }
    }

    #[test]
    fn it_can_be_sent_in_pieces_of_any_length() {
        let (_, form) = form();
        let whole = Message::watch(&form, WatchReason::Changed);
        let expected = whole.clone().copy_to_bytes(whole.remaining());
        for step in [1, 2, 3, 7, 300] {
            let mut left = whole.clone();
            let mut sent = Vec::new();
            while left.has_remaining() {
                let mut slices = [std::io::IoSlice::new(&[]); 4];
                let filled = left.chunks_vectored(&mut slices);
                let vectored: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.to_vec()).collect();
                assert_eq!(vectored, expected[sent.len()..]);
                let count = step.min(left.remaining());
                sent.extend_from_slice(&left.copy_to_bytes(count));
            }
            assert_eq!(sent, expected);
        }
    }

    async fn read(
        body: impl RequestBody,
        encoding: Option<&'static str>,
    ) -> Result<pb::QueryTaskRequest, Status> {
        let mut request = Request::new(body);
        request.headers_mut().extend(encoding.map(|name| (GRPC_ENCODING, HeaderValue::from_static(name))));
        Unread::new(request).read().await
    }

    #[test]
    fn a_frame_is_one_message_if_it_is_plain_and_has_the_length_that_it_says() {
        let frame = |flag: u8, length: usize, message: &[u8]| {
            Bytes::from([&[flag][..], &u32::try_from(length).unwrap().to_be_bytes(), message].concat())
        };
        assert_eq!(whole(&frame(0, 3, b"abc")), Some(&b"abc"[..]));
        assert_eq!(whole(&frame(0, 0, b"")), Some(&b""[..]));
        let longest = vec![0; 65_536];
        assert_eq!(whole(&frame(0, 65_536, &longest)), Some(&longest[..]));
        let longer = vec![0; 65_537];
        for other in [
            frame(1, 3, b"abc"),
            frame(0, 2, b"abc"),
            frame(0, 4, b"abc"),
            frame(0, 65_537, &longer),
            Bytes::from_static(b"\0\0\0\0"),
        ] {
            assert_eq!(whole(&other), None);
        }
    }

    #[tokio::test]
    async fn a_request_is_read_however_its_bytes_come() {
        let request = pb::QueryTaskRequest { task_id: "7".repeat(100), max_age: None };
        let bytes = Bytes::from(framed(&request));
        for step in [1, 4, 5, 6, 50, bytes.len()] {
            let pieces: Vec<_> = bytes.chunks(step).map(Bytes::copy_from_slice).collect();
            let frames = pieces.into_iter().map(|piece| Ok::<_, std::io::Error>(Frame::data(piece)));
            let body = http_body_util::StreamBody::new(futures_util::stream::iter(frames));
            assert_eq!(read(body, None).await.unwrap(), request, "in pieces of {step}");
        }
        assert_eq!(read(http_body_util::Full::from(bytes), None).await.unwrap(), request);
    }

    #[tokio::test]
    async fn a_request_that_breaks_off_is_its_callers_end() {
        let bytes = Bytes::from(framed(&pb::QueryTaskRequest { task_id: "7".into(), max_age: None }));
        for length in [0, 3, bytes.len()] {
            let part = Frame::data(bytes.slice(..length));
            let frames = [Ok(part), Err(std::io::Error::from(std::io::ErrorKind::ConnectionReset))];
            let body = http_body_util::StreamBody::new(futures_util::stream::iter(frames));
            assert_eq!(read(body, None).await.unwrap_err().code(), Code::Cancelled, "after {length} bytes");
        }
        // One that ends too soon is its caller's fault, and is told so.
        let short = http_body_util::Full::from(bytes.slice(..3));
        assert_eq!(read(short, None).await.unwrap_err().code(), Code::Internal);
    }

    #[tokio::test]
    async fn no_compression_is_offered_and_none_taken() {
        let request = pb::QueryTaskRequest { task_id: "7".into(), max_age: None };
        let body = || http_body_util::Full::from(framed(&request));
        assert_eq!(read(body(), Some("identity")).await.unwrap(), request);
        let refused = read(body(), Some("gzip")).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unimplemented);
        assert_eq!(refused.metadata().get(GRPC_ACCEPT_ENCODING).unwrap(), "identity");
    }
}
