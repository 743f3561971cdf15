//! `start`: from exec to SERVING, and what an idle gateway holds.

use std::time::Duration;

use super::Extent;
use super::measure::Server;
use super::watchers::MB;
use crate::fault::Fault;
use crate::report::{Goal, Section};
use crate::statistics::median;

/// When an idle gateway's memory is looked at, after it serves.
const IDLE: Duration = Duration::from_secs(2);
/// All that it does by default, on a port that is free.
const ADMIN: &str = "--admin-listen=127.0.0.1:0";

/// The row.
pub(crate) async fn start(extent: Extent) -> Result<Section, Fault> {
    let vendor = Server::vendor(&[]).await?;
    let (starts, idles) = if extent.is_short { (3, 1) } else { (40, 5) };
    let (mut times_ms, mut held) = (Vec::new(), Vec::new());
    for number in 0..starts {
        let (gateway, took) = Server::gateway_timed(&[], &vendor, &[ADMIN]).await?;
        times_ms.push(took.as_secs_f64() * 1e3);
        if number < idles {
            tokio::time::sleep(IDLE).await;
            held.push(gateway.process.memory("VmRSS")?);
        }
        gateway.process.stop().await?;
    }
    let slowest = times_ms.iter().copied().fold(0.0, f64::max);
    let (median_ms, held) = (median(times_ms), median(held) / MB);
    let columns = ["", "median ms", "slowest ms", "idle RSS MB"];
    let line = [
        format!("{starts} starts"),
        format!("{median_ms:.1}"),
        format!("{slowest:.1}"),
        format!("{held:.1}"),
    ];
    Ok(Section {
        name: "start",
        title: "From exec to listening and SERVING, against a vendor that answers at once".to_owned(),
        columns: columns.map(str::to_owned).to_vec(),
        lines: vec![line.to_vec()],
        goals: vec![
            Goal::at_most("exec to SERVING", median_ms, 100.0).unit("ms"),
            Goal::at_most("idle", held, 12.0).unit("MB").noise_proof(),
        ],
        ..Section::default()
    })
}
