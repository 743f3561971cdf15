//! Measures the gateway beside what it is compared with, on this machine. Each part runs as a process of its own, so
//! that a part's CPU is the system's account of its process: this executable runs itself again, once for each role,
//! and the gateway is the real binary.
//!
//! ```text
//! cargo bench --bench gateway                    # all rows; writes benches/results
//! cargo bench --bench gateway -- --short         # the same paths in under a minute: a smoke test
//! cargo bench --bench gateway -- --only upstream # one row
//! cargo bench --bench gateway -- vendor --help   # a role by hand
//! ```

mod client;
mod fault;
mod plot;
mod process;
mod real;
mod report;
mod results;
mod roles;
mod rows;
mod statistics;

use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command};

use crate::fault::Fault;
use crate::roles::{bare, load, memory, vendor, watch};

fn main() -> ExitCode {
    let matches = command().get_matches();
    match run(&matches) {
        Ok(code) => code,
        Err(fault) => {
            fault::tell(&fault);
            ExitCode::FAILURE
        }
    }
}

fn command() -> Command {
    // cargo bench adds --bench at the end, wherever that is.
    let bench = Arg::new("bench").long("bench").action(ArgAction::SetTrue).hide(true).global(true);
    let short = Arg::new("short").long("short").action(ArgAction::SetTrue);
    let only = Arg::new("only").long("only").value_name("ROW").value_parser(rows::NAMES);
    let check = Arg::new("check").long("check").action(ArgAction::SetTrue);
    let gateway = Arg::new("gateway").long("gateway").value_name("PATH");
    let results = Arg::new("results").long("results").value_name("FOLDER");
    Command::new("gateway")
        .about("Measure the gateway beside what it is compared with")
        .arg(bench)
        .arg(short.help("Tiny durations: does it all still work?"))
        .arg(only.help("Run one row"))
        .arg(check.help("Exit with 1 if a goal is missed that noise can't miss"))
        .arg(gateway.help("Measure this binary, not the one that was built along"))
        .arg(results.help(
            "Where to write the table and the plots [default: benches/results, unless --short or --only]",
        ))
        .subcommands([
            vendor::command(),
            bare::command(),
            memory::command(),
            load::command(),
            watch::command(),
        ])
}

fn run(matches: &ArgMatches) -> Result<ExitCode, Fault> {
    let done = match matches.subcommand() {
        Some((vendor::NAME, matches)) => vendor::run(matches),
        Some((bare::NAME, matches)) => bare::run(matches),
        Some((memory::NAME, matches)) => memory::run(matches),
        Some((load::NAME, matches)) => load::run(matches),
        Some((watch::NAME, matches)) => watch::run(matches),
        _ => return rows::run(matches),
    };
    done.map(|()| ExitCode::SUCCESS)
}
