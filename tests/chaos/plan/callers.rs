//! What each caller does.

use std::time::Duration;

use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

use super::truth::{Task, Use};
use super::{Part, Scale, millis, stream};
use crate::record::Asked;

/// Connections that callers share.
pub(crate) const SHARED: usize = 3;

/// How a caller behaves in a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// Reads what comes, to the end.
    Stays,
    /// Cancels after a while.
    Cancels(Duration),
    /// Cuts its own connection after a while.
    Vanishes { after: Duration, is_reset: bool },
    /// Pauses so long before it reads each message.
    Stalls(Duration),
}

/// One call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Act {
    /// So long after the one before.
    pub(crate) pause: Duration,
    /// `None` for a request with a field out of its range.
    pub(crate) task: Option<usize>,
    pub(crate) asked: Asked,
    pub(crate) deadline: Option<Duration>,
    pub(crate) manner: Manner,
}

/// What a caller does.
#[derive(Clone, Debug)]
pub(crate) enum Script {
    /// One call after the other, over that shared connection.
    Calls { connection: usize, acts: Vec<Act> },
    /// Watches one task, again whenever that ends, until all is over or the task is DONE.
    Watches { connection: usize, act: Act },
    /// Connects, sends so many bytes of what a client begins with, waits, and leaves.
    Mumbles(Vec<(Duration, usize, Duration)>),
}

fn of_use(tasks: &[Task], used_by: Use) -> Vec<usize> {
    let is_so = |task: &usize| tasks[*task].used_by == used_by;
    (0..tasks.len()).filter(is_so).collect()
}

pub(super) fn draw(seed: u64, tasks: &[Task], scale: Scale) -> Vec<Script> {
    let (all, watched) = (of_use(tasks, Use::All), of_use(tasks, Use::Watchers));
    let mut scripts = Vec::new();
    let mut nth = 0;
    let mut random = || {
        nth += 1;
        stream(seed, Part::Callers, nth)
    };
    for task in of_use(tasks, Use::Loner) {
        let acts = acts(&mut random(), scale.active, |random| Act {
            deadline: None,
            manner: Manner::Stays,
            ..query(random, &[task])
        });
        scripts.push(Script::Calls { connection: 0, acts });
    }
    for task in watched.iter().chain(&of_use(tasks, Use::Watcher)).chain(&all[..2]) {
        let random = &mut random();
        let act = Act { deadline: None, manner: Manner::Stays, ..watch(random, &[*task]) };
        scripts.push(Script::Watches { connection: random.random_range(0..SHARED), act });
    }
    for _ in 0..scale.callers {
        let random = &mut random();
        let connection = random.random_range(0..SHARED);
        let script = match random.random_range(0..100) {
            0..60 => {
                let acts = acts(random, scale.active, |random| query(random, &all));
                Script::Calls { connection, acts }
            }
            60..95 => {
                let of = if random.random() { &watched } else { &all };
                let acts = acts(random, scale.active, |random| watch(random, of));
                Script::Calls { connection, acts }
            }
            _ => Script::Mumbles(
                (0..6)
                    .map(|_| (millis(random, 0, 900), random.random_range(0..60), millis(random, 0, 300)))
                    .collect(),
            ),
        };
        scripts.push(script);
    }
    scripts
}

/// So many calls as could begin in the time, and one more.
fn acts(random: &mut StdRng, active: Duration, mut act: impl FnMut(&mut StdRng) -> Act) -> Vec<Act> {
    let mut acts = Vec::new();
    let mut at = Duration::ZERO;
    while at < active {
        acts.push(act(random));
        at += acts.last().expect("one was pushed").pause;
    }
    acts
}

fn query(random: &mut StdRng, tasks: &[usize]) -> Act {
    let max_age = match random.random_range(0..10) {
        0..4 => None,
        4..6 => Some(Duration::ZERO),
        6..9 => Some(millis(random, 1, 3000)),
        _ => Some(Duration::from_secs(3600)),
    };
    act(random, tasks, Asked::Query { max_age })
}

fn watch(random: &mut StdRng, tasks: &[usize]) -> Act {
    let interval = match random.random_range(0..4) {
        0..2 => None,
        2 => Some(millis(random, 0, 150)),
        _ => Some(millis(random, 200, 1500)),
    };
    let heartbeat = random.random_bool(0.5).then(|| millis(random, 0, 1500));
    let act = act(random, tasks, Asked::Watch { interval, heartbeat });
    let manner = match act.manner {
        Manner::Stays if random.random_bool(0.3) => Manner::Stalls(millis(random, 50, 900)),
        Manner::Stays if act.deadline.is_none() => Manner::Cancels(millis(random, 200, 2500)),
        manner => manner,
    };
    Act { manner, ..act }
}

fn act(random: &mut StdRng, tasks: &[usize], asked: Asked) -> Act {
    let task = (!random.random_bool(0.02)).then(|| *tasks.choose(random).expect("each use has tasks"));
    let deadline = match random.random_range(0..10) {
        0..2 => None,
        2 => Some(millis(random, 1, 80)),
        _ => Some(millis(random, 100, 3500)),
    };
    let manner = match random.random_range(0..100) {
        0..12 => Manner::Cancels(millis(random, 0, 120)),
        12..17 => Manner::Vanishes { after: millis(random, 0, 300), is_reset: random.random() },
        _ => Manner::Stays,
    };
    Act { pause: millis(random, 5, 180), task, asked, deadline, manner }
}
