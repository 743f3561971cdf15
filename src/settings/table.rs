//! The one definition of every setting: flags, variables, keys, the README's table and the bounds come from here.

use std::time::Duration;

/// The longest duration that is taken: far beyond any use, and far from where adding it to an instant overflows.
pub const MAX_DURATION: Duration = Duration::from_secs(365 * 24 * 3600);

const NO_TIME: Duration = Duration::ZERO;
/// "Positive": the smallest duration that is not zero.
const SOME_TIME: Duration = Duration::from_nanos(1);

/// One setting, as people and programs see it.
#[derive(Debug)]
pub struct Setting {
    /// The name: the flag without its dashes, and the key in the file.
    pub name: &'static str,
    /// Under which heading the help lists it.
    pub group: &'static str,
    /// What its text means, with its bounds.
    pub kind: Kind,
    /// The default, written as one would give it; `None` if it is unset.
    pub default: Option<&'static str>,
    /// One line for the help.
    pub help: &'static str,
    /// What the README adds to `help`.
    pub about: &'static str,
    /// What this version does with it.
    pub support: Support,
}

/// What a setting's text means, with its bounds where it has some.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the bounds are inclusive and say what they are")]
pub enum Kind {
    /// A list of addresses to listen on.
    Addresses,
    /// An address to listen on, or `off`.
    Address,
    /// An http or https URL without user, query and fragment.
    Url,
    /// Visible ASCII.
    Text,
    /// A text that is shown nowhere, and that no command line may hold.
    Secret,
    /// A file.
    Path,
    /// A length of time; `whole_seconds` if no fraction of one will do.
    Duration { min: Duration, max: Duration, whole_seconds: bool },
    /// A number.
    Count { min: u32, max: u32 },
    /// True or false.
    Switch,
    /// A tracing filter.
    Filter,
    /// How a log line looks.
    LogFormat,
    /// Where replicas share what they know.
    Store,
}

/// What this version does with a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// It has its effect.
    Full,
    /// It has its effect, but `unix:` addresses in it are refused.
    NoUnixSocket,
    /// Anything but its default is refused.
    None,
}

impl Setting {
    /// Whether a flag gives it: all but secrets, as a command line is for all to read.
    #[must_use]
    pub fn has_flag(&self) -> bool {
        !self.is_secret()
    }

    /// Whether its value is shown nowhere.
    #[must_use]
    pub fn is_secret(&self) -> bool {
        self.kind == Kind::Secret
    }

    /// Whether a problem may repeat the bad value. URLs may hold a password, and a secret pasted beside its place
    /// would end up in a text.
    #[must_use]
    pub fn shows_bad_value(&self) -> bool {
        !matches!(self.kind, Kind::Secret | Kind::Text | Kind::Url | Kind::Store)
    }

    /// The environment variable that gives it.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("FEDERATION_{}", self.name.replace('-', "_").to_ascii_uppercase())
    }
}

/// The setting of that name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.name == name)
}

const fn setting(name: &'static str, group: &'static str, kind: Kind, help: &'static str) -> Setting {
    Setting { name, group, kind, default: None, help, about: "", support: Support::Full }
}

impl Setting {
    const fn default(mut self, default: &'static str) -> Self {
        self.default = Some(default);
        self
    }

    const fn about(mut self, about: &'static str) -> Self {
        self.about = about;
        self
    }

    const fn supported(mut self, support: Support) -> Self {
        self.support = support;
        self
    }
}

const fn duration(min: Duration) -> Kind {
    Kind::Duration { min, max: MAX_DURATION, whole_seconds: false }
}

const fn count(min: u32, max: u32) -> Kind {
    Kind::Count { min, max }
}

const LISTEN: &str = "Listening";
const UPSTREAM: &str = "Upstream";
const ANSWERS: &str = "Answers and watches";
const CALLERS: &str = "Callers";
const OPERATION: &str = "Operation";
const REPLICAS: &str = "Replicas";

/// Every setting, in the order in which help, README and `check` list them.
pub static SETTINGS: &[Setting] = &[
    setting("listen", LISTEN, Kind::Addresses, "Where to serve gRPC: host:port or unix:/path")
        .default("127.0.0.1:50051")
        .about("A list. Port 0 picks one. On a unix socket there is no TLS; callers' tokens apply.")
        .supported(Support::NoUnixSocket),
    setting("admin-listen", LISTEN, Kind::Address, "Where to serve metrics and probes over HTTP, or off")
        .default("127.0.0.1:9464")
        .about("`/metrics`, `/livez`, `/readyz`."),
    setting("base-url", UPSTREAM, Kind::Url, "The vendor's address")
        .default("https://service.besclouds.com")
        .about("No user, query or fragment; a path in it is kept."),
    setting("token-url", UPSTREAM, Kind::Url, "Where to log in")
        .about("By default the documented path under `base-url`."),
    setting("query-url", UPSTREAM, Kind::Url, "Where to ask for a task")
        .about("By default the documented path under `base-url`."),
    setting("app-key", UPSTREAM, Kind::Text, "The key the vendor gave")
        .about("Required without `--sandbox`. Visible ASCII."),
    setting("app-secret", UPSTREAM, Kind::Secret, "The secret the vendor gave")
        .about("This or `app-secret-file` is required without `--sandbox`. No flag, as a command line is for all to read."),
    setting("app-secret-file", UPSTREAM, Kind::Path, "A file that holds the secret the vendor gave")
        .about("Its trailing newline is dropped; at most 8 KiB. Read again within 10 s of a change."),
    setting("allow-plaintext-upstream", UPSTREAM, Kind::Switch, "Allow http:// upstreams beyond loopback")
        .default("false")
        .about("Credentials and tokens then cross the network for all to read."),
    setting("tenant-space-id", UPSTREAM, Kind::Text, "The tenant, where the vendor's region has several")
        .about("Sent as `X-TenantSpaceID`. Visible ASCII."),
    setting("upstream-ca-file", UPSTREAM, Kind::Path, "PEM roots to trust beside the system's")
        .about("Read at start."),
    setting("connect-timeout", UPSTREAM, duration(SOME_TIME), "Time to connect to the vendor").default("3s"),
    setting("attempt-timeout", UPSTREAM, duration(SOME_TIME), "Time for one try, from connecting to the last byte")
        .default("10s"),
    setting("request-timeout", UPSTREAM, duration(SOME_TIME), "Time for a call whose caller set no deadline")
        .default("30s")
        .about("Tries and waits included."),
    // A hundred tries, at most 2 s apart, outlive any sensible deadline.
    setting("max-attempts", UPSTREAM, count(1, 100), "Tries an upstream call, the first one included")
        .default("3")
        .about("At most 100."),
    setting("upstream-rate", UPSTREAM, count(0, 1_000_000), "Tries a second, over all calls; 0 for no limit")
        .default("0")
        .about(
            "A burst of one second's worth is allowed. A call waits for its turn, in order, at most \
             `request-timeout`. Polls start at most three quarters of it.",
        ),
    setting("upstream-concurrency", UPSTREAM, count(1, 1_000_000), "Tries in flight at once")
        .default("256")
        .about(
            "A call waits for its turn, in order, at most `request-timeout`. Polls hold at most three quarters \
             of them.",
        ),
    setting(
        "token-lifetime",
        UPSTREAM,
        Kind::Duration { min: Duration::from_secs(60), max: Duration::from_secs(3600), whole_seconds: true },
        "Life to ask for a token",
    )
    .default("3600s")
    .about("Sent as `X-Token-Expire`; whole seconds, 60s to 3600s."),
    setting("done-cache-ttl", ANSWERS, duration(NO_TIME), "How long a finished task is answered from memory")
        .default("5m")
        .about("0s for not at all."),
    // Memory is bounded by bytes as well; this only keeps tables of a sane size.
    setting("cache-capacity", ANSWERS, count(1, 10_000_000), "Answers to keep in memory at most")
        .default("10000")
        .about("Beside it, 256 MiB is the bound."),
    setting("poll-min", ANSWERS, duration(Duration::from_millis(50)), "Shortest time between polls of a task")
        .default("1s")
        .about("At least 50ms, at most `poll-max`."),
    setting("poll-max", ANSWERS, duration(SOME_TIME), "Longest time between polls of a task that stays the same")
        .default("15s"),
    setting("watch-give-up", ANSWERS, duration(NO_TIME), "How long a watch outlives failing polls")
        .default("5m")
        .about("0s: the first failure ends it."),
    setting("max-watches", CALLERS, count(1, 10_000_000), "Watch streams at once")
        .default("100000")
        .about("`WatchTask` and `Health.Watch` together. More are refused at once."),
    setting("max-in-flight", CALLERS, count(1, 10_000_000), "QueryTask calls at once")
        .default("10000")
        .about("More are refused at once."),
    setting("tls-cert", CALLERS, Kind::Path, "Serve over TLS with this PEM certificate chain")
        .about("With `tls-key`. Read again within 10 s of a change.")
        .supported(Support::None),
    setting("tls-key", CALLERS, Kind::Path, "The certificate's PEM key").supported(Support::None),
    setting("tls-client-ca", CALLERS, Kind::Path, "PEM roots that callers' certificates must come from")
        .supported(Support::None),
    setting("auth-tokens-file", CALLERS, Kind::Path, "Callers' bearer tokens, one a line")
        .about("A file without tokens lets nobody in.")
        .supported(Support::None),
    setting("plaintext", CALLERS, Kind::Switch, "Allow a listen address beyond loopback without TLS")
        .default("false")
        .about("Otherwise refused at start."),
    setting("drain-timeout", OPERATION, duration(SOME_TIME), "Time to finish calls after SIGTERM or SIGINT")
        .default("25s"),
    setting("log", OPERATION, Kind::Filter, "What to log: a level or a tracing filter")
        .default("info")
        .about("For example `info,federation_gateway=debug`. Logs go to standard error."),
    setting("log-format", OPERATION, Kind::LogFormat, "How to log: auto, text or json")
        .default("auto")
        .about("`auto` is `text` on a terminal, else `json`."),
    setting("otlp-endpoint", OPERATION, Kind::Url, "Where to send OTLP traces, over gRPC").supported(Support::None),
    setting("store", REPLICAS, Kind::Store, "What replicas share: memory, or a Redis or Valkey")
        .default("memory")
        .about(
            "`memory`, `redis://host:port/db`, `rediss://…`, or a cluster's seeds \
             `redis-cluster://host:port,host:port` (`rediss-cluster://…`).",
        )
        .supported(Support::None),
    setting("store-user", REPLICAS, Kind::Text, "The store's user").supported(Support::None),
    setting("store-password-file", REPLICAS, Kind::Path, "A file that holds the store's password")
        .about("Read again within 10 s of a change.")
        .supported(Support::None),
    setting("store-ca-file", REPLICAS, Kind::Path, "PEM roots for the store's TLS").supported(Support::None),
    setting("store-timeout", REPLICAS, duration(SOME_TIME), "Longest that one store operation may hold up a caller")
        .default("250ms")
        .supported(Support::None),
];
