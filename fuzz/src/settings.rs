//! What operators say, in a file, variables and flags: every problem at once, each with its place, no secret in any of
//! them; and settings that keep their rules.
//!
//! An input is three parts with a line `%%` between them: the TOML file, the environment (`NAME=value`, one a line),
//! and the flags (an argument a line). `hunter2` in it stands for a secret.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::time::Duration;

use clap::ArgMatches;
use federation_gateway::settings::table::{self, Kind, SETTINGS, Setting, Support};
use federation_gateway::settings::{
    self, Credentials, ListenAddress, Origin, Problem, Resolved, Settings, flags,
};
use tempfile::NamedTempFile;

const SECRET: &str = "hunter2";
const CONFIG: &str = "FEDERATION_CONFIG";
/// Longer than any one file's worth of settings.
const MAX_ARGUMENTS: usize = 64;

/// What one input gives.
struct Given {
    file: Vec<u8>,
    /// The file as another reader reads it; `None` if it is no TOML.
    table: Option<toml::Table>,
    environment: BTreeMap<String, OsString>,
    matches: ArgMatches,
    arguments: Vec<Vec<u8>>,
}

thread_local! {
    static COMMAND: RefCell<clap::Command> = RefCell::new(
        clap::Command::new("serve").no_binary_name(true).arg(flags::sandbox()).args(flags::all()),
    );
    static FILE: NamedTempFile = NamedTempFile::with_suffix(".toml").expect("a file can be made");
}

/// See this file's head.
pub fn settings(data: &[u8]) {
    // The settings' own files may be any, but not those that never end or wait for a person.
    if ["/dev", "/proc", "/sys"].iter().any(|place| find(data, place)) {
        return;
    }
    let Some(given) = Given::read(data) else { return };
    let result = given.resolve(&given.environment);
    let problems = match &result {
        Ok(resolved) => {
            given.check_resolved(resolved);
            &[]
        }
        Err(problems) => {
            assert!(!problems.is_empty(), "nothing is wrong, and there are no settings");
            problems.iter().for_each(|problem| given.check_problem(problem));
            check_guesses(problems);
            problems.as_slice()
        }
    };
    given.check_values(problems);
    given.check_one_more(problems);
}

/// A line that is no TOML is told once: what its keys might be is a guess.
fn check_guesses(problems: &[Problem]) {
    let lines = |is_wanted: fn(&Problem) -> bool| -> BTreeSet<usize> {
        let places =
            problems.iter().filter(|problem| is_wanted(problem)).filter_map(|problem| match problem.origin {
                Some(Origin::File { line, .. }) => Some(line),
                _ => None,
            });
        places.collect()
    };
    // An unknown key may have that name too.
    let is_slip = |problem: &Problem| problem.setting == "config" && problem.what != "unknown key";
    let (slips, keys) = (lines(is_slip), lines(|problem| problem.what == "unknown key"));
    assert!(slips.is_disjoint(&keys), "{problems:#?}");
}

fn find(data: &[u8], text: &str) -> bool {
    data.windows(text.len()).any(|window| window == text.as_bytes())
}

fn os(bytes: &[u8]) -> OsString {
    OsString::from_vec(bytes.to_vec())
}

impl Given {
    fn read(data: &[u8]) -> Option<Self> {
        let mut parts: [Vec<&[u8]>; 3] = Default::default();
        let mut part = 0;
        for line in data.split(|byte| *byte == b'\n') {
            if line == b"%%" && part < 2 {
                part += 1;
            } else {
                parts[part].push(line);
            }
        }
        let [file, variables, arguments] = parts;
        let file = file.join(&b'\n');
        let mut environment = BTreeMap::new();
        for line in variables {
            let Some(at) = line.iter().position(|byte| *byte == b'=') else { continue };
            let Ok(name) = std::str::from_utf8(&line[..at]) else { continue };
            environment.insert(name.to_owned(), os(&line[at + 1..]));
        }
        let arguments: Vec<_> =
            arguments.into_iter().filter(|line| !line.is_empty()).map(<[u8]>::to_vec).collect();
        if arguments.len() > MAX_ARGUMENTS || arguments.iter().any(|line| line.starts_with(b"--config")) {
            return None;
        }
        let matches = COMMAND.with_borrow_mut(|command| {
            command.try_get_matches_from_mut(arguments.iter().map(|line| os(line))).ok()
        })?;
        let path = FILE.with(|named| {
            std::fs::write(named.path(), &file).expect("the file can be written");
            named.path().as_os_str().to_owned()
        });
        environment.remove(CONFIG);
        if !file.is_empty() {
            environment.insert(CONFIG.to_owned(), path);
        }
        // Without a word of it https is asked, and the system's roots are read for that: a thousand times the rest.
        if !matches.get_flag(flags::SANDBOX) && !find(data, "base-url") && !find(data, "BASE_URL") {
            environment.insert("FEDERATION_BASE_URL".to_owned(), "http://127.0.0.1:1".into());
        }
        let table = std::str::from_utf8(&file).ok().and_then(|text| text_of(text).parse().ok());
        Some(Self { file, table, environment, matches, arguments })
    }

    fn resolve(&self, environment: &BTreeMap<String, OsString>) -> Result<Resolved, Vec<Problem>> {
        settings::resolve(&self.matches, environment)
    }

    /// The flags, and else the variable, that give a setting; a flag beats a variable.
    fn outside(&self, setting: &Setting) -> Option<Vec<OsString>> {
        let flags = || self.matches.get_many::<OsString>(setting.name).map(|texts| texts.cloned().collect());
        let variable = self.environment.get(&setting.variable()).filter(|text| !text.is_empty());
        let flags: Option<Vec<_>> = if setting.has_flag() { flags() } else { None };
        flags.or_else(|| variable.map(|text| vec![text.clone()]))
    }

    fn check_problem(&self, problem: &Problem) {
        let line = problem.to_string();
        assert!(line.starts_with(&problem.setting) && !problem.what.is_empty(), "{line}");
        let is_plain = |c: char| !c.is_control() && !('\u{202a}'..='\u{202e}').contains(&c);
        assert!(line.chars().all(is_plain), "{line:?} is more than a line");
        assert!(!line.contains(SECRET) || self.may_be_told(), "{line} tells a secret");
        let named = table::find(&problem.setting);
        if problem.what == "unknown key" {
            assert!(named.is_none() && matches!(problem.origin, Some(Origin::File { .. })), "{line}");
        } else {
            assert!(named.is_some() || problem.setting == "config", "{line}");
        }
        match &problem.origin {
            None => {}
            Some(Origin::Default) => panic!("{line}: a default is wrong"),
            Some(Origin::Flag(name)) => assert_eq!(*name, problem.setting),
            Some(Origin::Variable(name)) => {
                let own = named.map_or_else(|| CONFIG.to_owned(), Setting::variable);
                assert_eq!(*name, own, "{line}");
            }
            Some(Origin::File { line: at, column, .. }) => {
                let text = String::from_utf8_lossy(&self.file);
                let place = text_of(&text).split('\n').nth(at - 1).expect("the file has the line");
                assert!((1..=place.chars().count() + 1).contains(column), "{line}: {place:?}");
                if named.is_none() && problem.setting != "config" {
                    let key = place.chars().skip(column - 1).collect::<String>();
                    let is_literal =
                        problem.setting.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
                    let key = key.trim_start_matches(['"', '\'']);
                    assert!(
                        !is_literal || key.starts_with(&problem.setting) || key.contains('\\'),
                        "{line}: {place}"
                    );
                }
            }
        }
    }

    /// Whether `hunter2` stands where a problem may repeat it, as it is no secret there: in a key of the file, or in
    /// what a flag or a variable gives for something that is none.
    fn may_be_told(&self) -> bool {
        let tells = |name: &str| table::find(name).is_none_or(Setting::shows_bad_value);
        let in_flags = self.arguments.iter().any(|argument| {
            let text = String::from_utf8_lossy(argument);
            let name = text.strip_prefix("--").and_then(|text| text.split_once('=')).map(|(name, _)| name);
            text.contains(SECRET) && name.is_none_or(tells)
        });
        let in_variables = SETTINGS.iter().filter(|setting| setting.shows_bad_value()).any(|setting| {
            let text = self.environment.get(&setting.variable());
            text.is_some_and(|text| text.to_string_lossy().contains(SECRET))
        });
        let in_keys = match &self.table {
            Some(table) => table.keys().any(|key| key.contains(SECRET)),
            // Wherever a line looks like a key's, or a key may be written with escapes.
            None => String::from_utf8_lossy(&self.file).lines().any(|line| {
                let key = line.split_once('=').map(|(key, _)| key);
                let key =
                    key.or_else(|| line.trim_start().starts_with('[').then_some(line)).unwrap_or_default();
                key.contains(SECRET) || key.contains('\\')
            }),
        };
        in_flags || in_variables || in_keys
    }

    fn check_resolved(&self, resolved: &Resolved) {
        check_rules(&resolved.settings);
        let shown = resolved.describe().to_string();
        let debug = format!("{resolved:?}");
        // All is shown but the secret.
        let is_elsewhere = SETTINGS.iter().filter(|setting| !setting.is_secret()).any(|setting| {
            let outside = self.outside(setting).unwrap_or_default();
            let file = self.table.as_ref().and_then(|table| table.get(setting.name));
            let file = file.map(|value| format!("{value:?}"));
            outside.iter().any(|text| text.to_string_lossy().contains(SECRET))
                || file.is_some_and(|text| text.contains(SECRET) || text.contains('\\'))
        });
        assert!(is_elsewhere || !shown.contains(SECRET) && !debug.contains(SECRET), "{shown}");
        let rows: Vec<_> = shown.lines().collect();
        assert_eq!(rows.len(), SETTINGS.len());
        for (row, setting) in rows.iter().zip(SETTINGS) {
            let (name, rest) = row.split_once(" = ").expect("a row has a name");
            assert_eq!(name, setting.name);
            let is_flag = setting.has_flag() && self.matches.get_many::<OsString>(name).is_some();
            let is_in_file = self.table.as_ref().is_some_and(|table| table.contains_key(name));
            let origin = match self.outside(setting) {
                Some(_) if is_flag => format!("(flag --{name})"),
                Some(_) => format!("(variable {})", setting.variable()),
                None if is_in_file => ")".to_owned(),
                None => "(default)".to_owned(),
            };
            assert!(rest.ends_with(&origin), "{row}: {origin}");
            if setting.is_secret() {
                assert!(rest.starts_with("[hidden] (") || rest.ends_with("(default)"), "{name} is shown");
            }
        }
    }

    /// Numbers, switches and the like are judged here too: each is a problem if and only if it is wrong.
    fn check_values(&self, problems: &[Problem]) {
        let is_sandboxed = self.matches.get_flag(flags::SANDBOX);
        for setting in SETTINGS.iter().filter(|setting| setting.support == Support::Full) {
            // The sandbox takes no credentials, good ones neither.
            if is_sandboxed && setting.name == "app-key" {
                continue;
            }
            let of_file = || {
                self.table
                    .as_ref()
                    .map(|table| table.get(setting.name).map(|value| file_text(setting.kind, value)))
            };
            let text = match self.outside(setting) {
                Some(texts) => texts.into_iter().next().map(OsString::into_string).map(Result::ok),
                None => match of_file() {
                    Some(text) => text,
                    // What is no TOML may say anything.
                    None if !self.file.is_empty() => continue,
                    None => None,
                },
            };
            let Some(text) = text else { continue };
            let Some(is_good) = is_good(setting.kind, text.as_deref()) else { continue };
            let is_named = problems.iter().any(|problem| problem.setting == setting.name);
            assert_eq!(is_named, !is_good, "{}: {problems:#?}", setting.name);
        }
    }

    /// One fault more is one problem more, and hides none of the others.
    fn check_one_more(&self, problems: &[Problem]) {
        let named: BTreeSet<_> = problems.iter().map(|problem| problem.setting.as_str()).collect();
        let is_free = |name: &&str| {
            let setting = table::find(name).expect("it is a setting");
            !named.contains(*name) && self.outside(setting).is_none()
        };
        let candidates = ["max-watches", "log-format", "drain-timeout"];
        let Some(name) = candidates.into_iter().find(|name| is_free(name)) else { return };
        let setting = table::find(name).expect("it is a setting");
        let mut environment = self.environment.clone();
        environment.insert(setting.variable(), "wrong".into());
        let more = self.resolve(&environment).expect_err("there is a fault");
        let (new, old): (Vec<_>, Vec<_>) = more.into_iter().partition(|problem| problem.setting == name);
        assert!(old == problems, "{old:#?} instead of {problems:#?}");
        assert_eq!(new.len(), 1);
        assert_eq!(new[0].origin, Some(Origin::Variable(setting.variable())));
    }
}

fn text_of(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

/// A value of the file as a text; `None` if it is of a type that the setting doesn't take.
fn file_text(kind: Kind, value: &toml::Value) -> Option<String> {
    match (value, kind) {
        (toml::Value::String(text), _) => Some(text.clone()),
        (toml::Value::Integer(number), Kind::Count { .. }) => Some(number.to_string()),
        (toml::Value::Boolean(value), Kind::Switch) => Some(value.to_string()),
        _ => None,
    }
}

/// Whether a text is a good value; `None` where this reader doesn't know.
fn is_good(kind: Kind, text: Option<&str>) -> Option<bool> {
    let Some(text) = text else { return Some(false) };
    Some(match kind {
        Kind::Count { min, max } => {
            let digits = text.strip_prefix('-').unwrap_or(text);
            let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            let is_negative = text.starts_with('-') && digits.bytes().any(|byte| byte != b'0');
            let digits = digits.trim_start_matches('0');
            let number = if digits.len() > 10 { u64::MAX } else { digits.parse().unwrap_or(0) };
            is_number && !is_negative && (u64::from(min)..=u64::from(max)).contains(&number)
        }
        Kind::Switch => matches!(text, "true" | "false"),
        Kind::LogFormat => matches!(text, "auto" | "text" | "json"),
        Kind::Text => !text.is_empty() && text.bytes().all(|byte| (0x21..=0x7e).contains(&byte)),
        _ => return None,
    })
}

/// The rules that all settings keep (contract, section 4, "Start").
fn check_rules(settings: &Settings) {
    let timeouts = [
        settings.connect_timeout,
        settings.attempt_timeout,
        settings.request_timeout,
        settings.poll_max,
        settings.drain_timeout,
        settings.store.timeout,
    ];
    assert!(timeouts.iter().all(|timeout| !timeout.is_zero()));
    let all = timeouts.iter().chain([&settings.done_cache_ttl, &settings.watch_give_up]);
    assert!(all.into_iter().all(|time| *time <= Duration::from_secs(365 * 24 * 3600)));
    assert!(settings.poll_min >= Duration::from_millis(50) && settings.poll_min <= settings.poll_max);
    let life = settings.token_lifetime;
    assert!(
        (60..=3600).contains(&life.as_secs())
            && life <= Duration::from_secs(3600)
            && life.subsec_nanos() == 0
    );
    let limits = [
        settings.max_attempts,
        settings.upstream_concurrency,
        settings.cache_capacity,
        settings.max_watches,
        settings.max_in_flight,
    ];
    assert!(limits.iter().all(|limit| *limit > 0));
    assert!(!settings.listen.is_empty() && settings.tls.is_none());
    for address in &settings.listen {
        let ListenAddress::Tcp(tcp) = address else { panic!("{address} is not supported") };
        assert!(settings.plaintext || tcp.host.is_loopback(), "{address} is open to all");
        assert_eq!(tcp.to_string().rsplit_once(':').map(|(_, port)| port.parse()), Some(Ok(tcp.port)));
    }
    let is_visible = |text: &str| !text.is_empty() && text.bytes().all(|byte| (0x21..=0x7e).contains(&byte));
    assert!(settings.tenant_space_id.as_deref().is_none_or(is_visible));
    match (&settings.credentials, &settings.urls) {
        (Credentials::Sandbox, None) => {}
        (Credentials::Vendor { app_key, .. }, Some(urls)) => {
            assert!(is_visible(app_key));
            check_url(&urls.token, settings.allow_plaintext_upstream);
            check_url(&urls.query, settings.allow_plaintext_upstream);
            let is_https = [&urls.token, &urls.query].iter().any(|url| url.starts_with("https:"));
            assert!(!is_https || !settings.upstream_roots.is_empty(), "nobody is trusted");
        }
        _ => panic!("the sandbox has no URLs, and a vendor has"),
    }
}

fn check_url(url: &str, is_plaintext_allowed: bool) {
    assert!(!url.contains(['@', '?', '#']), "{url}");
    let Some(rest) = url.strip_prefix("http://") else {
        return assert!(url.starts_with("https://"), "{url}");
    };
    let authority = rest.split('/').next().unwrap_or_default();
    let host = match authority.split_once(']') {
        Some((host, _)) => &host[1..],
        None => authority.split(':').next().unwrap_or_default(),
    };
    let is_loopback = host == "localhost" || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
    assert!(is_plaintext_allowed || is_loopback, "{url} sends credentials for all to read");
}
