//! A row: what goes wrong, and what its callers are told of it.

use std::ops::RangeInclusive;

use federation_gateway::task::failure::Reason;
use tonic::Code;

use super::hosts::Fault;
use crate::support::{Answer, Told};

/// How a failure reaches a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Form {
    /// As QueryTask's answer.
    Query,
    /// As a watch's first answer: trailers alone.
    FirstOfWatch,
    /// As the end of a watch that runs.
    EndOfWatch,
}

/// All forms.
pub(super) const FORMS: &[Form] = &[Form::Query, Form::FirstOfWatch, Form::EndOfWatch];
/// Those of a watch that has not begun, and of a query.
pub(super) const AT_FIRST: &[Form] = &[Form::Query, Form::FirstOfWatch];

/// What goes wrong.
#[derive(Clone, Debug)]
pub(super) enum Cause {
    /// The vendor answers every queryTask so.
    Answer(Answer),
    /// The same over TLS.
    OverTls(Answer),
    /// The vendor takes the token for none any more, and answers every login so.
    Login(Answer),
    /// What lies between the gateway and queryTask fails below HTTP.
    Host(Fault),
    /// A request field is out of its range.
    Field,
    /// The caller's time is over before there is anything to tell.
    Deadline,
    /// A limit of the gateway's own is reached.
    Limit,
    /// The gateway ends.
    Drain,
}

/// What goes wrong, and what is told.
#[derive(Clone, Debug)]
pub(super) struct Row {
    /// What goes wrong, in a word, for whoever reads a failing test.
    pub(super) what: String,
    pub(super) cause: Cause,
    pub(super) code: Code,
    pub(super) reason: Reason,
    pub(super) http_status: Option<u16>,
    pub(super) result_code: Option<&'static str>,
    pub(super) result_message: Option<&'static str>,
    /// What RetryInfo says, in seconds; where the code allows none, nothing.
    pub(super) wait: RangeInclusive<f64>,
    /// What the message says among other things.
    pub(super) says: &'static str,
    /// How many tries the vendor sees.
    pub(super) tries: usize,
    /// Whether the connection may serve another exchange.
    pub(super) is_clean: bool,
    /// What the gateway is told beside the flags that all rows share.
    pub(super) flags: &'static [&'static str],
    pub(super) forms: &'static [Form],
}

impl Row {
    pub(super) fn new(what: impl Into<String>, cause: Cause, code: Code, reason: Reason) -> Self {
        Self {
            what: what.into(),
            cause,
            code,
            reason,
            http_status: None,
            result_code: None,
            result_message: None,
            // A second, if nobody knows better, with up to a fifth of jitter.
            wait: 1.0..=1.2,
            says: "",
            tries: 1,
            is_clean: true,
            flags: &[],
            forms: FORMS,
        }
    }

    pub(super) fn http(self, status: u16) -> Self {
        Self { http_status: Some(status), ..self }
    }

    pub(super) fn result(self, code: &'static str, message: Option<&'static str>) -> Self {
        Self { result_code: Some(code), result_message: message, ..self }
    }

    pub(super) fn waits(self, wait: RangeInclusive<f64>) -> Self {
        Self { wait, ..self }
    }

    pub(super) fn says(self, says: &'static str) -> Self {
        Self { says, ..self }
    }

    pub(super) fn tries(self, tries: usize) -> Self {
        Self { tries, ..self }
    }

    pub(super) fn unclean(self) -> Self {
        Self { is_clean: false, ..self }
    }

    pub(super) fn flags(self, flags: &'static [&'static str]) -> Self {
        Self { flags, ..self }
    }

    pub(super) fn forms(self, forms: &'static [Form]) -> Self {
        Self { forms, ..self }
    }

    /// Whether that is told: no more than is known, and no less.
    #[track_caller]
    pub(super) fn check(&self, told: &Told, form: Form) {
        let what = format!("{form:?}, {}: {}", self.what, told.text);
        assert_eq!((told.code, &*told.reason), (self.code, self.reason.name()), "{what}");
        assert_eq!(told.domain, "federation.v1", "{what}");
        let known = [
            ("http_status", self.http_status.map(|status| status.to_string())),
            ("result_code", self.result_code.map(str::to_owned)),
            ("result_message", self.result_message.map(str::to_owned)),
        ];
        let known = known.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect();
        assert_eq!(told.metadata, known, "{what}");
        assert!(told.text.contains(self.says), "{what}");
        let passes = matches!(self.code, Code::Unavailable | Code::ResourceExhausted);
        assert_eq!(told.retry.is_some(), passes, "{what}");
        if let Some(wait) = told.retry {
            assert!(self.wait.contains(&wait.as_secs_f64()), "{what}");
        }
        let wait_ms = told.retry.map(|wait| u64::try_from(wait.as_millis()).expect("it is short"));
        assert_eq!(told.pushback_ms, wait_ms, "{what}");
    }
}
