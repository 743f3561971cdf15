//! The same for long: round after round over one gateway, judged round by round and then forgotten, so that the test's
//! own memory stays bounded; and whether the gateway's memory, files and tasks stay level.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::gateway::Probe;
use crate::plan::{Plan, Scale};
use crate::plot::{Axis, Plot, Series};
use crate::report;
use crate::world::World;

/// How often the gateway is measured.
const EVERY: Duration = Duration::from_secs(3);
/// A round's calls and faults.
const ROUND: Scale = Scale { active: Duration::from_secs(15), callers: 150, is_rough: false };
/// What the last third's median may be above the middle third's: the share, and in the sample's own unit.
const RISE: f64 = 0.05;
/// Of a plot's line so many points are drawn.
const POINTS: usize = 90;
const MIB: f64 = 1024.0 * 1024.0;

/// What a soak is told.
#[derive(Clone, Debug)]
pub(crate) struct Soak {
    pub(crate) seed: u64,
    pub(crate) lasts: Duration,
    pub(crate) plot: Option<PathBuf>,
    pub(crate) csv: Option<PathBuf>,
}

/// What is measured: its name, and how far it may rise beside [`RISE`].
const MEASURES: [(&str, f64); 5] = [
    ("rss_mib", 2.0),
    ("open_files", 5.0),
    ("runtime_tasks", 10.0),
    ("watchers", 10.0),
    ("calls_per_second", f64::INFINITY),
];

/// One measurement.
#[derive(Clone, Copy, Debug)]
struct Sample {
    seconds: f64,
    values: [f64; MEASURES.len()],
}

impl Soak {
    /// Runs it; whether all was well.
    pub(crate) async fn run(&self) -> bool {
        let plan = |round: u64| Plan::new(self.seed.wrapping_mul(1 << 20).wrapping_add(round), ROUND);
        let first = Arc::new(plan(0));
        let again = format!(
            "cargo test --locked --test chaos -- --first {} --soak {}s",
            self.seed,
            self.lasts.as_secs()
        );
        let mut world = match World::start(&first).await {
            Ok(world) => world,
            Err(what) => {
                report::failed("the soak did not begin", &again, &[what], &Default::default());
                return false;
            }
        };
        let samples = Arc::new(Mutex::new(Vec::new()));
        let mut sampling = JoinSet::new();
        if let Some(gateway) = &world.gateway {
            sampling.spawn(sample(gateway.probe.clone(), Arc::clone(&samples)));
        }
        let began = Instant::now();
        let mut findings = Vec::new();
        let mut round = 0;
        while findings.is_empty() && began.elapsed() < self.lasts {
            let mut next = plan(round);
            next.settings = first.settings.clone();
            findings = world.round(&Arc::new(next)).await;
            round += 1;
            report::say(&format!(
                "round {round}, {:.0} s: {}",
                began.elapsed().as_secs_f64(),
                report::summary()
            ));
        }
        sampling.shutdown().await;
        findings.extend(world.stop().await);
        let samples = std::mem::take(&mut *samples.lock().unwrap_or_else(PoisonError::into_inner));
        findings.extend(self.write(&samples).err().map(|error| format!("can't be written: {error}")));
        report::say(&format!("failures: {}", report::reasons()));
        for (at, (name, rise)) in MEASURES.iter().enumerate() {
            let (middle, last) = thirds(&samples, at);
            report::say(&format!("{name}: {middle:.1} in the middle third, {last:.1} in the last (medians)"));
            if last > middle * (1.0 + RISE) + rise {
                findings.push(format!(
                    "{name} is not level: {middle:.1} in the middle third, {last:.1} in the last"
                ));
            }
        }
        if !findings.is_empty() {
            report::failed(
                &format!("the soak of seed {}, in round {round}", self.seed),
                &again,
                &findings,
                &world.log,
            );
        }
        findings.is_empty()
    }

    fn write(&self, samples: &[Sample]) -> std::io::Result<()> {
        if let Some(path) = &self.csv {
            let mut text = format!("seconds,{}\n", MEASURES.map(|(name, _)| name).join(","));
            for sample in samples {
                let values = sample.values.map(|value| format!("{value:.2}")).join(",");
                text.push_str(&format!("{:.1},{values}\n", sample.seconds));
            }
            std::fs::write(path, text)?;
        }
        let Some(path) = &self.plot else { return Ok(()) };
        let line = |at: usize| {
            let thinned = samples.chunks(samples.len().div_ceil(POINTS).max(1));
            let point = |chunk: &[Sample]| {
                let values = chunk.iter().map(|sample| sample.values[at]).sum::<f64>();
                (chunk[0].seconds / 60.0, values / chunk.len() as f64)
            };
            thinned.map(point).collect::<Vec<_>>()
        };
        let plot = Plot {
            file: "soak.svg",
            title: "A soak with faults: what the gateway holds".into(),
            x: Axis::linear("minutes"),
            y: Axis::linear("MiB, or how many"),
            series: vec![
                Series::new("resident memory, MiB", line(0)),
                Series::reference("watchers", line(3)),
                Series::new("open files", line(1)),
                Series::reference("tasks", line(2)),
            ],
        };
        std::fs::write(path, plot.svg())
    }
}

async fn sample(probe: Probe, samples: Arc<Mutex<Vec<Sample>>>) {
    let began = Instant::now();
    let mut started = 0.0;
    let mut ticks = tokio::time::interval(EVERY);
    ticks.tick().await;
    let mut last = began;
    loop {
        let now = ticks.tick().await;
        let (Some(metrics), Some(memory), Some(files)) =
            (probe.metrics().await, probe.memory(), probe.open_files())
        else {
            continue;
        };
        let calls = metrics.sum("grpc_server_started_total");
        let values = [
            memory / MIB,
            files as f64,
            metrics.sum("federation_runtime_tasks"),
            metrics.sum("federation_watchers"),
            (calls - started) / (now - last).as_secs_f64(),
        ];
        (started, last) = (calls, now);
        let sample = Sample { seconds: (now - began).as_secs_f64(), values };
        samples.lock().unwrap_or_else(PoisonError::into_inner).push(sample);
    }
}

/// The medians of the middle and of the last third.
fn thirds(samples: &[Sample], at: usize) -> (f64, f64) {
    let third = samples.len() / 3;
    let median = |samples: &[Sample]| {
        let mut values: Vec<_> = samples.iter().map(|sample| sample.values[at]).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or_default()
    };
    (median(&samples[third..2 * third]), median(&samples[2 * third..]))
}
