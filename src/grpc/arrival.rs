//! What is noted of a call before anything is done for it: its method, when it came, until when it is waited for,
//! and the ids that its log lines carry.

use std::time::Duration;

use http::{HeaderMap, HeaderName};
use tokio::time::Instant;
use tonic::Status;
use tracing::Span;

use super::status;
use crate::metrics::Method;
use crate::task::TaskId;
use crate::task::failure::{Failure, Reason};
use crate::telemetry::{TraceId, TraceParent};

// As names, not as texts: a text would be read as a name for each call.
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// A call as it arrived.
#[derive(Clone, Debug)]
pub(super) struct Arrival {
    pub(super) method: Method,
    /// What ages are judged by.
    pub(super) at: Instant,
    /// The caller's own.
    pub(super) deadline: Option<Instant>,
    is_readable: bool,
    /// Few have one.
    trace_id: Option<Box<TraceId>>,
    task: Option<TaskId>,
    /// Enabled where somebody reads debug messages; whoever is refused gets one of his own.
    span: Span,
}

impl Arrival {
    /// Notes what a request's head says, which arrived `at`.
    pub(super) fn of(method: Method, at: Instant, headers: &HeaderMap) -> Self {
        let timeout = headers.get(&GRPC_TIMEOUT).map(|value| value.to_str().ok().and_then(parse_timeout));
        // A deadline beyond what the clock holds is none.
        let deadline = timeout.flatten().and_then(|timeout| at.checked_add(timeout));
        let trace_id = trace_id(headers);
        let span = tracing::debug_span!(
            "call",
            rpc.method = method.name(),
            task.id = tracing::field::Empty,
            outcome = tracing::field::Empty,
            trace_id = trace_id.as_ref().map(tracing::field::display)
        );
        let is_readable = !matches!(timeout, Some(None));
        Self { method, at, deadline, is_readable, trace_id, task: None, span }
    }

    /// Until when a query is waited for: the caller's deadline bounds everything; without one `request-timeout` does.
    pub(super) fn query_deadline(&self, request_timeout: Duration) -> Instant {
        self.deadline.unwrap_or(self.at + request_timeout)
    }

    /// Until when a watch's first answer is waited for: whichever of the two is sooner.
    pub(super) fn watch_deadline(&self, request_timeout: Duration) -> Instant {
        let bound = self.at + request_timeout;
        self.deadline.map_or(bound, |own| own.min(bound))
    }

    /// A call whose `grpc-timeout` can't be read is refused.
    pub(super) fn check(&self) -> Result<(), Status> {
        if self.is_readable {
            return Ok(());
        }
        Err(status::invalid_field(
            "grpc-timeout",
            "is not a number of at most 8 digits with a unit of HMSmun",
        ))
    }

    /// Notes which task it is about.
    pub(super) fn concerns(&mut self, task: &TaskId) {
        self.span.record("task.id", task.as_str());
        self.task = Some(task.clone());
    }

    /// The span that stands for it in messages for those who debug.
    pub(super) fn span(&self) -> &Span {
        &self.span
    }

    /// Logs a failure where it is handed to its caller, and makes the status.
    pub(super) fn refuse(&self, failure: &Failure) -> Status {
        // Spans cost more than most calls do: unless somebody looks, only a refused one has it, so that a warning
        // has its call's ids also under a filter that hides calls.
        let span = if self.span.is_disabled() {
            tracing::error_span!(
                "call",
                rpc.method = self.method.name(),
                task.id = self.task.as_ref().map(TaskId::as_str),
                trace_id = self.trace_id.as_ref().map(tracing::field::display)
            )
        } else {
            self.span.clone()
        };
        span.in_scope(|| log(failure));
        status::of(failure)
    }
}

fn trace_id(headers: &HeaderMap) -> Option<Box<TraceId>> {
    let value = headers.get(&TRACEPARENT)?;
    TraceParent::parse(value.to_str().ok()?).map(|trace| Box::new(trace.trace_id))
}

fn log(failure: &Failure) {
    let (reason, detail, http_status) = (failure.reason, &failure.detail, failure.http_status);
    match reason {
        // The operator's to mend, or a defect: worth being woken for.
        Reason::CredentialsRejected
        | Reason::UpstreamUnauthorized
        | Reason::UpstreamForbidden
        | Reason::UpstreamPathNotFound
        | Reason::UpstreamRedirect
        | Reason::UpstreamMalformed
        | Reason::GatewayDefect => {
            tracing::warn!(%reason, %detail, http.status = http_status, "call failed");
        }
        Reason::ShuttingDown | Reason::Deadline => tracing::debug!(%reason, %detail, "call failed"),
        _ => tracing::info!(%reason, %detail, http.status = http_status, "call failed"),
    }
}

/// Reads a `grpc-timeout` (gRPC over HTTP/2, "Timeout").
pub fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        let cases = [
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("30S", Some(Duration::from_secs(30))),
            ("99999999m", Some(Duration::from_millis(99_999_999))),
            ("5u", Some(Duration::from_micros(5))),
            ("0n", Some(Duration::ZERO)),
            ("", None),
            ("S", None),
            ("1", None),
            ("1s", None),
            ("-1S", None),
            ("+1S", None),
            ("1.5S", None),
            ("123456789S", None),
            ("1é", None),
        ];
        for (text, timeout) in cases {
            assert_eq!(parse_timeout(text), timeout, "{text:?}");
        }
    }
}
