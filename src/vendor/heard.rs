//! What the vendor's HTTP answers come to: a status, its Retry-After and a body in, strict types or one typed error
//! out. Pure: sends nothing, waits for nothing.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, StatusCode, header};

use super::error::{ExchangeError, Refusal, SUCCESS};
use super::wire;
use crate::retry::after;
use crate::task::failure::{Failure, Reason};
use crate::token::Grant;
use crate::token::bearer::Bearer;

/// No life over an hour is believed (contract 3): the reference allows no more.
const LONGEST_LIFE: Duration = Duration::from_secs(3600);

/// An HTTP answer, its body read to its end or to its bound.
#[derive(Clone, Copy)]
pub struct Heard<'a> {
    /// Its status.
    pub status: StatusCode,
    /// Its `Retry-After`.
    pub retry_after: Option<Duration>,
    /// Its body.
    pub body: &'a [u8],
}

// Hand-written: the body may hold people's data, or a token.
impl std::fmt::Debug for Heard<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Heard").field("status", &self.status).finish_non_exhaustive()
    }
}

impl Heard<'_> {
    /// What it says as the answer to a queryTask that was sent with `bearer`.
    ///
    /// # Errors
    /// If it is anything but a good answer.
    pub fn of_query(self, bearer: &Bearer) -> Result<wire::Answer, ExchangeError> {
        // A vendor that echoes what it was sent must not make the gateway pass the token on.
        let shown = |text: Option<String>| text.filter(|text| !bearer.is_in(text));
        let refusal = |result_code, result_message| Refusal {
            status: self.status,
            result_code: shown(result_code),
            result_message: shown(result_message),
            retry_after: self.retry_after,
        };
        if self.status != StatusCode::OK {
            let (result_code, result_message) = wire::outcome(self.body);
            return Err(ExchangeError::Status(refusal(result_code, result_message)));
        }
        let answer = wire::answer(self.body).map_err(ExchangeError::Malformed)?;
        if answer.result_code != SUCCESS {
            let message = Some(answer.result_message).filter(|message| !message.is_empty());
            return Err(ExchangeError::ResultCode(refusal(Some(answer.result_code), message)));
        }
        Ok(answer)
    }

    /// What it says as the answer to a login that asked for a token of the life `asked`.
    ///
    /// # Errors
    /// If it brings no token.
    pub fn of_login(self, asked: Duration) -> Result<Grant, Failure> {
        if self.status != StatusCode::OK {
            return Err(self.refused());
        }
        let failed = |reason, detail: &'static str| Failure {
            http_status: Some(self.status.as_u16()),
            ..Failure::new(reason, detail)
        };
        let granted = wire::granted(self.body).map_err(|_| {
            failed(Reason::TokenUnavailable, "the vendor's answer to the login is no JSON (HTTP 200)")
        })?;
        let bearer = granted.access_token.as_ref().and_then(|token| Bearer::new(token)).ok_or_else(|| {
            failed(Reason::CredentialsRejected, "the vendor's answer to the login holds no token (HTTP 200)")
        })?;
        Ok(Grant { bearer, life: granted.expires.unwrap_or(asked).min(LONGEST_LIFE) })
    }

    /// The failure of a login with another status than 200.
    fn refused(self) -> Failure {
        let status = self.status.as_u16();
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
        failure.with_retry_after(self.retry_after)
    }
}

/// The wait that an answer's headers ask for, by its own `Date` if that can be read, else by `now`.
#[must_use]
pub fn retry_after(headers: &HeaderMap, now: impl FnOnce() -> SystemTime) -> Option<Duration> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    after::parse(text(header::RETRY_AFTER)?, text(header::DATE), now())
}
