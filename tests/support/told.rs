//! What a failed call tells its caller.

use std::collections::HashMap;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// What a failed call told its caller.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub(crate) code: Code,
    pub(crate) reason: String,
    pub(crate) domain: String,
    pub(crate) metadata: HashMap<String, String>,
    pub(crate) retry: Option<Duration>,
    pub(crate) pushback_ms: Option<u64>,
    pub(crate) fields: Vec<String>,
    pub(crate) text: String,
}

pub(crate) fn told(status: &Status) -> Told {
    let details = status.get_error_details();
    let info = details.error_info().cloned();
    let info = info.unwrap_or_else(|| tonic_types::ErrorInfo::new("", "", HashMap::new()));
    let violations = details.bad_request().map(|bad| bad.field_violations.clone()).unwrap_or_default();
    let pushback = status.metadata().get("grpc-retry-pushback-ms");
    Told {
        code: status.code(),
        reason: info.reason,
        domain: info.domain,
        metadata: info.metadata,
        retry: details.retry_info().and_then(|info| info.retry_delay),
        pushback_ms: pushback.and_then(|value| value.to_str().ok()?.parse().ok()),
        fields: violations.into_iter().map(|violation| violation.field).collect(),
        text: format!("{status:?} {details:?}"),
    }
}
