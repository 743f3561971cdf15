//! `growth`: the same figures for few and for many callers and watchers: where does the cost of each rise?

use super::Extent;
use super::measure::{Server, Turn, Work};
use super::watchers::{self, MB, watched};
use crate::fault::Fault;
use crate::plot::{Axis, Plot, Series};
use crate::report::Section;
use crate::statistics::median;

const CALLERS: [usize; 5] = [1, 10, 100, 1_000, 10_000];
const WATCHERS: [usize; 6] = [1, 10, 100, 1_000, 10_000, 100_000];
/// Tasks that are watched, at most.
const TASKS: usize = 100;
/// Turns at each number of callers: there are many numbers.
const ROUNDS: usize = 2;
/// The gateway's limit on calls (max-in-flight) is 10,000 by default, and callers ask again before it has counted
/// their last one out.
const ROOM: &str = "--max-in-flight=20000";

/// The medians of one server at one number of callers.
struct Point {
    callers: usize,
    cpu_us: f64,
    a_second: f64,
    p50_ms: f64,
    p99_ms: f64,
}

/// One server's growth.
struct Curve {
    label: &'static str,
    points: Vec<Point>,
}

/// The row for callers.
pub(crate) async fn callers(extent: Extent) -> Result<Section, Fault> {
    let vendor = Server::vendor(&["--status=DOING"]).await?;
    let gateway = roomy(&vendor).await?;
    let bare = Server::bare(&[], &vendor).await?;
    let pair = [("gateway (upstream)", &gateway), ("bare", &bare)];
    let mut curves = Vec::from(grow(extent, pair, &Work::upstream).await?);
    drop((gateway, bare, vendor));

    let vendor = Server::vendor(&["--status=DONE"]).await?;
    let (gateway, memory) = (roomy(&vendor).await?, Server::memory("DONE").await?);
    curves.extend(grow(extent, [("gateway (hot)", &gateway), ("memory", &memory)], &Work::hot).await?);

    let columns = ["", "callers", "CPU µs a call", "calls a second", "p50 ms", "p99 ms"];
    let line = |label: &str, point: &Point| {
        vec![
            label.to_owned(),
            point.callers.to_string(),
            format!("{:.1}", point.cpu_us),
            format!("{:.0}", point.a_second),
            format!("{:.2}", point.p50_ms),
            format!("{:.2}", point.p99_ms),
        ]
    };
    let lines = curves.iter().flat_map(|curve| curve.points.iter().map(|point| line(curve.label, point)));
    let plot = |file, title: &str, y, of: fn(&Point) -> f64| Plot {
        file,
        title: title.to_owned(),
        x: Axis::logarithmic("callers, each with one call in flight"),
        y,
        series: curves
            .iter()
            .map(|curve| {
                let points = curve.points.iter().map(|point| (point.callers as f64, of(point))).collect();
                let new = if curve.label.starts_with("gateway") { Series::new } else { Series::reference };
                new(curve.label, points)
            })
            .collect(),
    };
    Ok(Section {
        name: "growth-callers",
        title: "The work of `upstream` and of `hot` by callers".to_owned(),
        columns: columns.map(str::to_owned).to_vec(),
        lines: lines.collect(),
        plots: vec![
            plot(
                "cpu-by-callers.svg",
                "CPU a call by callers",
                Axis::linear("µs of the server's CPU a call"),
                |p| p.cpu_us,
            ),
            plot(
                "p99-by-callers.svg",
                "p99 by callers",
                Axis::logarithmic("ms within which 99 of 100 are"),
                |p| p.p99_ms,
            ),
        ],
        ..Section::default()
    })
}

/// A gateway that lets in as many as ever call here.
async fn roomy(vendor: &Server) -> Result<Server, Fault> {
    match Server::gateway(&[], vendor, &[ROOM]).await {
        // A version without that limit has room enough.
        Err(fault) if fault.to_string().contains("not supported") => Server::gateway(&[], vendor, &[]).await,
        other => other,
    }
}

async fn grow(
    extent: Extent,
    pair: [(&'static str, &Server); 2],
    work: &dyn Fn(usize) -> Work,
) -> Result<[Curve; 2], Fault> {
    let mut curves = pair.map(|(label, _)| Curve { label, points: Vec::new() });
    let largest = if extent.is_short { 100 } else { usize::MAX };
    for callers in CALLERS.into_iter().filter(|callers| *callers <= largest) {
        let (mut turns, time) = ([Vec::new(), Vec::new()], extent.turn / 2);
        for _ in 0..extent.rounds.min(ROUNDS) {
            for ((_, server), turns) in pair.iter().zip(&mut turns) {
                turns.push(server.served(&work(callers), time).await?);
            }
        }
        for (curve, turns) in curves.iter_mut().zip(&turns) {
            let middle = |of: fn(&Turn) -> f64| median(turns.iter().map(of));
            curve.points.push(Point {
                callers,
                cpu_us: middle(Turn::cpu_us),
                a_second: middle(|turn| turn.outcome.calls_a_second()),
                p50_ms: middle(|turn| f64::from(turn.outcome.p50_us) / 1e3),
                p99_ms: middle(|turn| f64::from(turn.outcome.p99_us) / 1e3),
            });
        }
    }
    Ok(curves)
}

/// The row for watchers.
pub(crate) async fn watchers(extent: Extent) -> Result<Section, Fault> {
    let largest = if extent.is_short { 100 } else { usize::MAX };
    let mut all = Vec::new();
    for count in WATCHERS.into_iter().filter(|count| *count <= largest) {
        all.push(watched(extent, count, count.min(TASKS)).await?);
    }
    let (columns, lines) = watchers::table(&all);
    let points = |of: fn(&watchers::Watched) -> f64| {
        all.iter().map(|watched| (watched.watchers as f64, of(watched))).collect::<Vec<_>>()
    };
    let plot = |file, title: &str, y, series| {
        let x = Axis::logarithmic("watchers, on at most 100 tasks");
        Plot { file, title: title.to_owned(), x, y, series }
    };
    let memory = vec![
        Series::new("held", points(|watched| watched.held / MB)),
        Series::reference("before they came", points(|watched| watched.idle / MB)),
    ];
    let polls = vec![
        Series::new("polls a second", points(|watched| watched.polls_a_second)),
        Series::reference("tasks", points(|watched| watched.tasks as f64)),
    ];
    Ok(Section {
        name: "growth-watchers",
        title: "Watchers that all ask for a poll a second".to_owned(),
        columns,
        lines,
        plots: vec![
            plot("memory-by-watchers.svg", "Memory by watchers", Axis::logarithmic("MB resident"), memory),
            plot("polls-by-watchers.svg", "Upstream polls by watchers", Axis::linear("a second"), polls),
        ],
        ..Section::default()
    })
}
