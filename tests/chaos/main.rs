//! Chaos with an oracle: a vendor whose truth is scripted and that fails in every way it can, callers that query, watch,
//! cancel, stall and vanish, and the real gateway in a process of its own, which is drained, killed and started again.
//! The oracle judges every message and every failure afterwards by what was written down.
//!
//! ```text
//! cargo test --locked --test chaos                            # ten seeds
//! cargo test --locked --test chaos -- --seeds 1000            # as many as asked
//! cargo test --locked --test chaos -- --seed 7                # one
//! cargo test --locked --test chaos -- --soak 30m --plot soak.svg --csv soak.csv
//! ```
//!
//! A seed decides what everybody does and when: settings, states, faults, calls. How these fall together is decided by
//! the machine, so that a seed that failed may have to be run more than once to fail again.

mod callers;
#[path = "../support/connection.rs"]
mod connection;
mod gateway;
#[path = "../support/http_get.rs"]
mod http_get;
mod oracle;
mod plan;
#[path = "../../benches/gateway/plot.rs"]
#[expect(dead_code, reason = "the benchmark's plots have more to tell")]
mod plot;
mod record;
mod report;
mod soak;
#[path = "../support/told.rs"]
mod told;
mod vendor;
mod world;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::plan::{Plan, Scale};
use crate::soak::Soak;
use crate::world::World;

/// What a filter of cargo's is held against.
const NAME: &str = "chaos";
/// One seed's run.
const SHORT: Scale = Scale { active: Duration::from_secs(4), callers: 44, is_rough: true };

/// More than cores, so that the system shares them out where one has much to do.
const WORKERS: usize = 6;

fn main() -> ExitCode {
    let matches = command().get_matches();
    if matches.get_flag("list") {
        report::say(&format!("{NAME}: test"));
        return ExitCode::SUCCESS;
    }
    if !is_meant(&matches) {
        return ExitCode::SUCCESS;
    }
    // Both ends of many connections are files of this process: more than a container's soft limit allows.
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        report::say(&format!("the limit of open files stays as it is: {error}"));
    }
    if let Some(path) = matches.get_one::<PathBuf>("gateway") {
        // It is set here alone.
        let _ = gateway::BINARY.set(path.into());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(WORKERS).enable_all().build();
    let runtime = runtime.expect("a runtime can be had");
    let is_good = runtime.block_on(run(&matches));
    if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn command() -> Command {
    let number = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name("N").value_parser(value_parser!(u64)).help(help)
    };
    let path = |name: &'static str, help: &'static str| {
        Arg::new(name)
            .long(name)
            .value_name("FILE")
            .value_parser(value_parser!(PathBuf))
            .requires("soak")
            .help(help)
    };
    // What cargo's own harness takes, so that `cargo test` with options of its does what is meant.
    let flag = |name: &'static str| Arg::new(name).long(name).action(ArgAction::SetTrue).hide(true);
    let option = |name: &'static str| Arg::new(name).long(name).action(ArgAction::Append).hide(true);
    Command::new(NAME)
        .about("Chaos with an oracle: seeded faults, and every answer held against the truth")
        .arg(number("seeds", "Run so many seeds").default_value("10"))
        .arg(number("first", "Begin with this seed").default_value("1"))
        .arg(number("seed", "Run this seed alone").conflicts_with("seeds"))
        .arg(number("jobs", "Run so many at once").value_parser(value_parser!(u64).range(1..)))
        .arg(
            Arg::new("soak")
                .long("soak")
                .value_name("TIME")
                .value_parser(humantime::parse_duration)
                .conflicts_with_all(["seeds", "seed"])
                .help("Run rounds over one gateway for so long, for example 30m"),
        )
        .arg(path("plot", "Draw what the soak has measured, as SVG"))
        .arg(path("csv", "Write what the soak has measured"))
        .arg(
            Arg::new("gateway")
                .long("gateway")
                .value_name("PATH")
                .value_parser(value_parser!(PathBuf))
                .help("Test this binary, not the one that was built along"),
        )
        .arg(Arg::new("filter").num_args(0..).help("Run nothing unless the name \"chaos\" has this in it"))
        .args(
            ["list", "exact", "ignored", "include-ignored", "nocapture", "no-capture", "show-output"]
                .map(flag),
        )
        .arg(flag("quiet").short('q'))
        .args(["skip", "test-threads", "format", "color", "logfile"].map(option))
        .arg(option("unstable").short('Z'))
}

/// Whether cargo's filters mean this test.
fn is_meant(matches: &ArgMatches) -> bool {
    let many = |name: &str| matches.get_many::<String>(name).into_iter().flatten();
    let names = |filter: &String| {
        if matches.get_flag("exact") { filter == NAME } else { NAME.contains(filter.as_str()) }
    };
    let is_named = many("filter").next().is_none() || many("filter").any(names);
    is_named && !many("skip").any(names) && !matches.get_flag("ignored")
}

async fn run(matches: &ArgMatches) -> bool {
    let number = |name: &str| matches.get_one::<u64>(name).copied();
    let first = number("first").unwrap_or(1);
    if let Some(lasts) = matches.get_one::<Duration>("soak") {
        let path = |name: &str| matches.get_one::<PathBuf>(name).cloned();
        let soak = Soak { seed: first, lasts: *lasts, plot: path("plot"), csv: path("csv") };
        return soak.run().await;
    }
    let seeds = match number("seed") {
        Some(seed) => seed..=seed,
        None => first..=first.saturating_add(number("seeds").unwrap_or(10)).saturating_sub(1),
    };
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u64;
    let jobs = number("jobs").unwrap_or(4 * cores) as usize;
    let began = Instant::now();
    let mut waiting: VecDeque<u64> = seeds.collect();
    let (mut running, mut failed, mut ran) = (JoinSet::new(), Vec::new(), 0);
    loop {
        while running.len() < jobs
            && let Some(seed) = waiting.pop_front()
        {
            running.spawn(async move { (seed, seeded(seed).await) });
        }
        match running.join_next().await {
            None => break,
            Some(Ok((_, true))) => {}
            Some(Ok((seed, false))) => failed.push(seed),
            Some(Err(error)) => {
                report::say(&format!("a run of the harness itself died: {error}"));
                failed.push(0);
            }
        }
        ran += 1;
        if ran % 50 == 0 {
            report::say(&format!(
                "{ran} seeds, {:.0} s, {}",
                began.elapsed().as_secs_f64(),
                report::summary()
            ));
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    report::say(&format!("chaos: {ran} seeds in {seconds:.1} s, {}; failed: {failed:?}", report::summary()));
    report::say(&format!("failures: {}", report::reasons()));
    failed.is_empty()
}

/// Runs one seed; whether all was well.
async fn seeded(seed: u64) -> bool {
    let plan = Arc::new(Plan::new(seed, SHORT));
    let again = format!("cargo test --locked --test chaos -- --seed {seed}");
    let mut world = match World::start(&plan).await {
        Ok(world) => world,
        Err(what) => {
            report::failed(&format!("seed {seed} did not begin"), &again, &[what], &Default::default());
            return false;
        }
    };
    let mut findings = world.round(&plan).await;
    findings.extend(world.stop().await);
    if !findings.is_empty() {
        let what = format!("seed {seed}, with {:?} and {:?}", plan.settings, plan.fate);
        report::failed(&what, &again, &findings, &world.log);
    }
    findings.is_empty()
}
