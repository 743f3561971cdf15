//! tokenByAkSk: the vendor's login, as the token's owner wants it.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderName, HeaderValue};
use reqwest::Url;
use tokio::time::Instant;

use super::error::ExchangeError;
use super::http::Http;
use super::wire;
use crate::metrics::{self, Endpoint, Metrics};
use crate::task::failure::{Failure, Reason};
use crate::token::secret::Secret;
use crate::token::{Grant, Login};

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
            Ok(answer) => answer.heard().of_login(self.lifetime),
            Err(error) => Err(unavailable(&error)),
        }
    }
}

fn unavailable(error: &ExchangeError) -> Failure {
    let of_exchange = error.failure();
    let mut failure = Failure::new(Reason::TokenUnavailable, format!("no login: {}", of_exchange.detail));
    failure.http_status = of_exchange.http_status;
    failure
}
