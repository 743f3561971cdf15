//! Explores the interleavings of a scenario: at random, and by probabilistic concurrency testing, which finds with a known
//! chance what needs few changes of tasks at the wrong places. A failure prints its schedule.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use shuttle::scheduler::{PctScheduler, RandomScheduler, ReplayScheduler, Scheduler};
use shuttle::{Config, Runner};

use super::clock;

/// How many times as much is explored as in CI, each time other schedules.
const TIMES: &str = "INTERLEAVINGS";
/// A file with the schedule that a failure printed: it alone is run again.
const REPLAY: &str = "SCHEDULE";
/// What CI explores is always the same: whoever sees a failure there has it too.
const SEED: u64 = 5;
/// Changes of tasks that a defect may need.
const DEPTH: usize = 4;
/// What a task of a debug build needs of stack, with much to spare.
const STACK: usize = 256 * 1024;

/// Runs `scenario` under `iterations` schedules of each kind. Time goes on for so long, then it
/// stands: whoever waits for more is taken to wait for ever, and fails the exploration.
pub(crate) fn explore<F>(iterations: usize, time: Duration, scenario: impl Fn() -> F + Send + Sync + 'static)
where
    F: Future<Output = ()> + 'static,
{
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime that is only asked for the time");
    let _entered = runtime.enter();
    let execution = Arc::new(move || {
        clock::reset();
        clock::goes_on_for(time);
        drop(shuttle::future::spawn(clock::run()));
        shuttle::future::block_on(scenario());
    });
    let run = |scheduler: Box<dyn Scheduler + Send>| {
        let execution = Arc::clone(&execution);
        let mut config = Config::new();
        config.stack_size = STACK;
        config.silence_warnings = true;
        Runner::new(scheduler, config).run(move || execution())
    };
    if let Ok(path) = std::env::var(REPLAY) {
        let schedule = ReplayScheduler::new_from_file(path).expect("a file with a schedule");
        assert_eq!(run(Box::new(schedule)), 1);
        return;
    }
    let times = std::env::var(TIMES).ok().map(|times| times.parse().expect("a number of times"));
    let iterations = iterations * times.unwrap_or(1);
    let seed = if times.is_some() { rand::random() } else { SEED };
    assert_eq!(run(Box::new(RandomScheduler::new_from_seed(seed, iterations))), iterations);
    assert_eq!(run(Box::new(PctScheduler::new_from_seed(seed, DEPTH, iterations))), iterations);
}
