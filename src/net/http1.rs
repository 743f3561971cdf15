//! A small HTTP/1.1 server loop for the side doors. Owns its connections, their limits and their end; what is
//! answered is the service's.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use super::{Listener, Stream};

/// What one such server will bear.
#[derive(Clone, Copy, Debug)]
pub struct Http1Limits {
    /// Connections at once; while there are so many, the oldest gives way to a new one.
    pub connections: usize,
    /// How long a request's head may take, and how long a connection may wait for its next request.
    pub header_timeout: Duration,
    /// How large a request's head may be; at least 8 KiB, below which hyper won't go.
    pub header_bytes: usize,
    /// How long requests under way may go on after the stop.
    pub stop_timeout: Duration,
}

impl Default for Http1Limits {
    /// For a door that a few probes and people use.
    fn default() -> Self {
        Self {
            connections: 64,
            header_timeout: Duration::from_secs(10),
            header_bytes: 16 * 1024,
            stop_timeout: Duration::from_secs(2),
        }
    }
}

/// Serves `service` on `listener` until `stop` is ready; returns when the last connection is gone, at most
/// [`Http1Limits::stop_timeout`] later.
pub async fn serve_http1<S>(
    mut listener: Listener,
    service: S,
    limits: Http1Limits,
    stop: impl Future<Output = ()>,
) where
    S: Service<Request<Incoming>, Response = Response<Full<Bytes>>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
{
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_buf_size(limits.header_bytes);
    let stopping = CancellationToken::new();
    let mut connections = JoinSet::new();
    let mut oldest: VecDeque<AbortHandle> = VecDeque::new();
    tokio::pin!(stop);
    loop {
        tokio::select! {
            biased;
            () = &mut stop => break,
            Some(ended) = connections.join_next() => report(ended),
            stream = listener.accept() => {
                // The oldest gives way: whoever only holds places must not lock out a probe.
                while connections.len() >= limits.connections && let Some(handle) = oldest.pop_front() {
                    handle.abort();
                    if let Some(ended) = connections.join_next().await {
                        report(ended);
                    }
                }
                oldest.retain(|handle| !handle.is_finished());
                let connection = serve_connection(http.clone(), stream, service.clone(), stopping.clone());
                oldest.push_back(connections.spawn(connection));
            }
        }
    }
    drop(listener);
    stopping.cancel();
    let rest = async {
        while let Some(ended) = connections.join_next().await {
            report(ended);
        }
    };
    if tokio::time::timeout(limits.stop_timeout, rest).await.is_err() {
        connections.shutdown().await;
    }
}

async fn serve_connection<S>(http: http1::Builder, stream: Stream, service: S, stopping: CancellationToken)
where
    S: Service<Request<Incoming>, Response = Response<Full<Bytes>>, Error = Infallible>,
{
    let connection = http.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let result = tokio::select! {
        result = &mut connection => result,
        () = stopping.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        // A client that leaves, dawdles or talks nonsense is no concern of the operator's.
        tracing::debug!(%error, "http connection failed");
    }
}

fn report(ended: Result<(), JoinError>) {
    if ended.is_err_and(|error| error.is_panic()) {
        tracing::error!("a request's handler panicked, its connection is closed");
    }
}

/// A client for tests, which sees what is on the wire.
#[cfg(test)]
pub(crate) mod client {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    /// Sends `request` as it is and gives all that comes until the server closes.
    pub(crate) async fn exchange(addr: &str, request: &str) -> String {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    /// A request without a body, after which the connection closes.
    pub(crate) async fn ask(addr: &str, method: &str, path: &str) -> String {
        exchange(addr, &format!("{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n")).await
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::sync::Arc;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::sync::{Notify, Semaphore};
    use tokio::time::timeout;

    use super::*;

    const REQUEST: &str = "GET / HTTP/1.1\r\nhost: test\r\n\r\n";
    /// Only a failing test waits so long.
    const LONG: Duration = Duration::from_secs(30);

    /// Answers "ok" when its gate lets it, and says when a request has reached it.
    #[derive(Clone)]
    struct Gated {
        gate: Arc<Semaphore>,
        reached: Arc<Notify>,
    }

    impl Service<Request<Incoming>> for Gated {
        type Response = Response<Full<Bytes>>;
        type Error = Infallible;
        type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

        fn call(&self, request: Request<Incoming>) -> Self::Future {
            let Self { gate, reached } = self.clone();
            Box::pin(async move {
                assert_ne!(request.uri().path(), "/panic", "asked to");
                reached.notify_one();
                gate.acquire().await.unwrap().forget();
                Ok(Response::new(Full::from("ok")))
            })
        }
    }

    struct Server {
        addr: String,
        gate: Arc<Semaphore>,
        reached: Arc<Notify>,
        stop: CancellationToken,
        running: JoinSet<()>,
    }

    impl Server {
        async fn start(limits: Http1Limits) -> Self {
            let listener = Listener::bind("127.0.0.1:0").await.unwrap();
            let addr = listener.local_addr().to_owned();
            let service = Gated { gate: Arc::new(Semaphore::new(0)), reached: Arc::default() };
            let Gated { gate, reached } = service.clone();
            let stop = CancellationToken::new();
            let mut running = JoinSet::new();
            running.spawn(serve_http1(listener, service, limits, stop.clone().cancelled_owned()));
            Self { addr, gate, reached, stop, running }
        }

        async fn send(&self) -> TcpStream {
            let mut stream = TcpStream::connect(&self.addr).await.unwrap();
            stream.write_all(REQUEST.as_bytes()).await.unwrap();
            stream
        }

        async fn ended(mut self) {
            timeout(LONG, self.running.join_next()).await.unwrap().unwrap().unwrap();
        }
    }

    async fn rest(stream: &mut TcpStream) -> String {
        let mut bytes = Vec::new();
        // A reset is an end too.
        let _ = timeout(LONG, stream.read_to_end(&mut bytes)).await.expect("the server closes");
        String::from_utf8(bytes).unwrap()
    }

    /// Reads up to the end of the gated service's body.
    async fn answer(stream: &mut TcpStream) -> String {
        let mut bytes = Vec::new();
        while !bytes.ends_with(b"\r\n\r\nok") {
            assert_ne!(timeout(LONG, stream.read_buf(&mut bytes)).await.unwrap().unwrap(), 0, "{bytes:?}");
        }
        String::from_utf8(bytes).unwrap()
    }

    #[tokio::test]
    async fn the_stop_lets_requests_finish_and_closes_idle_connections() {
        let server = Server::start(Http1Limits { stop_timeout: LONG, ..Http1Limits::default() }).await;
        server.gate.add_permits(1);
        let mut idle = server.send().await;
        answer(&mut idle).await;
        server.reached.notified().await;
        let mut busy = server.send().await;
        server.reached.notified().await;
        server.stop.cancel();
        // The idle one is closed while the busy one is still under way, so it is the stop that closed it.
        assert_eq!(rest(&mut idle).await, "");
        server.gate.add_permits(1);
        let last = rest(&mut busy).await;
        assert!(last.starts_with("HTTP/1.1 200 OK\r\n") && last.ends_with("ok"), "{last}");
        assert!(last.contains("connection: close"), "{last}");
        server.ended().await;
    }

    #[tokio::test]
    async fn a_connection_that_never_spoke_delays_no_stop() {
        let server = Server::start(Http1Limits { stop_timeout: LONG, ..Http1Limits::default() }).await;
        let mut silent = TcpStream::connect(&server.addr).await.unwrap();
        // A later connection's request has arrived: the silent one was taken before it.
        let mut busy = server.send().await;
        server.reached.notified().await;
        server.stop.cancel();
        assert_eq!(rest(&mut silent).await, "");
        server.gate.add_permits(1);
        rest(&mut busy).await;
        server.ended().await;
    }

    #[tokio::test]
    async fn a_request_that_does_not_end_is_cut_off() {
        let limits = Http1Limits { stop_timeout: Duration::from_millis(50), ..Http1Limits::default() };
        let server = Server::start(limits).await;
        let mut busy = server.send().await;
        server.reached.notified().await;
        server.stop.cancel();
        assert_eq!(rest(&mut busy).await, "");
        server.ended().await;
    }

    #[tokio::test]
    async fn in_a_full_house_the_oldest_gives_way() {
        let server = Server::start(Http1Limits { connections: 2, ..Http1Limits::default() }).await;
        // Two that only hold places.
        let mut silent = TcpStream::connect(&server.addr).await.unwrap();
        let mut dawdling = TcpStream::connect(&server.addr).await.unwrap();
        dawdling.write_all(b"GET / HTTP/1.1\r\nhost:").await.unwrap();
        server.gate.add_permits(2);
        let mut first = server.send().await;
        answer(&mut first).await;
        let mut second = server.send().await;
        answer(&mut second).await;
        rest(&mut silent).await;
        rest(&mut dawdling).await;
    }

    #[tokio::test]
    async fn a_dawdling_head_and_an_oversized_one_are_closed() {
        let limits = Http1Limits { header_timeout: Duration::from_millis(50), ..Http1Limits::default() };
        let server = Server::start(limits).await;
        let mut slow = TcpStream::connect(&server.addr).await.unwrap();
        slow.write_all(b"GET / HTTP/1.1\r\nhost:").await.unwrap();
        rest(&mut slow).await;

        let server = Server::start(Http1Limits { header_timeout: LONG, ..Http1Limits::default() }).await;
        server.gate.add_permits(1);
        let head = |size| format!("GET / HTTP/1.1\r\nx: {}\r\nconnection: close\r\n\r\n", "a".repeat(size));
        let fits = client::exchange(&server.addr, &head(15 * 1024)).await;
        assert!(fits.starts_with("HTTP/1.1 200"), "{fits}");
        let mut large = TcpStream::connect(&server.addr).await.unwrap();
        // The server may close before it has read all, so that the write fails.
        let _ = large.write_all(head(64 * 1024).as_bytes()).await;
        let answer = rest(&mut large).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
    }

    #[tokio::test]
    async fn a_panic_ends_its_own_connection_alone() {
        let server = Server::start(Http1Limits::default()).await;
        assert_eq!(client::ask(&server.addr, "GET", "/panic").await, "");
        server.gate.add_permits(1);
        assert!(client::ask(&server.addr, "GET", "/").await.ends_with("ok"));
    }
}
