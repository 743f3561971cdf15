//! Callers: the generated client over a bare HTTP/2 connection, which has no timers of its own, so that every
//! deadline that is seen is the gateway's.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use federation_gateway::pb::federation_tasks_client::FederationTasksClient;
use federation_gateway::pb::{
    QueryTaskRequest, QueryTaskResponse, WatchReason, WatchTaskRequest, WatchTaskResponse,
};
use futures_util::future::BoxFuture;
use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper::rt::Executor;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tonic::body::Body;
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt as _;
use tower_service::Service;

use super::soon;

/// One HTTP/2 connection; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    requests: SendRequest<Body>,
    tasks: Tasks,
}

/// What drives a connection: hyper spawns some of it by itself.
#[derive(Clone, Debug, Default)]
struct Tasks(Arc<Mutex<JoinSet<()>>>);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Tasks {
    fn execute(&self, task: F) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).spawn(task);
    }
}

impl Service<Request<Body>> for Connection {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = BoxFuture<'static, Result<Response<Incoming>, hyper::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.requests.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.requests.send_request(request))
    }
}

/// One who calls the gateway.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    connection: Connection,
    origin: Uri,
}

impl Caller {
    pub(crate) async fn connect(address: &str) -> Self {
        let stream = TcpStream::connect(address).await.expect("the gateway listens");
        stream.set_nodelay(true).expect("it is a TCP stream");
        let tasks = Tasks::default();
        // A small window: a reader that does not read is felt by the gateway soon.
        let handshake = http2::Builder::new(tasks.clone())
            .initial_stream_window_size(16 * 1024)
            .handshake(TokioIo::new(stream));
        let (requests, connection) = handshake.await.expect("the gateway speaks HTTP/2");
        tasks.execute(async move {
            // How it ends is seen by those who call over it.
            let _ = connection.await;
        });
        let connection = Connection { requests, tasks };
        Self { connection, origin: format!("http://{address}").parse().expect("an address is one") }
    }

    pub(crate) fn connection(&self) -> Connection {
        self.connection.clone()
    }

    pub(crate) fn origin(&self) -> Uri {
        self.origin.clone()
    }

    pub(crate) fn client(&self) -> FederationTasksClient<Connection> {
        FederationTasksClient::with_origin(self.connection(), self.origin())
            .max_decoding_message_size(64 * 1024 * 1024)
    }

    pub(crate) async fn query(
        &self,
        request: impl tonic::IntoRequest<QueryTaskRequest>,
    ) -> Result<QueryTaskResponse, Status> {
        let answer = soon("a query", self.client().query_task(request)).await;
        answer.map(tonic::Response::into_inner)
    }

    /// A query that must fail.
    pub(crate) async fn refused(&self, request: impl tonic::IntoRequest<QueryTaskRequest>) -> Told {
        told(&self.query(request).await.expect_err("this is refused"))
    }

    /// A watch whose first answer is there; an error is one that came as trailers alone.
    pub(crate) async fn watch(
        &self,
        request: impl tonic::IntoRequest<WatchTaskRequest>,
    ) -> Result<Messages, Status> {
        let answer = soon("a watch's first answer", self.client().watch_task(request)).await;
        answer.map(|response| Messages { stream: response.into_inner(), _caller: self.clone() })
    }

    /// Cuts the connection under whatever is under way.
    pub(crate) fn cut(&self) {
        self.connection.tasks.0.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
    }
}

/// A watch's messages.
#[derive(Debug)]
pub(crate) struct Messages {
    stream: Streaming<WatchTaskResponse>,
    // Whose connection it comes over.
    _caller: Caller,
}

impl Messages {
    /// The next one: why it was sent, the status's text, the remark.
    pub(crate) async fn next(&mut self) -> (WatchReason, String, String) {
        let message = self.message().await.expect("no failure").expect("no end yet");
        let task = message.task.clone().expect("every message has a task");
        (message.reason(), task.raw_status, task.remark)
    }

    pub(crate) async fn message(&mut self) -> Result<Option<WatchTaskResponse>, Status> {
        soon("a message", self.stream.message()).await
    }

    /// The failure that ends it, whatever comes before.
    pub(crate) async fn failure(&mut self) -> Told {
        loop {
            match self.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("ended with OK"),
                Err(status) => return told(&status),
            }
        }
    }
}

/// What a failed call told its caller.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub(crate) code: Code,
    pub(crate) reason: String,
    pub(crate) domain: String,
    pub(crate) metadata: HashMap<String, String>,
    pub(crate) retry: Option<Duration>,
    pub(crate) pushback_ms: Option<u64>,
    pub(crate) fields: Vec<String>,
    pub(crate) message: String,
    pub(crate) text: String,
}

pub(crate) fn told(status: &Status) -> Told {
    let details = status.get_error_details();
    let info = details.error_info().cloned();
    let info = info.unwrap_or_else(|| tonic_types::ErrorInfo::new("", "", HashMap::new()));
    let violations = details.bad_request().map(|bad| bad.field_violations.clone()).unwrap_or_default();
    let pushback = status.metadata().get("grpc-retry-pushback-ms");
    Told {
        code: status.code(),
        reason: info.reason,
        domain: info.domain,
        metadata: info.metadata,
        retry: details.retry_info().and_then(|info| info.retry_delay),
        pushback_ms: pushback.and_then(|value| value.to_str().ok()?.parse().ok()),
        fields: violations.into_iter().map(|violation| violation.field).collect(),
        message: status.message().to_owned(),
        text: format!("{status:?} {details:?}"),
    }
}

pub(crate) fn duration(duration: Duration) -> prost_types::Duration {
    duration.try_into().expect("a test's durations are small")
}

/// A request with no `max_age`.
pub(crate) fn query(task_id: &str) -> QueryTaskRequest {
    QueryTaskRequest { task_id: task_id.to_owned(), max_age: None }
}

/// A request with that interval, and no heartbeats.
pub(crate) fn watch(task_id: &str, poll_interval: Option<Duration>) -> WatchTaskRequest {
    let poll_interval = poll_interval.map(duration);
    WatchTaskRequest { task_id: task_id.to_owned(), poll_interval, heartbeat_interval: None }
}

/// A request that its caller waits for so long.
pub(crate) fn bounded<T>(message: T, timeout: Duration) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(timeout);
    request
}
