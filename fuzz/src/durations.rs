//! Lengths of time, as operators and callers write them: settings, `google.protobuf.Duration` and `grpc-timeout`.
//!
//! An input is a name, `=` and a text: a setting (`poll-min=1s`), `proto=1 -500` (seconds and nanoseconds),
//! `grpc-timeout=5S`, or `watch=` and the bytes of a WatchTaskRequest.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

use clap::ArgMatches;
use federation_gateway::grpc::judged;
use federation_gateway::pb::WatchTaskRequest;
use federation_gateway::settings::table::{self, Kind, Setting};
use federation_gateway::settings::{self, Settings, flags};
use prost::Message as _;

use super::failures;

const NANOS: i128 = 1_000_000_000;

/// See this file's head.
pub fn durations(data: &[u8]) {
    let Some(at) = data.iter().position(|byte| *byte == b'=') else { return };
    let (name, value) = (&data[..at], &data[at + 1..]);
    let text = std::str::from_utf8(value).ok();
    match (std::str::from_utf8(name).unwrap_or_default(), text) {
        ("watch", _) => {
            let Ok(request) = WatchTaskRequest::decode(value) else { return };
            for duration in [request.poll_interval, request.heartbeat_interval].into_iter().flatten() {
                of_request(duration);
            }
        }
        ("proto", Some(text)) => {
            let (seconds, nanos) = text.split_once(' ').unwrap_or((text, "0"));
            let (Ok(seconds), Ok(nanos)) = (seconds.parse(), nanos.parse()) else { return };
            of_request(prost_types::Duration { seconds, nanos });
        }
        ("grpc-timeout", Some(text)) => timeout(text),
        (name, Some(text)) => {
            if let Some(setting) = table::find(name) {
                of_setting(setting, text);
            }
        }
        _ => {}
    }
}

fn of_request(duration: prost_types::Duration) {
    const MAX_AGE: &str = "max_age";
    let (seconds, nanos) = (i128::from(duration.seconds), i128::from(duration.nanos));
    // About ten thousand years, as google.protobuf.Duration's own documentation has it.
    let is_in_range = seconds.abs() <= 315_576_000_000 && nanos.abs() < NANOS;
    let is_valid = is_in_range && seconds.signum() * nanos.signum() >= 0;
    let total = seconds * NANOS + nanos;
    match judged::duration(MAX_AGE, Some(duration)) {
        Ok(read) => {
            let read = read.expect("it was set");
            assert!(is_valid && total >= 0, "{duration:?}");
            assert_eq!(read.as_nanos(), total.unsigned_abs());
            assert_eq!(prost_types::Duration::try_from(read), Ok(duration));
            // It can be told from and added to any time of this process.
            let now = tokio::time::Instant::now();
            assert!(now.checked_add(read).is_some());
        }
        Err(status) => {
            assert!(!is_valid || total < 0, "{duration:?}");
            let what = if seconds < 0 || nanos < 0 {
                "holds a negative number; give 0 s or more"
            } else {
                "is not a valid google.protobuf.Duration: out of its range"
            };
            failures::check_field(&status, MAX_AGE, what);
        }
    }
}

/// The value is one to eight digits and a unit (gRPC over HTTP/2, "Timeout").
fn timeout(text: &str) {
    let unit = |unit| match unit {
        'H' => Some(3600 * NANOS),
        'M' => Some(60 * NANOS),
        'S' => Some(NANOS),
        'm' => Some(1_000_000),
        'u' => Some(1_000),
        'n' => Some(1),
        _ => None,
    };
    let mut digits: Vec<_> = text.chars().collect();
    let unit = digits.pop().and_then(unit);
    let digits: Option<Vec<_>> = digits.into_iter().map(|digit| digit.to_digit(10)).collect();
    let number = digits
        .filter(|digits| (1..=8).contains(&digits.len()))
        .map(|digits| digits.into_iter().fold(0, |number, digit| number * 10 + i128::from(digit)));
    let expected = unit.zip(number).map(|(unit, number)| (unit * number).unsigned_abs());
    assert_eq!(judged::timeout(text).map(|timeout| timeout.as_nanos()), expected, "{text:?}");
}

/// Reads one setting, with nothing else given, as `serve --sandbox` does.
fn read(setting: &Setting, text: &str) -> Result<Settings, Vec<String>> {
    thread_local! {
        static MATCHES: RefCell<ArgMatches> = RefCell::new(
            clap::Command::new("serve")
                .no_binary_name(true)
                .arg(flags::sandbox())
                .args(flags::all())
                .get_matches_from(["--sandbox"]),
        );
    }
    let environment = BTreeMap::from([(setting.variable(), text.into())]);
    MATCHES.with_borrow(|matches| match settings::resolve(matches, &environment) {
        Ok(resolved) => Ok(resolved.settings),
        Err(problems) => Err(problems.iter().map(ToString::to_string).collect()),
    })
}

fn of_setting(setting: &'static Setting, text: &str) {
    let Kind::Duration { min, max, whole_seconds } = setting.kind else { return };
    // An empty variable counts as unset.
    if text.is_empty() {
        return;
    }
    let exact = exact(text);
    let is_allowed = |nanos: u128| {
        (min.as_nanos()..=max.as_nanos()).contains(&nanos)
            && (!whole_seconds || nanos.is_multiple_of(NANOS.unsigned_abs()))
    };
    match read(setting, text) {
        Ok(settings) => {
            let value = value(&settings, setting.name);
            assert!(is_allowed(value.as_nanos()) && settings.poll_min <= settings.poll_max, "{text}");
            assert!(exact.is_none_or(|exact| exact == Some(value.as_nanos())), "{text}: {value:?}");
            // What is shown of it means the same.
            let shown = humantime::format_duration(value).to_string();
            let again = read(setting, &shown).expect("what is shown can be given");
            assert_eq!(self::value(&again, setting.name), value, "{shown}");
        }
        Err(problems) => {
            assert_eq!(problems.len(), 1, "{problems:?}");
            let problem = &problems[0];
            assert!(problem.starts_with(setting.name), "{problem}");
            let is_between = problem.contains("the value is above poll-max")
                || problem.starts_with("poll-max: the value is below poll-min");
            let is_unsupported = problem.contains("not supported by this version");
            if is_between || is_unsupported {
                return;
            }
            assert!(problem.contains(&setting.variable()), "{problem}");
            // More than the reader of texts holds is refused too, whatever the bounds.
            if let Some(Some(nanos)) = exact {
                assert!(!is_allowed(nanos), "{text}: {problem}");
            }
        }
    }
}

/// The nanoseconds of a whole number with one unit: the form that the contract shows. `None` if it is another form,
/// which may be good too; `Some(None)` if it is more than anything.
fn exact(text: &str) -> Option<Option<u128>> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (digits, unit) = text.split_at(digits);
    let unit: u128 = match unit {
        "ns" => 1,
        "us" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        "days" => 86_400_000_000_000,
        _ => return None,
    };
    if digits.is_empty() {
        return None;
    }
    Some(digits.parse::<u128>().ok().and_then(|number| number.checked_mul(unit)))
}

fn value(settings: &Settings, name: &str) -> Duration {
    match name {
        "connect-timeout" => settings.connect_timeout,
        "attempt-timeout" => settings.attempt_timeout,
        "request-timeout" => settings.request_timeout,
        "token-lifetime" => settings.token_lifetime,
        "done-cache-ttl" => settings.done_cache_ttl,
        "poll-min" => settings.poll_min,
        "poll-max" => settings.poll_max,
        "watch-give-up" => settings.watch_give_up,
        "drain-timeout" => settings.drain_timeout,
        "store-timeout" => settings.store.timeout,
        name => panic!("{name} is a duration that this property does not know"),
    }
}
