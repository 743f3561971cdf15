//! All that a run will do, drawn from its seed before it begins: the gateway's settings, each task's true states, how
//! the vendor answers its nth request, its outages, what each caller does, and what becomes of the gateway. The plan is
//! the seed's alone; how its parts fall together is the machine's, and differs from run to run.

pub(crate) mod answers;
pub(crate) mod callers;
pub(crate) mod settings;
pub(crate) mod truth;

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use self::answers::Answers;
use self::callers::Script;
use self::settings::Settings;
use self::truth::Task;

/// What happens to the vendor as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blow {
    /// Its listener closes, and all its connections.
    Down(Duration),
    /// It takes no more connections: its backlog fills up.
    Deaf(Duration),
    /// Every token that it gave is void.
    Revoke,
}

/// What happens to the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// SIGTERM, and a new one in its place.
    Drained,
    /// SIGKILL, and a new one in its place.
    Killed,
}

/// How much of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    /// For how long callers call and faults happen.
    pub(crate) active: Duration,
    /// Callers, beside those who watch from the beginning to the end.
    pub(crate) callers: usize,
    /// Whether the gateway may be stopped in between, and may have small limits.
    pub(crate) is_rough: bool,
}

/// The plan of one run, or of one round of a soak.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) active: Duration,
    pub(crate) settings: Settings,
    pub(crate) tasks: Vec<Task>,
    pub(crate) answers: Answers,
    pub(crate) blows: Vec<(Duration, Blow)>,
    pub(crate) fate: Option<(Duration, Fate)>,
    pub(crate) scripts: Vec<Script>,
}

/// What a stream of random numbers is for: each its own, so that no part's draws move another's.
#[derive(Clone, Copy, Debug)]
enum Part {
    Settings = 1,
    Truth,
    Blows,
    Fate,
    Callers,
    Answer,
    Login,
}

/// The random numbers of one part's nth thing.
fn stream(seed: u64, part: Part, nth: usize) -> StdRng {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    bytes[8] = part as u8;
    bytes[16..24].copy_from_slice(&(nth as u64).to_le_bytes());
    StdRng::from_seed(bytes)
}

/// A random duration, in milliseconds.
fn millis(random: &mut StdRng, from: u64, to: u64) -> Duration {
    Duration::from_millis(random.random_range(from..=to))
}

impl Plan {
    pub(crate) fn new(seed: u64, scale: Scale) -> Self {
        let settings = Settings::draw(&mut stream(seed, Part::Settings, 0), scale.is_rough);
        let tasks = truth::draw(seed, scale.active);
        let blows = blows(seed, scale);
        let random = &mut stream(seed, Part::Fate, 0);
        let fate = (scale.is_rough && random.random_bool(0.4)).then(|| {
            let fate = if random.random_bool(0.6) { Fate::Drained } else { Fate::Killed };
            (scale.active.mul_f64(random.random_range(0.2..0.7)), fate)
        });
        let scripts = callers::draw(seed, &tasks, scale);
        Self {
            active: scale.active,
            answers: Answers::new(seed, settings.attempt_timeout),
            settings,
            tasks,
            blows,
            fate,
            scripts,
        }
    }
}

/// One blow after the other, with a while in between.
fn blows(seed: u64, scale: Scale) -> Vec<(Duration, Blow)> {
    let Scale { active, is_rough, .. } = scale;
    let random = &mut stream(seed, Part::Blows, 0);
    let mut blows = Vec::new();
    let mut at = millis(random, 200, 1200);
    while at < active {
        let blow = match random.random_range(0..10) {
            0..3 => Blow::Down(millis(random, 100, 900)),
            3 => Blow::Deaf(millis(random, 100, 1200)),
            _ => Blow::Revoke,
        };
        blows.push((at, blow));
        let lasts = match blow {
            Blow::Down(lasts) | Blow::Deaf(lasts) => lasts,
            Blow::Revoke => Duration::ZERO,
        };
        at += lasts + millis(random, 800, 3500) * if is_rough { 1 } else { 3 };
    }
    blows
}
