//! What every failure that a caller sees must be like (contract, section 2).

use std::collections::HashMap;
use std::time::Duration;

use federation_gateway::grpc::judged;
use federation_gateway::task::failure::{Failure, Reason};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// Clients refuse more than twice as much.
const MAX_TRAILERS: usize = 4096;

/// Holds a failure, and the status that is made of it, to what is promised of all.
pub(super) fn check(failure: &Failure) {
    let shown = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    assert!(shown(&failure.result_code) <= 64 && shown(&failure.result_message) <= 512);
    // What is logged of a failure is the same whatever the vendor's words were.
    let wordless = Failure { result_code: None, result_message: None, ..failure.clone() };
    assert_eq!(format!("{failure:?}"), format!("{wordless:?}"));

    let status = judged::status(failure);
    assert_eq!(status.code(), code(failure), "{failure:?}");
    assert_eq!(status.message(), failure.detail);
    let details = status.get_error_details();
    let info = details.error_info().expect("every failure has an ErrorInfo");
    assert_eq!((&*info.domain, &*info.reason), ("federation.v1", failure.reason.name()));
    let known = [
        ("http_status", failure.http_status.map(|status| status.to_string())),
        ("result_code", failure.result_code.clone()),
        ("result_message", failure.result_message.clone()),
    ];
    let known: HashMap<_, _> =
        known.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect();
    assert_eq!(info.metadata, known);

    let wait = details.retry_info().map(|info| info.retry_delay.expect("a RetryInfo has its delay"));
    let pushback = status.metadata().get("grpc-retry-pushback-ms");
    let pushback = pushback.map(|text| text.to_str().expect("it is ASCII").parse().expect("it is a number"));
    let passes = matches!(status.code(), Code::Unavailable | Code::ResourceExhausted);
    assert_eq!((wait.is_some(), pushback), (passes, wait.map(|wait| wait.as_millis())));
    if let Some(wait) = wait {
        let least = failure.retry_after.unwrap_or(Duration::from_secs(1)).min(LONGEST_WAIT);
        assert!(least <= wait && wait <= least.mul_f64(1.2).min(LONGEST_WAIT), "{wait:?} of {least:?}");
    }
    let trailers = status.into_http::<()>();
    let bytes: usize =
        trailers.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
    assert!(bytes < MAX_TRAILERS, "{bytes} bytes of trailers");
}

/// The code of each of the upstream's and the login's failures, as the contract's table has it.
fn code(failure: &Failure) -> Code {
    match (failure.reason, failure.result_code.as_deref()) {
        (Reason::UpstreamBadRequest, _) | (Reason::UpstreamResultCode, Some("60101040050")) => {
            Code::InvalidArgument
        }
        (Reason::UpstreamResultCode, Some("60101900002"))
        | (Reason::UpstreamFailure | Reason::UpstreamMalformed, _) => Code::Internal,
        (Reason::UpstreamResultCode | Reason::UpstreamHttpStatus, _) => Code::Unknown,
        (Reason::UpstreamRateLimited, _) => Code::ResourceExhausted,
        (Reason::UpstreamUnavailable | Reason::TokenUnavailable, _) => Code::Unavailable,
        (
            Reason::UpstreamUnauthorized
            | Reason::UpstreamForbidden
            | Reason::UpstreamPathNotFound
            | Reason::UpstreamRedirect
            | Reason::CredentialsRejected,
            _,
        ) => Code::FailedPrecondition,
        (reason, _) => panic!("{reason} is none of the vendor's answers'"),
    }
}

/// Holds the refusal of a request's field to what is promised of it; `what` is to be said after the field's name.
pub(super) fn check_field(status: &Status, field: &str, what: &str) {
    assert_eq!((status.code(), status.message()), (Code::InvalidArgument, &*format!("{field} {what}")));
    let details = status.get_error_details();
    let info = details.error_info().expect("every failure has an ErrorInfo");
    assert_eq!((&*info.domain, &*info.reason), ("federation.v1", "INVALID_FIELD"));
    assert!(info.metadata.is_empty() && details.retry_info().is_none());
    let violations = &details.bad_request().expect("a BadRequest names the field").field_violations;
    assert_eq!(violations.len(), 1);
    assert_eq!((&*violations[0].field, &*violations[0].description), (field, what));
}
