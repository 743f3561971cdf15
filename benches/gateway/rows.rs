//! The rows of the table: each starts its own processes, measures in turns, and says what came out.

mod compare;
mod growth;
mod instructions;
mod measure;
mod overload;
mod start;
mod watchers;

use std::process::ExitCode;
use std::time::Duration;

use clap::ArgMatches;

use crate::fault::Fault;
use crate::process::GATEWAY;
use crate::real;
use crate::report::{self, Section};
use crate::results;
use crate::roles::{many_threads, text};

/// The rows by name, in the order in which they run.
pub(crate) const NAMES: [&str; 9] = [
    "upstream",
    "instructions",
    "hot",
    "max-age",
    "watchers",
    "start",
    "overload",
    "growth-callers",
    "growth-watchers",
];

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extent {
    pub(crate) is_short: bool,
    /// How often each part has its turn.
    pub(crate) rounds: usize,
    /// How long a turn is.
    pub(crate) turn: Duration,
}

impl Extent {
    const FULL: Self = Self { is_short: false, rounds: 5, turn: Duration::from_secs(8) };
    const SHORT: Self = Self { is_short: true, rounds: 1, turn: Duration::from_millis(500) };
}

/// Runs the rows that are asked for.
pub(crate) fn run(matches: &ArgMatches) -> Result<ExitCode, Fault> {
    // `cargo test --benches` runs this too, without --bench: then it is only to be seen whether it works.
    let is_short = matches.get_flag("short") || !matches.get_flag("bench");
    let extent = if is_short { Extent::SHORT } else { Extent::FULL };
    if let Some(path) = matches.get_one::<String>("gateway") {
        let _ = GATEWAY.set(path.into());
    } else if !is_short {
        real::build()?;
    }
    let only = matches.get_one::<String>("only").map(String::as_str);
    // The other rows are worth having all the same.
    let (mut sections, mut has_failed) = (Vec::new(), false);
    many_threads()?.block_on(async {
        for name in NAMES.iter().filter(|name| only.is_none_or(|only| only == **name)) {
            let section = row(name, extent).await.unwrap_or_else(|fault| {
                has_failed = true;
                Section::failed(name, &fault)
            });
            report::print(&section)?;
            sections.push(section);
        }
        Ok::<_, Fault>(())
    })?;
    let is_whole = only.is_none() && !is_short;
    let folder = match text(matches, "results") {
        "" if is_whole => Some(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/results")),
        "" => None,
        folder => Some(folder),
    };
    if let Some(folder) = folder {
        results::write(folder.as_ref(), &sections)?;
    }
    let is_missed = has_failed || matches.get_flag("check") && report::missed_without_noise(&sections);
    Ok(if is_missed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

async fn row(name: &str, extent: Extent) -> Result<Section, Fault> {
    match name {
        "upstream" => compare::upstream(extent).await,
        "instructions" => instructions::instructions(extent).await,
        "hot" => compare::hot(extent).await,
        "max-age" => compare::max_age(extent).await,
        "watchers" => watchers::watchers(extent).await,
        "start" => start::start(extent).await,
        "overload" => overload::overload(extent).await,
        "growth-callers" => growth::callers(extent).await,
        "growth-watchers" => growth::watchers(extent).await,
        _ => Err(Fault::new("there is no such row")),
    }
}
