//! What an answer's headers say of the wait, and what callers then are told.
//!
//! An input is up to three lines: the Retry-After, the Date (none if the line is empty), and the gateway's own time in
//! seconds since 1970.

use std::time::{Duration, SystemTime};

use federation_gateway::task::failure::{Failure, Reason};
use federation_gateway::vendor::heard;
use http::{HeaderMap, HeaderValue, header};

use super::failures;

const LONGEST: u64 = 300;
/// The last second of the year 9999, the last that such a date can name.
const LAST_SECOND: u64 = 253_402_300_799;

/// See this file's head.
pub fn retry_after(data: &[u8]) {
    let mut lines = data.split(|byte| *byte == b'\n');
    let line = lines.next().unwrap_or_default();
    let date = lines.next().filter(|date| !date.is_empty());
    let now: Option<u64> =
        lines.next().and_then(|line| std::str::from_utf8(line).ok()).and_then(|text| text.parse().ok());
    let now = now.unwrap_or(1_795_521_600).min(LAST_SECOND);
    let Ok(line) = HeaderValue::from_bytes(line) else { return };
    let date = date.and_then(|date| HeaderValue::from_bytes(date).ok());

    let wait = wait(Some(&line), date.as_ref(), now);
    check(wait, &line, date.as_ref(), now);
    let failure = Failure::new(Reason::UpstreamRateLimited, "").with_retry_after(wait);
    failures::check(&failure);
    assert_eq!(self::wait(None, date.as_ref(), now), None);

    // Whatever the numbers and the clocks: a date so many seconds away asks for as many.
    let far = data.iter().fold(7_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
    let (away, theirs) = (far % 400, far / 400 % (LAST_SECOND - 400));
    let written = |second| HeaderValue::from_str(&httpdate::fmt_http_date(at(second))).expect("it is ASCII");
    let (until, date) = (written(theirs + away), written(theirs));
    let expected = Some(Duration::from_secs(away.min(LONGEST)));
    assert_eq!(self::wait(Some(&until), Some(&date), now), expected, "{until:?} {date:?}");
    assert_eq!(self::wait(Some(&until), None, theirs), expected, "{until:?}");
    assert_eq!(self::wait(Some(&date), Some(&until), now), Some(Duration::ZERO), "{date:?} {until:?}");
}

fn at(second: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(second)
}

fn wait(retry_after: Option<&HeaderValue>, date: Option<&HeaderValue>, now: u64) -> Option<Duration> {
    let mut headers = HeaderMap::new();
    headers.extend(retry_after.map(|value| (header::RETRY_AFTER, value.clone())));
    headers.extend(date.map(|value| (header::DATE, value.clone())));
    heard::retry_after(&headers, || at(now))
}

fn check(wait: Option<Duration>, line: &HeaderValue, date: Option<&HeaderValue>, now: u64) {
    let Some(wait) = wait else {
        let text = line.to_str().unwrap_or_default().trim();
        assert!(!is_number(text) && second_of(text).is_none(), "{line:?} is a wait");
        return;
    };
    assert!(wait <= Duration::from_secs(LONGEST) && wait.subsec_nanos() == 0);
    let text = line.to_str().expect("what is no text is no wait").trim();
    if is_number(text) {
        let digits = text.trim_start_matches('0');
        let seconds = if digits.len() > 3 { LONGEST } else { digits.parse().unwrap_or(0).min(LONGEST) };
        assert_eq!(wait, Duration::from_secs(seconds), "{text}");
        return;
    }
    // The other two forms of a date are read too; this reader has but the one that is to be written.
    let Some(until) = second_of(text) else {
        return assert!(httpdate::parse_http_date(text).is_ok(), "{text:?} is no wait");
    };
    let of_date = date.and_then(|date| date.to_str().ok()).map(str::trim);
    let from = match (of_date, of_date.and_then(second_of)) {
        (None, _) => now,
        (Some(_), Some(second)) => second,
        (Some(text), None) if httpdate::parse_http_date(text).is_err() => now,
        (Some(_), None) => return,
    };
    assert_eq!(wait.as_secs(), until.saturating_sub(from).min(LONGEST), "{text} from {from}");
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// The second since 1970 that a date like `Tue, 24 Nov 2026 12:00:07 GMT` names; `None` if it names none, or one
/// before 1970.
fn second_of(text: &str) -> Option<u64> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    const WEEKDAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    let (weekday, rest) = text.strip_suffix(" GMT")?.split_once(", ")?;
    let parts: Vec<_> = rest.split(' ').collect();
    let [day, month, year, time] = parts[..] else { return None };
    let clock: Vec<_> = time.split(':').collect();
    let [hour, minute, second] = clock[..] else { return None };
    let number = |text: &str, length: usize, most: u64| {
        let is_so_long = text.len() == length && is_number(text);
        text.parse::<u64>().ok().filter(|number| is_so_long && *number <= most)
    };
    let (day, year) = (number(day, 2, 31)?, number(year, 4, 9999).filter(|year| *year >= 1970)?);
    let (hour, minute, second) = (number(hour, 2, 23)?, number(minute, 2, 59)?, number(second, 2, 59)?);
    let month = MONTHS.iter().position(|name| *name == month)?;
    let is_leap =
        |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let days_of = |year: u64| [31, 28 + u64::from(is_leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let of_month = days_of(year);
    if day == 0 || day > of_month[month] {
        return None;
    }
    let before: u64 = (1970..year).map(|year| days_of(year).iter().sum::<u64>()).sum();
    let days = before + of_month[..month].iter().sum::<u64>() + day - 1;
    let is_weekday = WEEKDAYS[(days % 7) as usize] == weekday;
    is_weekday.then_some(((days * 24 + hour) * 60 + minute) * 60 + second)
}
