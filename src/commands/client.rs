//! What the calling commands share: the flags that say where the gateway is and how long to wait, the channel,
//! the deadline, and how a command runs and ends. Knows no call and no output.

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command};
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Status};

use super::failure::{ConnectError, Failure};
use super::screen;

const DEFAULT_ADDRESS: &str = "http://127.0.0.1:50051";

/// How long an attempt to connect may take when nothing shorter was asked: a connection that takes longer than
/// three lost SYNs (1, 2 and 4 s apart) is none.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A silent connection is asked for a sign of life after this, and given up after as long again. The gateway
/// lets callers ping as often as they like.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// The most that `google.protobuf.Duration` holds; `grpc-timeout` holds a little more.
const LONGEST: Duration = Duration::from_secs(315_576_000_000);

/// Flags that are to come, each a variable too.
const UNSUPPORTED: [&str; 4] = ["ca-file", "cert", "key", "token-file"];

/// Adds the flags that say how to reach the gateway.
pub(super) fn with_connection(command: Command) -> Command {
    let address = Arg::new("addr")
        .long("addr")
        .value_name("URL")
        .help(format!("The gateway's address [env: FEDERATION_ADDR] [default: {DEFAULT_ADDRESS}]"));
    let unsupported = UNSUPPORTED.map(|name| {
        // Not in the help as long as they do nothing; refused by name all the same, where a value is empty too.
        Arg::new(name).long(name).value_name("FILE").hide(true)
    });
    command.arg(address).args(unsupported)
}

/// Adds the flags of a command that makes a call of the contract.
pub(super) fn with_call(command: Command) -> Command {
    with_connection(command).arg(duration("timeout", "The call's deadline, like 30s")).arg(
        Arg::new("json").long("json").action(ArgAction::SetTrue).help("Print proto3-JSON, one object a line"),
    )
}

/// A flag that takes a duration.
pub(super) fn duration(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name)
        .long(name)
        .value_name("DUR")
        .value_parser(parse_duration)
        .allow_hyphen_values(true)
        .help(help)
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let length = humantime::parse_duration(text)
        .map_err(|error| format!("{error} (durations are like 500ms, 30s, 5m)"))?;
    if length > LONGEST { Err("longer than 10,000 years".to_owned()) } else { Ok(length) }
}

/// A request's duration field, if its flag was given.
pub(super) fn field(matches: &ArgMatches, name: &str) -> Option<prost_types::Duration> {
    matches.get_one::<Duration>(name).copied().map(proto)
}

/// A flag's duration as a request holds it.
pub(super) fn proto(length: Duration) -> prost_types::Duration {
    length.try_into().expect("the flag takes no more than the field holds")
}

/// Where the gateway is.
#[derive(Debug)]
pub(super) struct Target {
    address: String,
    endpoint: Endpoint,
}

impl Target {
    /// What flags and variables say; the environment is read through `variable`, so that tests need none.
    pub(super) fn new(
        matches: &ArgMatches,
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self, Failure> {
        let variable = |name: &str| {
            let value = variable(&format!("FEDERATION_{}", name.to_ascii_uppercase().replace('-', "_")));
            value.filter(|value| !value.is_empty())
        };
        for name in UNSUPPORTED {
            if matches.contains_id(name) || variable(name).is_some() {
                return Err(Failure::Usage(format!("--{name}: not supported by this version")));
            }
        }
        let address = match (matches.get_one::<String>("addr"), variable("addr")) {
            (Some(flag), _) => flag.clone(),
            (None, Some(value)) => value.to_string_lossy().into_owned(),
            (None, None) => DEFAULT_ADDRESS.to_owned(),
        };
        let endpoint = Endpoint::from(uri(&address)?)
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE);
        Ok(Self { address, endpoint })
    }

    /// A connection that stands. No proxy variable concerns it: the transport reads none.
    pub(super) async fn connect(&self) -> Result<Channel, Failure> {
        // The transport's own bound leaves out the look-up of the host's name.
        let cause = match tokio::time::timeout(CONNECT_TIMEOUT, self.endpoint.connect()).await {
            Ok(Ok(channel)) => return Ok(channel),
            Ok(Err(error)) => ConnectError::Transport(error),
            Err(_) => ConnectError::TimedOut(CONNECT_TIMEOUT),
        };
        Err(Failure::Connect { address: self.address.clone(), cause })
    }
}

fn uri(address: &str) -> Result<Uri, Failure> {
    let refused = |why: &str| Failure::Usage(format!("--addr: {why}"));
    let lower = address.to_ascii_lowercase();
    if lower.starts_with("https:") {
        return Err(refused("https:// is not supported by this version"));
    }
    if lower.starts_with("unix:") {
        return Err(refused("unix: is not supported by this version"));
    }
    let malformed = || refused("not an address like http://host:port");
    if !lower.starts_with("http://") {
        return Err(malformed());
    }
    let uri: Uri = address.parse().map_err(|_| malformed())?;
    let is_plain = uri.authority().is_some_and(|authority| {
        let (host, rest) = (authority.host(), authority.as_str());
        // A port that is no number parses too; a user part would be sent to nobody.
        !host.is_empty()
            && !rest.contains('@')
            && (rest.len() == host.len() || authority.port_u16().is_some())
    });
    if is_plain && uri.path() == "/" && uri.query().is_none() { Ok(uri) } else { Err(malformed()) }
}

/// By when a command has to be done, if it has to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline {
    at: Option<Instant>,
    length: Duration,
}

impl Deadline {
    /// The deadline that `--timeout` sets, counted from now.
    pub(super) fn new(matches: &ArgMatches) -> Self {
        matches
            .get_one::<Duration>("timeout")
            .map_or(Self { at: None, length: Duration::ZERO }, |&length| Self::after(length))
    }

    /// A deadline that long from now.
    pub(super) fn after(length: Duration) -> Self {
        // One beyond what the clock can say never comes.
        Self { at: Instant::now().checked_add(length), length }
    }

    /// A request that tells the server what is left of the time.
    pub(super) fn request<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        if let Some(at) = self.at {
            request.set_timeout(at.saturating_duration_since(Instant::now()));
        }
        request
    }

    /// What `work` comes to, or a failure when the time is over first.
    pub(super) async fn bound<T>(
        &self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let Some(at) = self.at else { return work.await };
        match tokio::time::timeout_at(at, work).await {
            Err(_) => Err(Failure::Deadline(self.length)),
            Ok(Err(Failure::Status(status))) if is_timer(&status) => Err(Failure::Deadline(self.length)),
            Ok(result) => result,
        }
    }
}

/// Whether a status comes from the transport's own timer for `grpc-timeout`, which ends at the same moment as
/// ours and says less.
fn is_timer(status: &Status) -> bool {
    status.code() == Code::Cancelled && status.message() == "Timeout expired"
}

/// Runs a command's work on a runtime of its own and gives what it comes to.
pub(super) fn run<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(work);
    // A look-up of a host's name can't be called off: it must not hold up the exit.
    runtime.shutdown_background();
    result
}

/// Runs the work of a command for people: Ctrl-C ends it with 130, a failure is told on standard error.
pub(super) fn run_for_people(what: &str, work: impl Future<Output = Result<(), Failure>>) -> ExitCode {
    let result = exit_on_interrupt().and_then(|()| run(work));
    let Err(failure) = result else { return ExitCode::SUCCESS };
    screen::complain(&failure.words(what));
    failure.exit_code()
}

/// Ends the process with 130 on Ctrl-C, from a thread of its own, so that a write nobody takes can't hold it up.
fn exit_on_interrupt() -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // Registered here, before any output, so that whoever saw some can rely on it.
    let entered = runtime.enter();
    let mut interrupts = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
    drop(entered);
    std::thread::Builder::new().name("interrupt".to_owned()).spawn(move || {
        runtime.block_on(interrupts.recv());
        if screen::is_live() {
            // The terminal wrote ^C under the last frame; the shell's prompt belongs below it.
            screen::complain("\n");
        }
        std::process::exit(130)
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(line: &[&str], variables: &[(&str, &str)]) -> Result<String, String> {
        let command = with_call(Command::new("query")).no_binary_name(true);
        let matches = command.try_get_matches_from(line).map_err(|error| error.to_string())?;
        let variable = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(value))
        };
        Target::new(&matches, variable).map(|target| target.address).map_err(|failure| failure.to_string())
    }

    #[test]
    fn flag_beats_variable_beats_default_and_empty_is_unset() {
        assert_eq!(target(&[], &[]).unwrap(), DEFAULT_ADDRESS);
        assert_eq!(target(&[], &[("FEDERATION_ADDR", "")]).unwrap(), DEFAULT_ADDRESS);
        let variable = [("FEDERATION_ADDR", "http://[::1]:1")];
        assert_eq!(target(&[], &variable).unwrap(), "http://[::1]:1");
        assert_eq!(target(&["--addr", "http://b:2/"], &variable).unwrap(), "http://b:2/");
    }

    #[test]
    fn what_is_to_come_is_refused_by_name() {
        for name in UNSUPPORTED {
            let refused = format!("--{name}: not supported by this version");
            let flag = format!("--{name}=/f");
            assert_eq!(target(&[&flag], &[]).unwrap_err(), refused);
            let variable = format!("FEDERATION_{}", name.to_uppercase().replace('-', "_"));
            assert_eq!(target(&[], &[(&variable, "/f")]).unwrap_err(), refused);
            assert!(target(&[], &[(&variable, "")]).is_ok());
        }
        for (address, words) in [
            ("https://a:1", "--addr: https:// is not supported by this version"),
            ("HTTPS://a:1", "--addr: https:// is not supported by this version"),
            ("unix:/run/s", "--addr: unix: is not supported by this version"),
        ] {
            assert_eq!(target(&["--addr", address], &[]).unwrap_err(), words);
            assert_eq!(target(&[], &[("FEDERATION_ADDR", address)]).unwrap_err(), words);
        }
    }

    #[test]
    fn an_address_is_a_host_and_a_port() {
        for good in ["http://a", "http://a:1/", "http://127.0.0.1:50051", "http://[::1]:9", "HTTP://a:1"] {
            assert!(target(&["--addr", good], &[]).is_ok(), "{good}");
        }
        for bad in [
            "",
            "a:1",
            "127.0.0.1:1",
            "http://",
            "http://:1",
            "http://a:x",
            "http://a:99999",
            "http://a:",
            "ftp://a",
            "http://u@a:1",
            "http://u:p@a:1",
            "http://a:1/x",
            "http://a:1?x",
            "http://a b",
        ] {
            let words = target(&["--addr", bad], &[]).unwrap_err();
            assert_eq!(words, "--addr: not an address like http://host:port", "{bad}");
        }
    }

    #[test]
    fn durations_are_checked_where_they_are_typed() {
        for bad in ["", "x", "5", "-1s", "99999999999999999y", "20000y"] {
            let words = target(&[&format!("--timeout={bad}")], &[]).unwrap_err();
            assert!(words.contains("--timeout"), "{words}");
        }
        assert!(target(&["--timeout", "9999y"], &[]).is_ok());
    }

    #[tokio::test]
    async fn the_longest_deadline_can_be_told() {
        let request = Deadline::after(LONGEST).request(());
        assert!(request.metadata().contains_key("grpc-timeout"));
    }
}
