//! What can go wrong between a caller and the vendor, as plain data: one [`Reason`] a row of the contract's
//! table, and a [`Failure`] with what is known of it. Knows neither HTTP nor gRPC; the code for a reason is
//! chosen where a status is made.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

/// Why a call failed: the reasons of the contract's table (section 2), in its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// A request field is out of its range.
    InvalidField,
    /// HTTP 400.
    UpstreamBadRequest,
    /// A `resultCode` other than "0".
    UpstreamResultCode,
    /// HTTP 401, also with a new token.
    UpstreamUnauthorized,
    /// HTTP 403.
    UpstreamForbidden,
    /// HTTP 404.
    UpstreamPathNotFound,
    /// HTTP 3xx, which is never followed.
    UpstreamRedirect,
    /// HTTP 429.
    UpstreamRateLimited,
    /// HTTP 408, 502, 503, 504.
    UpstreamUnavailable,
    /// HTTP 500 without a `resultCode` that tells more.
    UpstreamFailure,
    /// Any other HTTP status.
    UpstreamHttpStatus,
    /// No connection, or an exchange that broke or took too long.
    UpstreamUnreachable,
    /// A 200 whose body is not what the vendor documents.
    UpstreamMalformed,
    /// The vendor refuses the gateway's key or secret.
    CredentialsRejected,
    /// No token could be had.
    TokenUnavailable,
    /// The caller's time is over.
    Deadline,
    /// A limit of the gateway's own.
    GatewayOverloaded,
    /// The gateway does not know the caller.
    CallerUnauthenticated,
    /// The gateway is draining.
    ShuttingDown,
    /// A defect of the gateway: not in the table, since it should not happen.
    GatewayDefect,
}

impl Reason {
    /// Every reason, in the table's order.
    pub const ALL: [Self; 20] = [
        Self::InvalidField,
        Self::UpstreamBadRequest,
        Self::UpstreamResultCode,
        Self::UpstreamUnauthorized,
        Self::UpstreamForbidden,
        Self::UpstreamPathNotFound,
        Self::UpstreamRedirect,
        Self::UpstreamRateLimited,
        Self::UpstreamUnavailable,
        Self::UpstreamFailure,
        Self::UpstreamHttpStatus,
        Self::UpstreamUnreachable,
        Self::UpstreamMalformed,
        Self::CredentialsRejected,
        Self::TokenUnavailable,
        Self::Deadline,
        Self::GatewayOverloaded,
        Self::CallerUnauthenticated,
        Self::ShuttingDown,
        Self::GatewayDefect,
    ];

    /// The reason as `google.rpc.ErrorInfo` carries it.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.names().0
    }

    /// The reason as a metric's label carries it: its name in lower case.
    #[must_use]
    pub fn label(self) -> &'static str {
        self.names().1
    }

    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::InvalidField => ("INVALID_FIELD", "invalid_field"),
            Self::UpstreamBadRequest => ("UPSTREAM_BAD_REQUEST", "upstream_bad_request"),
            Self::UpstreamResultCode => ("UPSTREAM_RESULT_CODE", "upstream_result_code"),
            Self::UpstreamUnauthorized => ("UPSTREAM_UNAUTHORIZED", "upstream_unauthorized"),
            Self::UpstreamForbidden => ("UPSTREAM_FORBIDDEN", "upstream_forbidden"),
            Self::UpstreamPathNotFound => ("UPSTREAM_PATH_NOT_FOUND", "upstream_path_not_found"),
            Self::UpstreamRedirect => ("UPSTREAM_REDIRECT", "upstream_redirect"),
            Self::UpstreamRateLimited => ("UPSTREAM_RATE_LIMITED", "upstream_rate_limited"),
            Self::UpstreamUnavailable => ("UPSTREAM_UNAVAILABLE", "upstream_unavailable"),
            Self::UpstreamFailure => ("UPSTREAM_FAILURE", "upstream_failure"),
            Self::UpstreamHttpStatus => ("UPSTREAM_HTTP_STATUS", "upstream_http_status"),
            Self::UpstreamUnreachable => ("UPSTREAM_UNREACHABLE", "upstream_unreachable"),
            Self::UpstreamMalformed => ("UPSTREAM_MALFORMED", "upstream_malformed"),
            Self::CredentialsRejected => ("CREDENTIALS_REJECTED", "credentials_rejected"),
            Self::TokenUnavailable => ("TOKEN_UNAVAILABLE", "token_unavailable"),
            Self::Deadline => ("DEADLINE", "deadline"),
            Self::GatewayOverloaded => ("GATEWAY_OVERLOADED", "gateway_overloaded"),
            Self::CallerUnauthenticated => ("CALLER_UNAUTHENTICATED", "caller_unauthenticated"),
            Self::ShuttingDown => ("SHUTTING_DOWN", "shutting_down"),
            Self::GatewayDefect => ("GATEWAY_DEFECT", "gateway_defect"),
        }
    }

    /// Whether the gateway itself tries an upstream call again after this (the table's last column; a 401 and
    /// failed logins have rules of their own).
    #[must_use]
    pub fn is_retryable(self) -> bool {
        matches!(self, Self::UpstreamRateLimited | Self::UpstreamUnavailable | Self::UpstreamUnreachable)
    }

    /// Whether it passes by itself: what UNAVAILABLE and RESOURCE_EXHAUSTED say to a caller.
    #[must_use]
    pub fn is_passing(self) -> bool {
        matches!(
            self,
            Self::UpstreamRateLimited
                | Self::UpstreamUnavailable
                | Self::UpstreamUnreachable
                | Self::TokenUnavailable
                | Self::GatewayOverloaded
                | Self::ShuttingDown
        )
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A call that failed: the reason and what is known of it. Plain data, so that it may be shared by all who
/// waited for one upstream call, and cross a process's border.
#[derive(Clone, PartialEq, Eq)]
pub struct Failure {
    /// Why.
    pub reason: Reason,
    /// What was wrong, in words of the gateway's own: no vendor's text, no secret, no field's value.
    pub detail: Cow<'static, str>,
    /// The status of the vendor's HTTP answer, if there was one.
    pub http_status: Option<u16>,
    /// The vendor's `resultCode`, cut to [`Failure::MAX_RESULT_CODE`] bytes.
    pub result_code: Option<String>,
    /// The vendor's `resultMessage`, cut to [`Failure::MAX_RESULT_MESSAGE`] bytes. For the caller's eyes alone:
    /// it may name people.
    pub result_message: Option<String>,
    /// How long to wait before another try, as the vendor said or as the gateway's own next try is due;
    /// counted from when this failure came to be.
    pub retry_after: Option<Duration>,
    /// For [`Reason::UpstreamUnauthorized`]: no new token was tried, only because logins are spaced.
    pub is_spaced: bool,
}

impl Failure {
    /// What is kept of a `resultMessage` (contract 2).
    pub const MAX_RESULT_MESSAGE: usize = 512;
    /// What is kept of a `resultCode`: the documented ones have 11 digits; trailers must stay small.
    pub const MAX_RESULT_CODE: usize = 64;

    /// A failure of which nothing more is known.
    #[must_use]
    pub fn new(reason: Reason, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            reason,
            detail: detail.into(),
            http_status: None,
            result_code: None,
            result_message: None,
            retry_after: None,
            is_spaced: false,
        }
    }

    /// The caller's time is over.
    #[must_use]
    pub fn deadline() -> Self {
        Self::new(Reason::Deadline, "the deadline passed before the vendor's answer was there")
    }

    /// A limit of the gateway's own kept a call from being tried for all of its time.
    #[must_use]
    pub fn no_turn() -> Self {
        let detail = "the gateway's own limit on calls to the vendor is reached; this call waited in vain";
        Self::new(Reason::GatewayOverloaded, detail)
    }

    /// As many calls of its kind as the gateway takes are under way.
    #[must_use]
    pub fn no_room() -> Self {
        let detail = "the gateway has as many calls of this kind under way as it takes; call again later";
        Self::new(Reason::GatewayOverloaded, detail)
    }

    /// The gateway takes nothing new, or could not finish.
    #[must_use]
    pub fn shutting_down() -> Self {
        Self::new(Reason::ShuttingDown, "this gateway is shutting down; call again, and another one answers")
    }

    /// A task of the gateway's own ended before its time.
    #[must_use]
    pub fn defect() -> Self {
        Self::new(Reason::GatewayDefect, "a defect of the gateway ended this call; its log says more")
    }

    /// Whether a running watch absorbs this for a while instead of ending (contract 1).
    #[must_use]
    pub fn is_absorbed_by_watches(&self) -> bool {
        self.reason.is_passing() || self.reason == Reason::CredentialsRejected || self.is_spaced
    }

    /// The same with a time to wait.
    #[must_use]
    pub fn with_retry_after(mut self, wait: Option<Duration>) -> Self {
        self.retry_after = wait;
        self
    }
}

// Hand-written: a resultMessage may name people, and this stands in logs.
impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Failure")
            .field("reason", &self.reason)
            .field("detail", &self.detail)
            .field("http_status", &self.http_status)
            .field("retry_after", &self.retry_after)
            .finish_non_exhaustive()
    }
}

/// Cuts a text to at most `max` bytes, at a character's border.
#[must_use]
pub fn cut(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_the_names_in_lower_case() {
        for reason in Reason::ALL {
            assert_eq!(reason.label(), reason.name().to_lowercase());
        }
    }

    #[test]
    fn a_text_is_cut_at_a_character() {
        assert_eq!(cut("aé", 2), "a");
        assert_eq!(cut("aé", 3), "aé");
        assert_eq!(cut("", 0), "");
    }

    #[test]
    fn debug_output_holds_no_vendor_text() {
        let mut failure = Failure::new(Reason::UpstreamResultCode, "detail");
        failure.result_message = Some("Ada is unknown".into());
        assert!(!format!("{failure:?}").contains("Ada"));
    }
}
