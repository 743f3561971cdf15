//! `instructions`: the user-space instructions of a call that is its own upstream call, by valgrind's callgrind. The
//! difference of two runs, so that starting up and warming up are not counted.

use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use super::Extent;
use super::measure::{Server, Work};
use crate::fault::Fault;
use crate::report::{Goal, Section};
use crate::statistics::median;

const CALLGRIND: [&str; 4] =
    ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", "--fair-sched=try"];
const IN_FLIGHT: usize = 16;
/// What a run may take, which a call under valgrind makes some fifty times as long.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Clone, Copy)]
enum Measured {
    Gateway,
    Bare,
}

/// The row.
pub(crate) async fn instructions(extent: Extent) -> Result<Section, Fault> {
    let title =
        format!("User-space instructions of a call, each its own upstream call; {IN_FLIGHT} in flight");
    let section = Section { name: "instructions", title, ..Section::default() };
    let valgrind = Command::new("valgrind").arg("--version").stdout(Stdio::null()).status().await;
    if !valgrind.is_ok_and(|status| status.success()) {
        return Ok(Section { notes: vec!["not measured: valgrind is not installed".to_owned()], ..section });
    }
    let vendor = Server::vendor(&[]).await?;
    let (calls, rounds) = if extent.is_short { (200, 1) } else { (2000, 3) };
    let (mut own, mut others) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        own.push(a_call(&vendor, Measured::Gateway, calls).await?);
        others.push(a_call(&vendor, Measured::Bare, calls).await?);
    }
    let ratio = median(own.iter().zip(&others).map(|(own, other)| own / other));
    let line = |label: &str, value: f64, decimals| vec![label.to_owned(), format!("{value:.decimals$}")];
    Ok(Section {
        columns: vec![String::new(), "instructions a call".to_owned()],
        lines: vec![
            line("gateway", median(own), 0),
            line("bare", median(others), 0),
            line("ratio", ratio, 3),
        ],
        goals: vec![Goal::at_most("instructions a call", ratio, 0.8).noise_proof_if(!extent.is_short)],
        ..section
    })
}

async fn a_call(vendor: &Server, measured: Measured, calls: u64) -> Result<f64, Fault> {
    let once = total(vendor, measured, calls).await?;
    let twice = total(vendor, measured, 2 * calls).await?;
    Ok((twice - once) / calls as f64)
}

/// All instructions of a process that served so many calls.
async fn total(vendor: &Server, measured: Measured, calls: u64) -> Result<f64, Fault> {
    let server = match measured {
        Measured::Gateway => Server::gateway(&CALLGRIND, vendor, &[]).await?,
        Measured::Bare => Server::bare(&CALLGRIND, vendor).await?,
    };
    let work = Work { calls: Some(calls), warm_up: 200, ..Work::upstream(IN_FLIGHT) };
    server.served(&work, PATIENCE).await?;
    let said = server.process.stop().await?;
    // ==PID== Collected : NUMBER
    let collected = said.iter().find_map(|line| line.split_once("Collected :")?.1.trim().parse().ok());
    collected.ok_or_else(|| Fault::new(format!("callgrind told no total: {said:?}")))
}
