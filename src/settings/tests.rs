//! The whole way from flags, variables and a file to settings or problems.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use super::table::{Kind, SETTINGS, Support};
use super::*;

/// What a secret is in these tests: no message may hold it.
const SECRET: &str = "hunter2-secret";

type Variables<'a> = BTreeMap<&'a str, &'a str>;

fn command() -> clap::Command {
    clap::Command::new("serve").no_binary_name(true).arg(flags::sandbox()).args(flags::all())
}

fn resolve_with(flags: &[&str], variables: &dyn Environment) -> Result<Resolved, Vec<String>> {
    let matches = command().try_get_matches_from(flags).unwrap();
    let result = resolve(&matches, variables);
    if let Ok(resolved) = &result {
        assert!(!resolved.describe().to_string().contains(SECRET));
        assert!(!format!("{resolved:?}").contains(SECRET));
    }
    result.map_err(|problems| {
        let lines: Vec<_> = problems.iter().map(ToString::to_string).collect();
        for line in &lines {
            assert!(!line.contains(SECRET) && !line.contains('\n'), "{line}");
            let name = line.split(':').next().unwrap();
            assert!(
                name == "config" || !line.contains(": unknown key") || table::find(name).is_none(),
                "{line}"
            );
        }
        lines
    })
}

/// With credentials beside what is given.
fn good(flags: &[&str], variables: &[(&str, &str)]) -> Settings {
    resolve_with(flags, &with_credentials(variables)).unwrap().settings
}

/// The problems, with credentials beside what is given.
fn bad(flags: &[&str], variables: &[(&str, &str)]) -> Vec<String> {
    resolve_with(flags, &with_credentials(variables)).unwrap_err()
}

fn with_credentials<'a>(variables: &[(&'a str, &'a str)]) -> Variables<'a> {
    let credentials = [("FEDERATION_APP_KEY", "key"), ("FEDERATION_APP_SECRET", SECRET)];
    credentials.into_iter().chain(variables.iter().copied()).collect()
}

fn file(text: &str) -> (tempfile::TempDir, String) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("f.toml");
    std::fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (directory, path)
}

#[test]
fn defaults_are_the_contract_s() {
    let contract = [
        ("listen", "127.0.0.1:50051"),
        ("admin-listen", "127.0.0.1:9464"),
        ("base-url", "https://service.besclouds.com"),
        ("token-url", ""),
        ("query-url", ""),
        ("app-key", ""),
        ("app-secret", ""),
        ("app-secret-file", ""),
        ("allow-plaintext-upstream", "false"),
        ("tenant-space-id", ""),
        ("upstream-ca-file", ""),
        ("connect-timeout", "3s"),
        ("attempt-timeout", "10s"),
        ("request-timeout", "30s"),
        ("max-attempts", "3"),
        ("upstream-rate", "0"),
        ("upstream-concurrency", "256"),
        ("token-lifetime", "3600s"),
        ("done-cache-ttl", "5m"),
        ("cache-capacity", "10000"),
        ("poll-min", "1s"),
        ("poll-max", "15s"),
        ("watch-give-up", "5m"),
        ("max-watches", "100000"),
        ("max-in-flight", "10000"),
        ("tls-cert", ""),
        ("tls-key", ""),
        ("tls-client-ca", ""),
        ("auth-tokens-file", ""),
        ("plaintext", "false"),
        ("drain-timeout", "25s"),
        ("log", "info"),
        ("log-format", "auto"),
        ("otlp-endpoint", ""),
        ("store", "memory"),
        ("store-user", ""),
        ("store-password-file", ""),
        ("store-ca-file", ""),
        ("store-timeout", "250ms"),
    ];
    let table: Vec<_> = SETTINGS.iter().map(|s| (s.name, s.default.unwrap_or_default())).collect();
    assert_eq!(table, contract);
}

#[test]
fn without_a_word_the_defaults_hold() {
    let settings = good(&[], &[]);
    let seconds = Duration::from_secs;
    assert_eq!(settings.listen[0].to_string(), "127.0.0.1:50051");
    assert_eq!(settings.admin_listen.unwrap().to_string(), "127.0.0.1:9464");
    let urls = settings.urls.unwrap();
    assert_eq!(urls.token, "https://service.besclouds.com/apigovernance/api/oauth/tokenByAkSk");
    let query = "https://service.besclouds.com/apiaccess/rest/cc-management/v1/federationUserMgmt/queryTask";
    assert_eq!(urls.query, query);
    let timeouts = (settings.connect_timeout, settings.attempt_timeout, settings.request_timeout);
    assert_eq!(timeouts, (seconds(3), seconds(10), seconds(30)));
    assert_eq!((settings.max_attempts, settings.upstream_rate, settings.upstream_concurrency), (3, 0, 256));
    assert_eq!(settings.token_lifetime, seconds(3600));
    assert_eq!((settings.done_cache_ttl, settings.cache_capacity), (seconds(300), 10_000));
    let polls = (settings.poll_min, settings.poll_max, settings.watch_give_up);
    assert_eq!(polls, (seconds(1), seconds(15), seconds(300)));
    assert_eq!((settings.max_watches, settings.max_in_flight), (100_000, 10_000));
    assert_eq!(settings.drain_timeout, seconds(25));
    assert_eq!((settings.log.as_str(), settings.log_format), ("info", LogFormat::Auto));
    assert_eq!((settings.store.place, settings.store.timeout), (Store::Memory, Duration::from_millis(250)));
    assert!(!settings.plaintext && !settings.allow_plaintext_upstream && settings.tls.is_none());
}

#[test]
fn names_follow_one_rule() {
    let poll_min = table::find("poll-min").unwrap();
    assert_eq!(poll_min.variable(), "FEDERATION_POLL_MIN");
    let command = command();
    let flags: Vec<_> = command.get_arguments().map(|arg| arg.get_long().unwrap_or_default()).collect();
    for setting in SETTINGS {
        assert_eq!(flags.contains(&setting.name), setting.name != "app-secret", "{}", setting.name);
        // A default that could not be read would make the reader's `expect` fail.
        let is_fixed = matches!(setting.kind, Kind::Duration { .. } | Kind::Count { .. } | Kind::Switch);
        assert!(!is_fixed || setting.default.is_some(), "{}", setting.name);
    }
}

#[test]
fn flag_beats_environment_beats_file() {
    let (_directory, path) =
        file("poll-min = \"3s\"\npoll-max = \"9s\"\nmax-attempts = 7\nlisten = [\"127.0.0.1:3\"]\n");
    let variables = with_credentials(&[
        ("FEDERATION_CONFIG", &path),
        ("FEDERATION_POLL_MIN", "2s"),
        ("FEDERATION_POLL_MAX", "8s"),
        ("FEDERATION_MAX_ATTEMPTS", ""),
        ("FEDERATION_LISTEN", "127.0.0.1:1, localhost:2"),
        ("FEDERATION_PORT", "tcp://10.0.0.1:80"),
    ]);
    let resolved = resolve_with(&["--poll-min", "1500ms"], &variables).unwrap();
    let settings = &resolved.settings;
    assert_eq!(settings.poll_min, Duration::from_millis(1500));
    assert_eq!(settings.poll_max, Duration::from_secs(8));
    assert_eq!(settings.max_attempts, 7, "an empty variable counts as unset");
    let listen: Vec<_> = settings.listen.iter().map(ToString::to_string).collect();
    assert_eq!(listen, ["127.0.0.1:1", "localhost:2"]);
    let shown = resolved.describe().to_string();
    for line in [
        "poll-min = 1500ms (flag --poll-min)",
        "poll-max = 8s (variable FEDERATION_POLL_MAX)",
        &format!("max-attempts = 7 ({path}:3:16)"),
        "listen = 127.0.0.1:1,localhost:2 (variable FEDERATION_LISTEN)",
        "app-key = key (variable FEDERATION_APP_KEY)",
        "app-secret = [hidden] (variable FEDERATION_APP_SECRET)",
        "token-lifetime = 3600s (default)",
        "tls-cert = (unset) (default)",
        "token-url = https://service.besclouds.com/apigovernance/api/oauth/tokenByAkSk (default)",
    ] {
        assert!(shown.lines().any(|shown| shown == line), "{line}\n{shown}");
    }
    assert_eq!(shown.lines().count(), SETTINGS.len());
}

#[test]
fn the_flag_s_file_beats_the_variable_s() {
    let (_one, first) = file("max-attempts = 4");
    let (_two, second) = file("max-attempts = 5");
    assert_eq!(good(&["--config", &first], &[("FEDERATION_CONFIG", &second)]).max_attempts, 4);
    assert_eq!(good(&[], &[("FEDERATION_CONFIG", &second)]).max_attempts, 5);
    assert_eq!(good(&[], &[("FEDERATION_CONFIG", "")]).max_attempts, 3);
    let problems = bad(&["--config", "/no/such.toml"], &[]);
    assert!(problems[0].starts_with("config: /no/such.toml can't be read"), "{problems:?}");
    assert!(problems[0].contains("(flag --config)"), "{problems:?}");
}

#[test]
fn list_flags_repeat_and_hold_commas() {
    let flags = ["--listen", "127.0.0.1:1,localhost:2", "--listen=[::1]:3", "--admin-listen", "off"];
    let settings = good(&flags, &[]);
    let listen: Vec<_> = settings.listen.iter().map(ToString::to_string).collect();
    assert_eq!(listen, ["127.0.0.1:1", "localhost:2", "[::1]:3"]);
    assert_eq!(settings.admin_listen, None);
}

#[test]
fn every_problem_at_once() {
    let (_directory, path) = file(
        "connect-timeout = \"5\"\nnonsense = \"hunter2-secret\"\napp-secret = \"hunter2-secret\"\nlog = \"a=hunter2-secret\"\n\
         request-timeout = 7\n",
    );
    let variables = BTreeMap::from([
        ("FEDERATION_CONFIG", path.as_str()),
        ("FEDERATION_POLL_MIN", "10ms"),
        ("FEDERATION_MAX_ATTEMPTS", "many"),
        ("FEDERATION_TENANT_SPACE_ID", "hunter2-secret \n"),
        ("FEDERATION_PLAINTEXT", "yes"),
        ("FEDERATION_APP_SECRET_FILE", "/no/such"),
    ]);
    let flags = [
        "--token-lifetime",
        "2h",
        "--listen",
        "7",
        "--base-url",
        "https://hunter2-secret@h",
        "--store",
        "redis://u:hunter2-secret@h:1",
    ];
    let problems = resolve_with(&flags, &variables).unwrap_err();
    let expected = [
        format!("nonsense: unknown key ({path}:2:1)"),
        format!("request-timeout: the value is an integer ({path}:5:19)"),
        "listen: \"7\" has no port (flag --listen)".to_owned(),
        "base-url: the value holds a user (flag --base-url)".to_owned(),
        "app-key: missing; ".to_owned(),
        format!("app-secret: given beside app-secret-file (variable FEDERATION_APP_SECRET_FILE) ({path}:3:14)"),
        "app-secret-file: /no/such can't be read: No such file or directory (os error 2) (variable FEDERATION_APP_SECRET_FILE)".to_owned(),
        "tenant-space-id: the value holds more than visible ASCII (variable FEDERATION_TENANT_SPACE_ID)".to_owned(),
        format!("connect-timeout: the value has no unit ({path}:1:19)"),
        "max-attempts: \"many\" is no whole number (variable FEDERATION_MAX_ATTEMPTS)".to_owned(),
        "token-lifetime: \"2h\" is above 3600s (flag --token-lifetime)".to_owned(),
        "poll-min: \"10ms\" is below 50ms (variable FEDERATION_POLL_MIN)".to_owned(),
        "plaintext: \"yes\" is neither true nor false (variable FEDERATION_PLAINTEXT)".to_owned(),
        format!("log: the value is no tracing filter ({path}:4:7)"),
        "store: the value holds a user (flag --store)".to_owned(),
    ];
    assert_eq!(problems.len(), expected.len(), "{problems:#?}");
    for (problem, expected) in problems.iter().zip(&expected) {
        assert!(problem.starts_with(expected), "{problem}\n{expected}");
        assert!(problem.contains("; "), "says what to do: {problem}");
    }
}

#[test]
fn a_broken_file_hides_nothing_else() {
    let (_directory, path) = file("app-secret = hunter2-secret\npoll-min = \"1ms\"\n");
    let variables = BTreeMap::from([("FEDERATION_CONFIG", path.as_str()), ("FEDERATION_MAX_ATTEMPTS", "0")]);
    let problems = resolve_with(&[], &variables).unwrap_err();
    assert_eq!(problems.len(), 3, "{problems:#?}");
    assert!(problems[0].starts_with(&format!("config: not valid TOML: a text without quotes ({path}:1:14)")));
    assert!(problems[1].starts_with("max-attempts: \"0\" is not positive"));
    assert!(problems[2].starts_with(&format!("poll-min: the value is below 50ms ({path}:2:12)")));
}

#[test]
fn bytes_that_are_no_text_are_a_named_problem() {
    let bytes = |text: &[u8]| OsString::from_vec(text.to_vec());
    let variables = BTreeMap::from([
        ("FEDERATION_APP_KEY".to_owned(), bytes(b"key")),
        ("FEDERATION_APP_SECRET".to_owned(), bytes(b"hunter2-secret\xff")),
        ("FEDERATION_LOG".to_owned(), bytes(b"\xff")),
    ]);
    let flag = bytes(b"--poll-min=\xff");
    let matches = command().try_get_matches_from([flag]).unwrap();
    let problems: Vec<_> =
        resolve(&matches, &variables).unwrap_err().iter().map(ToString::to_string).collect();
    assert_eq!(
        problems,
        [
            "app-secret: the value is not UTF-8 text (variable FEDERATION_APP_SECRET); give it as UTF-8",
            "poll-min: the value is not UTF-8 text (flag --poll-min); give it as UTF-8",
            "log: the value is not UTF-8 text (variable FEDERATION_LOG); give it as UTF-8",
        ]
    );
}

#[test]
fn the_sandbox_takes_no_credentials_and_no_urls() {
    let settings = resolve_with(&["--sandbox"], &Variables::new()).unwrap().settings;
    assert!(matches!(settings.credentials, Credentials::Sandbox) && settings.urls.is_none());
    let variables = [
        ("FEDERATION_BASE_URL", "https://h"),
        ("FEDERATION_TOKEN_URL", "https://h"),
        ("FEDERATION_QUERY_URL", "https://h"),
        ("FEDERATION_APP_SECRET_FILE", "/no/such"),
    ];
    let problems = bad(&["--sandbox"], &variables);
    let names: Vec<_> = problems.iter().map(|line| line.split(':').next().unwrap()).collect();
    assert_eq!(names, ["base-url", "token-url", "query-url", "app-key", "app-secret", "app-secret-file"]);
    assert!(problems.iter().all(|line| line.contains("can't be combined with --sandbox")), "{problems:#?}");
}

#[test]
fn credentials_are_required_and_come_one_way() {
    let names = |variables: &Variables<'_>| {
        let problems = resolve_with(&[], variables).err().unwrap_or_default();
        problems.iter().map(|line| line.split(':').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(&Variables::new()), ["app-key", "app-secret"]);
    assert_eq!(names(&BTreeMap::from([("FEDERATION_APP_KEY", "key")])), ["app-secret"]);
    let (_directory, path) = file("hunter2-secret\n");
    let variables =
        BTreeMap::from([("FEDERATION_APP_KEY", "key"), ("FEDERATION_APP_SECRET_FILE", path.as_str())]);
    let settings = resolve_with(&[], &variables).unwrap().settings;
    let Credentials::Vendor { app_key, secret: SecretSource::File { path: kept, initial } } =
        settings.credentials
    else {
        panic!("a file was given");
    };
    assert_eq!((app_key.as_str(), kept, initial.expose()), ("key", PathBuf::from(&path), SECRET));
    let Credentials::Vendor { secret: SecretSource::Value(secret), .. } = good(&[], &[]).credentials else {
        panic!("a value was given");
    };
    assert_eq!(secret.expose(), SECRET);
    for text in ["", "app-secret = \"\""] {
        let (_directory, path) = file(text);
        let variables = BTreeMap::from([("FEDERATION_APP_KEY", "key"), ("FEDERATION_CONFIG", path.as_str())]);
        assert_eq!(names(&variables), ["app-secret"]);
    }
}

#[test]
fn a_secret_s_file_that_holds_none() {
    for (content, what) in
        [("", "is empty"), ("\n", "is empty"), (&"x".repeat(9000), "holds more than 8 KiB")]
    {
        let (_directory, path) = file(content);
        let variables = BTreeMap::from([("FEDERATION_APP_KEY", "key")]);
        let problems = resolve_with(&["--app-secret-file", &path], &variables).unwrap_err();
        assert_eq!(problems.len(), 1);
        assert!(problems[0].starts_with(&format!("app-secret-file: {path} {what} (flag --app-secret-file)")));
    }
    // A path in the settings' file is a value of it: the secret itself, perhaps, put in the wrong place.
    let (_directory, path) = file("app-key = \"key\"\napp-secret-file = \"hunter2-secret\"");
    let problems = resolve_with(&["--config", &path], &Variables::new()).unwrap_err();
    assert!(problems[0].starts_with("app-secret-file: the file it names can't be read"), "{problems:?}");
}

#[test]
fn urls_stand_under_the_base() {
    let urls = |base: &str| good(&["--base-url", base], &[]).urls.unwrap();
    for base in ["https://h/region/", "https://h/region", "HTTPS://H/region//"] {
        assert_eq!(urls(base).token, format!("https://h/region{TOKEN_PATH}"), "{base}");
        assert_eq!(urls(base).query, format!("https://h/region{QUERY_PATH}"), "{base}");
    }
    let settings = good(&["--token-url", "https://t:8443/login", "--base-url", "https://h"], &[]);
    let urls = settings.urls.unwrap();
    assert_eq!((urls.token.as_str(), urls.query), ("https://t:8443/login", format!("https://h{QUERY_PATH}")));
}

#[test]
fn plaintext_upstreams_only_on_loopback() {
    for flag in ["--base-url", "--token-url", "--query-url"] {
        let problems = bad(&[flag, "http://vendor.example:8080"], &[]);
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].starts_with(&format!("{}: http:// beyond loopback", &flag[2..])), "{problems:?}");
        good(&[flag, "http://vendor.example:8080", "--allow-plaintext-upstream"], &[]);
        good(&[flag, "http://127.0.0.1:8080"], &[]);
        good(&[flag, "http://localhost:8080"], &[("FEDERATION_ALLOW_PLAINTEXT_UPSTREAM", "false")]);
    }
}

#[test]
fn open_listeners_need_tls_or_a_word() {
    let problems = bad(&["--listen", "0.0.0.0:1,127.0.0.1:1,gateway:1,[::]:1"], &[]);
    assert_eq!(problems.len(), 3, "{problems:?}");
    assert!(problems[1].starts_with("listen: \"gateway:1\" is beyond loopback"), "{problems:?}");
    good(&["--listen", "0.0.0.0:1", "--plaintext"], &[]);
    good(&["--listen", "0.0.0.0:1", "--plaintext=true"], &[]);
    good(&["--listen", "0.0.0.0:1"], &[("FEDERATION_PLAINTEXT", "true")]);
    assert_eq!(
        bad(&["--listen", "0.0.0.0:1", "--plaintext=false"], &[("FEDERATION_PLAINTEXT", "true")]).len(),
        1
    );
    // The admin side shows no secret: any address will do.
    good(&["--admin-listen", "0.0.0.0:1"], &[]);
}

#[test]
fn polls_fit_between_their_bounds() {
    assert!(bad(&["--poll-min", "16s"], &[])[0].starts_with("poll-min: the value is above poll-max"));
    assert!(bad(&["--poll-max", "900ms"], &[])[0].starts_with("poll-max: the value is below poll-min"));
    assert_eq!(bad(&["--poll-min", "x", "--poll-max", "900ms"], &[]).len(), 1);
    let settings = good(
        &["--poll-min", "50ms", "--poll-max", "50ms", "--done-cache-ttl", "0s", "--watch-give-up", "0s"],
        &[],
    );
    assert_eq!(settings.poll_min, settings.poll_max);
}

#[test]
fn what_must_be_positive() {
    for setting in SETTINGS {
        let flag = format!("--{}", setting.name);
        match setting.kind {
            Kind::Duration { .. } if !matches!(setting.name, "done-cache-ttl" | "watch-give-up") => {
                assert_eq!(bad(&[&flag, "0s"], &[]).len(), 1, "{flag}");
            }
            Kind::Count { .. } if setting.name != "upstream-rate" => {
                assert_eq!(bad(&[&flag, "0"], &[]).len(), 1, "{flag}");
                assert_eq!(bad(&[&flag, "-1"], &[]).len(), 1, "{flag}");
            }
            _ => {}
        }
    }
}

#[test]
fn what_is_still_to_come_is_refused_by_name() {
    let refused = [
        ("tls-cert", "/c"),
        ("tls-key", "/k"),
        ("tls-client-ca", "/a"),
        ("auth-tokens-file", "/t"),
        ("otlp-endpoint", "http://h:4317"),
        ("store", "redis://h:1/0"),
        ("store-user", "u"),
        ("store-password-file", "/p"),
        ("store-ca-file", "/a"),
        ("store-timeout", "1s"),
    ];
    let known: Vec<_> = SETTINGS.iter().filter(|s| s.support == Support::None).map(|s| s.name).collect();
    assert_eq!(known, refused.map(|(name, _)| name));
    for (name, value) in refused {
        let problems = bad(&[&format!("--{name}"), value], &[]);
        let expected = format!("{name}: not supported by this version (flag --{name}); ");
        assert!(problems.len() == 1 && problems[0].starts_with(&expected), "{problems:?}");
        // A bad value is named as bad all the same.
        let problems = bad(&[&format!("--{name}"), ""], &[]);
        assert!(problems.len() == 1 && !problems[0].contains("not supported"), "{problems:?}");
    }
    for (flag, default) in [("--store", "memory"), ("--store-timeout", "0.25s")] {
        good(&[flag, default], &[]);
    }
    let problems = bad(&["--listen", "127.0.0.1:1,unix:/run/g.sock"], &[]);
    assert!(
        problems[0].starts_with("listen: a unix: address is not supported by this version"),
        "{problems:?}"
    );
}

#[test]
fn upstream_roots_must_be_readable_certificates() {
    let root = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap().cert.pem();
    let (directory, path) = file(&root);
    let system = good(&[], &[]).upstream_roots.len();
    assert_eq!(good(&["--upstream-ca-file", &path], &[]).upstream_roots.len(), system + 1);
    let directory = directory.path().to_str().unwrap();
    for path in ["/no/such", directory] {
        let problems = bad(&["--upstream-ca-file", path], &[]);
        assert!(problems[0].starts_with(&format!("upstream-ca-file: {path} can't be read")), "{problems:?}");
    }
    let (_directory, path) = file("no certificate");
    let problems = bad(&["--upstream-ca-file", &path], &[]);
    assert!(problems[0].contains("holds no PEM certificate"), "{problems:?}");
}
