//! Is a failure well told, and did what it tells of happen? Did every call end within its bound?

use std::time::Duration;

use tokio::time::Instant;
use tonic::Code;

use super::View;
use crate::callers::SLACK;
use crate::plan::answers::{Grant, What};
use crate::record::{Asked, Call, Exchange, Login, Outcome};
use crate::told::Told;
use crate::vendor::{SECRET, TOKEN};

/// How long before a watch joined it a poller's failure may have happened that the watch then ends with: the longest
/// wait between polls, a poll that comes to its bound, and the watch's giving up.
const JOINED: Duration = Duration::from_secs(15);
/// How short of a deadline a clock may fall: `grpc-timeout` has eight digits.
const ROUNDING: Duration = Duration::from_millis(2);

pub(super) fn judge(view: &mut View<'_>) {
    let records = view.records;
    for call in &records.calls {
        let verdict = match &call.outcome {
            Outcome::Stuck => Err("it did not end within its bound".to_owned()),
            Outcome::Failed(told) => form(view, call, told).and_then(|()| reason(view, call, told)),
            Outcome::Ok if call.task.is_none() => Err("a bad request was answered with OK".to_owned()),
            Outcome::Ok | Outcome::Left => first_message(view, call),
        };
        if let Err(what) = verdict {
            view.find(call, what);
        }
    }
}

/// A watch's first answer is due within `request-timeout`, however long it goes on.
fn first_message(view: &View<'_>, call: &Call) -> Result<(), String> {
    let first = call.messages.first().map_or(call.ended.at, |first| first.at.at);
    let bound = view.plan.settings.request_timeout + SLACK;
    if first - call.began.at > bound { Err("no first answer within request-timeout".into()) } else { Ok(()) }
}

/// Contract 2: details, waits, and what no text may hold.
fn form(view: &View<'_>, call: &Call, told: &Told) -> Result<(), String> {
    if told.reason.is_empty() {
        // What is not the gateway's has no form.
        return Ok(());
    }
    let is_passing = matches!(told.code, Code::Unavailable | Code::ResourceExhausted);
    let id = call.task.map(|task| &*view.plan.tasks[task].id);
    let checks = [
        ("it has another domain", told.domain == "federation.v1"),
        ("a reason that nobody should be told", !codes(told).is_empty()),
        ("its code is not its reason's", codes(told).contains(&told.code)),
        ("RetryInfo is there, or is not there, against the rule", told.retry.is_some() == is_passing),
        (
            "the pushback trailer is not RetryInfo",
            told.pushback_ms == told.retry.map(|wait| wait.as_millis() as u64),
        ),
        ("its wait is over five minutes", told.retry.is_none_or(|wait| wait <= Duration::from_secs(300))),
        (
            "a drained gateway's callers wait for longer than a second",
            told.reason != "SHUTTING_DOWN" || told.retry.is_none_or(|wait| wait <= Duration::from_secs(1)),
        ),
        ("it tells a secret", ![TOKEN, SECRET].iter().any(|secret| told.text.contains(secret))),
        ("it repeats the request", !id.is_some_and(|id| told.text.contains(id))),
        ("fields are told of another fault", told.fields.is_empty() == (told.reason != "INVALID_FIELD")),
    ];
    checks.into_iter().find(|(_, holds)| !holds).map_or(Ok(()), |(what, _)| Err(what.to_owned()))
}

fn codes(told: &Told) -> &'static [Code] {
    match &*told.reason {
        "INVALID_FIELD" | "UPSTREAM_BAD_REQUEST" => &[Code::InvalidArgument],
        "UPSTREAM_RESULT_CODE" => match told.metadata.get("result_code").map(String::as_str) {
            Some("60101040050") => &[Code::InvalidArgument],
            Some("60101900002") => &[Code::Internal],
            _ => &[Code::Unknown],
        },
        "UPSTREAM_UNAUTHORIZED"
        | "UPSTREAM_FORBIDDEN"
        | "UPSTREAM_PATH_NOT_FOUND"
        | "UPSTREAM_REDIRECT"
        | "CREDENTIALS_REJECTED" => &[Code::FailedPrecondition],
        "UPSTREAM_RATE_LIMITED" | "GATEWAY_OVERLOADED" => &[Code::ResourceExhausted],
        "UPSTREAM_UNAVAILABLE" | "UPSTREAM_UNREACHABLE" | "TOKEN_UNAVAILABLE" | "SHUTTING_DOWN" => {
            &[Code::Unavailable]
        }
        "UPSTREAM_FAILURE" | "UPSTREAM_MALFORMED" => &[Code::Internal],
        "UPSTREAM_HTTP_STATUS" => &[Code::Unknown],
        "DEADLINE" => &[Code::DeadlineExceeded],
        _ => &[],
    }
}

/// Whether what the failure tells of happened, to this task and in this call's time.
fn reason(view: &View<'_>, call: &Call, told: &Told) -> Result<(), String> {
    let took = call.ended.at - call.began.at;
    let settings = &view.plan.settings;
    let is_bad = call.task.is_none();
    let happened = match &*told.reason {
        "" => is_cut_off(view, call, told),
        "SHUTTING_DOWN" => {
            view.records.lives.iter().any(|life| life.drained.is_some_and(|drained| drained <= call.ended.at))
        }
        "DEADLINE" => match call.deadline {
            Some(deadline) => {
                took + ROUNDING >= deadline || (!call.is_query() && times_out(view, call, took))
            }
            None => times_out(view, call, took),
        },
        "GATEWAY_OVERLOADED" => is_full(view, call) || waits_for_turns(view, call, took),
        "INVALID_FIELD" => is_bad,
        _ if is_bad => false,
        "CREDENTIALS_REJECTED" => login_failed(view, call, |login| {
            matches!(login.script.grant, Grant::Status(403, _) | Grant::Empty)
        }),
        "TOKEN_UNAVAILABLE" => {
            let (from, until) = span(view, call, true);
            let ended = view.records.logins.iter().filter(|login| {
                login.ended.is_some_and(|ended| ended.at >= call.began.at && ended.at <= call.ended.at)
            });
            view.was_away(from, until)
                || login_failed(view, call, |login| !view.is_granted(login))
                || ended.count() >= settings.max_attempts
        }
        _ => exchanged(view, call, told),
    };
    if happened { Ok(()) } else { Err("nothing happened that would bring this failure".into()) }
}

fn times_out(view: &View<'_>, call: &Call, took: Duration) -> bool {
    call.messages.is_empty() && took + ROUNDING >= view.plan.settings.request_timeout
}

/// The time in which what a call failed with may have happened.
fn span(view: &View<'_>, call: &Call, is_passing: bool) -> (Instant, Instant) {
    let before = if is_passing && !call.is_query() { JOINED } else { view.lag };
    (call.began.at.checked_sub(before).unwrap_or(call.began.at), call.ended.at)
}

/// Without a status of the gateway's only where the gateway was killed, or drained before the call was sent.
fn is_cut_off(view: &View<'_>, call: &Call, told: &Told) -> bool {
    view.records.lives.iter().any(|life| {
        let is_over = |end: Instant| call.ended.at >= end;
        let begins_before = |end: Option<Instant>| end.is_none_or(|end| call.began.at <= end + view.lag);
        let by_kill = life.killed.is_some_and(|killed| is_over(killed) && begins_before(Some(killed)));
        // A connection that was made only just before may not have come to its handshake. And a call goes out a while
        // after it began; where GOAWAY came in between, its own side refuses it.
        let by_drain = life.drained.is_some_and(|drained| {
            let is_refused =
                told.text.contains("GoAway(b\"\", NO_ERROR") && call.began.at + view.blur >= drained;
            let sent_late = 2 * view.records.stall;
            let is_late = call.began.at + sent_late >= drained || call.connected + view.lag >= drained;
            is_over(drained) && (is_late || is_refused) && begins_before(life.ended)
        });
        by_kill || by_drain
    })
}

/// Whether as many calls of its kind were under way as the gateway takes.
fn is_full(view: &View<'_>, call: &Call) -> bool {
    let settings = &view.plan.settings;
    let (limit, is_query) = match call.asked {
        Asked::Query { .. } => (settings.max_in_flight, true),
        Asked::Watch { .. } => (settings.max_watches, false),
    };
    let others = view.records.calls.iter().filter(|other| other.is_query() == is_query);
    let under_way = others.filter(|other| {
        other.began.at <= call.ended.at
            && other.ended.at + view.lag >= call.began.at
            && !std::ptr::eq(*other, call)
    });
    under_way.count() >= limit as usize
}

fn waits_for_turns(view: &View<'_>, call: &Call, took: Duration) -> bool {
    let settings = &view.plan.settings;
    let is_limited = settings.upstream_rate > 0 || settings.upstream_concurrency < 256;
    // A watch may join a poller that has waited before it.
    is_limited && (!call.is_query() || took + ROUNDING >= settings.request_timeout)
}

/// Whether a login of that kind was the last of some process that can matter to the call, or came after that.
fn login_failed(view: &View<'_>, call: &Call, is_such: impl Fn(&Login) -> bool) -> bool {
    let (from, until) = span(view, call, true);
    (0..=view.records.lives.len()).any(|process| {
        let mut failed = false;
        for login in view.records.logins.iter().filter(|login| login.process == process) {
            if login.arrived.at > until {
                break;
            }
            if is_such(login) {
                failed = true;
            } else if login.told.is_some_and(|told| told.at < from) {
                failed = false;
            }
        }
        failed
    })
}

/// Whether the gateway had a newer token when that one was refused, as an exchange with one had come before: a refusal
/// of an old one is always tried again.
fn has_newer_token(view: &View<'_>, exchange: &Exchange) -> bool {
    let refused = exchange.told.map_or(exchange.arrived.at, |told| told.at);
    let before = view.records.exchanges.iter().take_while(|before| before.arrived.at < refused);
    let mut of_process = before.filter(|before| before.process == exchange.process);
    of_process.any(|before| before.token > exchange.token)
}

fn exchanged(view: &View<'_>, call: &Call, told: &Told) -> bool {
    let (from, until) = span(view, call, matches!(told.code, Code::Unavailable | Code::ResourceExhausted));
    let Some(task) = call.task else { return false };
    let attempt = view.plan.settings.attempt_timeout;
    // Where this process stood still, it was late to read and to write.
    let stall = 2 * view.records.stall;
    let mut exchanges = view.of_task[task].iter().filter(|exchange| {
        exchange.arrived.at <= until && exchange.ended.is_none_or(|ended| ended.at >= from)
    });
    let status = |statuses: &'static [u16]| {
        move |exchange: &&&Exchange| {
            let What::Status(status, _) = exchange.what else { return false };
            statuses.contains(&status) && told.metadata.get("http_status") == Some(&status.to_string())
        }
    };
    match &*told.reason {
        "UPSTREAM_BAD_REQUEST" => exchanges.any(|exchange| status(&[400])(&exchange)),
        "UPSTREAM_UNAUTHORIZED" => {
            let refused: Vec<_> = exchanges.filter(status(&[401])).collect();
            // One that came after others may be the retry of one of them, also of one that came before the call: a call
            // under way is joined while it waits for its next try.
            let is_retry = |exchange: &Exchange| {
                let mut others = view.of_task[task].iter().filter(status(&[401]));
                others.any(|other| {
                    other.process == exchange.process
                        && other.arrived.at < exchange.arrived.at
                        && other.arrived.at + JOINED >= exchange.arrived.at
                })
            };
            refused.len() > 1
                || refused.first().is_some_and(|refused| !has_newer_token(view, refused) || is_retry(refused))
        }
        "UPSTREAM_FORBIDDEN" => exchanges.any(|exchange| status(&[403])(&exchange)),
        "UPSTREAM_PATH_NOT_FOUND" => exchanges.any(|exchange| status(&[404])(&exchange)),
        "UPSTREAM_REDIRECT" => exchanges.any(|exchange| status(&[301])(&exchange)),
        "UPSTREAM_RATE_LIMITED" => exchanges.any(|exchange| status(&[429])(&exchange)),
        "UPSTREAM_UNAVAILABLE" => exchanges.any(|exchange| status(&[408, 502, 503, 504])(&exchange)),
        "UPSTREAM_FAILURE" => exchanges.any(|exchange| status(&[500])(&exchange)),
        "UPSTREAM_HTTP_STATUS" => exchanges.any(|exchange| status(&[418, 204])(&exchange)),
        "UPSTREAM_MALFORMED" => exchanges.any(|exchange| exchange.what == What::Html),
        "UPSTREAM_RESULT_CODE" => exchanges.any(|exchange| match exchange.what {
            What::ResultCode(status, code) => {
                told.metadata.get("result_code").is_some_and(|told| told == code)
                    && told.metadata.get("http_status") == Some(&status.to_string())
            }
            _ => false,
        }),
        "UPSTREAM_UNREACHABLE" => {
            let broke =
                |exchange: &Exchange| exchange.what != What::Good || exchange.took() > attempt.mul_f64(0.8);
            exchanges.any(|exchange| broke(exchange) || exchange.told.is_none())
                || view.was_away(from, until)
                || stall > attempt.mul_f64(0.8)
                // A poll that waits for a token to its bound.
                || (!call.is_query() && login_failed(view, call, |login| !view.is_granted(login)))
        }
        _ => false,
    }
}
