//! `overload`: goodput by offered load, on a vendor that takes 32 calls at once for 20 ms each; what a refusal costs,
//! and whether health still answers.

use std::time::Duration;

use federation_gateway::pb::federation_tasks_server::SERVICE_NAME;
use tokio::time::Instant;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use super::Extent;
use super::measure::{Server, Turn, Work};
use crate::client::Connection;
use crate::fault::Fault;
use crate::plot::{Axis, Plot, Series};
use crate::report::{Goal, Section};
use crate::statistics::median;

const LIMITS: [&str; 2] = ["--upstream-concurrency=32", "--max-in-flight=64"];
const LATENCY: &str = "--latency-ms=20";
/// As many as the gateway lets in: its peak.
const PEAK_IN_FLIGHT: usize = 64;
const OFFERED: [f64; 7] = [0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0];
/// The places in it of the peak, where nearly all are served, and of the least that is more than can be served.
const PEAK: usize = 3;
const OVER: usize = 4;
/// So many times the peak tell what a refusal costs: nearly all that they cost more than a little too much does.
const FLOOD: f64 = 8.0;
/// An answer that comes later is none.
const DEADLINE: Duration = Duration::from_secs(1);
const HEALTH_EVERY: Duration = Duration::from_millis(100);

/// One load in one round.
struct Load {
    turn: Turn,
    slowest_health: Duration,
}

/// The row.
pub(crate) async fn overload(extent: Extent) -> Result<Section, Fault> {
    let title = "Goodput by offered load: 32 upstream calls of 20 ms at once, 64 calls let in".to_owned();
    let section = Section { name: "overload", title, ..Section::default() };
    let vendor = Server::vendor(&[LATENCY]).await?;
    let gateway = match Server::gateway(&[], &vendor, &LIMITS).await {
        Ok(gateway) => gateway,
        Err(fault) if fault.to_string().contains("not supported") => {
            let note =
                "not measured: upstream-concurrency and max-in-flight are not supported by this version";
            return Ok(Section { notes: vec![note.to_owned()], ..section });
        }
        Err(fault) => return Err(fault),
    };
    let peak = gateway.loaded(&Work::upstream(PEAK_IN_FLIGHT), extent.turn).await?.outcome.calls_a_second();
    let rounds = extent.rounds.min(3);
    let mut loads: [Vec<Load>; OFFERED.len()] = Default::default();
    let mut floods = Vec::new();
    for _ in 0..rounds {
        for (offered, loads) in OFFERED.iter().zip(&mut loads) {
            loads.push(offer(&gateway, offered * peak, extent.turn / 2).await?);
        }
        floods.push(offer(&gateway, FLOOD * peak, extent.turn / 2).await?);
    }
    let middle = |index: usize, of: &dyn Fn(&Load) -> f64| {
        loads.get(index).map(|loads| median(loads.iter().map(of))).unwrap_or(f64::NAN)
    };
    let goodput = |index| middle(index, &|load| load.turn.outcome.calls_a_second());
    let last = OFFERED.len() - 1;
    let served_us = middle(PEAK, &|load| load.turn.cpu_us());
    let over = (middle(OVER, &cpu_a_second), middle(OVER, &refused_a_second));
    let refused_us = median(
        floods.iter().map(|flood| (cpu_a_second(flood) - over.0) * 1e6 / (refused_a_second(flood) - over.1)),
    );
    let slowest =
        loads.iter().flatten().chain(&floods).map(|load| load.slowest_health).max().unwrap_or_default();
    let best = (0..OFFERED.len()).map(goodput).fold(peak, f64::max);
    let line = |(index, offered): (usize, &f64)| {
        vec![
            format!("{offered} ×"),
            format!("{:.0}", offered * peak),
            format!("{:.0}", goodput(index)),
            format!("{:.0}", middle(index, &refused_a_second)),
            format!("{:.1}", middle(index, &|load| f64::from(load.turn.outcome.p99_us) / 1e3)),
            format!("{:.1}", middle(index, &|load| load.turn.cpu_us())),
            format!("{:.1}", middle(index, &|load| load.slowest_health.as_secs_f64() * 1e3)),
        ]
    };
    let columns = [
        "offered",
        "calls a second",
        "right answers a second",
        "refused a second",
        "p99 ms",
        "CPU µs a call",
        "slowest health ms",
    ];
    Ok(Section {
        columns: columns.map(str::to_owned).to_vec(),
        lines: OFFERED.iter().enumerate().map(line).collect(),
        goals: vec![
            Goal::at_least("goodput at twice the peak, of the peak", goodput(last) / best, 0.9),
            Goal::at_most("CPU of a refused call, of a served one", refused_us / served_us, 0.25),
            Goal::at_most("health answers", slowest.as_secs_f64() * 1e3, 1000.0).unit("ms"),
        ],
        notes: vec![format!(
            "peak {peak:.0} a second; CPU of a served call {served_us:.1} µs, of a refused one {refused_us:.1} µs \
             (at {FLOOD} × the peak, beyond what {} × cost)",
            OFFERED[OVER]
        )],
        plots: vec![plot(peak, goodput)],
        ..section
    })
}

fn cpu_a_second(load: &Load) -> f64 {
    load.turn.cpu_seconds / load.turn.outcome.seconds
}

fn refused_a_second(load: &Load) -> f64 {
    load.turn.outcome.refused.values().sum::<u64>() as f64 / load.turn.outcome.seconds
}

fn plot(peak: f64, goodput: impl Fn(usize) -> f64) -> Plot {
    let points = |of: &dyn Fn(usize, f64) -> f64| {
        OFFERED
            .iter()
            .enumerate()
            .map(|(index, offered)| (offered * peak, of(index, offered * peak)))
            .collect()
    };
    Plot {
        file: "goodput-by-load.svg",
        title: "Goodput by offered load".to_owned(),
        x: Axis::linear("calls offered a second"),
        y: Axis::linear("right answers a second"),
        series: vec![
            Series::new("gateway", points(&|index, _| goodput(index))),
            Series::reference("all that can be served", points(&|_, offered| offered.min(peak))),
        ],
    }
}

/// Offers so many calls a second, and asks for its health all the while.
async fn offer(gateway: &Server, rate: f64, time: Duration) -> Result<Load, Fault> {
    let work =
        Work { rate: Some(rate), timeout: Some(DEADLINE), warm_up: 0, ..Work::upstream(PEAK_IN_FLIGHT) };
    let mut slowest_health = Duration::ZERO;
    let health = async {
        let connection = Connection::open(gateway.address).await?;
        let mut check = connection.method("/grpc.health.v1.Health/Check", Some(DEADLINE))?;
        let request = HealthCheckRequest { service: SERVICE_NAME.to_owned() };
        loop {
            let asked = Instant::now();
            check.call::<HealthCheckResponse>(&request).await.map_err(Fault::of("health"))?;
            slowest_health = slowest_health.max(asked.elapsed());
            tokio::time::sleep(HEALTH_EVERY).await;
        }
    };
    let turn = tokio::select! {
        turn = gateway.loaded(&work, time) => turn?,
        ended = health => return ended,
    };
    let refusals = &turn.outcome.refused;
    if refusals.keys().any(|reason| !matches!(&**reason, "GATEWAY_OVERLOADED" | "DEADLINE")) {
        return Err(Fault::new(format!("calls failed: {:?}", turn.outcome)));
    }
    Ok(Load { turn, slowest_health })
}
