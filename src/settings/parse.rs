//! What a text means, by its kind: durations, numbers, URLs and the rest. Knows no source and no other setting.

use std::path::PathBuf;
use std::time::Duration;

use reqwest::Url;

use super::address::{self, HostPort};
use super::problem::Fault;
use super::table::Kind;
use crate::telemetry;

/// How a log line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, else JSON.
    Auto,
    /// Text for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Where replicas share what they know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Store {
    /// Nothing is shared.
    Memory,
    /// One Redis or Valkey.
    Single {
        /// Where it is.
        address: HostPort,
        /// The database's number.
        database: u32,
        /// Whether over TLS.
        is_tls: bool,
    },
    /// A cluster.
    Cluster {
        /// Where some of its nodes are.
        seeds: Vec<HostPort>,
        /// Whether over TLS.
        is_tls: bool,
    },
}

pub(super) fn duration(text: &str, kind: Kind) -> Result<Duration, Fault> {
    const REMEDY: &str = "write a duration like 500ms, 30s or 5m";
    let Kind::Duration { min, max, whole_seconds } = kind else {
        unreachable!("only durations are read as one")
    };
    let value = humantime::parse_duration(text).map_err(|error| match error {
        humantime::DurationError::UnknownUnit { unit, .. } if unit.is_empty() => {
            Fault::new("has no unit", REMEDY)
        }
        _ => Fault::new("is no duration", REMEDY),
    })?;
    let show = humantime::format_duration;
    if value < min && min <= Duration::from_nanos(1) {
        return Err(Fault::new("is not positive", REMEDY));
    }
    if value < min {
        return Err(Fault::new(format!("is below {}", show(min)), format!("give at least {}", show(min))));
    }
    if value > max {
        // "365days" says more than "11months 30days".
        let max = if max.as_secs() > 24 * 3600 {
            format!("{}days", max.as_secs() / (24 * 3600))
        } else {
            format!("{}s", max.as_secs())
        };
        return Err(Fault::new(format!("is above {max}"), format!("give at most {max}")));
    }
    if whole_seconds && value.subsec_nanos() != 0 {
        return Err(Fault::new("is no whole number of seconds", "give whole seconds, like 600s"));
    }
    Ok(value)
}

pub(super) fn count(text: &str, kind: Kind) -> Result<u32, Fault> {
    let Kind::Count { min, max } = kind else { unreachable!("only counts are read as one") };
    let remedy = || format!("give a whole number from {min} to {max}");
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Fault::new("is no whole number", remedy()));
    }
    match text.parse::<i128>() {
        Ok(value) if value < i128::from(min) && min == 1 => Err(Fault::new("is not positive", remedy())),
        Ok(value) if value < i128::from(min) => Err(Fault::new(format!("is below {min}"), remedy())),
        Ok(value) if value <= i128::from(max) => {
            u32::try_from(value).map_err(|_| Fault::new("is out of range", remedy()))
        }
        _ => Err(Fault::new(format!("is above {max}"), remedy())),
    }
}

pub(super) fn switch(text: &str) -> Result<bool, Fault> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(Fault::new("is neither true nor false", "give true or false")),
    }
}

/// A text for an HTTP header.
pub(super) fn visible(text: &str) -> Result<String, Fault> {
    if text.is_empty() {
        return Err(Fault::new("is empty", "give the text, or leave the setting out"));
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Fault::new(
            "holds more than visible ASCII",
            "check for spaces, line ends and letters beyond ASCII",
        ));
    }
    Ok(text.to_owned())
}

pub(super) fn path(text: &str) -> Result<PathBuf, Fault> {
    if text.is_empty() { Err(Fault::new("is empty", "name a file")) } else { Ok(PathBuf::from(text)) }
}

/// An absolute http or https URL that holds nothing but host, port and path.
pub(super) fn url(text: &str) -> Result<Url, Fault> {
    const REMEDY: &str = "write it like https://host/path";
    // The parser mends spaces, tabs and backslashes; what it makes of them is not what was meant.
    if !text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\') {
        return Err(Fault::new("holds spaces, backslashes or more than ASCII", REMEDY));
    }
    let rest = text
        .split_once("://")
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https"));
    let (_, rest) = rest.ok_or_else(|| Fault::new("is no http or https URL", REMEDY))?;
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') {
        return Err(Fault::new(
            "holds a user",
            "remove all up to the @; credentials have settings of their own",
        ));
    }
    let url = Url::parse(text).map_err(|_| Fault::new("is no URL", REMEDY))?;
    if authority.is_empty() || !url.has_host() {
        return Err(Fault::new("names no host", REMEDY));
    }
    if url.query().is_some() {
        return Err(Fault::new("holds a query", "remove all from the ? on"));
    }
    if url.fragment().is_some() {
        return Err(Fault::new("holds a fragment", "remove all from the # on"));
    }
    Ok(url)
}

/// Whether what is sent to this URL may be read or changed on its way: `http` to anywhere but 127.0.0.0/8, ::1
/// and `localhost`.
pub(super) fn is_exposed(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let is_loopback = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(literal) => literal.parse::<std::net::Ipv6Addr>().is_ok_and(|address| address.is_loopback()),
        None => {
            host == "localhost"
                || host.parse::<std::net::Ipv4Addr>().is_ok_and(|address| address.is_loopback())
        }
    };
    url.scheme() == "http" && !is_loopback
}

pub(super) fn log_filter(text: &str) -> Result<String, Fault> {
    const REMEDY: &str = "write a level (error, warn, info, debug, trace, off) or a filter like \
                          info,federation_gateway=debug";
    if text.trim().is_empty() {
        return Err(Fault::new("is empty", REMEDY));
    }
    telemetry::parse_filter(text).map_err(|_| Fault::new("is no tracing filter", REMEDY))?;
    Ok(text.to_owned())
}

pub(super) fn log_format(text: &str) -> Result<LogFormat, Fault> {
    match text {
        "auto" => Ok(LogFormat::Auto),
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(Fault::new("is no log format", "give auto, text or json")),
    }
}

pub(super) fn store(text: &str) -> Result<Store, Fault> {
    const REMEDY: &str = "give memory, redis://host:port/db, rediss://host:port/db, \
                          redis-cluster://host:port,host:port or rediss-cluster://host:port,host:port";
    if text == "memory" {
        return Ok(Store::Memory);
    }
    let (scheme, rest) = text.split_once("://").ok_or_else(|| Fault::new("names no store", REMEDY))?;
    if rest.contains('@') {
        return Err(Fault::new("holds a user", "use store-user and store-password-file"));
    }
    // The address's own faults speak of listening; here the store's form is what helps.
    let address = |text: &str| {
        let address = address::host_port(text).ok().filter(|address| address.port != 0);
        address.ok_or_else(|| Fault::new("holds something that is no host:port", REMEDY))
    };
    let is_tls = scheme.starts_with("rediss");
    match scheme {
        "redis" | "rediss" => {
            let (server, database) = rest.split_once('/').unwrap_or((rest, ""));
            let is_number = database.bytes().all(|byte| byte.is_ascii_digit());
            let number =
                if database.is_empty() { Some(0) } else { database.parse().ok().filter(|_| is_number) };
            let database = number.ok_or_else(|| Fault::new("names no database by its number", REMEDY))?;
            Ok(Store::Single { address: address(server)?, database, is_tls })
        }
        "redis-cluster" | "rediss-cluster" => {
            Ok(Store::Cluster { seeds: rest.split(',').map(address).collect::<Result<_, _>>()?, is_tls })
        }
        _ => Err(Fault::new("names no store", REMEDY)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::table::find;

    #[test]
    fn durations() {
        let kind = |name| find(name).unwrap().kind;
        for (text, millis) in [
            ("500ms", 500),
            ("30s", 30_000),
            ("5m", 300_000),
            ("1s 500ms", 1_500),
            ("365days", 31_536_000_000),
        ] {
            assert_eq!(duration(text, kind("poll-max")), Ok(Duration::from_millis(millis)), "{text}");
        }
        let predicate = |text, name| duration(text, kind(name)).unwrap_err().predicate;
        assert_eq!(predicate("0s", "poll-max"), "is not positive");
        assert_eq!(predicate("49ms", "poll-min"), "is below 50ms");
        assert_eq!(predicate("366days", "poll-max"), "is above 365days");
        assert_eq!(predicate("30", "poll-max"), "has no unit");
        for text in
            ["", "s", "-1s", "1.5.5s", "1 fortnight", "99999999999999999999s", "18446744073709551615y", "nan"]
        {
            assert!(duration(text, kind("poll-max")).is_err(), "{text}");
        }
        assert_eq!(duration("0s", kind("done-cache-ttl")), Ok(Duration::ZERO));
        assert_eq!(duration("1h", kind("token-lifetime")), Ok(Duration::from_secs(3600)));
        assert_eq!(predicate("59s", "token-lifetime"), "is below 1m");
        assert_eq!(predicate("3601s", "token-lifetime"), "is above 3600s");
        assert_eq!(predicate("60s 1ms", "token-lifetime"), "is no whole number of seconds");
    }

    #[test]
    fn counts() {
        let kind = Kind::Count { min: 1, max: 100 };
        assert_eq!(count("1", kind), Ok(1));
        assert_eq!(count("100", kind), Ok(100));
        for text in
            ["", "0", "-1", "+1", "101", "1.5", "1e2", " 1", "99999999999999999999999999999999999999999999"]
        {
            assert!(count(text, kind).is_err(), "{text}");
        }
        assert_eq!(count("0", Kind::Count { min: 0, max: 9 }), Ok(0));
    }

    #[test]
    fn urls() {
        for (text, kept) in [
            ("https://h", "https://h/"),
            ("HTTPS://H:8443/a/b/", "https://h:8443/a/b/"),
            ("http://[::1]:1/p", "http://[::1]:1/p"),
        ] {
            assert_eq!(url(text).unwrap().as_str(), kept);
        }
        for text in [
            "",
            "h",
            "h:443",
            "ftp://h",
            "https:h",
            "https://",
            "https:///p",
            "https://u@h",
            "https://u:p@h",
            "https://@h",
            "https://h?q",
            "https://h?",
            "https://h#f",
            "https://h#",
            "https://h:99999",
            "https:// h",
            "https://h\\p",
            "https://é",
            "https://h/\n",
            "unix:/p",
        ] {
            assert!(url(text).is_err(), "{text}");
        }
    }

    #[test]
    fn only_loopback_hides_plaintext() {
        for (text, exposed) in [
            ("https://example.org", false),
            ("http://localhost:1", false),
            ("http://LOCALHOST", false),
            ("http://127.0.0.1", false),
            ("http://127.9.9.9:80", false),
            ("http://[::1]", false),
            ("http://localhost.", true),
            ("http://localhost.example.org", true),
            ("http://[::ffff:127.0.0.1]", true),
            ("http://10.0.0.1", true),
            ("http://ip6-localhost", true),
        ] {
            assert_eq!(is_exposed(&url(text).unwrap()), exposed, "{text}");
        }
    }

    #[test]
    fn texts_filters_and_formats() {
        assert_eq!(visible("a-B_9~"), Ok("a-B_9~".to_owned()));
        for text in ["", "a b", "a\n", "é", "\u{7f}"] {
            assert!(visible(text).is_err(), "{text:?}");
        }
        for text in ["info", "off", "info,federation_gateway=debug", "warn,h2=off,[query]=trace"] {
            assert!(log_filter(text).is_ok(), "{text}");
        }
        for text in ["", " ", "info,x=loud", "=", "a=b=c"] {
            assert!(log_filter(text).is_err(), "{text}");
        }
        assert_eq!(log_format("json"), Ok(LogFormat::Json));
        assert!(log_format("JSON").is_err() && switch("yes").is_err() && path("").is_err());
    }

    #[test]
    fn stores() {
        let seed = |text| address::host_port(text).unwrap();
        assert_eq!(store("memory"), Ok(Store::Memory));
        assert_eq!(
            store("redis://h:6379/2"),
            Ok(Store::Single { address: seed("h:6379"), database: 2, is_tls: false })
        );
        assert_eq!(
            store("rediss://[::1]:1"),
            Ok(Store::Single { address: seed("[::1]:1"), database: 0, is_tls: true })
        );
        assert_eq!(
            store("rediss-cluster://a:1,b:2"),
            Ok(Store::Cluster { seeds: vec![seed("a:1"), seed("b:2")], is_tls: true })
        );
        for text in [
            "",
            "disk",
            "redis://",
            "redis://h",
            "redis://h:0",
            "redis://h:1/x",
            "redis://h:1/+1",
            "redis://u:p@h:1",
            "redis-cluster://a:1,",
            "redis-cluster://a:1/0",
            "http://h:1",
        ] {
            assert!(store(text).is_err(), "{text}");
        }
    }
}
