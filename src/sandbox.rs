//! The simulated vendor: both calls of its REST API over real HTTP/1.1, and counters of them.
//!
//! A house of its own: it shares no wire type with the gateway's vendor client, so that a mistake in one of them
//! shows. It guards nothing, as it knows nothing: any credentials get a token.

mod answers;
mod tasks;
mod tokens;

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Full, Limited};
use hyper::service::Service;
use tokio::time::{Instant, sleep, timeout};

use crate::net::{Http1Limits, Listener, serve_http1};
use answers::{LoginRequest, QueryRequest, json};
use tasks::Tasks;
use tokens::Tokens;

const TOKEN_PATH: &str = "/apigovernance/api/oauth/tokenByAkSk";
const QUERY_PATH: &str = "/apiaccess/rest/cc-management/v1/federationUserMgmt/queryTask";

/// The larger of the two documented requests holds two short strings.
const BODY_BYTES: usize = 64 * 1024;
/// A body comes with its head from any real client.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a `slow-` id's answer takes.
const SLOWNESS: Duration = Duration::from_secs(2);

/// Room for a load test's worth of clients. Idle ones are kept for as long as common load balancers do, 75 s: a
/// client must not meet a closed connection at each of its polls.
const LIMITS: Http1Limits = Http1Limits {
    connections: 4096,
    header_timeout: Duration::from_secs(75),
    header_bytes: 16 * 1024,
    stop_timeout: Duration::from_secs(2),
};

/// What a body that breaks off says, of which nothing is kept.
type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A bound simulated vendor, not yet running.
#[derive(Debug)]
pub struct Sandbox {
    listener: Listener,
}

impl Sandbox {
    /// Binds `address`, a `host:port`; port 0 picks a free one.
    ///
    /// # Errors
    /// When the address can't be had.
    pub async fn bind(address: &str) -> io::Result<Self> {
        Ok(Self { listener: Listener::bind(address).await? })
    }

    /// Where it listens, with the port that was picked: with `http://` before it, a base URL.
    #[must_use]
    pub fn addr(&self) -> &str {
        self.listener.local_addr()
    }

    /// Serves until `stop` is ready.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        tracing::info!(addr = %self.addr(), server = "sandbox", "listening");
        serve_http1(self.listener, Vendor::default(), LIMITS, stop).await;
    }
}

/// What the connections share. A plain lock does, as all that is done under it is a look-up.
#[derive(Clone, Default)]
struct Vendor {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    tokens: Tokens,
    tasks: Tasks,
    token_requests: u64,
    query_requests: u64,
}

impl Vendor {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics under the lock")
    }

    async fn answer<B>(&self, request: Request<B>) -> Response<Full<Bytes>>
    where
        B: Body<Data: Send, Error: Into<BoxError>> + Send,
    {
        let (head, body) = request.into_parts();
        match (head.uri.path(), &head.method) {
            (TOKEN_PATH, method) => {
                self.state().token_requests += 1;
                if *method == Method::POST { self.login(&head, body).await } else { answers::not_post() }
            }
            (QUERY_PATH, method) => {
                self.state().query_requests += 1;
                if *method == Method::POST { self.query(&head, body).await } else { answers::not_post() }
            }
            ("/counters", &Method::GET | &Method::HEAD) => {
                let state = self.state();
                json(StatusCode::OK, &answers::counters(state.token_requests, state.query_requests))
            }
            _ => answers::error(StatusCode::NOT_FOUND, "requested content not found"),
        }
    }

    async fn login<B>(&self, head: &Parts, body: B) -> Response<Full<Bytes>>
    where
        B: Body<Data: Send, Error: Into<BoxError>> + Send,
    {
        let body = match read(body).await {
            Ok(body) => body,
            Err(refusal) => return refusal,
        };
        let (Some(lifetime_secs), Some(login)) =
            (tokens::lifetime_secs(&head.headers), LoginRequest::parse(&body))
        else {
            return answers::malformed();
        };
        let token = self.state().tokens.issue(Instant::now(), lifetime_secs);
        json(StatusCode::OK, &login.answer(&token, lifetime_secs))
    }

    async fn query<B>(&self, head: &Parts, body: B) -> Response<Full<Bytes>>
    where
        B: Body<Data: Send, Error: Into<BoxError>> + Send,
    {
        let token =
            head.headers.get(AUTHORIZATION).and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
        if !token.is_some_and(|token| self.state().tokens.is_living(token, Instant::now())) {
            return answers::error(StatusCode::UNAUTHORIZED, "no living token");
        }
        let body = match read(body).await {
            Ok(body) => body,
            Err(refusal) => return refusal,
        };
        let Some(QueryRequest { task_id }) = QueryRequest::parse(&body) else {
            return answers::malformed();
        };
        // As the task stands now, however long the answer takes: a slow answer is an old one.
        let outcome = self.state().tasks.ask(&task_id, Instant::now());
        if task_id.starts_with("slow-") {
            sleep(SLOWNESS).await;
        }
        answers::task(outcome)
    }
}

/// A request's body, or the answer to one that is too large or does not come.
async fn read<B>(body: B) -> Result<Bytes, Response<Full<Bytes>>>
where
    B: Body<Data: Send, Error: Into<BoxError>> + Send,
{
    let whole = std::pin::pin!(Limited::new(body, BODY_BYTES));
    match timeout(BODY_TIMEOUT, whole.collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(_)) => Err(answers::malformed()),
        Err(_) => Err(answers::error(StatusCode::REQUEST_TIMEOUT, "the request's body did not come")),
    }
}

impl<B> Service<Request<B>> for Vendor
where
    B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, request: Request<B>) -> Self::Future {
        let vendor = self.clone();
        Box::pin(async move { Ok(vendor.answer(request).await) })
    }
}

#[cfg(test)]
mod tests;
