//! A gateway in this process: made of flags and variables as `serve` is, on ports of its own.

use std::collections::BTreeMap;
use std::time::Duration;

use federation_gateway::app::{App, Proxy, StartError};
use federation_gateway::commands::serve;
use federation_gateway::server;
use federation_gateway::settings;
use federation_gateway::shutdown::Shutdown;
use tokio::task::JoinSet;

use super::caller::Caller;
use super::http_get::http_get;
use super::vendor::Vendor;
use super::{eventually, soon};

/// The app secret that every gateway is given.
pub(crate) const SECRET: &str = "planted-app-secret";

/// What every gateway is told; a test's own flags come on top.
const FLAGS: [&str; 3] = ["--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0", "--app-key=planted-key"];

/// Bounds that are reached only where a test sets its own: on a busy machine the usual ones are over before a test has
/// said what it has to say.
const PATIENCE: [&str; 4] =
    ["--connect-timeout=60s", "--attempt-timeout=300s", "--request-timeout=300s", "--drain-timeout=60s"];

/// Longer than a living caller takes to do its part, also on a busy machine, and shorter than the contract's times.
pub(crate) const IMPATIENT: server::Config = server::Config {
    handshake: Duration::from_secs(8),
    ping_every: Duration::from_millis(300),
    ping_timeout: Duration::from_secs(8),
};

/// A test's own flags, and all others of [`PATIENCE`].
pub(super) fn patient<'a>(flags: &[&'a str]) -> Vec<&'a str> {
    let is_given = |flag: &&str| {
        let name = flag.split('=').next().unwrap_or_default();
        flags.iter().any(|own| own.starts_with(name))
    };
    let patience = PATIENCE.into_iter().filter(|flag| !is_given(flag));
    patience.chain(flags.iter().copied()).collect()
}

/// A gateway that listens and does not answer yet.
async fn app(flags: &[&str], connections: server::Config, shutdown: Shutdown) -> Result<App, StartError> {
    let given = |name: &str| flags.iter().any(|flag| flag.starts_with(name));
    let line = [&["serve"], &FLAGS[..], &patient(flags)].concat();
    let matches = serve::command().try_get_matches_from(line).expect("the flags are flags of serve");
    let mut variables = BTreeMap::new();
    if !given("--app-secret-file") {
        variables.insert("FEDERATION_APP_SECRET", SECRET);
    }
    let mut settings = settings::resolve(&matches, &variables).expect("the settings are sound").settings;
    settings.connections = connections;
    App::start(settings, Proxy::default(), shutdown).await
}

/// The running gateway.
pub(crate) struct Gateway {
    address: String,
    admin: String,
    shutdown: Shutdown,
    running: JoinSet<()>,
}

impl Gateway {
    /// One that asks the vendor and has its first token.
    pub(crate) async fn start(vendor: &Vendor, flags: &[&str]) -> Self {
        let gateway = Self::start_cold(vendor, flags).await;
        eventually("the first token is there", async || gateway.get("/readyz").await.0 == 200).await;
        gateway
    }

    /// One that may not have a token yet, or ever.
    pub(crate) async fn start_cold(vendor: &Vendor, flags: &[&str]) -> Self {
        let url = format!("--base-url={}", vendor.url());
        Self::start_at(&[&[url.as_str()], flags].concat()).await
    }

    /// One that asks whatever the flags say.
    pub(crate) async fn start_at(flags: &[&str]) -> Self {
        Self::start_for(flags, server::Config::default()).await
    }

    /// One that may not have a token yet, and has less patience with callers than the contract: [`IMPATIENT`].
    pub(crate) async fn start_impatient(vendor: &Vendor, flags: &[&str]) -> Self {
        let url = format!("--base-url={}", vendor.url());
        Self::start_for(&[&[url.as_str()], flags].concat(), IMPATIENT).await
    }

    async fn start_for(flags: &[&str], connections: server::Config) -> Self {
        let shutdown = Shutdown::new();
        let app = app(flags, connections, shutdown.clone()).await.expect("it starts");
        let address = app.addresses().next().expect("it listens").to_owned();
        let admin = app.admin_address().expect("it has a side door").to_owned();
        let mut running = JoinSet::new();
        running.spawn(async move { app.run().await.expect("no part of it ends before its time") });
        Self { address, admin, shutdown, running }
    }

    /// Where it serves gRPC.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// A caller on a connection of its own.
    pub(crate) async fn caller(&self) -> Caller {
        Caller::connect(&self.address).await
    }

    /// Status and text of a page of the side door; status 0 once it is gone.
    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        http_get(&self.admin, path).await
    }

    pub(crate) async fn metrics(&self) -> String {
        self.get("/metrics").await.1
    }

    /// The value of the one metric whose line begins so; 0 if there is none.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let text = self.metrics().await;
        let line = text.lines().find(|line| line.rsplit_once(' ').is_some_and(|(begin, _)| begin == name));
        line.and_then(|line| line.rsplit_once(' ')?.1.parse().ok()).unwrap_or_default()
    }

    /// How many calls of that method ended so.
    pub(crate) async fn handled(&self, method: &str, code: &str) -> f64 {
        let labels = format!(r#"grpc_code="{code}",{}"#, labels(method));
        self.metric(&format!("grpc_server_handled_total{{{labels}}}")).await
    }

    /// How many calls of that method came.
    pub(crate) async fn started(&self, method: &str) -> f64 {
        self.metric(&format!("grpc_server_started_total{{{}}}", labels(method))).await
    }

    /// How many exchanges about tasks ended so.
    pub(crate) async fn exchanges(&self, outcome: &str) -> f64 {
        let labels = format!(r#"endpoint="queryTask",outcome="{outcome}""#);
        self.metric(&format!("federation_upstream_requests_total{{{labels}}}")).await
    }

    /// Waits until nobody watches, nothing is polled and no try is under way.
    pub(crate) async fn idle(&self) {
        let names = ["federation_watchers", "federation_pollers", "federation_upstream_in_flight"];
        eventually("nothing is under way", async || {
            let text = self.metrics().await;
            names.iter().all(|name| text.lines().any(|line| line == format!("{name} 0")))
        })
        .await;
    }

    pub(crate) fn drain(&self) {
        self.shutdown.drain();
    }

    /// Waits for the end of the drain, which it begins if nobody has.
    pub(crate) async fn stop(mut self) {
        self.shutdown.drain();
        let ended = soon("the drain", self.running.join_next()).await;
        ended.expect("it was spawned").expect("it does not panic");
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.shutdown.end();
    }
}

fn labels(method: &str) -> String {
    let kind = if method == "WatchTask" { "server_stream" } else { "unary" };
    format!(r#"grpc_method="{method}",grpc_service="federation.v1.FederationTasks",grpc_type="{kind}""#)
}
