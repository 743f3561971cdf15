//! `watchers`: what many watchers of few tasks cost upstream and in memory, and how soon a change reaches them all.

use std::time::Duration;

use serde_json::Value;

use super::Extent;
use super::measure::Server;
use crate::fault::Fault;
use crate::process::{Process, http};
use crate::report::{Goal, Section};
use crate::roles::watch::{self, Seen};
use crate::statistics::median;

/// How long 100,000 watches may take to open, or to see a change.
const PATIENCE: Duration = Duration::from_secs(120);
/// After the last INITIAL, until the gateway's memory is looked at.
const SETTLING: Duration = Duration::from_secs(2);
/// Watches a connection at most, and connections at least.
const WATCHES_A_CONNECTION: usize = 2500;
const CONNECTIONS: usize = 8;
/// A megabyte, as the goals count it.
pub(super) const MB: f64 = 1e6;

/// What so many watchers came to.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) watchers: usize,
    pub(super) tasks: usize,
    /// What the gateway held before they came, and with them, in bytes.
    pub(super) idle: f64,
    pub(super) held: f64,
    /// The most that it ever held, the change included.
    pub(super) peak: f64,
    pub(super) polls_a_second: f64,
    /// From a poll's answer to its task's last watcher: the middle task's, and the slowest's, in milliseconds.
    pub(super) reach_ms: f64,
    pub(super) slowest_ms: f64,
}

impl Watched {
    /// Bytes of memory a watcher.
    pub(super) fn each(&self) -> f64 {
        (self.held - self.idle) / self.watchers as f64
    }

    fn line(&self) -> Vec<String> {
        vec![
            self.watchers.to_string(),
            self.tasks.to_string(),
            format!("{:.1}", self.polls_a_second),
            format!("{:.1}", self.held / MB),
            format!("{:.1}", self.peak / MB),
            format!("{:.2}", self.each() / 1e3),
            format!("{:.1}", self.reach_ms),
            format!("{:.1}", self.slowest_ms),
        ]
    }
}

/// The table of some numbers of watchers.
pub(super) fn table(all: &[Watched]) -> (Vec<String>, Vec<Vec<String>>) {
    let columns = [
        "watchers",
        "tasks",
        "polls a second",
        "RSS MB",
        "peak MB",
        "kB a watcher",
        "change reaches all, ms",
        "slowest task, ms",
    ];
    (columns.map(str::to_owned).to_vec(), all.iter().map(Watched::line).collect())
}

/// The row of the goals' table.
pub(crate) async fn watchers(extent: Extent) -> Result<Section, Fault> {
    let counts = if extent.is_short { [20, 200, 1000] } else { [100, 10_000, 100_000] };
    let tasks = if extent.is_short { 20 } else { 100 };
    let mut all = Vec::new();
    for count in counts {
        all.push(watched(extent, count, tasks).await?);
    }
    let (columns, lines) = table(&all);
    // In a short run too few polls are counted, and what a process holds anyway is shared by too few.
    let is_full = !extent.is_short;
    let goals = match &*all {
        [few, many, most] => vec![
            Goal::at_most(
                "polls, as those of one watcher a task",
                many.polls_a_second / few.polls_a_second,
                1.05,
            )
            .noise_proof_if(is_full),
            Goal::at_most("memory a watcher", many.each() / 1e3, 4.0).unit("kB").noise_proof_if(is_full),
            Goal::at_most("a change reaches all", many.slowest_ms, 150.0).unit("ms"),
            Goal::at_most(format!("memory with {} watchers", most.watchers), most.held / MB, 500.0)
                .unit("MB")
                .noise_proof(),
        ],
        _ => Vec::new(),
    };
    let title = "Watchers that all ask for a poll a second; then every task changes".to_owned();
    Ok(Section { name: "watchers", title, columns, lines, goals, ..Section::default() })
}

/// So many watchers of so many tasks, on a gateway of their own.
pub(super) async fn watched(extent: Extent, watchers: usize, tasks: usize) -> Result<Watched, Fault> {
    let vendor = Server::vendor(&["--status=DOING"]).await?;
    let gateway = Server::gateway(&[], &vendor, &[]).await?;
    tokio::time::sleep(if extent.is_short { Duration::ZERO } else { SETTLING }).await;
    let idle = gateway.process.memory("VmRSS")?;
    let connections = watchers.div_ceil(WATCHES_A_CONNECTION).max(CONNECTIONS.min(watchers));
    let options = [
        format!("--target={}", gateway.address),
        format!("--connections={connections}"),
        format!("--watchers={watchers}"),
        format!("--tasks={tasks}"),
        format!("--linger-ms={}", if extent.is_short { 200 } else { 2000 }),
    ];
    let mut watch = Process::role(&[], watch::NAME, &options)?;
    watch.line(PATIENCE, |line| (line == "ready").then_some(())).await?;
    tokio::time::sleep(if extent.is_short { Duration::ZERO } else { SETTLING }).await;
    // Polls come once a second, all at about the same time: the more seconds, the less it matters when one looks.
    let (time, before) = (extent.turn * 3, vendor.queries().await?);
    tokio::time::sleep(time).await;
    let polls = vendor.queries().await? - before;
    let held = gateway.process.memory("VmRSS")?;
    http(vendor.address, "POST", "/status/TODO").await?;
    let seen: Seen = watch.line(PATIENCE, |line| serde_json::from_str(line).ok()).await?;
    if seen.initial != watchers || seen.changed != watchers || seen.wrong > 0 {
        let (initial, changed, wrong, example) = (seen.initial, seen.changed, seen.wrong, &seen.example);
        return Err(Fault::new(format!(
            "of {watchers} watchers {initial} saw INITIAL, {changed} CHANGED, {wrong} went wrong: {example}"
        )));
    }
    let reach_ms = reach_ms(&seen, &http(vendor.address, "GET", "/changes").await?)?;
    Ok(Watched {
        watchers,
        tasks,
        idle,
        held,
        peak: gateway.process.memory("VmHWM")?,
        polls_a_second: polls as f64 / time.as_secs_f64(),
        reach_ms: median(reach_ms.iter().copied()),
        slowest_ms: reach_ms.iter().copied().fold(0.0, f64::max),
    })
}

/// For each task, the time from its poll's answer to its last watcher's message.
fn reach_ms(seen: &Seen, changes: &Value) -> Result<Vec<f64>, Fault> {
    let reach = |(task, last): (&String, &u64)| {
        let answered = changes.get(task).and_then(Value::as_u64)?;
        Some(last.saturating_sub(answered) as f64 / 1e3)
    };
    let all: Option<Vec<_>> = seen.last_changed_us.iter().map(reach).collect();
    all.ok_or_else(|| Fault::new("a change was seen that the vendor never told"))
}
