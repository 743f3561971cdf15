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
