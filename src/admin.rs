//! The HTTP side door for probes and scrapers. Owns its paths and their answers; what is measured and how the
//! process stands is known elsewhere and asked for on each request.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::service::Service;

use crate::health::Health;
use crate::net::{Http1Limits, Listener, serve_http1};

/// The version of the Prometheus text format that `/metrics` is in.
const METRICS_TYPE: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4");
const TEXT_TYPE: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// Renders all metrics in the Prometheus text format.
pub type RenderMetrics = Arc<dyn Fn() -> String + Send + Sync>;

/// A bound admin server, not yet running.
#[derive(Debug)]
pub struct Admin {
    listener: Listener,
    pages: Pages,
}

impl Admin {
    /// Binds `address`, a `host:port`.
    ///
    /// # Errors
    /// When the address can't be had.
    pub async fn bind(address: &str, health: Health, metrics: RenderMetrics) -> io::Result<Self> {
        Ok(Self { listener: Listener::bind(address).await?, pages: Pages { health, metrics } })
    }

    /// Where it listens, with the port that was picked.
    #[must_use]
    pub fn addr(&self) -> &str {
        self.listener.local_addr()
    }

    /// Serves until `stop` is ready, which should be the end and not the drain: probes ask while it lasts.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        tracing::info!(addr = %self.addr(), server = "admin", "listening");
        serve_http1(self.listener, self.pages, Http1Limits::default(), stop).await;
    }
}

/// What there is to see.
#[derive(Clone)]
struct Pages {
    health: Health,
    metrics: RenderMetrics,
}

impl std::fmt::Debug for Pages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pages").field("health", &self.health).finish_non_exhaustive()
    }
}

impl Pages {
    /// Bodies are not looked at, so any will do.
    fn answer<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut refusal = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
            refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return refusal;
        }
        match request.uri().path() {
            "/livez" => text(StatusCode::OK, "alive\n"),
            "/readyz" => self.readiness(),
            "/metrics" => {
                let mut page = text(StatusCode::OK, (self.metrics)());
                page.headers_mut().insert(CONTENT_TYPE, METRICS_TYPE);
                page
            }
            _ => text(StatusCode::NOT_FOUND, "not found\n"),
        }
    }

    fn readiness(&self) -> Response<Full<Bytes>> {
        let standing = self.health.standing();
        if standing.is_ready() {
            text(StatusCode::OK, "ready\n")
        } else if standing.draining {
            text(StatusCode::SERVICE_UNAVAILABLE, "not ready: draining\n")
        } else {
            text(StatusCode::SERVICE_UNAVAILABLE, "not ready: no token from the vendor yet\n")
        }
    }
}

impl<B> Service<Request<B>> for Pages {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn call(&self, request: Request<B>) -> Self::Future {
        ready(Ok(self.answer(&request)))
    }
}

/// A page that is good for this moment only.
fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, TEXT_TYPE);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinSet;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::net::client::ask;

    struct Door {
        addr: String,
        health: Health,
        stop: CancellationToken,
        running: JoinSet<()>,
    }

    async fn open() -> Door {
        let health = Health::new();
        let metrics: RenderMetrics = Arc::new(|| "federation_watchers 3\n".to_owned());
        let admin = Admin::bind("127.0.0.1:0", health.clone(), metrics).await.unwrap();
        let (addr, stop) = (admin.addr().to_owned(), CancellationToken::new());
        let mut running = JoinSet::new();
        running.spawn(admin.run(stop.clone().cancelled_owned()));
        Door { addr, health, stop, running }
    }

    fn assert_is(answer: &str, status: &str, body: &str) {
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        assert!(answer.contains("\r\ncache-control: no-store\r\n"), "{answer}");
        assert_eq!(answer.split_once("\r\n\r\n").unwrap().1, body, "{answer}");
    }

    #[tokio::test]
    async fn readiness_follows_the_standing_and_liveness_does_not() {
        let door = open().await;
        assert_is(
            &ask(&door.addr, "GET", "/readyz").await,
            "503",
            "not ready: no token from the vendor yet\n",
        );
        door.health.set_token(true, true);
        assert_is(&ask(&door.addr, "GET", "/readyz").await, "200", "ready\n");
        // The vendor is away, and the replica stays in its service.
        door.health.set_token(false, false);
        assert_is(&ask(&door.addr, "GET", "/readyz?verbose").await, "200", "ready\n");
        door.health.set_draining();
        assert_is(&ask(&door.addr, "GET", "/readyz").await, "503", "not ready: draining\n");
        assert_is(&ask(&door.addr, "GET", "/livez").await, "200", "alive\n");
    }

    #[tokio::test]
    async fn metrics_are_rendered_for_each_who_asks() {
        let door = open().await;
        let answer = ask(&door.addr, "GET", "/metrics").await;
        assert_is(&answer, "200", "federation_watchers 3\n");
        assert!(answer.contains("\r\ncontent-type: text/plain; version=0.0.4\r\n"), "{answer}");
    }

    #[tokio::test]
    async fn head_has_the_headers_alone_and_nothing_else_is_allowed() {
        let door = open().await;
        let head = ask(&door.addr, "HEAD", "/metrics").await;
        assert_is(&head, "200", "");
        assert!(head.contains("\r\ncontent-length: 22\r\n"), "{head}");
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "BREW"] {
            let answer = ask(&door.addr, method, "/livez").await;
            assert_is(&answer, "405", "only GET and HEAD\n");
            assert!(answer.contains("\r\nallow: GET, HEAD\r\n"), "{answer}");
        }
        for path in ["/", "/metrics/", "/livez/x", "/.env", "//livez"] {
            assert_is(&ask(&door.addr, "GET", path).await, "404", "not found\n");
        }
    }

    #[tokio::test]
    async fn it_stops_when_told_to() {
        let mut door = open().await;
        assert_is(&ask(&door.addr, "GET", "/livez").await, "200", "alive\n");
        door.stop.cancel();
        door.running.join_next().await.unwrap().unwrap();
        assert!(tokio::net::TcpStream::connect(&door.addr).await.is_err());
    }
}
