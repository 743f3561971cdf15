//! Every setting: one table of them, their flags, variables and keys, and what they amount to in the end.
//!
//! Owns what an operator may say, and names every problem with it at once. Opens no socket and starts nothing;
//! of the files that settings name it reads only what must be there at start.

pub mod address;
pub mod environment;
mod file;
pub mod flags;
mod given;
mod markdown;
mod parse;
pub mod problem;
mod reader;
mod rules;
pub mod table;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use clap::ArgMatches;
use rustls::RootCertStore;

pub use self::address::{Host, HostPort, ListenAddress};
pub use self::environment::{Environment, ProcessEnvironment};
pub use self::markdown::markdown;
pub use self::parse::{LogFormat, Store};
pub use self::problem::{Origin, Problem};
use crate::server;
use crate::token::secret::Secret;

/// Everything that an operator may say, checked.
#[derive(Debug)]
pub struct Settings {
    /// Where to serve gRPC; at least one.
    pub listen: Vec<ListenAddress>,
    /// How long callers' connections are waited for: the contract's times, which nothing sets but a test without them.
    pub connections: server::Config,
    /// Where to serve metrics and probes; `None` for nowhere.
    pub admin_listen: Option<HostPort>,
    /// Whose name to log in with.
    pub credentials: Credentials,
    /// The vendor's URLs; `None` with the sandbox, whose port is known once it listens.
    pub urls: Option<VendorUrls>,
    /// Whether `http` URLs beyond loopback are allowed.
    pub allow_plaintext_upstream: bool,
    /// What to send as `X-TenantSpaceID`: visible ASCII.
    pub tenant_space_id: Option<String>,
    /// The roots that the vendor's certificate must lead to: the system's and `upstream-ca-file`'s, as read at
    /// start; empty if nothing upstream is `https`.
    pub upstream_roots: RootCertStore,
    /// Time to connect to the vendor; positive, as are all that are called timeouts.
    pub connect_timeout: Duration,
    /// Time for one try.
    pub attempt_timeout: Duration,
    /// Time for a call without a deadline.
    pub request_timeout: Duration,
    /// Tries an upstream call, the first included: 1 to 100.
    pub max_attempts: u32,
    /// Tries a second; 0 for no limit.
    pub upstream_rate: u32,
    /// Tries in flight; positive.
    pub upstream_concurrency: u32,
    /// The life to ask for a token: whole seconds, 60 to 3600.
    pub token_lifetime: Duration,
    /// How long a finished task is answered from memory; may be zero.
    pub done_cache_ttl: Duration,
    /// Answers to keep at most; positive.
    pub cache_capacity: u32,
    /// Shortest interval between polls: at least 50 ms, at most `poll_max`.
    pub poll_min: Duration,
    /// Longest interval of the back-off.
    pub poll_max: Duration,
    /// How long failures are absorbed; may be zero.
    pub watch_give_up: Duration,
    /// Watch streams at once; positive.
    pub max_watches: u32,
    /// QueryTask calls at once; positive.
    pub max_in_flight: u32,
    /// The server's TLS; `None` for plaintext.
    pub tls: Option<Tls>,
    /// Callers' bearer tokens.
    pub auth_tokens_file: Option<PathBuf>,
    /// Whether plaintext beyond loopback is allowed.
    pub plaintext: bool,
    /// Time to finish calls.
    pub drain_timeout: Duration,
    /// A tracing filter that can be parsed.
    pub log: String,
    /// How a log line looks.
    pub log_format: LogFormat,
    /// Where to send traces.
    pub otlp_endpoint: Option<String>,
    /// What replicas share.
    pub store: SharedStore,
}

/// Whose name to log in with.
#[derive(Debug)]
pub enum Credentials {
    /// The built-in simulated vendor's, which takes any.
    Sandbox,
    /// An account at the vendor.
    Vendor {
        /// The app key: visible ASCII.
        app_key: String,
        /// The app secret.
        secret: SecretSource,
    },
}

/// Where the app secret comes from.
#[derive(Debug)]
pub enum SecretSource {
    /// It was given as it is, and stays.
    Value(Secret),
    /// It stands in a file, which may change.
    File {
        /// The file.
        path: PathBuf,
        /// What it held at start.
        initial: Secret,
    },
}

/// The vendor's two URLs, in normal form: `http` or `https`, without user, query and fragment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VendorUrls {
    /// Where to log in.
    pub token: String,
    /// Where to ask for a task.
    pub query: String,
}

impl VendorUrls {
    /// The documented paths under a base URL that has neither.
    #[must_use]
    pub fn under(base: &str) -> Self {
        let base = base.trim_end_matches('/');
        Self { token: format!("{base}{TOKEN_PATH}"), query: format!("{base}{QUERY_PATH}") }
    }
}

/// The documented path of the login under a base URL.
pub const TOKEN_PATH: &str = "/apigovernance/api/oauth/tokenByAkSk";
/// The documented path of the task query under a base URL.
pub const QUERY_PATH: &str = "/apiaccess/rest/cc-management/v1/federationUserMgmt/queryTask";

/// The server's TLS files, all PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// The certificate chain.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Roots that callers' certificates must come from.
    pub client_ca: Option<PathBuf>,
}

/// What replicas share, and how it is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedStore {
    /// What and where it is.
    pub place: Store,
    /// The user to log in as.
    pub user: Option<String>,
    /// The password's file.
    pub password_file: Option<PathBuf>,
    /// PEM roots for its TLS.
    pub ca_file: Option<PathBuf>,
    /// Longest that one operation may hold up a caller.
    pub timeout: Duration,
}

/// Settings, with where each came from.
#[derive(Debug)]
pub struct Resolved {
    /// The settings.
    pub settings: Settings,
    rows: Vec<(&'static str, String, Origin)>,
}

impl Resolved {
    /// Every setting as a line `name = value (where it came from)`, secrets hidden.
    #[must_use]
    pub fn describe(&self) -> impl fmt::Display + '_ {
        Description(&self.rows)
    }
}

struct Description<'a>(&'a [(&'static str, String, Origin)]);

impl fmt::Display for Description<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(name, text, origin)| writeln!(f, "{name} = {text} ({origin})"))
    }
}

/// Makes settings of a command's flags, the environment and the file that either names.
///
/// # Errors
/// Every problem there is, each with its setting's name.
pub fn resolve(matches: &ArgMatches, environment: &dyn Environment) -> Result<Resolved, Vec<Problem>> {
    let sources = given::Sources::gather(matches, environment);
    let mut reader = reader::Reader::new(sources);
    let settings = rules::assemble(&mut reader, flags::is_sandboxed(matches));
    let (problems, rows) = reader.finish();
    match settings {
        Some(settings) if problems.is_empty() => Ok(Resolved { settings, rows }),
        _ => Err(problems),
    }
}

#[cfg(test)]
mod tests;
