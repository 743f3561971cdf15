//! One HTTP exchange with the vendor: HTTP/1.1, pooled, bounded in time and size, never redirected, never tried
//! again by itself. Knows nothing of tokens or JSON.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use reqwest::{NoProxy, Proxy, Url, redirect, retry};
use rustls::RootCertStore;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::error::{ExchangeError, MAX_BODY};
use super::heard::{self, Heard};
use crate::{clock, tls};

/// What is read of an error answer's body, in bytes: so much that its connection can be used again (contract 2).
const MAX_ERROR_BODY: usize = 64 * 1024;
/// How long a connection is kept for the next exchange. Load balancers close idle ones after a minute; a request
/// that meets such a closing is a try lost.
const POOL_IDLE: Duration = Duration::from_secs(50);
/// What a proxy is never asked for.
const LOOPBACK: &str = "localhost,127.0.0.0/8,::1";

/// The headers that all requests have in common. Told to reqwest with each, as it would add its own one by one.
pub(super) fn headers() -> HeaderMap {
    const USER_AGENT: &str = concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"));
    let mut headers = HeaderMap::with_capacity(8);
    headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
    headers.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers
}

/// How to reach the vendor.
#[derive(Clone, Debug)]
pub struct Config {
    /// The longest that connecting may take, TLS included.
    pub connect_timeout: Duration,
    /// The longest that one exchange may take, from connecting to the last byte.
    pub attempt_timeout: Duration,
    /// The roots that the vendor's certificate must lead to; none are needed for `http://`.
    pub roots: RootCertStore,
    /// `HTTPS_PROXY`: asked for `https://` alone, never for loopback.
    pub https_proxy: Option<String>,
    /// `NO_PROXY`.
    pub no_proxy: Option<String>,
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// `HTTPS_PROXY` is no URL.
    #[error("HTTPS_PROXY is not the URL of a proxy")]
    Proxy,
    /// The HTTP client can't be built.
    #[error("the HTTP client can't be built")]
    Build(#[source] reqwest::Error),
}

/// A client with its pool of connections.
#[derive(Clone, Debug)]
pub(super) struct Http {
    client: reqwest::Client,
    attempt_timeout: Duration,
}

/// An answer, its body read.
pub(super) struct Answer {
    status: StatusCode,
    retry_after: Option<Duration>,
    body: Body,
}

impl Answer {
    pub(super) fn heard(&self) -> Heard<'_> {
        Heard { status: self.status, retry_after: self.retry_after, body: &self.body }
    }
}

/// What is known of an answer before its body.
struct Head {
    status: StatusCode,
    retry_after: Option<Duration>,
}

impl Head {
    /// What a 200 and a 500 mean stands in their bodies; of the others the status and the headers are enough.
    fn needs_body(&self) -> bool {
        matches!(self.status, StatusCode::OK | StatusCode::INTERNAL_SERVER_ERROR)
    }

    fn with(self, body: Body) -> Answer {
        Answer { status: self.status, retry_after: self.retry_after, body }
    }
}

/// A body as it was received: most come in one piece, which is not copied. Pieces put together are wiped when dropped:
/// a login's answer holds the token.
enum Body {
    Piece(Bytes),
    Pieces(Zeroizing<Vec<u8>>),
}

impl Body {
    fn append(&mut self, chunk: Bytes) {
        match self {
            Self::Piece(first) if first.is_empty() => *first = chunk,
            Self::Piece(first) => {
                let mut pieces = Zeroizing::new(Vec::new());
                append(&mut pieces, first);
                append(&mut pieces, &chunk);
                *self = Self::Pieces(pieces);
            }
            Self::Pieces(pieces) => append(pieces, &chunk),
        }
    }
}

impl Default for Body {
    fn default() -> Self {
        Self::Piece(Bytes::new())
    }
}

impl std::ops::Deref for Body {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Piece(piece) => piece,
            Self::Pieces(pieces) => pieces,
        }
    }
}

impl Http {
    pub(super) fn new(config: Config) -> Result<Self, ClientError> {
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls::client(config.roots))
            .http1_only()
            .no_proxy()
            .redirect(redirect::Policy::none())
            .retry(retry::never())
            .referer(false)
            .tcp_nodelay(true)
            .connect_timeout(config.connect_timeout)
            .pool_idle_timeout(POOL_IDLE);
        if let Some(url) = config.https_proxy {
            // The URL may hold a password: its parser's error is not passed on.
            let proxy = Proxy::https(url).map_err(|_| ClientError::Proxy)?;
            let none = format!("{LOOPBACK},{}", config.no_proxy.unwrap_or_default());
            builder = builder.proxy(proxy.no_proxy(NoProxy::from_string(&none)));
        }
        let client = builder.build().map_err(ClientError::Build)?;
        Ok(Self { client, attempt_timeout: config.attempt_timeout })
    }

    /// Sends one request, for an exchange that `began` now, and reads its answer to the end or to its bound.
    pub(super) async fn post(
        &self,
        url: &Url,
        headers: HeaderMap,
        body: Bytes,
        began: Instant,
    ) -> Result<Answer, ExchangeError> {
        let mut request = reqwest::Request::new(Method::POST, url.clone());
        *request.headers_mut() = headers;
        *request.body_mut() = Some(body.into());
        let deadline = began + self.attempt_timeout;
        let timed_out = || ExchangeError::TimedOut(self.attempt_timeout);
        let mut known = None;
        // One timer for all of it; what was known of an answer when it ran out decides what it means.
        let ended = tokio::time::timeout_at(deadline, self.exchange(request, &mut known)).await;
        match (ended, known) {
            (Ok(Ok(body)), Some(head)) => Ok(head.with(body)),
            (Ok(Err(error)), _) => Err(error),
            (Err(_), Some(head)) if !head.needs_body() => Ok(head.with(Body::default())),
            (Err(_), _) | (Ok(Ok(_)), None) => Err(timed_out()),
        }
    }

    async fn exchange(
        &self,
        request: reqwest::Request,
        known: &mut Option<Head>,
    ) -> Result<Body, ExchangeError> {
        let mut response = self.client.execute(request).await.map_err(broken)?;
        let head = Head {
            status: response.status(),
            retry_after: heard::retry_after(response.headers(), clock::wall_now),
        };
        let head = known.insert(head);
        let is_good = head.status == StatusCode::OK;
        let limit = if is_good { MAX_BODY } else { MAX_ERROR_BODY };
        let mut body = Body::default();
        loop {
            match response.chunk().await.map_err(broken) {
                Ok(None) => break,
                Ok(Some(chunk)) if body.len() + chunk.len() <= limit => body.append(chunk),
                Ok(Some(_)) if is_good => return Err(ExchangeError::TooLarge),
                Err(error) if head.needs_body() => return Err(error),
                // The connection goes with what is left unread.
                Ok(Some(_)) | Err(_) => break,
            }
        }
        Ok(body)
    }
}

fn broken(error: reqwest::Error) -> ExchangeError {
    ExchangeError::Broken(error.without_url())
}

/// Appends without leaving an unwiped copy behind when the buffer grows.
fn append(body: &mut Zeroizing<Vec<u8>>, chunk: &[u8]) {
    if body.capacity() < body.len() + chunk.len() {
        let mut larger = Zeroizing::new(Vec::with_capacity((body.len() + chunk.len()).next_power_of_two()));
        larger.extend_from_slice(body);
        *body = larger;
    }
    body.extend_from_slice(chunk);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_grows_and_keeps_what_it_has() {
        let mut body = Body::default();
        for (chunk, whole) in [("", ""), ("a", "a"), ("bc", "abc"), ("", "abc"), ("defg", "abcdefg")] {
            body.append(Bytes::from_static(chunk.as_bytes()));
            assert_eq!(&*body, whole.as_bytes());
        }
    }

    #[test]
    fn a_body_in_one_piece_is_not_copied() {
        let piece = Bytes::from_static(b"abc");
        let mut body = Body::default();
        body.append(Bytes::new());
        body.append(piece.clone());
        assert_eq!((body.as_ptr(), body.len()), (piece.as_ptr(), 3));
    }

    #[test]
    fn pieces_put_together_move_only_to_memory_twice_as_large_and_by_our_own_hand() {
        // A Vec that grows by itself leaves a copy behind that nobody wipes. It would grow to 8, 9 and 17 bytes here.
        let mut pieces = Zeroizing::new(Vec::new());
        for (length, capacity) in [(1, 1), (1, 2), (2, 4), (5, 16), (7, 16), (1, 32)] {
            let (before, at) = (pieces.capacity(), pieces.as_ptr());
            append(&mut pieces, &b"abcdefg"[..length]);
            assert_eq!(pieces.capacity(), capacity);
            assert_eq!(pieces.as_ptr() == at, before == capacity, "{capacity}");
        }
        assert_eq!(&**pieces, b"aaababcdeabcdefga");
    }

    #[test]
    fn a_proxy_that_is_no_url_is_refused_without_repeating_it() {
        let config = Config {
            connect_timeout: Duration::from_secs(1),
            attempt_timeout: Duration::from_secs(1),
            roots: RootCertStore::empty(),
            https_proxy: Some("http://user:hunter2@[".into()),
            no_proxy: None,
        };
        let error = Http::new(config).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }
}
