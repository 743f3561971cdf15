//! What is written down while a run goes on, for the oracle to judge afterwards: the vendor's record of each exchange,
//! the callers' of each call, the operator's of each process. All on this machine's two clocks.

use std::time::{Duration, SystemTime};

use federation_gateway::clock;
use tokio::time::Instant;

use crate::plan::answers::{LoginScript, What};
use crate::told::Told;

/// A moment by both clocks: spans are taken from the first, `observed_at` is compared with the second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    pub(crate) at: Instant,
    pub(crate) wall: SystemTime,
}

impl Moment {
    pub(crate) fn now() -> Self {
        Self { at: Instant::now(), wall: clock::wall_now() }
    }
}

/// One queryTask request, as the vendor met it.
#[derive(Clone, Debug)]
pub(crate) struct Exchange {
    /// Stands in the answer's resultMessage.
    pub(crate) number: usize,
    /// The gateway process that asked: each has an app key of its own.
    pub(crate) process: usize,
    pub(crate) task: usize,
    /// The login that brought its token; `None` if no login of that process did.
    pub(crate) token: Option<usize>,
    pub(crate) arrived: Moment,
    pub(crate) what: What,
    /// The state that its answer tells, if it tells any.
    pub(crate) version: Option<usize>,
    /// Right before the last byte of a whole answer was written; `None` if there was none.
    pub(crate) told: Option<Moment>,
    /// When the vendor was through with it, or saw that the gateway was.
    pub(crate) ended: Option<Moment>,
    /// Whether another request followed on its connection: the gateway then had all of the answer.
    pub(crate) is_followed: bool,
}

impl Exchange {
    /// Whether it was over for the gateway before the vendor read it: the vendor may be late to read.
    pub(crate) fn is_ghost(&self) -> bool {
        const AT_ONCE: Duration = Duration::from_millis(20);
        let is_closed = matches!(self.what, What::Closed { .. } | What::Cut { .. });
        self.told.is_none() && !is_closed && self.took() < AT_ONCE
    }

    /// How long it took, as far as it is known.
    pub(crate) fn took(&self) -> Duration {
        self.ended.map_or(Duration::from_secs(3600), |ended| ended.at - self.arrived.at)
    }
}

/// One login, as the vendor met it.
#[derive(Clone, Debug)]
pub(crate) struct Login {
    pub(crate) process: usize,
    pub(crate) arrived: Moment,
    pub(crate) script: LoginScript,
    pub(crate) told: Option<Moment>,
    pub(crate) ended: Option<Moment>,
}

/// A time when the vendor could not be reached, or was deaf.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outage {
    pub(crate) from: Instant,
    pub(crate) until: Option<Instant>,
}

/// What was asked of the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Query { max_age: Option<Duration> },
    Watch { interval: Option<Duration>, heartbeat: Option<Duration> },
}

/// One call.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) caller: usize,
    /// `None` if the request had a field out of its range.
    pub(crate) task: Option<usize>,
    pub(crate) asked: Asked,
    pub(crate) deadline: Option<Duration>,
    /// When its connection was made.
    pub(crate) connected: Instant,
    pub(crate) began: Moment,
    pub(crate) ended: Moment,
    pub(crate) messages: Vec<Message>,
    pub(crate) outcome: Outcome,
}

impl Call {
    pub(crate) fn is_query(&self) -> bool {
        matches!(self.asked, Asked::Query { .. })
    }
}

/// How a call ended.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    /// With OK.
    Ok,
    /// With a status.
    Failed(Box<Told>),
    /// The caller left.
    Left,
    /// Not at all, within any bound.
    Stuck,
}

/// One message of a call.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    /// A watch's reason; 0 for a query's answer.
    pub(crate) reason: i32,
    /// Which of its task's states this is; or what is wrong with it.
    pub(crate) content: Result<usize, String>,
    pub(crate) is_done: bool,
    pub(crate) observed: SystemTime,
    /// The exchange that brought it, where the message says so.
    pub(crate) exchange: Option<usize>,
    pub(crate) at: Moment,
}

/// One gateway process.
#[derive(Clone, Debug)]
pub(crate) struct Life {
    /// When it was told to drain.
    pub(crate) drained: Option<Instant>,
    /// When it was killed.
    pub(crate) killed: Option<Instant>,
    pub(crate) ended: Option<Instant>,
}

/// All that was written down.
#[derive(Clone, Debug, Default)]
pub(crate) struct Records {
    pub(crate) exchanges: Vec<Exchange>,
    pub(crate) logins: Vec<Login>,
    pub(crate) outages: Vec<Outage>,
    pub(crate) calls: Vec<Call>,
    pub(crate) lives: Vec<Life>,
    /// The longest that this process stood still meanwhile.
    pub(crate) stall: Duration,
    /// What is wrong whatever else happened.
    pub(crate) oddities: Vec<String>,
}
