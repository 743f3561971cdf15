//! Failures out: one exhaustive match chooses the code, and every status carries the details that the contract
//! promises (section 2).

mod markdown;

use std::collections::HashMap;
use std::sync::LazyLock;
use std::time::Duration;

use http::{HeaderMap, Response};
use rand::RngExt as _;
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

pub use self::markdown::errors_markdown;
use crate::task::failure::{Failure, Reason};

/// The domain of every `google.rpc.ErrorInfo`.
const DOMAIN: &str = "federation.v1";
/// The trailer that clients with a retry policy obey by themselves, in milliseconds.
const PUSHBACK: &str = "grpc-retry-pushback-ms";
/// The wait where neither the vendor nor the gateway knows a better one.
const RETRY_DEFAULT: Duration = Duration::from_secs(1);
/// No caller is asked to wait for longer.
const RETRY_LONGEST: Duration = Duration::from_secs(5 * 60);
/// Waits are longer by up to this share, so that those who failed together don't come back together.
const RETRY_JITTER: f64 = 0.2;

/// So many waits are told apart where the answer is made in advance: some milliseconds lie between them.
const NO_ROOM_ANSWERS: usize = 64;

/// The `resultCode`s that stand for more than "the vendor said no" (vendor reference, failCode table).
const INVALID_PARAMETER: &str = "60101040050";
const INTERNAL_ERROR: &str = "60101900002";

/// A failure as a caller sees it.
pub fn of(failure: &Failure) -> Status {
    let code = code(failure);
    let mut details = ErrorDetails::new();
    details.set_error_info(failure.reason.name(), DOMAIN, metadata(failure));
    finish(code, failure, details)
}

/// What a call beyond a limit of the gateway's own is answered with. It is made in advance, a few times for the jitter:
/// answers of this kind are due when there is no time to make them.
pub(super) fn no_room() -> Response<()> {
    static HEADERS: LazyLock<[HeaderMap; NO_ROOM_ANSWERS]> = LazyLock::new(|| {
        std::array::from_fn(|_| of(&Failure::no_room()).into_http::<()>().into_parts().0.headers)
    });
    let mut response = Response::new(());
    response.headers_mut().clone_from(&HEADERS[rand::rng().random_range(..NO_ROOM_ANSWERS)]);
    response
}

/// A request field that is out of its range: `what` continues a sentence that begins with the field's name.
pub(super) fn invalid_field(field: &'static str, what: &str) -> Status {
    let failure = Failure::new(Reason::InvalidField, format!("{field} {what}"));
    let mut details = ErrorDetails::new();
    details.set_error_info(failure.reason.name(), DOMAIN, HashMap::new());
    details.add_bad_request_violation(field, what);
    finish(code(&failure), &failure, details)
}

fn finish(code: Code, failure: &Failure, mut details: ErrorDetails) -> Status {
    let mut trailers = MetadataMap::new();
    if matches!(code, Code::Unavailable | Code::ResourceExhausted) {
        let wait = retry_wait(failure);
        details.set_retry_info(Some(wait));
        // At most five minutes: far below what a u64 holds.
        trailers.insert(PUSHBACK, (wait.as_millis() as u64).into());
    }
    Status::with_error_details_and_metadata(code, failure.detail.clone(), details, trailers)
}

/// The code says who can act: the caller, the operator, or time.
fn code(failure: &Failure) -> Code {
    match failure.reason {
        Reason::InvalidField | Reason::UpstreamBadRequest => Code::InvalidArgument,
        Reason::UpstreamResultCode => match failure.result_code.as_deref() {
            Some(INVALID_PARAMETER) => Code::InvalidArgument,
            Some(INTERNAL_ERROR) => Code::Internal,
            _ => Code::Unknown,
        },
        Reason::UpstreamUnauthorized
        | Reason::UpstreamForbidden
        | Reason::UpstreamPathNotFound
        | Reason::UpstreamRedirect
        | Reason::CredentialsRejected => Code::FailedPrecondition,
        Reason::UpstreamRateLimited | Reason::GatewayOverloaded => Code::ResourceExhausted,
        Reason::UpstreamUnavailable
        | Reason::UpstreamUnreachable
        | Reason::TokenUnavailable
        | Reason::ShuttingDown => Code::Unavailable,
        Reason::UpstreamFailure | Reason::UpstreamMalformed | Reason::GatewayDefect => Code::Internal,
        Reason::UpstreamHttpStatus => Code::Unknown,
        Reason::Deadline => Code::DeadlineExceeded,
        Reason::CallerUnauthenticated => Code::Unauthenticated,
    }
}

fn metadata(failure: &Failure) -> HashMap<String, String> {
    let mut metadata = HashMap::new();
    let mut put = |key: &str, value: Option<String>| {
        metadata.extend(value.map(|value| (key.to_owned(), value)));
    };
    put("http_status", failure.http_status.map(|status| status.to_string()));
    put("result_code", failure.result_code.clone());
    put("result_message", failure.result_message.clone());
    metadata
}

fn retry_wait(failure: &Failure) -> Duration {
    let random = rand::rng().random::<f64>();
    if failure.reason == Reason::ShuttingDown {
        return Duration::from_secs(1).mul_f64(random);
    }
    let wait = failure.retry_after.unwrap_or(RETRY_DEFAULT).min(RETRY_LONGEST);
    wait.mul_f64(1.0 + RETRY_JITTER * random).min(RETRY_LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(reason: Reason) -> Failure {
        Failure::new(reason, "what was wrong")
    }

    #[test]
    fn each_reason_has_the_contracts_code() {
        use Code::*;
        use Reason::*;
        let codes = [
            (InvalidField, InvalidArgument),
            (UpstreamBadRequest, InvalidArgument),
            (UpstreamResultCode, Unknown),
            (UpstreamUnauthorized, FailedPrecondition),
            (UpstreamForbidden, FailedPrecondition),
            (UpstreamPathNotFound, FailedPrecondition),
            (UpstreamRedirect, FailedPrecondition),
            (UpstreamRateLimited, ResourceExhausted),
            (UpstreamUnavailable, Unavailable),
            (UpstreamFailure, Internal),
            (UpstreamHttpStatus, Unknown),
            (UpstreamUnreachable, Unavailable),
            (UpstreamMalformed, Internal),
            (CredentialsRejected, FailedPrecondition),
            (TokenUnavailable, Unavailable),
            (Deadline, DeadlineExceeded),
            (GatewayOverloaded, ResourceExhausted),
            (CallerUnauthenticated, Unauthenticated),
            (ShuttingDown, Unavailable),
            (GatewayDefect, Internal),
        ];
        assert_eq!(codes.map(|(reason, _)| reason), Reason::ALL);
        for (reason, code) in codes {
            let status = of(&failure(reason));
            assert_eq!(status.code(), code, "{reason}");
            let details = status.get_error_details();
            let info = details.error_info().unwrap();
            assert_eq!((&*info.domain, &*info.reason), (DOMAIN, reason.name()));
            // UNAVAILABLE and RESOURCE_EXHAUSTED, and they alone, say when to come back.
            let passes = matches!(code, Unavailable | ResourceExhausted);
            assert_eq!(passes, reason.is_passing(), "{reason}");
            assert_eq!(details.retry_info().is_some(), passes, "{reason}");
            assert_eq!(status.metadata().contains_key(PUSHBACK), passes, "{reason}");
        }
    }

    #[test]
    fn two_result_codes_are_told_apart() {
        for (result_code, code) in [
            ("60101040050", Code::InvalidArgument),
            ("60101900002", Code::Internal),
            ("60101060007", Code::Unknown),
        ] {
            let mut failure = failure(Reason::UpstreamResultCode);
            failure.result_code = Some(result_code.into());
            failure.result_message = Some("said the vendor".into());
            failure.http_status = Some(200);
            let status = of(&failure);
            assert_eq!(status.code(), code);
            assert!(!status.message().contains("vendor"));
            let details = status.get_error_details();
            let metadata = &details.error_info().unwrap().metadata;
            let expected =
                [("http_status", "200"), ("result_code", result_code), ("result_message", "said the vendor")];
            assert_eq!(metadata.len(), 3);
            assert!(expected.iter().all(|(key, value)| metadata[*key] == *value), "{metadata:?}");
        }
    }

    #[test]
    fn waits_are_the_vendors_with_jitter_and_bounded() {
        let cases = [(None, 1.0, 1.2), (Some(7), 7.0, 8.4), (Some(3600), 300.0, 300.0), (Some(0), 0.0, 0.0)];
        for (retry_after, least, most) in cases {
            for _ in 0..100 {
                let failure = failure(Reason::UpstreamRateLimited);
                let status = of(&failure.with_retry_after(retry_after.map(Duration::from_secs)));
                let wait = status.get_error_details().retry_info().unwrap().retry_delay.unwrap();
                assert!((least..=most).contains(&wait.as_secs_f64()), "{retry_after:?}: {wait:?}");
                let pushback: u128 =
                    status.metadata().get(PUSHBACK).unwrap().to_str().unwrap().parse().unwrap();
                assert_eq!(pushback, wait.as_millis());
            }
        }
        let shutdown = of(&Failure::shutting_down());
        assert!(shutdown.get_error_details().retry_info().unwrap().retry_delay.unwrap() <= RETRY_DEFAULT);
    }

    #[test]
    fn answers_made_in_advance_are_like_the_others() {
        let mut waits = std::collections::BTreeSet::new();
        for _ in 0..200 {
            let headers = no_room().into_parts().0.headers;
            let status = Status::from_header_map(&headers).unwrap();
            let plain = of(&Failure::no_room());
            assert_eq!((status.code(), status.message()), (plain.code(), plain.message()));
            let details = status.get_error_details();
            let info = details.error_info().unwrap();
            assert_eq!((&*info.domain, &*info.reason), (DOMAIN, "GATEWAY_OVERLOADED"));
            let wait = details.retry_info().unwrap().retry_delay.unwrap();
            assert!((1.0..=1.2).contains(&wait.as_secs_f64()), "{wait:?}");
            assert_eq!(headers[PUSHBACK], wait.as_millis().to_string());
            assert_eq!(headers[http::header::CONTENT_TYPE], "application/grpc");
            waits.insert(wait);
        }
        assert!(waits.len() > 10, "{waits:?}");
    }

    #[test]
    fn trailers_stay_small_whatever_the_vendor_says() {
        let mut failure = failure(Reason::UpstreamResultCode);
        failure.result_code = Some("9".repeat(Failure::MAX_RESULT_CODE));
        failure.result_message = Some("\u{4e2d}".repeat(Failure::MAX_RESULT_MESSAGE / 3));
        let trailers = of(&failure).into_http::<()>();
        let bytes: usize =
            trailers.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
        assert!(bytes < 4096, "{bytes}");
    }

    #[test]
    fn a_bad_field_is_named() {
        let status = invalid_field("task_id", "is empty");
        assert_eq!((status.code(), status.message()), (Code::InvalidArgument, "task_id is empty"));
        let details = status.get_error_details();
        let violation = &details.bad_request().unwrap().field_violations[0];
        assert_eq!((&*violation.field, &*violation.description), ("task_id", "is empty"));
        assert_eq!(details.error_info().unwrap().reason, "INVALID_FIELD");
    }
}
