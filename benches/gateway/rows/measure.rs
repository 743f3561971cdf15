//! One turn: a load on one server, and what the system says of the server meanwhile.

use std::net::SocketAddr;
use std::time::Duration;

use federation_gateway::pb::federation_tasks_server::SERVICE_NAME;
use tokio::time::Instant;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::client::Connection;
use crate::fault::Fault;
use crate::process::{Process, http};
use crate::roles::load::{self, Outcome};
use crate::roles::{bare, memory, vendor};

/// How long a load may take beyond its time.
const PATIENCE: Duration = Duration::from_secs(300);
/// Between two looks at the health of a gateway that starts: few enough not to delay it.
const BETWEEN_CHECKS: Duration = Duration::from_millis(2);

/// What a load does.
#[derive(Clone, Debug)]
pub(crate) struct Work {
    pub(crate) in_flight: usize,
    /// Calls a second, in place of `in_flight`.
    pub(crate) rate: Option<f64>,
    pub(crate) timeout: Option<Duration>,
    /// At most so many calls.
    pub(crate) calls: Option<u64>,
    pub(crate) warm_up: u64,
    pub(crate) ids: u64,
    pub(crate) max_age_seconds: Option<u64>,
    pub(crate) status: &'static str,
}

impl Work {
    /// Every call its own upstream call.
    pub(crate) fn upstream(in_flight: usize) -> Self {
        Self {
            in_flight,
            rate: None,
            timeout: None,
            calls: None,
            warm_up: 2000.max(2 * in_flight as u64),
            ids: 100_000,
            max_age_seconds: Some(0),
            status: "DOING",
        }
    }

    /// Tasks that many ask for and that are done.
    pub(crate) fn hot(in_flight: usize) -> Self {
        Self { ids: 64, max_age_seconds: None, status: "DONE", ..Self::upstream(in_flight) }
    }

    /// More calls need more connections; a proxy or a channel has about so many calls on each.
    fn connections(&self) -> usize {
        (self.in_flight / 500).clamp(4.min(self.in_flight.max(1)), 20)
    }

    fn options(&self, target: SocketAddr, time: Duration) -> Vec<String> {
        let max_age = self.max_age_seconds.map_or_else(|| "none".to_owned(), |seconds| seconds.to_string());
        vec![
            format!("--target={target}"),
            format!("--connections={}", self.connections()),
            format!("--in-flight={}", self.in_flight),
            format!("--rate={}", self.rate.unwrap_or_default()),
            format!("--timeout-ms={}", self.timeout.unwrap_or_default().as_millis()),
            format!("--seconds={}", time.as_secs_f64()),
            format!("--calls={}", self.calls.unwrap_or_default()),
            format!("--warm-up={}", self.warm_up),
            format!("--ids={}", self.ids),
            format!("--max-age={max_age}"),
            format!("--expect={}", self.status),
        ]
    }
}

/// What came of a turn.
#[derive(Clone, Debug)]
pub(crate) struct Turn {
    pub(crate) outcome: Outcome,
    pub(crate) cpu_seconds: f64,
}

impl Turn {
    /// What a call cost the server, in microseconds of CPU.
    pub(crate) fn cpu_us(&self) -> f64 {
        self.cpu_seconds * 1e6 / self.outcome.calls as f64
    }
}

/// A server that is measured.
pub(crate) struct Server {
    pub(crate) process: Process,
    pub(crate) address: SocketAddr,
}

impl Server {
    /// The vendor's stand-in.
    pub(crate) async fn vendor(options: &[&str]) -> Result<Self, Fault> {
        let options: Vec<_> = options.iter().map(|option| (*option).to_owned()).collect();
        Self::of(Process::role(&[], vendor::NAME, &options)?).await
    }

    /// The gateway, SERVING.
    pub(crate) async fn gateway(wrapper: &[&str], vendor: &Self, flags: &[&str]) -> Result<Self, Fault> {
        Self::gateway_timed(wrapper, vendor, flags).await.map(|(gateway, _)| gateway)
    }

    /// The gateway, SERVING, and how long that took from its exec.
    pub(crate) async fn gateway_timed(
        wrapper: &[&str],
        vendor: &Self,
        flags: &[&str],
    ) -> Result<(Self, Duration), Fault> {
        let mut all = vec![format!("--base-url=http://{}", vendor.address)];
        if !flags.iter().any(|flag| flag.starts_with("--admin-listen")) {
            all.push("--admin-listen=off".to_owned());
        }
        all.extend(flags.iter().map(|flag| (*flag).to_owned()));
        let begun = Instant::now();
        let server = Self::of(Process::gateway(wrapper, &all)?).await?;
        let connection = Connection::open(server.address).await?;
        let mut check = connection.method("/grpc.health.v1.Health/Check", None)?;
        let request = HealthCheckRequest { service: SERVICE_NAME.to_owned() };
        loop {
            let answer: HealthCheckResponse = check.call(&request).await.map_err(Fault::of("health"))?;
            if answer.status() == ServingStatus::Serving {
                return Ok((server, begun.elapsed()));
            }
            tokio::time::sleep(BETWEEN_CHECKS).await;
        }
    }

    /// The bare handler.
    pub(crate) async fn bare(wrapper: &[&str], vendor: &Self) -> Result<Self, Fault> {
        let options = [format!("--vendor=http://{}", vendor.address)];
        Self::of(Process::role(wrapper, bare::NAME, &options)?).await
    }

    /// The server that answers from memory.
    pub(crate) async fn memory(status: &str) -> Result<Self, Fault> {
        Self::of(Process::role(&[], memory::NAME, &[format!("--status={status}")])?).await
    }

    async fn of(mut process: Process) -> Result<Self, Fault> {
        let address = process.address().await?;
        Ok(Self { process, address })
    }

    /// How many queryTask calls the vendor's stand-in has answered.
    pub(crate) async fn queries(&self) -> Result<u64, Fault> {
        let counters = http(self.address, "GET", "/counters").await?;
        counters.get("queries").and_then(serde_json::Value::as_u64).ok_or_else(|| Fault::new("no counters"))
    }

    /// Loads it for so long. Calls that fail are for whoever expects some; a wrong answer is a fault.
    pub(crate) async fn loaded(&self, work: &Work, time: Duration) -> Result<Turn, Fault> {
        let mut load = Process::role(&[], load::NAME, &work.options(self.address, time))?;
        load.line(PATIENCE, |line| (line == "ready").then_some(())).await?;
        let before = self.process.cpu_seconds()?;
        load.go_on().await?;
        let outcome: Outcome = load.line(time + PATIENCE, |line| serde_json::from_str(line).ok()).await?;
        let cpu_seconds = self.process.cpu_seconds()? - before;
        if outcome.wrong > 0 || outcome.calls == 0 {
            return Err(Fault::new(format!("wrong answers: {outcome:?}")));
        }
        Ok(Turn { outcome, cpu_seconds })
    }

    /// Loads it, where every call must be answered.
    pub(crate) async fn served(&self, work: &Work, time: Duration) -> Result<Turn, Fault> {
        let turn = self.loaded(work, time).await?;
        if turn.outcome.ok < turn.outcome.calls {
            return Err(Fault::new(format!("calls failed: {:?}", turn.outcome)));
        }
        Ok(turn)
    }
}
