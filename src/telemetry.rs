//! Log lines: which are written, in what form, and where to. Also the caller's trace, as far as `traceparent`
//! names it. Owns no span and no message: those stand where things happen.

use std::fmt;
use std::io::{self, IsTerminal};
use std::str::FromStr;

use tracing::Subscriber;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{EnvFilter, Layer};

/// The form of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Text where a person reads along, JSON elsewhere.
    #[default]
    Auto,
    /// A line for people, in colour on a terminal.
    Text,
    /// A JSON object a line. The event's fields are keys of their own beside `timestamp`, `level` and `target`,
    /// so no field may have one of those names; `span` holds the innermost span, `spans` all from the root.
    Json,
}

impl Format {
    fn is_text(self, on_terminal: bool) -> bool {
        match self {
            Self::Auto => on_terminal,
            Self::Text => true,
            Self::Json => false,
        }
    }
}

impl FromStr for Format {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        match text {
            "auto" => Ok(Self::Auto),
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(FormatError),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// A word that names no format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is none of auto, text, json")]
pub struct FormatError;

/// A text that is no filter.
#[derive(Debug, thiserror::Error)]
#[error("is no log filter, such as `info` or `info,hyper=debug`")]
pub struct FilterError(#[source] tracing_subscriber::filter::ParseError);

/// Why nothing can be logged.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The filter can't be read.
    #[error("the filter {0}")]
    Filter(#[from] FilterError),
    /// The process has a subscriber already.
    #[error("logging was set up before")]
    Installed(#[source] TryInitError),
}

/// Reads a filter, such as `info` or `warn,federation_gateway=debug`; an empty one lets errors pass.
///
/// # Errors
/// When one of its directives can't be read.
pub fn parse_filter(filter: &str) -> Result<EnvFilter, FilterError> {
    // Without regular expressions a field's value in a filter is what it looks like.
    EnvFilter::builder().with_regex(false).parse(filter).map_err(FilterError)
}

/// Sends the process's log lines to standard error from now on. A line that can't be written is lost, and nothing
/// else happens.
///
/// # Errors
/// When `filter` is none, or the process has a subscriber already.
pub fn init(filter: &str, format: Format) -> Result<(), Error> {
    let filter = parse_filter(filter)?;
    let on_terminal = io::stderr().is_terminal();
    // https://no-color.org: present and not empty.
    let is_coloured = on_terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let lines = lines(format.is_text(on_terminal), is_coloured, io::stderr);
    tracing_subscriber::registry().with(filter).with(lines).try_init().map_err(Error::Installed)
}

/// Writes panics as log lines from now on, and tells `count` of each.
///
/// What a panic says may hold data (an `expect` shows its error's), so only a text that stands so in the code is
/// written; the place tells the rest.
pub fn log_panics(count: fn()) {
    std::panic::set_hook(Box::new(move |panic| {
        count();
        let place = panic.location().map(tracing::field::display);
        let text = panic.payload().downcast_ref::<&'static str>().copied();
        let thread = std::thread::current();
        tracing::error!(place, text, thread = thread.name(), "panicked: a defect of the gateway");
    }));
}

fn lines<S, W>(as_text: bool, is_coloured: bool, writer: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(writer)
        .with_ansi(is_coloured)
        // A failed write would be told of on standard error, which is what failed: that panics.
        .log_internal_errors(false);
    if as_text { Box::new(lines) } else { Box::new(lines.json().flatten_event(true)) }
}

/// A trace's id; shown as 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceId(u128);

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// What a caller's `traceparent` says (W3C Trace Context, section 3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParent {
    /// The trace that the call belongs to.
    pub trace_id: TraceId,
    /// The caller's own span in it.
    pub parent_id: u64,
    /// Whether the caller may have recorded its part.
    pub is_sampled: bool,
}

impl TraceParent {
    /// Reads the header's value; nothing if it is not valid, as the specification wants it ignored then.
    #[must_use]
    pub fn parse(value: &str) -> Option<Self> {
        // Bytes, so that a value that is not ASCII can't be cut inside a character.
        let (fields, rest) = value.as_bytes().split_at_checked(55)?;
        let [version, trace_id, parent_id, flags] =
            [&fields[..2], &fields[3..35], &fields[36..52], &fields[53..]];
        if [fields[2], fields[35], fields[52]] != *b"---" {
            return None;
        }
        match hex(version)? {
            0 if !rest.is_empty() => return None,
            // Reserved: it must never be a version.
            0xff => return None,
            // A later version may say more, after another dash.
            _ if !rest.is_empty() && rest[0] != b'-' => return None,
            _ => {}
        }
        let (trace_id, parent_id) = (hex(trace_id)?, hex(parent_id)?);
        let is_sampled = hex(flags)? & 1 == 1;
        if trace_id == 0 || parent_id == 0 {
            return None;
        }
        Some(Self { trace_id: TraceId(trace_id), parent_id: u64::try_from(parent_id).ok()?, is_sampled })
    }
}

/// The number in at most 32 lower-case digits: the specification allows no capitals.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number, digit| match digit {
        b'0'..=b'9' => Some(number << 4 | u128::from(digit - b'0')),
        b'a'..=b'f' => Some(number << 4 | u128::from(digit - b'a' + 10)),
        _ => None,
    })
}

#[cfg(test)]
pub(crate) mod page;

#[cfg(test)]
mod tests {
    use super::page::{json, text};
    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

    #[test]
    fn a_json_line_has_its_fields_on_top_and_its_spans_beside_them() {
        let lines = json("info", || {
            let _call = tracing::error_span!("call", trace_id = TRACE).entered();
            let _step = tracing::info_span!("step", attempt = 2).entered();
            tracing::info!(addr = "127.0.0.1:1", server = "grpc", "listening");
        });
        let [line] = &lines[..] else { panic!("{lines:?}") };
        assert_eq!(line["message"], "listening");
        assert_eq!(line["addr"], "127.0.0.1:1");
        assert_eq!(line["server"], "grpc");
        assert_eq!(line["level"], "INFO");
        assert_eq!(line["span"]["attempt"], 2);
        assert_eq!(line["spans"][0]["trace_id"], TRACE);
        assert!(line["timestamp"].is_string());
    }

    #[test]
    fn a_text_line_has_no_control_characters_of_others() {
        let line = text("info", || {
            let _call = tracing::error_span!("call", trace_id = TRACE).entered();
            tracing::info!("{}", "red: \u{1b}[31m");
            tracing::debug!("too quiet");
        });
        assert_eq!(line.matches('\n').count(), 1, "{line}");
        assert!(line.contains("INFO") && line.contains(TRACE) && !line.contains('\u{1b}'), "{line:?}");
    }

    #[test]
    fn filters() {
        for good in ["info", "off", "INFO", "warn,federation_gateway=debug", "info,[call]=trace", ""] {
            assert!(parse_filter(good).is_ok(), "{good}");
        }
        for bad in ["info,hyper=loud", "=info", "a=b=c", "info,hyper=debug=1"] {
            assert!(parse_filter(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn formats() {
        for format in [Format::Auto, Format::Text, Format::Json] {
            assert_eq!(format.to_string().parse(), Ok(format));
        }
        assert_eq!("xml".parse::<Format>(), Err(FormatError));
        assert!(Format::Auto.is_text(true) && !Format::Auto.is_text(false));
        assert!(Format::Text.is_text(false) && !Format::Json.is_text(true));
    }

    /// Runs itself once more, with a standard error that is full.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_line_that_cannot_be_written_is_lost_and_nothing_else() {
        const CHILD: &str = "TELEMETRY_TEST_CHILD";
        if std::env::var_os(CHILD).is_some() {
            init("info", Format::Json).unwrap();
            tracing::info!("lost");
            assert!(matches!(init("info", Format::Json), Err(Error::Installed(_))));
            return;
        }
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let name = "telemetry::tests::a_line_that_cannot_be_written_is_lost_and_nothing_else";
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            // Uncaptured, so that a complaint would really go to standard error.
            .args(["--exact", "--nocapture", name])
            .env(CHILD, "1")
            .stderr(full)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&child.stdout);
        assert!(child.status.success() && said.contains("1 passed"), "{said}");
    }

    #[test]
    fn trace_parents() {
        let parent = TraceParent::parse(&format!("00-{TRACE}-b7ad6b7169203331-01")).unwrap();
        assert_eq!(parent.trace_id.to_string(), TRACE);
        assert_eq!(parent.parent_id, 0xb7ad_6b71_6920_3331);
        assert!(parent.is_sampled);
        for good in [
            format!("00-{TRACE}-b7ad6b7169203331-00"),
            format!("00-{}1-b7ad6b7169203331-ff", "0".repeat(31)),
            format!("01-{TRACE}-b7ad6b7169203331-00"),
            format!("cc-{TRACE}-b7ad6b7169203331-00-what-comes"),
        ] {
            assert!(TraceParent::parse(&good).is_some(), "{good}");
        }
        for bad in [
            String::new(),
            format!("ff-{TRACE}-b7ad6b7169203331-01"),
            format!("00-{TRACE}-b7ad6b7169203331-01-more"),
            format!("00-{TRACE}-b7ad6b7169203331-01 "),
            format!("01-{TRACE}-b7ad6b7169203331-01.more"),
            format!("00-{}-b7ad6b7169203331-01", "0".repeat(32)),
            format!("00-{TRACE}-{}-01", "0".repeat(16)),
            format!("00-{}-b7ad6b7169203331-01", TRACE.to_uppercase()),
            format!("00-{TRACE}-b7ad6b7169203331-0g"),
            format!("0x-{TRACE}-b7ad6b7169203331-01"),
            format!("00_{TRACE}-b7ad6b7169203331-01"),
            format!("00-{TRACE}-b7ad6b7169203331"),
            format!("00-{}é-b7ad6b7169203331-01", &TRACE[2..]),
            "é".repeat(40),
        ] {
            assert_eq!(TraceParent::parse(&bad), None, "{bad}");
        }
    }
}
