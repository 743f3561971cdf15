//! Reads `Retry-After` in both its forms (RFC 9110, 10.2.3). Decides nothing about who waits.

use std::time::{Duration, SystemTime};

/// A `Retry-After` over this counts as this (contract 2): no vendor's slip may silence the gateway for a day.
pub const LONGEST: Duration = Duration::from_secs(5 * 60);

/// The wait that a `Retry-After` header asks for; `None` if it can't be read.
///
/// A date is compared with `date`, the answer's own `Date` header, where that can be read: the vendor's clock
/// may differ from ours. Otherwise with `now`.
#[must_use]
pub fn parse(retry_after: &str, date: Option<&str>, now: SystemTime) -> Option<Duration> {
    let retry_after = retry_after.trim();
    let wait = if !retry_after.is_empty() && retry_after.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than a u64 holds are a long time all the same.
        Duration::from_secs(retry_after.parse().unwrap_or(u64::MAX))
    } else {
        let until = httpdate::parse_http_date(retry_after).ok()?;
        let from = date.and_then(|date| httpdate::parse_http_date(date.trim()).ok()).unwrap_or(now);
        until.duration_since(from).unwrap_or(Duration::ZERO)
    };
    Some(wait.min(LONGEST))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: &str = "Tue, 24 Nov 2026 12:00:00 GMT";

    #[test]
    fn seconds_and_dates_are_read_and_bounded() {
        let noon = httpdate::parse_http_date(NOON).unwrap();
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        let cases: [(&str, Option<&str>, Option<Duration>); 13] = [
            ("0", None, seconds(0)),
            (" 7 ", None, seconds(7)),
            ("300", None, seconds(300)),
            ("301", None, seconds(300)),
            ("99999999999999999999999", None, seconds(300)),
            ("Tue, 24 Nov 2026 12:00:07 GMT", None, seconds(7)),
            ("Tuesday, 24-Nov-26 12:00:07 GMT", None, seconds(7)),
            // The vendor's clock is an hour ahead of ours; its own Date says so.
            ("Tue, 24 Nov 2026 13:00:07 GMT", Some("Tue, 24 Nov 2026 13:00:00 GMT"), seconds(7)),
            ("Tue, 24 Nov 2026 12:00:07 GMT", Some("yesterday"), seconds(7)),
            ("Tue, 24 Nov 2026 11:00:00 GMT", None, seconds(0)),
            ("", None, None),
            ("-1", None, None),
            ("1.5", None, None),
        ];
        for (header, date, wait) in cases {
            assert_eq!(parse(header, date, noon), wait, "{header:?} {date:?}");
        }
    }
}
