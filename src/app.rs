//! The composition root: settings become parts, the parts are tied together and run until the drain is over. What
//! ties two rooms that must not know each other stands here.

mod parts;
mod secret_file;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;
use reqwest::Url;
use tokio::task::JoinSet;
use tonic::service::Routes;
use tonic_health::pb::health_server::HealthServer;

use crate::admin::Admin;
use crate::grpc::{CallService, HealthService, MAX_REQUEST, Rooms, TasksService};
use crate::health::Health;
use crate::limits::{self, Permits, Room};
use crate::metrics::Metrics;
use crate::pb::FILE_DESCRIPTOR_SET;
use crate::retry::terms::Terms;
use crate::sandbox::Sandbox;
use crate::server::{BindError, Server};
use crate::settings::{Credentials, SecretSource, Settings, VendorUrls};
use crate::shutdown::Shutdown;
use crate::task::failure::Failure;
use crate::task::{Observation, TaskId};
use crate::tasks::{self, Hub, Seams, Upstream};
use crate::token::secret::Secret;
use crate::token::{self, Tokens};
use crate::vendor::{self, Client, SharedSecret, Vendor};
pub use parts::PartEnded;
use parts::Parts;
use secret_file::SecretFile;

/// What a sandbox is asked with: it takes anything.
const SANDBOX_CREDENTIAL: &str = "sandbox";
/// How long before the drain's end what is unfinished is answered, at most: for the answers to be written.
const LAST_CALL: Duration = Duration::from_secs(1);

/// Why a gateway can't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address can't be had.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The vendor can't be asked with these settings.
    #[error(transparent)]
    SetUp(#[from] vendor::SetUpError),
    /// The descriptors of the services can't be served: a defect of the build.
    #[error("reflection can't be set up")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// A gateway that listens, and does not answer yet.
#[derive(Debug)]
pub struct App {
    server: Server,
    admin: Option<Admin>,
    sandbox: Option<Sandbox>,
    secret_file: Option<SecretFile>,
    tokens: Arc<Tokens>,
    hub: Hub,
    service: CallService,
    health: Health,
    drain_timeout: Duration,
    shutdown: Shutdown,
}

impl App {
    /// Makes the parts, ties them together, and binds every address.
    ///
    /// # Errors
    /// If an address can't be had, or the settings can't be used after all.
    pub async fn start(settings: Settings, proxy: Proxy, shutdown: Shutdown) -> Result<Self, StartError> {
        let addresses: Vec<_> = settings.listen.iter().map(ToString::to_string).collect();
        let server = Server::bind(&addresses, settings.connections).await?;
        let (health, metrics) = (Health::new(), Metrics::new());
        let admin = match &settings.admin_listen {
            Some(address) => {
                let metrics = metrics.clone();
                let render = Arc::new(move || metrics.render());
                let bound = Admin::bind(&address.to_string(), health.clone(), render).await;
                Some(bound.map_err(|source| BindError { address: address.to_string(), source })?)
            }
            None => None,
        };
        let sandbox = match settings.credentials {
            Credentials::Sandbox => {
                let address = "127.0.0.1:0";
                let bound = Sandbox::bind(address).await;
                Some(bound.map_err(|source| BindError { address: address.to_owned(), source })?)
            }
            Credentials::Vendor { .. } => None,
        };
        let urls = match (&settings.urls, &sandbox) {
            (Some(urls), _) => urls.clone(),
            (None, Some(sandbox)) => VendorUrls::under(&format!("http://{}", sandbox.addr())),
            (None, None) => unreachable!("settings have URLs or a sandbox"),
        };
        let (app_key, secret, secret_file) = credentials(settings.credentials);
        // What is not `https` is never proxied: a proxy that can't be used is then no fault.
        let is_https = [&urls.token, &urls.query].iter().any(|url| url.starts_with("https:"));
        let proxy = if is_https { proxy } else { Proxy::default() };
        let config = vendor::Config {
            http: vendor::http::Config {
                connect_timeout: settings.connect_timeout,
                attempt_timeout: settings.attempt_timeout,
                roots: settings.upstream_roots,
                https_proxy: proxy.https,
                no_proxy: proxy.none,
            },
            token_url: url(&urls.token),
            query_url: url(&urls.query),
            app_key,
            app_secret: secret,
            tenant_space_id: settings.tenant_space_id,
            token_lifetime: settings.token_lifetime,
            max_attempts: settings.max_attempts,
        };
        let vendor = Vendor::new(config, metrics.clone())?;
        let store = Arc::new(token::store::Memory::new());
        let tokens = Arc::new(Tokens::new(
            vendor.login(),
            store,
            settings.max_attempts,
            health.clone(),
            metrics.clone(),
        ));
        let permits: Arc<dyn Permits> = Arc::new(limits::Memory::new(
            NonZeroU32::new(settings.upstream_concurrency).expect("settings hold a positive one"),
            NonZeroU32::new(settings.upstream_rate),
        ));
        let client = Arc::new(vendor.client(Arc::clone(&tokens), Arc::clone(&permits))?);
        let hub = Hub::new(
            tasks::Config {
                done_cache_ttl: settings.done_cache_ttl,
                cache_capacity: settings.cache_capacity as usize,
                poll_min: settings.poll_min,
                poll_max: settings.poll_max,
                watch_give_up: settings.watch_give_up,
                request_timeout: settings.request_timeout,
            },
            Arc::new(VendorUpstream { client, permits }),
            Seams::in_memory(),
            metrics.clone(),
        );
        let secret_file =
            secret_file.map(|(path, secret)| SecretFile::new(path, secret, Arc::clone(&tokens)));
        let tasks = TasksService::new(hub.clone(), settings.request_timeout, shutdown.clone());
        let rooms = Rooms {
            in_flight: Room::new(settings.max_in_flight as usize),
            watches: Room::new(settings.max_watches as usize),
        };
        let others = others(&health)?;
        let service =
            CallService::new(tasks, others, rooms, metrics, settings.request_timeout, shutdown.clone());
        Ok(Self {
            server,
            admin,
            sandbox,
            secret_file,
            tokens,
            hub,
            service,
            health,
            drain_timeout: settings.drain_timeout,
            shutdown,
        })
    }

    /// Where gRPC is served, with the ports that were picked.
    pub fn addresses(&self) -> impl Iterator<Item = &str> {
        self.server.addresses()
    }

    /// Where metrics and probes are served, if anywhere.
    #[must_use]
    pub fn admin_address(&self) -> Option<&str> {
        self.admin.as_ref().map(Admin::addr)
    }

    /// Runs until the drain that `shutdown` begins is over, at most for `drain-timeout` after that.
    ///
    /// # Errors
    /// If a part of the gateway ended before it was told to: then this one drains, and another must take over.
    pub async fn run(self) -> Result<(), PartEnded> {
        let Self { server, shutdown, hub, health, drain_timeout, .. } = self;
        // Each of these runs for as long as the process; their owner is this function, which ends them at its end.
        let mut parts = Parts::default();
        let stop = Shutdown::new();
        if let Some(sandbox) = self.sandbox {
            let stop = stop.clone();
            parts.run("sandbox", async move { sandbox.run(stop.draining()).await });
        }
        if let Some(admin) = self.admin {
            let stop = stop.clone();
            parts.run("admin", async move { admin.run(stop.draining()).await });
        }
        let tokens = self.tokens;
        parts.run("token", async move { tokens.run().await });
        if let Some(secret_file) = self.secret_file {
            parts.run("app-secret-file", secret_file.run());
        }
        let sweeper = hub.clone();
        parts.run("sweeper", async move { sweeper.run().await });
        let mut serving = JoinSet::new();
        serving.spawn(server.run(self.service, shutdown.clone()));
        let mut outcome = tokio::select! {
            biased;
            () = shutdown.draining() => Ok(()),
            ended = parts.ended() => {
                // Without one of its parts a gateway would answer health and nothing else: better an end than that.
                tracing::error!(part = ended.0, "a part of the gateway ended; shutting down");
                shutdown.drain();
                Err(ended)
            }
        };
        health.set_draining();
        tracing::info!(drain_timeout_seconds = drain_timeout.as_secs_f64(), "draining");
        let began = tokio::time::Instant::now();
        let last_call = drain_timeout.saturating_sub(LAST_CALL.min(drain_timeout / 4));
        let finished = async {
            let mut served = Ok(());
            while let Some(ended) = serving.join_next().await {
                // It has said why.
                if !matches!(ended, Ok(Ok(()))) {
                    served = Err(PartEnded("server"));
                }
            }
            hub.closed().await;
            served
        };
        tokio::pin!(finished);
        let mut served = tokio::time::timeout_at(began + last_call, &mut finished).await;
        if served.is_err() {
            tracing::warn!("calls are unfinished at the end of the drain");
            shutdown.end();
            hub.end();
            served = tokio::time::timeout_at(began + drain_timeout, &mut finished).await;
        }
        match served {
            Ok(served) => outcome = outcome.and(served),
            Err(_) => tracing::warn!("connections are cut"),
        }
        stop.drain();
        parts.stop().await;
        tracing::info!(seconds = began.elapsed().as_secs_f64(), "drained");
        outcome
    }
}

/// What the environment says of proxies, for `https` upstreams alone.
#[derive(Clone, Debug, Default)]
pub struct Proxy {
    /// `HTTPS_PROXY`.
    pub https: Option<String>,
    /// `NO_PROXY`.
    pub none: Option<String>,
}

impl Proxy {
    /// Reads the variables, in capitals or not, through `variable`.
    pub fn from_env(variable: impl Fn(&str) -> Option<String>) -> Self {
        let either = |upper: &str, lower: &str| {
            [upper, lower].into_iter().filter_map(&variable).find(|value| !value.is_empty())
        };
        Self { https: either("HTTPS_PROXY", "https_proxy"), none: either("NO_PROXY", "no_proxy") }
    }
}

type FileAndSecret = (std::path::PathBuf, SharedSecret);

fn credentials(credentials: Credentials) -> (String, SharedSecret, Option<FileAndSecret>) {
    let shared = |secret| Arc::new(ArcSwap::from_pointee(secret));
    match credentials {
        Credentials::Sandbox => {
            (SANDBOX_CREDENTIAL.to_owned(), shared(Secret::new(SANDBOX_CREDENTIAL.to_owned())), None)
        }
        Credentials::Vendor { app_key, secret: SecretSource::Value(secret) } => {
            (app_key, shared(secret), None)
        }
        Credentials::Vendor { app_key, secret: SecretSource::File { path, initial } } => {
            let secret = shared(initial);
            (app_key, Arc::clone(&secret), Some((path, secret)))
        }
    }
}

fn url(text: &str) -> Url {
    text.parse().expect("settings hold URLs in normal form")
}

/// What is served beside the tasks: health and reflection.
fn others(health: &Health) -> Result<Routes, StartError> {
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            // Not of any service's types, so that no tool would find it by itself: what errors carry.
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
    };
    let health = HealthServer::new(HealthService::new(health.clone())).max_decoding_message_size(MAX_REQUEST);
    let routes = Routes::new(health)
        .add_service(reflection().build_v1()?.max_decoding_message_size(MAX_REQUEST))
        .add_service(reflection().build_v1alpha()?.max_decoding_message_size(MAX_REQUEST));
    Ok(routes.prepare())
}

/// The vendor, as the hub asks it.
#[derive(Debug)]
struct VendorUpstream {
    client: Arc<Client>,
    permits: Arc<dyn Permits>,
}

impl Upstream for VendorUpstream {
    fn query_task(&self, task: TaskId, terms: Terms) -> BoxFuture<'static, Result<Observation, Failure>> {
        let client = Arc::clone(&self.client);
        Box::pin(async move { client.query_task(&task, terms).await })
    }

    fn polls_may_start(&self) -> BoxFuture<'_, ()> {
        self.permits.polls_may_start()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::settings::{self, flags};
    use crate::token::{Grant, Login};

    #[derive(Debug)]
    struct Broken;

    impl Login for Broken {
        fn login(&self) -> BoxFuture<'_, Result<Grant, Failure>> {
            Box::pin(async { panic!("on purpose") })
        }
    }

    /// A gateway that nobody calls, and its shutdown.
    async fn app() -> (App, Shutdown) {
        let flags = ["--sandbox", "--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0"];
        let command = clap::Command::new("serve").no_binary_name(true);
        let command = command.arg(flags::sandbox()).args(flags::all());
        let matches = command.try_get_matches_from(flags).unwrap();
        let settings = settings::resolve(&matches, &BTreeMap::<&str, &str>::new()).unwrap().settings;
        let shutdown = Shutdown::new();
        (App::start(settings, Proxy::default(), shutdown.clone()).await.unwrap(), shutdown)
    }

    #[tokio::test]
    async fn the_end_of_a_part_is_the_end_of_the_gateway_and_is_told() {
        let (mut app, _shutdown) = app().await;
        let store = Arc::new(token::store::Memory::new());
        app.tokens = Arc::new(Tokens::new(Box::new(Broken), store, 3, app.health.clone(), Metrics::new()));
        let health = app.health.clone();
        let ended = tokio::time::timeout(Duration::from_secs(20), app.run()).await;
        assert_eq!(ended.unwrap(), Err(PartEnded("token")));
        assert!(health.standing().draining);
    }

    #[tokio::test]
    async fn a_drain_is_no_failure() {
        let (app, shutdown) = app().await;
        shutdown.drain();
        assert_eq!(app.run().await, Ok(()));
    }
}
