//! queryTask: one upstream call with all its tries. Its rules are those of contract section 2, "Tries", and of
//! section 3 for a 401.

use std::error::Error;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use reqwest::Url;
use tokio::time::Instant;

use super::error::ExchangeError;
use super::http::Http;
use super::wire;
use crate::clock;
use crate::limits::{Permits, Turn};
use crate::metrics::{self, Endpoint, Metrics};
use crate::retry;
use crate::retry::budget::Budget;
use crate::retry::terms::Terms;
use crate::task::failure::{Failure, Reason};
use crate::task::{Answer, Observation, TaskId};
use crate::token::{Held, Tokens, Verdict};

const X_APP_KEY: HeaderName = HeaderName::from_static("x-app-key");
const X_TENANT_SPACE_ID: HeaderName = HeaderName::from_static("x-tenantspaceid");

/// Asks the vendor for tasks.
#[derive(Debug)]
pub struct Client {
    http: Http,
    url: Url,
    /// The headers that all requests have in common.
    headers: HeaderMap,
    max_attempts: u32,
    tokens: Arc<Tokens>,
    permits: Arc<dyn Permits>,
    budget: Budget,
    metrics: Metrics,
}

/// What a [`Client`] is made of, beside its HTTP client.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) url: Url,
    pub(super) app_key: HeaderValue,
    pub(super) tenant_space_id: Option<HeaderValue>,
    pub(super) max_attempts: u32,
    pub(super) tokens: Arc<Tokens>,
    pub(super) permits: Arc<dyn Permits>,
    pub(super) metrics: Metrics,
}

impl Client {
    pub(super) fn new(http: Http, parts: Parts) -> Self {
        let mut headers = super::http::headers();
        headers.insert(X_APP_KEY, parts.app_key);
        headers.extend(parts.tenant_space_id.map(|id| (X_TENANT_SPACE_ID, id)));
        let Parts { url, max_attempts, tokens, permits, metrics, .. } = parts;
        Self { http, url, headers, max_attempts, tokens, permits, budget: Budget::new(), metrics }
    }

    /// One upstream call: as many tries as its rules and `terms` allow.
    ///
    /// # Errors
    /// The last try's failure, or what kept it from being tried. A deadline that passes is for whoever waits to
    /// watch: this then is dropped, and takes its socket along.
    pub async fn query_task(&self, task: &TaskId, mut terms: Terms) -> Result<Observation, Failure> {
        self.budget.call_begun();
        let mut failed = 0;
        let mut after_401 = false;
        loop {
            let held = self.tokens.get(&mut terms).await?;
            // A try that waits for its turn may outlive its token; a 401 on an older one costs only a retry.
            let turn = self.turn(&terms).await;
            let error = match self.try_once(task, &held, &terms, turn).await {
                Ok(observation) => {
                    if after_401 {
                        self.tokens.retried(held.generation, true);
                    }
                    return Ok(observation);
                }
                Err(error) => error,
            };
            let mut failure = error.failure();
            if failure.reason == Reason::UpstreamUnauthorized {
                if after_401 {
                    self.tokens.retried(held.generation, false);
                    return Err(failure);
                }
                if self.tokens.refused(held.generation) == Verdict::TooSoon {
                    failure.is_spaced = true;
                    return Err(failure);
                }
                after_401 = true;
                continue;
            }
            if let Some(wait) = failure.retry_after.filter(|_| failure.reason == Reason::UpstreamRateLimited)
            {
                self.permits.hold_polls(wait).await;
            }
            failed += 1;
            if !failure.reason.is_retryable() || failed >= self.max_attempts {
                return Err(failure);
            }
            let wait = retry::full_jitter(failed).max(failure.retry_after.unwrap_or_default());
            let due = Instant::now() + wait;
            if due >= terms.now().deadline || !self.budget.take_retry() {
                return Err(failure);
            }
            tracing::debug!(reason = %failure.reason, wait_ms = wait.as_millis(), "trying the vendor again");
            if terms.sleep_until(due).await.is_err() {
                return Err(failure);
            }
        }
    }

    async fn try_once(
        &self,
        task: &TaskId,
        held: &Held,
        terms: &Terms,
        turn: Turn,
    ) -> Result<Observation, ExchangeError> {
        let mut headers = self.headers.clone();
        headers.insert(header::AUTHORIZATION, held.bearer.header_value());
        let exchange = self.metrics.exchange(Endpoint::QueryTask);
        let began = Instant::now();
        terms.try_begins(began);
        let outcome = self.exchange(headers, task, held, began).await;
        if outcome.is_err() {
            // A good answer stays dated by its try until whoever waits has it.
            terms.try_ended();
        }
        exchange.finish(outcome.as_ref().map_or_else(|error| error.reason().label(), |_| metrics::OK));
        if let Err(ExchangeError::Broken(error)) = &outcome {
            tracing::debug!(error = %chain(error), "an exchange with the vendor broke");
        }
        drop(turn);
        outcome
    }

    /// Waits for a turn; on whose behalf may change while it waits, and with that the line. For how long is for
    /// whoever waits to watch.
    async fn turn(&self, terms: &Terms) -> Turn {
        // Mostly there is one, and nothing to wait for.
        if !terms.now().is_poll
            && let Some(turn) = self.permits.turn_at_once()
        {
            return turn;
        }
        let mut terms = terms.clone();
        terms.awaits_turn(Instant::now());
        loop {
            let is_poll = terms.now().is_poll;
            tokio::select! {
                biased;
                turn = self.permits.turn(is_poll) => return turn,
                () = changed_to(&mut terms, !is_poll) => {}
            }
        }
    }

    async fn exchange(
        &self,
        headers: HeaderMap,
        task: &TaskId,
        held: &Held,
        began: Instant,
    ) -> Result<Observation, ExchangeError> {
        let answer = self.http.post(&self.url, headers, Bytes::from(wire::query_body(task)), began).await?;
        let read = answer.heard().of_query(&held.bearer)?;
        let answer = Answer::new(read.state, read.result_message, clock::wall_now());
        Ok(Observation { answer: Arc::new(answer), began })
    }
}

/// Waits until a poll's call is a query's too, or the other way round.
async fn changed_to(terms: &mut Terms, is_poll: bool) {
    while terms.now().is_poll != is_poll {
        terms.changed().await;
    }
}

/// An error with its causes, on one line.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;
    use std::time::Duration;

    use futures_util::future::BoxFuture;
    use rustls::RootCertStore;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio::task::JoinSet;

    use super::*;
    use crate::health::Health;
    use crate::limits;
    use crate::token::bearer::Bearer;
    use crate::token::store;
    use crate::token::{Grant, Login};

    #[derive(Debug)]
    struct Granting;

    impl Login for Granting {
        fn login(&self) -> BoxFuture<'_, Result<Grant, Failure>> {
            let bearer = Bearer::new("token").expect("it is one");
            Box::pin(std::future::ready(Ok(Grant { bearer, life: Duration::from_secs(3600) })))
        }
    }

    /// A vendor that is not available, and counts how often it is asked.
    async fn unavailable(asked: tokio::sync::watch::Sender<usize>) -> (Url, JoinSet<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let url = format!("http://{}/", listener.local_addr().expect("it is bound"));
        let mut vendor = JoinSet::new();
        vendor.spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut unread = Vec::new();
                // Each request ends with the brace of its JSON, and comes before its answer.
                while stream.read_buf(&mut unread).await.is_ok_and(|read| read > 0) {
                    if unread.ends_with(b"}") {
                        unread.clear();
                        asked.send_modify(|asked| *asked += 1);
                        let answer = b"HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n";
                        stream.write_all(answer).await.expect("whoever asks waits");
                    }
                }
            }
        });
        (url.parse().expect("it is one"), vendor)
    }

    #[tokio::test]
    async fn where_the_budget_is_used_up_a_failure_is_the_answer_at_once() {
        let asked = tokio::sync::watch::Sender::new(0);
        let (url, _vendor) = unavailable(asked.clone()).await;
        let metrics = Metrics::new();
        let store = Arc::new(store::Memory::new());
        let tokens = Arc::new(Tokens::new(Box::new(Granting), store, 3, Health::new(), metrics.clone()));
        let mut owner = JoinSet::new();
        let owned = Arc::clone(&tokens);
        owner.spawn(async move { owned.run().await });
        let http = Http::new(crate::vendor::http::Config {
            connect_timeout: Duration::from_secs(20),
            attempt_timeout: Duration::from_secs(20),
            roots: RootCertStore::empty(),
            https_proxy: None,
            no_proxy: None,
        });
        let parts = Parts {
            url,
            app_key: HeaderValue::from_static("key"),
            tenant_space_id: None,
            max_attempts: 3,
            tokens,
            permits: Arc::new(limits::Memory::new(NonZeroU32::MIN, None)),
            metrics,
        };
        let client = Client::new(http.expect("no proxy, no fault"), parts);
        let task = TaskId::parse("7").expect("it is one");
        let terms = || Terms::fixed(Instant::now() + Duration::from_secs(60));
        let failure = client.query_task(&task, terms()).await.unwrap_err();
        assert_eq!((failure.reason, *asked.borrow()), (Reason::UpstreamUnavailable, 3));
        while client.budget.take_retry() {}
        let failure = client.query_task(&task, terms()).await.unwrap_err();
        assert_eq!((failure.reason, *asked.borrow()), (Reason::UpstreamUnavailable, 4));
    }

    #[test]
    fn an_error_is_told_with_its_causes_on_one_line() {
        #[derive(Debug, thiserror::Error)]
        #[error("{0}")]
        struct Layer(&'static str, #[source] Option<Box<Layer>>);
        let inner = Layer("outer", Some(Box::new(Layer("middle", Some(Box::new(Layer("inner", None)))))));
        assert_eq!(chain(&inner), "outer: middle: inner");
        assert_eq!(chain(&Layer("alone", None)), "alone");
    }
}
