//! What settings amount to together: the rules between them, and the typed whole. Knows no source.

use std::path::Path;

use reqwest::Url;
use rustls::RootCertStore;

use super::address::{self, ListenAddress};
use super::parse;
use super::problem::{Origin, Problem, one_line};
use super::reader::Reader;
use super::{
    Credentials, QUERY_PATH, SecretSource, Settings, SharedStore, Store, TOKEN_PATH, Tls, VendorUrls,
};
use crate::token::secret::{MAX_SECRET_BYTES, Secret, read_bounded};
use crate::{server, tls};

/// The largest file of roots that is read, in bytes: all public roots together take a quarter of it.
const MAX_PEM_BYTES: usize = 1024 * 1024;

/// Reads every setting and checks what they say together; `None` only if the reader holds a problem.
pub(super) fn assemble(reader: &mut Reader, is_sandboxed: bool) -> Option<Settings> {
    let listen = reader.listen("listen");
    let admin_listen = reader.value("admin-listen", address::optional).flatten();
    let allow_plaintext_upstream = reader.switch("allow-plaintext-upstream");
    let (credentials, urls) = if is_sandboxed {
        refuse_beside_sandbox(reader);
        (Some(Credentials::Sandbox), None)
    } else {
        let urls = vendor_urls(reader, allow_plaintext_upstream);
        (credentials(reader), urls)
    };
    let tenant_space_id = reader.text("tenant-space-id");
    let upstream_ca_file = reader.path("upstream-ca-file");
    let upstream_roots = upstream_roots(reader, upstream_ca_file.as_deref(), urls.as_ref());
    let connect_timeout = reader.duration("connect-timeout");
    let attempt_timeout = reader.duration("attempt-timeout");
    let request_timeout = reader.duration("request-timeout");
    let max_attempts = reader.count("max-attempts");
    let upstream_rate = reader.count("upstream-rate");
    let upstream_concurrency = reader.count("upstream-concurrency");
    let token_lifetime = reader.duration("token-lifetime");
    let done_cache_ttl = reader.duration("done-cache-ttl");
    let cache_capacity = reader.count("cache-capacity");
    let poll_min = reader.duration("poll-min");
    let poll_max = reader.duration("poll-max");
    if poll_min > poll_max && reader.is_sound("poll-min") && reader.is_sound("poll-max") {
        // The one that somebody gave is the one to look at.
        if reader.is_given("poll-min") {
            reader.fail("poll-min", "the value is above poll-max", "give at most poll-max, or raise that");
        } else {
            reader.fail("poll-max", "the value is below poll-min", "give at least poll-min, or lower that");
        }
    }
    let watch_give_up = reader.duration("watch-give-up");
    let max_watches = reader.count("max-watches");
    let max_in_flight = reader.count("max-in-flight");
    let tls = tls(reader);
    let auth_tokens_file = reader.path("auth-tokens-file");
    let plaintext = reader.switch("plaintext");
    let has_tls = ["tls-cert", "tls-key"].iter().any(|name| reader.is_given(name));
    if !plaintext && !has_tls && reader.is_sound("plaintext") {
        refuse_open_plaintext(reader, &listen);
    }
    let drain_timeout = reader.duration("drain-timeout");
    let log = reader.value("log", parse::log_filter);
    let log_format = reader.value("log-format", parse::log_format);
    let otlp_endpoint = reader.value("otlp-endpoint", parse::url).map(String::from);
    let store = store(reader);
    // Nothing is left unread from here on: a `?` above would hide the problems of what follows it.
    Some(Settings {
        listen: listen.into_iter().map(|(address, _)| address).collect(),
        connections: server::Config::default(),
        admin_listen,
        credentials: credentials?,
        urls,
        allow_plaintext_upstream,
        tenant_space_id,
        upstream_roots,
        connect_timeout,
        attempt_timeout,
        request_timeout,
        max_attempts,
        upstream_rate,
        upstream_concurrency,
        token_lifetime,
        done_cache_ttl,
        cache_capacity,
        poll_min,
        poll_max,
        watch_give_up,
        max_watches,
        max_in_flight,
        tls,
        auth_tokens_file,
        plaintext,
        drain_timeout,
        log: log?,
        log_format: log_format?,
        otlp_endpoint,
        store: store?,
    })
}

/// The sandbox is the vendor: whatever says otherwise was meant for another run.
fn refuse_beside_sandbox(reader: &mut Reader) {
    for name in ["base-url", "token-url", "query-url", "app-key", "app-secret", "app-secret-file"] {
        if reader.is_given(name) {
            reader.fail(
                name,
                "can't be combined with --sandbox, which is its own vendor and takes no credentials",
                "remove it, or --sandbox",
            );
        }
        reader.derive(name, "(the sandbox's)".to_owned());
    }
}

fn credentials(reader: &mut Reader) -> Option<Credentials> {
    let app_key = reader.text("app-key");
    if !reader.is_given("app-key") && !reader.may_be_hidden() {
        reader.fail("app-key", "missing", "give the app key the vendor gave, or serve with --sandbox");
    }
    let secret = secret(reader);
    Some(Credentials::Vendor { app_key: app_key?, secret: secret? })
}

fn secret(reader: &mut Reader) -> Option<SecretSource> {
    let (is_value, is_file) = (reader.is_given("app-secret"), reader.is_given("app-secret-file"));
    if is_value && is_file {
        let file = reader.origin("app-secret-file").map(|origin| format!(" ({origin})")).unwrap_or_default();
        reader.fail("app-secret", format!("given beside app-secret-file{file}"), "keep one of them");
    }
    if !is_value && !is_file && !reader.may_be_hidden() {
        reader.fail(
            "app-secret",
            "missing, and so is app-secret-file",
            "give FEDERATION_APP_SECRET or app-secret-file, or serve with --sandbox",
        );
    }
    let value = match reader.raw("app-secret").map(str::len) {
        None => None,
        Some(0) => {
            reader.fail("app-secret", "the value is empty", "give the secret the vendor gave");
            None
        }
        Some(length) if length > MAX_SECRET_BYTES => {
            reader.fail("app-secret", "the value holds more than 8 KiB", "give the secret the vendor gave");
            None
        }
        Some(_) => reader.raw("app-secret").map(|text| SecretSource::Value(Secret::new(text.to_owned()))),
    };
    let Some(path) = reader.path("app-secret-file") else { return value };
    match Secret::read(&path) {
        Ok(initial) => Some(SecretSource::File { path, initial }),
        Err(error) => {
            fail_file(reader, "app-secret-file", &path, &error.to_string());
            None
        }
    }
}

fn vendor_urls(reader: &mut Reader, allow_plaintext: bool) -> Option<VendorUrls> {
    let base = reader.value("base-url", parse::url).filter(|_| reader.is_sound("base-url"));
    let token = reader.value("token-url", parse::url);
    let query = reader.value("query-url", parse::url);
    for (name, url) in [("base-url", &base), ("token-url", &token), ("query-url", &query)] {
        let is_exposed = url.as_ref().is_some_and(parse::is_exposed);
        if is_exposed && !allow_plaintext && reader.is_sound("allow-plaintext-upstream") {
            reader.fail(
                name,
                "http:// beyond loopback (127.0.0.0/8, ::1, localhost) sends credentials for all to read",
                "use https://, or set allow-plaintext-upstream",
            );
        }
    }
    let mut under_base = |name, given: Option<Url>, path: &str| match given {
        Some(url) => Some(String::from(url)),
        None => {
            let url = format!("{}{path}", base.as_ref()?.as_str().trim_end_matches('/'));
            if !reader.is_given(name) {
                reader.derive(name, url.clone());
            }
            Some(url)
        }
    };
    let token = under_base("token-url", token, TOKEN_PATH);
    let query = under_base("query-url", query, QUERY_PATH);
    Some(VendorUrls { token: token?, query: query? })
}

fn tls(reader: &mut Reader) -> Option<Tls> {
    let (cert, key) = (reader.path("tls-cert"), reader.path("tls-key"));
    let client_ca = reader.path("tls-client-ca");
    for (name, other) in [("tls-cert", "tls-key"), ("tls-key", "tls-cert"), ("tls-client-ca", "tls-cert")] {
        if reader.is_given(name)
            && !reader.is_given(other)
            && !reader.may_be_hidden()
            && reader.is_sound(name)
        {
            reader.fail(name, format!("given without {other}"), format!("give {other} too"));
        }
    }
    Some(Tls { cert: cert?, key: key?, client_ca })
}

fn refuse_open_plaintext(reader: &mut Reader, listen: &[(ListenAddress, Origin)]) {
    for (address, origin) in listen {
        let ListenAddress::Tcp(tcp) = address else { continue };
        if tcp.host.is_loopback() {
            continue;
        }
        let is_shown = !matches!(origin, Origin::File { .. });
        let subject = if is_shown { format!("\"{tcp}\"") } else { "the value".to_owned() };
        reader.problem_with(
            "listen",
            Problem {
                setting: "listen".to_owned(),
                what: format!("{subject} is beyond loopback, and calls there would be without TLS"),
                origin: Some(origin.clone()),
                remedy: "give tls-cert and tls-key, or set plaintext if the network is trusted".to_owned(),
            },
        );
    }
}

fn store(reader: &mut Reader) -> Option<SharedStore> {
    let place: Store = reader.value("store", parse::store)?;
    Some(SharedStore {
        place,
        user: reader.text("store-user"),
        password_file: reader.path("store-password-file"),
        ca_file: reader.path("store-ca-file"),
        timeout: reader.duration("store-timeout"),
    })
}

/// The roots that the vendor's certificate must lead to; none where nothing is `https://`.
fn upstream_roots(reader: &mut Reader, file: Option<&Path>, urls: Option<&VendorUrls>) -> RootCertStore {
    let read = file.map(|path| (path, read_bounded(path, MAX_PEM_BYTES)));
    let pem = match &read {
        Some((path, Err(error))) => {
            fail_file(reader, "upstream-ca-file", path, &format!("can't be read: {error}"));
            return RootCertStore::empty();
        }
        Some((path, Ok(None))) => {
            fail_file(reader, "upstream-ca-file", path, "is larger than any file of roots");
            return RootCertStore::empty();
        }
        Some((_, Ok(Some(pem)))) => Some(pem.as_slice()),
        None => None,
    };
    let is_https =
        urls.is_some_and(|urls| [&urls.token, &urls.query].iter().any(|url| url.starts_with("https:")));
    if !is_https && pem.is_none() {
        return RootCertStore::empty();
    }
    tls::roots(pem).unwrap_or_else(|error| {
        match (error, file) {
            (tls::RootsError::Empty, _) => reader.fail(
                "upstream-ca-file",
                "there is no root certificate to trust, neither the system's nor a file's",
                "install the system's roots (ca-certificates), or name a PEM file",
            ),
            (error, Some(path)) => fail_file(reader, "upstream-ca-file", path, &error.to_string()),
            (_, None) => {}
        }
        RootCertStore::empty()
    })
}

/// Says what is wrong with the file that a setting names, by its path unless that is a value of the settings' file.
fn fail_file(reader: &mut Reader, name: &'static str, path: &Path, predicate: &str) {
    let subject = match reader.origin(name) {
        Some(Origin::File { .. }) => "the file it names".to_owned(),
        _ => one_line(&path.display().to_string()),
    };
    reader.fail(name, format!("{subject} {predicate}"), "name a file that holds it and can be read");
}
