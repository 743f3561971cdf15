//! A caller's connection: bare HTTP/2, which has no timers of its own, so that every deadline that is seen is the
//! gateway's.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper::rt::Executor;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tonic::body::Body;
use tower_service::Service;

/// One HTTP/2 connection; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    requests: SendRequest<Body>,
    tasks: Tasks,
}

impl Connection {
    /// HTTP/2 over a TCP connection.
    pub(crate) async fn over(stream: TcpStream) -> hyper::Result<Self> {
        let tasks = Tasks::default();
        // A small window: a reader that does not read is felt by the gateway soon.
        let handshake = http2::Builder::new(tasks.clone())
            .initial_stream_window_size(16 * 1024)
            .handshake(TokioIo::new(stream));
        let (requests, connection) = handshake.await?;
        tasks.execute(async move {
            // How it ends is seen by those who call over it.
            let _ = connection.await;
        });
        Ok(Self { requests, tasks })
    }

    /// Cuts it under whatever is under way.
    pub(crate) fn cut(&self) {
        self.tasks.0.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
    }
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
