//! What an exchange with the vendor came to when it brought no answer, and what that means to a caller: one typed
//! error, classified once. The rows are those of contract section 2.

use std::borrow::Cow;
use std::error::Error;
use std::io;
use std::time::Duration;

use http::StatusCode;

use super::wire::Malformed;
use crate::task::failure::{Failure, Reason, cut};

/// The largest body of a good answer that is read, in bytes (contract 2).
pub(super) const MAX_BODY: usize = 1024 * 1024;

/// An exchange that brought no answer.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// No connection, or one that broke in mid-exchange.
    #[error("the exchange broke")]
    Broken(#[source] reqwest::Error),
    /// It took longer than `attempt-timeout`.
    #[error("the exchange took longer than {0:?}")]
    TimedOut(Duration),
    /// A status other than 200.
    #[error("HTTP {}", .0.status.as_u16())]
    Status(Refusal),
    /// A 200 with a `resultCode` other than "0".
    #[error("a resultCode other than \"0\"")]
    ResultCode(Refusal),
    /// A 200 with more than [`MAX_BODY`] bytes.
    #[error("a body of more than {MAX_BODY} bytes")]
    TooLarge,
    /// A 200 whose body is not the documented JSON.
    #[error("{0}")]
    Malformed(Malformed),
}

/// What a refusing answer says.
#[derive(Clone)]
pub struct Refusal {
    /// Its status.
    pub status: StatusCode,
    /// `resultCode`, if its body has one.
    pub result_code: Option<String>,
    /// `resultMessage`, if its body has one.
    pub result_message: Option<String>,
    /// Its `Retry-After`.
    pub retry_after: Option<Duration>,
}

// Hand-written: the vendor's texts may name people.
impl std::fmt::Debug for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Refusal").field("status", &self.status).finish_non_exhaustive()
    }
}

/// The `resultCode` of success.
pub(super) const SUCCESS: &str = "0";

impl ExchangeError {
    /// The reason of contract section 2.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::Broken(_) | Self::TimedOut(_) => Reason::UpstreamUnreachable,
            Self::TooLarge | Self::Malformed(_) => Reason::UpstreamMalformed,
            Self::ResultCode(_) => Reason::UpstreamResultCode,
            Self::Status(refusal) => match refusal.status.as_u16() {
                400 => Reason::UpstreamBadRequest,
                401 => Reason::UpstreamUnauthorized,
                403 => Reason::UpstreamForbidden,
                404 => Reason::UpstreamPathNotFound,
                408 | 502..=504 => Reason::UpstreamUnavailable,
                429 => Reason::UpstreamRateLimited,
                300..=399 => Reason::UpstreamRedirect,
                500 if refusal.result_code.as_deref().is_some_and(|code| code != SUCCESS) => {
                    Reason::UpstreamResultCode
                }
                500 => Reason::UpstreamFailure,
                _ => Reason::UpstreamHttpStatus,
            },
        }
    }

    /// What a caller is told.
    #[must_use]
    pub fn failure(&self) -> Failure {
        let reason = self.reason();
        let mut failure = Failure::new(reason, self.detail(reason));
        match self {
            Self::Status(refusal) | Self::ResultCode(refusal) => {
                let kept = |text: &Option<String>, max| text.as_deref().map(|text| cut(text, max).to_owned());
                failure.http_status = Some(refusal.status.as_u16());
                failure.result_code = kept(&refusal.result_code, Failure::MAX_RESULT_CODE);
                failure.result_message = kept(&refusal.result_message, Failure::MAX_RESULT_MESSAGE);
                failure.retry_after = refusal.retry_after;
            }
            Self::TooLarge | Self::Malformed(_) => failure.http_status = Some(StatusCode::OK.as_u16()),
            Self::Broken(_) | Self::TimedOut(_) => {}
        }
        failure
    }

    /// What went wrong, in words that hold nothing of the vendor's.
    fn detail(&self, reason: Reason) -> Cow<'static, str> {
        match self {
            Self::Broken(error) => broken(error).into(),
            Self::TimedOut(limit) => format!("the vendor did not answer within {limit:?}").into(),
            Self::TooLarge => format!("the vendor's answer is larger than {MAX_BODY} bytes").into(),
            Self::Malformed(malformed) => {
                format!("the vendor's answer is not the documented JSON: {malformed}").into()
            }
            Self::ResultCode(_) => "the vendor answered with a resultCode that stands for a failure".into(),
            Self::Status(refusal) => {
                let status = refusal.status.as_u16();
                let meaning = match reason {
                    Reason::UpstreamBadRequest => "the vendor finds the request incorrect",
                    Reason::UpstreamUnauthorized => {
                        "the vendor refuses the gateway's token: is the service purchased for this account?"
                    }
                    Reason::UpstreamForbidden => {
                        "the vendor forbids the call: is this address on its allow list?"
                    }
                    Reason::UpstreamPathNotFound => "the vendor does not know the path: is query-url right?",
                    Reason::UpstreamRedirect => {
                        "the vendor redirects the call, which is never followed: is query-url right?"
                    }
                    Reason::UpstreamRateLimited => "the vendor's rate limit is reached",
                    Reason::UpstreamUnavailable => "the vendor is not available",
                    Reason::UpstreamResultCode => {
                        return "the vendor answered with a resultCode that stands for a failure".into();
                    }
                    Reason::UpstreamFailure => "the vendor failed to process the call",
                    _ => "the vendor answered with a status that its reference does not know",
                };
                format!("{meaning} (HTTP {status})").into()
            }
        }
    }
}

/// What broke, as far as the chain of causes has a type that tells.
fn broken(error: &reqwest::Error) -> String {
    let what = match (error.is_connect(), error.is_timeout()) {
        (true, true) => "no connection to the vendor within connect-timeout",
        (true, false) => "no connection to the vendor",
        (false, _) => "the exchange with the vendor broke",
    };
    match error.source().and_then(cause) {
        Some(cause) => format!("{what}: {cause}"),
        None => what.to_owned(),
    }
}

/// The first of an error and its causes whose type tells something.
fn cause(error: &(dyn Error + 'static)) -> Option<String> {
    if let Some(tls) = error.downcast_ref::<rustls::Error>() {
        let what = match tls {
            rustls::Error::InvalidCertificate(_) => "its certificate is not valid for us",
            _ => "TLS failed",
        };
        return Some(what.to_owned());
    }
    if let Some(io) = error.downcast_ref::<io::Error>() {
        return match io.get_ref() {
            // It may wrap one that tells more.
            Some(inner) if inner.is::<rustls::Error>() || inner.is::<io::Error>() => cause(inner),
            _ => Some(io.kind().to_string()),
        };
    }
    error.source().and_then(cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(status: u16, result_code: Option<&str>) -> ExchangeError {
        ExchangeError::Status(Refusal {
            status: StatusCode::from_u16(status).unwrap(),
            result_code: result_code.map(str::to_owned),
            result_message: Some("é".repeat(300)),
            retry_after: None,
        })
    }

    #[test]
    fn each_status_has_its_reason_and_only_passing_ones_are_retried() {
        use Reason::*;
        let cases = [
            (400, None, UpstreamBadRequest, false),
            (401, None, UpstreamUnauthorized, false),
            (403, None, UpstreamForbidden, false),
            (404, None, UpstreamPathNotFound, false),
            (301, None, UpstreamRedirect, false),
            (304, None, UpstreamRedirect, false),
            (307, None, UpstreamRedirect, false),
            (429, None, UpstreamRateLimited, true),
            (408, None, UpstreamUnavailable, true),
            (502, None, UpstreamUnavailable, true),
            (503, None, UpstreamUnavailable, true),
            (504, None, UpstreamUnavailable, true),
            (500, None, UpstreamFailure, false),
            (500, Some("0"), UpstreamFailure, false),
            (500, Some("60101900002"), UpstreamResultCode, false),
            (503, Some("60101900002"), UpstreamUnavailable, true),
            (201, None, UpstreamHttpStatus, false),
            (204, None, UpstreamHttpStatus, false),
            (402, None, UpstreamHttpStatus, false),
            (418, None, UpstreamHttpStatus, false),
            (501, None, UpstreamHttpStatus, false),
            (505, None, UpstreamHttpStatus, false),
        ];
        for (code, result_code, reason, is_retryable) in cases {
            let failure = status(code, result_code).failure();
            assert_eq!((failure.reason, failure.reason.is_retryable()), (reason, is_retryable), "{code}");
            assert_eq!(failure.http_status, Some(code));
        }
        let slow = ExchangeError::TimedOut(Duration::from_secs(1)).failure();
        assert_eq!((slow.reason, slow.reason.is_retryable()), (UpstreamUnreachable, true));
        let large = ExchangeError::TooLarge.failure();
        assert_eq!((large.reason, large.reason.is_retryable()), (UpstreamMalformed, false));
    }

    #[test]
    fn the_vendors_text_is_cut_and_stands_in_no_word_of_ours() {
        let error = status(500, Some(&"6".repeat(100)));
        let failure = error.failure();
        assert_eq!(failure.result_message.as_ref().unwrap().len(), 512);
        assert_eq!(failure.result_code.as_ref().unwrap().len(), Failure::MAX_RESULT_CODE);
        assert!(!format!("{error:?} {error} {failure:?} {}", failure.detail).contains('é'));
    }

    #[test]
    fn each_failure_says_in_words_of_ours_where_to_look() {
        for (code, result_code, words) in [
            (400, None, "incorrect"),
            (401, None, "is the service purchased"),
            (403, None, "allow list"),
            (404, None, "does not know the path"),
            (302, None, "never followed"),
            (429, None, "rate limit"),
            (503, None, "not available"),
            (500, Some("7"), "a resultCode that stands for a failure"),
            (500, None, "failed to process"),
            (418, None, "does not know"),
        ] {
            let detail = status(code, result_code).failure().detail;
            assert!(detail.starts_with("the vendor ") || detail.starts_with("the vendor's "), "{detail}");
            assert!(detail.contains(words), "{detail}");
            assert_eq!(detail.ends_with(&format!("(HTTP {code})")), result_code.is_none(), "{detail}");
        }
        assert!(ExchangeError::TimedOut(Duration::from_secs(7)).failure().detail.contains("within 7s"));
        assert!(ExchangeError::TooLarge.failure().detail.contains("larger than 1048576 bytes"));
    }

    #[test]
    fn what_broke_is_told_by_the_first_cause_whose_type_tells_and_never_in_its_words() {
        #[derive(Debug, thiserror::Error)]
        #[error("hunter2")]
        struct Opaque(#[source] Option<Box<dyn Error + Send + Sync>>);
        let opaque = |cause: Box<dyn Error + Send + Sync>| Box::new(Opaque(Some(cause)));
        let certificate = || rustls::Error::InvalidCertificate(rustls::CertificateError::Expired);
        let io = |kind, inner: Box<dyn Error + Send + Sync>| Box::new(io::Error::new(kind, inner));
        let reset = || Box::new(io::Error::from(io::ErrorKind::ConnectionReset));
        let cases: [(Box<dyn Error + Send + Sync>, Option<&str>); 8] = [
            (Box::new(Opaque(None)), None),
            (reset(), Some("connection reset")),
            (opaque(reset()), Some("connection reset")),
            (io(io::ErrorKind::Other, reset()), Some("connection reset")),
            (
                io(io::ErrorKind::Other, io(io::ErrorKind::Other, Box::new(certificate()))),
                Some("its certificate is not valid for us"),
            ),
            (opaque(Box::new(certificate())), Some("its certificate is not valid for us")),
            (opaque(Box::new(rustls::Error::HandshakeNotComplete)), Some("TLS failed")),
            // What it wraps tells nothing, but its kind does.
            (io(io::ErrorKind::TimedOut, opaque(reset())), Some("timed out")),
        ];
        for (error, told) in cases {
            assert_eq!(cause(&*error).as_deref(), told, "{error:?}");
        }
    }
}
