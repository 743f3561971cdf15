//! The README's table of errors, made by the match that chooses the codes.

use std::fmt::Write;

use tonic::Code;

use super::{INTERNAL_ERROR, INVALID_PARAMETER, code};
use crate::task::failure::{Failure, Reason};

/// The table of all errors that the gateway decides, as Markdown.
#[must_use]
pub fn errors_markdown() -> String {
    let mut text = String::from(
        "| what happened | code | reason | who can act | tried again by the gateway |\n|---|---|---|---|---|\n",
    );
    for reason in Reason::ALL {
        let variants: &[_] = match reason {
            Reason::UpstreamResultCode => &[Some(INVALID_PARAMETER), Some(INTERNAL_ERROR), None],
            _ => &[None],
        };
        for result_code in variants {
            let mut failure = Failure::new(reason, "");
            failure.result_code = result_code.map(str::to_owned);
            let code = code(&failure);
            let happened = match result_code {
                Some(result_code) => format!("the vendor's resultCode {result_code}"),
                None => happened(reason).to_owned(),
            };
            // Writing to a String can't fail.
            let _ = writeln!(
                text,
                "| {happened} | `{}` | `{reason}` | {} | {} |",
                name(code),
                who_acts(code, reason),
                tried_again(reason)
            );
        }
    }
    text
}

fn happened(reason: Reason) -> &'static str {
    match reason {
        Reason::InvalidField => "a request field is out of its range",
        Reason::UpstreamBadRequest => "HTTP 400 from the vendor",
        Reason::UpstreamResultCode => "any other resultCode than \"0\"",
        Reason::UpstreamUnauthorized => "HTTP 401, with a new token too",
        Reason::UpstreamForbidden => "HTTP 403",
        Reason::UpstreamPathNotFound => "HTTP 404",
        Reason::UpstreamRedirect => "HTTP 3xx, which is never followed",
        Reason::UpstreamRateLimited => "HTTP 429",
        Reason::UpstreamUnavailable => "HTTP 408, 502, 503 or 504",
        Reason::UpstreamFailure => "HTTP 500 without a resultCode that tells more",
        Reason::UpstreamHttpStatus => "any other HTTP status",
        Reason::UpstreamUnreachable => "no connection, a TLS failure, a broken or timed-out exchange",
        Reason::UpstreamMalformed => "an answer that is not the documented JSON, or too large",
        Reason::CredentialsRejected => "the vendor refused the gateway's login",
        Reason::TokenUnavailable => "the login failed otherwise",
        Reason::Deadline => "the caller's deadline passed, or without one `request-timeout`",
        Reason::GatewayOverloaded => "a limit of the gateway's own",
        Reason::CallerUnauthenticated => "no or an unknown caller's token (this version asks for none)",
        Reason::ShuttingDown => "the gateway is shutting down: call again",
        Reason::GatewayDefect => "a defect of the gateway; its log says more",
    }
}

/// Who can act is what a code says; for the two that say little, the reason does.
fn who_acts(code: Code, reason: Reason) -> &'static str {
    match code {
        Code::InvalidArgument | Code::Unauthenticated => "the caller",
        Code::DeadlineExceeded => "the caller: allow more time",
        Code::FailedPrecondition => "the gateway's operator",
        Code::Unavailable | Code::ResourceExhausted => "nobody: it passes",
        _ if reason == Reason::GatewayDefect => "the gateway's makers",
        _ => "the vendor, whom the operator can ask",
    }
}

fn tried_again(reason: Reason) -> &'static str {
    match reason {
        Reason::UpstreamUnauthorized => "once, with a new token",
        Reason::UpstreamRateLimited | Reason::UpstreamUnavailable => "yes, not before Retry-After",
        Reason::CredentialsRejected => "after a back-off, never per call",
        Reason::TokenUnavailable => "yes",
        _ if reason.is_retryable() => "yes",
        _ => "no",
    }
}

/// A code as the gRPC specification writes it; the library's own text for it is prose.
fn name(code: Code) -> String {
    let mut name = String::new();
    for letter in format!("{code:?}").chars() {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_rows() {
        let text = errors_markdown();
        for reason in Reason::ALL {
            let rows = if reason == Reason::UpstreamResultCode { 3 } else { 1 };
            assert_eq!(text.matches(&format!("| `{reason}` |")).count(), rows, "{reason}");
        }
        assert!(text.contains(
            "| the vendor's resultCode 60101040050 | `INVALID_ARGUMENT` | `UPSTREAM_RESULT_CODE` | the caller | no |\n"
        ));
        assert!(text.contains(
            "| HTTP 429 | `RESOURCE_EXHAUSTED` | `UPSTREAM_RATE_LIMITED` | nobody: it passes | yes, not before Retry-After |\n"
        ));
    }
}
