//! tokenByAkSk: the vendor's login, as the token's owner wants it.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderName, HeaderValue, StatusCode};
use reqwest::Url;
use tokio::time::Instant;

use super::error::ExchangeError;
use super::http::{Answer, Http};
use super::wire;
use crate::metrics::{self, Endpoint, Metrics};
use crate::task::failure::{Failure, Reason};
use crate::token::bearer::Bearer;
use crate::token::secret::Secret;
use crate::token::{Grant, Login};

/// No life over an hour is believed (contract 3): the reference allows no more.
const LONGEST_LIFE: Duration = Duration::from_secs(3600);
const X_TOKEN_EXPIRE: HeaderName = HeaderName::from_static("x-token-expire");

/// The app secret, which may be another one after each change of its file.
pub type SharedSecret = Arc<ArcSwap<Secret>>;

/// Logs in with an app key and its secret.
#[derive(Debug)]
pub(super) struct TokenByAkSk {
    pub(super) http: Http,
    pub(super) url: Url,
    pub(super) app_key: String,
    pub(super) app_secret: SharedSecret,
    /// The life that is asked for.
    pub(super) lifetime: Duration,
    pub(super) metrics: Metrics,
}

impl Login for TokenByAkSk {
    fn login(&self) -> BoxFuture<'_, Result<Grant, Failure>> {
        Box::pin(async {
            let exchange = self.metrics.exchange(Endpoint::TokenByAkSk);
            let outcome = self.exchange().await;
            exchange.finish(outcome.as_ref().map_or_else(|failure| failure.reason.label(), |_| metrics::OK));
            outcome
        })
    }
}

impl TokenByAkSk {
    async fn exchange(&self) -> Result<Grant, Failure> {
        let mut headers = super::http::headers();
        headers.insert(X_TOKEN_EXPIRE, HeaderValue::from(self.lifetime.as_secs()));
        let body = wire::login_body(&self.app_key, self.app_secret.load().expose());
        match self.http.post(&self.url, headers, Bytes::from_owner(body), Instant::now()).await {
            Ok(answer) if answer.status == StatusCode::OK => self.granted(&answer),
            Ok(answer) => Err(refused(&answer)),
            Err(error) => Err(unavailable(&error)),
        }
    }

    fn granted(&self, answer: &Answer) -> Result<Grant, Failure> {
        let Ok(granted) = wire::granted(&answer.body) else {
            let mut failure = Failure::new(
                Reason::TokenUnavailable,
                "the vendor's answer to the login is no JSON (HTTP 200)",
            );
            failure.http_status = Some(answer.status.as_u16());
            return Err(failure);
        };
        match granted.access_token.as_ref().and_then(|token| Bearer::new(token)) {
            Some(bearer) => {
                let life = granted.expires.unwrap_or(self.lifetime).min(LONGEST_LIFE);
                Ok(Grant { bearer, life })
            }
            None => {
                let detail = "the vendor's answer to the login holds no token (HTTP 200)";
                let mut failure = Failure::new(Reason::CredentialsRejected, detail);
                failure.http_status = Some(answer.status.as_u16());
                Err(failure)
            }
        }
    }
}

fn refused(answer: &Answer) -> Failure {
    let status = answer.status.as_u16();
    let is_rejected = matches!(status, 400..=499) && !matches!(status, 408 | 429);
    let mut failure = if is_rejected {
        let detail = format!(
            "the vendor rejects the login (HTTP {status}): check app-key, app-secret, and its allow list of addresses"
        );
        Failure::new(Reason::CredentialsRejected, detail)
    } else {
        Failure::new(
            Reason::TokenUnavailable,
            format!("the vendor did not process the login (HTTP {status})"),
        )
    };
    failure.http_status = Some(status);
    failure.with_retry_after(answer.retry_after)
}

fn unavailable(error: &ExchangeError) -> Failure {
    let of_exchange = error.failure();
    let mut failure = Failure::new(Reason::TokenUnavailable, format!("no login: {}", of_exchange.detail));
    failure.http_status = of_exchange.http_status;
    failure
}
