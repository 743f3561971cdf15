//! `upstream`, `hot`, `max-age`: the gateway and what it is compared with, in turns, on the same work.

use super::Extent;
use super::measure::{Server, Turn, Work};
use crate::fault::Fault;
use crate::report::{Goal, Section};
use crate::statistics::median;

/// Calls in flight in the rows of the goals' table.
const IN_FLIGHT: usize = 128;

/// Every call its own upstream call.
pub(crate) async fn upstream(extent: Extent) -> Result<Section, Fault> {
    let vendor = Server::vendor(&["--status=DOING"]).await?;
    let gateway = Server::gateway(&[], &vendor, &[]).await?;
    let bare = Server::bare(&[], &vendor).await?;
    let work = Work::upstream(IN_FLIGHT);
    let asked = vendor.queries().await?;
    let rounds = rounds(extent, &gateway, &bare, &work).await?;
    let calls: u64 = rounds.iter().map(|(a, b)| a.outcome.calls + b.outcome.calls + 2 * work.warm_up).sum();
    if vendor.queries().await? - asked != calls {
        return Err(Fault::new("not every call was its own upstream call"));
    }
    let ratio = |of: fn(&Turn) -> f64| median(rounds.iter().map(|(a, b)| of(a) / of(b)));
    Ok(Section {
        goals: vec![
            Goal::at_most("CPU a call", ratio(Turn::cpu_us), 0.95),
            Goal::at_least("calls a second", ratio(|turn| turn.outcome.calls_a_second()), 1.0),
            Goal::at_most("p99", ratio(|turn| turn.outcome.p99_us.into()), 1.0),
        ],
        ..section("upstream", "Every call its own upstream call: `max_age` 0, 100,000 ids", "bare", &rounds)
    })
}

/// Finished tasks that all ask for.
pub(crate) async fn hot(extent: Extent) -> Result<Section, Fault> {
    let title = "64 finished tasks, answered from memory";
    from_memory(extent, "hot", title, &Work::hot(IN_FLIGHT), 0.85).await
}

/// Unfinished tasks, of which an answer that is not the newest will do.
pub(crate) async fn max_age(extent: Extent) -> Result<Section, Fault> {
    let work = Work { max_age_seconds: Some(60), status: "DOING", ..Work::hot(IN_FLIGHT) };
    from_memory(extent, "max-age", "64 unfinished tasks, `max_age` 60 s", &work, 0.8).await
}

async fn from_memory(
    extent: Extent,
    name: &'static str,
    title: &str,
    work: &Work,
    goal: f64,
) -> Result<Section, Fault> {
    let vendor = Server::vendor(&[&format!("--status={}", work.status)]).await?;
    let gateway = Server::gateway(&[], &vendor, &[]).await?;
    let memory = Server::memory(work.status).await?;
    let rounds = rounds(extent, &gateway, &memory, work).await?;
    // Once a task, and once more for those whose minute is over in a long run.
    let (asked, limit) = (vendor.queries().await?, work.ids * 5);
    if asked > limit {
        return Err(Fault::new(format!("memory should have answered, but upstream was asked {asked} times")));
    }
    let cpu = median(rounds.iter().map(|(a, b)| a.cpu_us() / b.cpu_us()));
    Ok(Section {
        goals: vec![Goal::at_most("CPU a call", cpu, goal)],
        ..section(name, title, "memory", &rounds)
    })
}

async fn rounds(
    extent: Extent,
    gateway: &Server,
    other: &Server,
    work: &Work,
) -> Result<Vec<(Turn, Turn)>, Fault> {
    let mut rounds = Vec::with_capacity(extent.rounds);
    for _ in 0..extent.rounds {
        let own = gateway.served(work, extent.turn).await?;
        rounds.push((own, other.served(work, extent.turn).await?));
    }
    Ok(rounds)
}

fn section(name: &'static str, title: &str, other: &str, rounds: &[(Turn, Turn)]) -> Section {
    let columns = ["", "CPU µs a call", "calls a second", "p50 ms", "p99 ms", "max ms"];
    let figures: [fn(&Turn) -> f64; 5] = [
        Turn::cpu_us,
        |turn| turn.outcome.calls_a_second(),
        |turn| f64::from(turn.outcome.p50_us) / 1e3,
        |turn| f64::from(turn.outcome.p99_us) / 1e3,
        |turn| f64::from(turn.outcome.max_us) / 1e3,
    ];
    let decimals = [1, 0, 2, 2, 1];
    let own: Vec<_> = figures.iter().map(|figure| median(rounds.iter().map(|(a, _)| figure(a)))).collect();
    let others: Vec<_> = figures.iter().map(|figure| median(rounds.iter().map(|(_, b)| figure(b)))).collect();
    let ratios: Vec<_> =
        figures.iter().map(|figure| median(rounds.iter().map(|(a, b)| figure(a) / figure(b)))).collect();
    let line = |label: &str, values: &[f64], decimals: &[usize]| {
        let values = values.iter().zip(decimals).map(|(value, decimals)| format!("{value:.decimals$}"));
        std::iter::once(label.to_owned()).chain(values).collect()
    };
    Section {
        name,
        title: format!("{title}; {IN_FLIGHT} calls in flight"),
        columns: columns.map(str::to_owned).to_vec(),
        lines: vec![
            line("gateway", &own, &decimals),
            line(other, &others, &decimals),
            line("ratio", &ratios, &[3; 5]),
        ],
        ..Section::default()
    }
}
