//! A gRPC caller that takes as little as it can from what is measured: frames by hand over hyper's HTTP/2, no timers,
//! no buffer a stream. Failures are tonic's `Status`, so that its details can be read.

use std::error::Error as _;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Response, Uri, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper::rt::Executor;
use hyper_util::rt::TokioIo;
use prost::Message;
use tokio::net::TcpStream;
use tokio_util::task::TaskTracker;
use tonic::{Code, Status};

use crate::fault::Fault;

/// A message's head: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// What runs a connection's tasks.
#[derive(Clone)]
struct Tasks(TaskTracker);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Tasks {
    fn execute(&self, task: F) {
        self.0.spawn(task);
    }
}

/// One connection; clones share it.
#[derive(Clone)]
pub(crate) struct Connection {
    requests: SendRequest<Full<Bytes>>,
    origin: String,
}

/// One method of a server.
#[derive(Clone)]
pub(crate) struct Method {
    connection: Connection,
    uri: Uri,
    headers: HeaderMap,
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> Result<Self, Fault> {
        let stream = TcpStream::connect(address).await.map_err(Fault::of("can't connect"))?;
        stream.set_nodelay(true).map_err(Fault::of("can't connect"))?;
        let tasks = Tasks(TaskTracker::new());
        let handshake = http2::Builder::new(tasks.clone())
            // Streams wait for the server's limit to be known, not for a guess of it.
            .initial_max_send_streams(None)
            .handshake(TokioIo::new(stream));
        let (requests, connection) = handshake.await.map_err(Fault::of("no HTTP/2"))?;
        tasks.execute(async move {
            // How it ends is seen by the calls over it.
            let _ = connection.await;
        });
        Ok(Self { requests, origin: format!("http://{address}") })
    }

    /// Opens so many connections.
    pub(crate) async fn open_many(address: SocketAddr, count: usize) -> Result<Vec<Self>, Fault> {
        let mut connections = Vec::with_capacity(count);
        for _ in 0..count {
            connections.push(Self::open(address).await?);
        }
        Ok(connections)
    }

    /// A method of the server, by its path.
    pub(crate) fn method(&self, path: &str, timeout: Option<Duration>) -> Result<Method, Fault> {
        let uri = format!("{}{path}", self.origin).parse().map_err(Fault::of("no URL"))?;
        let mut headers = HeaderMap::with_capacity(4);
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        if let Some(timeout) = timeout {
            let timeout = format!("{}m", timeout.as_millis());
            headers.insert("grpc-timeout", timeout.parse().map_err(Fault::of("no time-out"))?);
        }
        Ok(Method { connection: self.clone(), uri, headers })
    }
}

impl Method {
    /// Calls it and waits for its one answer.
    pub(crate) async fn call<A: Message + Default>(&mut self, request: &impl Message) -> Result<A, Status> {
        let mut answers = self.begin(request).await?;
        let answer = answers.next().await?.ok_or_else(|| Status::internal("no answer"))?;
        match answers.next::<A>().await? {
            None => Ok(answer),
            Some(_) => Err(Status::internal("two answers")),
        }
    }

    /// Calls it; its answers come as a stream.
    pub(crate) async fn begin(&mut self, request: &impl Message) -> Result<Answers, Status> {
        let mut http = Request::new(Full::new(frame(request)));
        *http.method_mut() = http::Method::POST;
        *http.uri_mut() = self.uri.clone();
        *http.headers_mut() = self.headers.clone();
        let sent = self.connection.requests.send_request(http).await;
        let response: Response<Incoming> = sent.map_err(broken)?;
        if response.status() != http::StatusCode::OK {
            return Err(Status::internal(format!("HTTP status {}", response.status())));
        }
        // A failure before any answer stands in the headers alone.
        if let Some(status) = Status::from_header_map(response.headers()) {
            return Err(status);
        }
        Ok(Answers { body: response.into_body(), heard: Bytes::new() })
    }
}

/// A call's answers.
pub(crate) struct Answers {
    body: Incoming,
    heard: Bytes,
}

impl Answers {
    /// The next answer, or none after the last; a failure is the call's.
    pub(crate) async fn next<A: Message + Default>(&mut self) -> Result<Option<A>, Status> {
        loop {
            if let Some(answer) = self.take()? {
                return Ok(Some(answer));
            }
            let Some(frame) = self.body.frame().await else { return Err(Status::internal("no trailers")) };
            match frame.map_err(broken)?.into_data() {
                Ok(data) if self.heard.is_empty() => self.heard = data,
                Ok(data) => {
                    let mut both = BytesMut::with_capacity(self.heard.len() + data.len());
                    both.put(std::mem::take(&mut self.heard));
                    both.put(data);
                    self.heard = both.freeze();
                }
                Err(frame) => {
                    let trailers = frame.into_trailers().unwrap_or_default();
                    let status = Status::from_header_map(&trailers);
                    let status = status.ok_or_else(|| Status::internal("no status in the trailers"))?;
                    return if status.code() == Code::Ok { Ok(None) } else { Err(status) };
                }
            }
        }
    }

    fn take<A: Message + Default>(&mut self) -> Result<Option<A>, Status> {
        let Some((prefix, rest)) = self.heard.split_first_chunk::<PREFIX>() else { return Ok(None) };
        let [_, length @ ..] = *prefix;
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if rest.len() < length {
            return Ok(None);
        }
        self.heard.advance(PREFIX);
        let message = self.heard.split_to(length);
        A::decode(message).map(Some).map_err(|error| Status::internal(error.to_string()))
    }
}

fn frame(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(PREFIX + length);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    // It has the room that it said it needs.
    let _ = message.encode(&mut frame);
    frame.freeze()
}

fn broken(error: hyper::Error) -> Status {
    // hyper tells what broke, and its source why.
    let why = error.source().map(ToString::to_string).unwrap_or_default();
    Status::internal(format!("the exchange broke: {error}: {why}"))
}
