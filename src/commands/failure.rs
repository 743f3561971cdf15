//! Why a calling command did not do what it was asked, in words: what failed, the gateway's reason, who can act,
//! and when to try again. Makes no status itself: it reads those that came, and everything in them is escaped.

use std::error::Error as _;
use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::json::JsonError;
use super::render::{self, escape};

/// The domain of the reasons that this file has words for.
const DOMAIN: &str = "federation.v1";

/// Why a command ended before its work was done.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The command line or a variable is at fault; the text names the flag.
    #[error("{0}")]
    Usage(String),
    /// No connection to the gateway.
    #[error("no connection to the gateway at {address}")]
    Connect {
        /// Where it was looked for.
        address: String,
        /// What the attempt met with.
        #[source]
        cause: ConnectError,
    },
    /// The time that was given is over.
    #[error("the deadline of {} passed", render::duration(*.0))]
    Deadline(Duration),
    /// The call ended with a status.
    #[error("the call failed")]
    Status(#[from] Box<Status>),
    /// A watch ended in order before its task did.
    #[error("the gateway ended the watch before the task was DONE")]
    Ended,
    /// The answer came but could not be written.
    #[error("cannot write the answer")]
    Output(#[from] std::io::Error),
    /// The answer has no JSON form.
    #[error("cannot write the answer as JSON")]
    Json(#[from] JsonError),
}

/// What an attempt to connect met with.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    /// The transport's own report.
    #[error(transparent)]
    Transport(#[from] tonic::transport::Error),
    /// Nobody answered for that long.
    #[error("nobody answered within {}", render::duration(*.0))]
    TimedOut(Duration),
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self::Status(Box::new(status))
    }
}

/// Who can do something about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Actor {
    /// Whoever made the call.
    Caller,
    /// Whoever runs the gateway.
    Operator,
    /// Nobody has to: it passes by itself.
    Nobody,
    /// The vendor's answer alone tells.
    Vendor,
}

impl Actor {
    fn words(self) -> &'static str {
        match self {
            Self::Caller => "the caller",
            Self::Operator => "the gateway's operator",
            Self::Nobody => "nobody: it passes by itself",
            Self::Vendor => "the vendor's answer tells; the gateway's operator can ask the vendor",
        }
    }
}

/// What a failure is called, who can act, and what there is to do (empty if there is nothing).
type Words = (&'static str, Actor, &'static str);

impl Failure {
    /// The exit code: 2 for bad usage, 1 for a call that failed, and 0 where the reader of our output left: he
    /// had what he wanted.
    pub(super) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Usage(_) => ExitCode::from(2),
            Self::Output(error) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
            _ => ExitCode::FAILURE,
        }
    }

    /// All there is to say, for standard error; nothing where nobody reads any more. `what` is what failed.
    pub(super) fn words(&self, what: &str) -> String {
        let mut text = match self {
            Self::Usage(problem) => return format!("error: {}\n", escape(problem)),
            Self::Output(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return String::new(),
            _ => format!("{what} failed: {}\n", self.headline()),
        };
        let mut row = |label: &str, value: &str| {
            let _ = writeln!(text, "  {label:<12} {value}");
        };
        let (_, actor, advice) = self.classified();
        if let Self::Status(status) = self {
            status_rows(status, &mut row);
        } else if let Self::Deadline(_) = self {
            row("reason", "DEADLINE (DEADLINE_EXCEEDED)");
        }
        let advice = if advice.is_empty() { String::new() } else { format!(": {advice}") };
        row("who can act", &format!("{}{advice}", actor.words()));
        let told = match self {
            Self::Status(status) => status.get_details_retry_info().and_then(|info| info.retry_delay),
            _ => None,
        };
        match (told, actor) {
            (Some(delay), _) if delay.is_zero() => row("try again", "at once"),
            (Some(delay), _) => row("try again", &format!("in {}", render::duration(rounded_up(delay)))),
            (None, Actor::Nobody) => row("try again", "in a few seconds"),
            (None, _) => {}
        }
        text
    }

    /// The same in one line without its end, for those who show but one.
    pub(super) fn headline(&self) -> String {
        match self {
            Self::Status(status) => {
                let (what, _, _) = self.classified();
                match escape(status.message()) {
                    message if message.is_empty() => what.to_owned(),
                    message => format!("{what}: {message}"),
                }
            }
            Self::Usage(_) | Self::Deadline(_) | Self::Ended => escape(&self.to_string()).into_owned(),
            Self::Connect { .. } | Self::Output(_) | Self::Json(_) => {
                let mut line = self.to_string();
                let mut last = line.clone();
                let mut cause = self.source();
                while let Some(error) = cause {
                    // Some layers repeat what they wrap.
                    let words = error.to_string();
                    if words != last {
                        let _ = write!(line, ": {words}");
                    }
                    last = words;
                    cause = error.source();
                }
                escape(&line).into_owned()
            }
        }
    }

    fn classified(&self) -> Words {
        match self {
            Self::Usage(_) => ("bad usage", Actor::Caller, ""),
            Self::Connect { .. } => (
                "no connection",
                Actor::Operator,
                "is the gateway running there? (the caller: is --addr right?)",
            ),
            Self::Deadline(_) => by_reason("DEADLINE", Code::DeadlineExceeded),
            Self::Ended => ("the watch ended early", Actor::Nobody, ""),
            Self::Output(_) | Self::Json(_) => ("no output", Actor::Caller, ""),
            Self::Status(status) => match status.get_details_error_info() {
                Some(info) if info.domain == DOMAIN => by_reason(&info.reason, status.code()),
                _ if status.source().is_some() => (
                    "the exchange with the gateway broke off",
                    Actor::Nobody,
                    "unless the gateway was stopped",
                ),
                _ => by_code(status.code()),
            },
        }
    }
}

/// The contract's table of reasons in words.
fn by_reason(reason: &str, code: Code) -> Words {
    use Actor::{Caller, Nobody, Operator, Vendor};
    match reason {
        "INVALID_FIELD" => ("a field of the request is not valid", Caller, "mend the field"),
        "UPSTREAM_BAD_REQUEST" => {
            ("the vendor refused the request as malformed", Caller, "check the task id")
        }
        "UPSTREAM_RESULT_CODE" => match code {
            Code::InvalidArgument => ("the vendor calls a parameter invalid", Caller, "check the task id"),
            Code::Internal => ("the vendor reports an internal error of its own", Vendor, ""),
            _ => ("the vendor refused with a result code of its own", Vendor, ""),
        },
        "UPSTREAM_UNAUTHORIZED" => {
            ("the vendor refused the gateway's token", Operator, "check the account's rights at the vendor")
        }
        "UPSTREAM_FORBIDDEN" => {
            ("the vendor forbids the gateway this call", Operator, "check the account's rights at the vendor")
        }
        "UPSTREAM_PATH_NOT_FOUND" => {
            ("the vendor has nothing at the configured path", Operator, "check base-url and query-url")
        }
        "UPSTREAM_REDIRECT" => {
            ("the vendor redirects, which is never followed", Operator, "check base-url and query-url")
        }
        "UPSTREAM_RATE_LIMITED" => ("the vendor limits the rate of calls", Nobody, ""),
        "UPSTREAM_UNAVAILABLE" => ("the vendor can't serve at the moment", Nobody, ""),
        "UPSTREAM_FAILURE" => ("the vendor failed", Vendor, ""),
        "UPSTREAM_HTTP_STATUS" => ("the vendor answered with an unexpected HTTP status", Vendor, ""),
        "UPSTREAM_UNREACHABLE" => ("the gateway can't reach the vendor", Nobody, "the operator if it lasts"),
        "UPSTREAM_MALFORMED" => ("the vendor's answer is not what it documents", Vendor, ""),
        "CREDENTIALS_REJECTED" => {
            ("the vendor rejects the gateway's credentials", Operator, "check app-key and app-secret")
        }
        "TOKEN_UNAVAILABLE" => ("the gateway has no token from the vendor yet", Nobody, ""),
        "DEADLINE" => (
            "the deadline passed",
            Caller,
            "a longer --timeout allows more; without one the gateway's request-timeout holds",
        ),
        "GATEWAY_OVERLOADED" => ("the gateway is at a limit of its own", Nobody, ""),
        "CALLER_UNAUTHENTICATED" => ("the gateway does not know this caller", Caller, "show a valid token"),
        "SHUTTING_DOWN" => ("the gateway is shutting down", Nobody, ""),
        _ => by_code(code),
    }
}

/// What a bare code means, by the contract's rule that a code says who can act.
fn by_code(code: Code) -> Words {
    use Actor::{Caller, Nobody, Operator};
    match code {
        Code::InvalidArgument | Code::OutOfRange => ("the request is not valid", Caller, "mend the request"),
        Code::Unauthenticated | Code::PermissionDenied => {
            ("the gateway does not admit this caller", Caller, "")
        }
        Code::DeadlineExceeded => ("the deadline passed", Caller, "a longer --timeout allows more"),
        Code::Unimplemented => {
            ("the server knows no such call", Caller, "is there a federation gateway at --addr?")
        }
        Code::NotFound => ("the server does not know what was asked for", Caller, ""),
        Code::FailedPrecondition => ("the gateway is not set up for this call", Operator, ""),
        Code::Unavailable => ("the gateway can't serve at the moment", Nobody, ""),
        Code::ResourceExhausted => ("a limit was reached", Nobody, ""),
        Code::Aborted | Code::Cancelled => ("the call was broken off", Nobody, ""),
        _ => ("the call failed in the gateway", Operator, "its log tells more"),
    }
}

/// What the status itself says: reason and code, the fields at fault, the vendor's answer.
fn status_rows(status: &Status, row: &mut impl FnMut(&str, &str)) {
    let code = code_name(status.code());
    let info = status.get_details_error_info();
    match &info {
        Some(info) if info.domain == DOMAIN => row("reason", &format!("{} ({code})", escape(&info.reason))),
        Some(info) => {
            row("reason", &format!("{} of {} ({code})", escape(&info.reason), escape(&info.domain)))
        }
        None => row("code", code),
    }
    for fault in status.get_details_bad_request().map(|bad| bad.field_violations).unwrap_or_default() {
        row("field", &format!("{}: {}", escape(&fault.field), escape(&fault.description)));
    }
    let Some(info) = info else { return };
    for (key, label) in
        [("http_status", "HTTP status"), ("result_code", "result code"), ("result_message", "vendor says")]
    {
        if let Some(value) = info.metadata.get(key).filter(|value| !value.is_empty()) {
            row(label, &escape(value));
        }
    }
}

/// To a tenth of a second below one and to whole seconds above, upwards: who waits as long as he was told must
/// not come too early.
fn rounded_up(delay: Duration) -> Duration {
    let step = if delay < Duration::from_millis(900) { 100 } else { 1000 };
    Duration::from_millis(u64::try_from(delay.as_millis().div_ceil(step) * step).unwrap_or(u64::MAX))
}

fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tonic_types::ErrorDetails;

    use super::*;

    fn status(code: Code, reason: &str, metadata: &[(&str, &str)]) -> Failure {
        let metadata: HashMap<String, String> =
            metadata.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
        let details = ErrorDetails::with_error_info(reason, DOMAIN, metadata);
        Status::with_error_details(code, "words", details).into()
    }

    /// Every row of the contract's table: the code, the reason, and who can act.
    #[test]
    fn every_reason_has_words_and_an_actor() {
        use Actor::{Caller, Nobody, Operator, Vendor};
        use Code::{
            DeadlineExceeded, FailedPrecondition, Internal, InvalidArgument, ResourceExhausted,
            Unauthenticated, Unavailable, Unknown,
        };
        for (code, reason, actor) in [
            (InvalidArgument, "INVALID_FIELD", Caller),
            (InvalidArgument, "UPSTREAM_BAD_REQUEST", Caller),
            (InvalidArgument, "UPSTREAM_RESULT_CODE", Caller),
            (Internal, "UPSTREAM_RESULT_CODE", Vendor),
            (Unknown, "UPSTREAM_RESULT_CODE", Vendor),
            (FailedPrecondition, "UPSTREAM_UNAUTHORIZED", Operator),
            (FailedPrecondition, "UPSTREAM_FORBIDDEN", Operator),
            (FailedPrecondition, "UPSTREAM_PATH_NOT_FOUND", Operator),
            (FailedPrecondition, "UPSTREAM_REDIRECT", Operator),
            (ResourceExhausted, "UPSTREAM_RATE_LIMITED", Nobody),
            (Unavailable, "UPSTREAM_UNAVAILABLE", Nobody),
            (Internal, "UPSTREAM_FAILURE", Vendor),
            (Unknown, "UPSTREAM_HTTP_STATUS", Vendor),
            (Unavailable, "UPSTREAM_UNREACHABLE", Nobody),
            (Internal, "UPSTREAM_MALFORMED", Vendor),
            (FailedPrecondition, "CREDENTIALS_REJECTED", Operator),
            (Unavailable, "TOKEN_UNAVAILABLE", Nobody),
            (DeadlineExceeded, "DEADLINE", Caller),
            (ResourceExhausted, "GATEWAY_OVERLOADED", Nobody),
            (Unauthenticated, "CALLER_UNAUTHENTICATED", Caller),
            (Unavailable, "SHUTTING_DOWN", Nobody),
        ] {
            let (what, who, _) = status(code, reason, &[]).classified();
            assert_eq!(who, actor, "{reason}");
            if reason != "DEADLINE" {
                // The reason's own words; those of its code say less.
                assert_ne!(what, by_code(code).0, "{reason}");
            }
            let words = status(code, reason, &[]).words("query");
            assert!(words.starts_with(&format!("query failed: {what}: words\n")), "{words}");
            assert!(words.contains(&format!("{reason} ({})", code_name(code))), "{words}");
            assert!(words.contains(actor.words()), "{words}");
        }
        // A reason of a later version is judged by its code, and shown.
        let words = status(FailedPrecondition, "LATER", &[]).words("query");
        assert!(words.contains("LATER") && words.contains(Operator.words()), "{words}");
    }

    #[test]
    fn nothing_that_came_is_shown_unescaped() {
        let evil = "x\u{1b}[2J\u{202e}\ny";
        let mut details = ErrorDetails::with_error_info(
            evil,
            DOMAIN,
            HashMap::from([
                ("http_status".to_owned(), evil.to_owned()),
                ("result_code".to_owned(), evil.to_owned()),
                ("result_message".to_owned(), evil.to_owned()),
            ]),
        );
        details.add_bad_request_violation(evil, evil);
        let own: Failure = Status::with_error_details(Code::Unknown, evil, details).into();
        let details = ErrorDetails::with_error_info(evil, evil, HashMap::new());
        let foreign: Failure = Status::with_error_details(Code::Unknown, evil, details).into();
        for failure in [own, foreign, Failure::Usage(evil.to_owned())] {
            let words = failure.words("query");
            assert!(
                !words.chars().any(|character| character != '\n' && render::is_hidden(character)),
                "{words}"
            );
            assert!(words.lines().all(|line| !line.starts_with('y')), "{words}");
            assert!(!failure.headline().chars().any(render::is_hidden));
        }
    }

    #[test]
    fn the_vendors_answer_and_the_time_to_wait_are_told() {
        let mut details = ErrorDetails::with_error_info(
            "UPSTREAM_RATE_LIMITED",
            DOMAIN,
            HashMap::from([
                ("http_status".to_owned(), "429".to_owned()),
                ("result_code".to_owned(), "60101".to_owned()),
                ("result_message".to_owned(), "slow down".to_owned()),
            ]),
        );
        details.set_retry_info(Some(Duration::from_millis(1_250)));
        let failure: Failure = Status::with_error_details(Code::ResourceExhausted, "", details).into();
        assert_eq!(
            failure.words("query"),
            "query failed: the vendor limits the rate of calls
  reason       UPSTREAM_RATE_LIMITED (RESOURCE_EXHAUSTED)
  HTTP status  429
  result code  60101
  vendor says  slow down
  who can act  nobody: it passes by itself
  try again    in 2s
"
        );
    }

    #[test]
    fn a_field_at_fault_is_named() {
        let mut details = ErrorDetails::with_error_info("INVALID_FIELD", DOMAIN, HashMap::new());
        details.add_bad_request_violation("task_id", "longer than 128 bytes");
        let failure: Failure = Status::with_error_details(Code::InvalidArgument, "", details).into();
        let words = failure.words("query");
        assert!(words.contains("  field        task_id: longer than 128 bytes\n"), "{words}");
        assert!(!words.contains("try again"), "{words}");
    }

    #[test]
    fn waits_are_rounded_up() {
        for (millis, shown) in
            [(0, "0s"), (1, "100ms"), (850, "900ms"), (950, "1s"), (1_000, "1s"), (1_001, "2s")]
        {
            assert_eq!(render::duration(rounded_up(Duration::from_millis(millis))), shown, "{millis}");
        }
    }

    #[test]
    fn a_reader_that_left_is_no_failure() {
        let failure = Failure::Output(std::io::ErrorKind::BrokenPipe.into());
        assert_eq!((failure.words("watch"), failure.exit_code()), (String::new(), ExitCode::SUCCESS));
    }
}
