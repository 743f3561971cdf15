//! Callers: the generated client over a bare HTTP/2 connection.

use std::time::Duration;

use federation_gateway::pb::federation_tasks_client::FederationTasksClient;
use federation_gateway::pb::{
    QueryTaskRequest, QueryTaskResponse, WatchReason, WatchTaskRequest, WatchTaskResponse,
};
use http::Uri;
use tokio::net::TcpStream;
use tonic::{Status, Streaming};

use super::connection::Connection;
use super::soon;
use super::told::{Told, told};

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
        let connection = Connection::over(stream).await.expect("the gateway speaks HTTP/2");
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
        self.connection.cut();
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
