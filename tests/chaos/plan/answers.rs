//! How the vendor answers its nth queryTask request and its nth login.

use std::time::Duration;

use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

use super::truth::Use;
use super::{Part, millis, stream};

/// A fault after which the gateway tries again.
fn passing(random: &mut StdRng) -> What {
    match random.random_range(0..8) {
        0 => What::Status(429, Some(1)),
        1 => What::Status(503, Some(1)),
        2 => What::Closed { is_reset: random.random() },
        3 => What::Status(429, None),
        _ => What::Status(502, None),
    }
}

/// What an answer to queryTask is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// The task's state.
    Good,
    /// The same, and a second answer on its heels that tells another task's state. Later than that, one might meet the
    /// next request on the connection, and nothing in HTTP/1.1 could tell it from that one's answer.
    Stray,
    /// The same, in small pieces, so long for each.
    Trickle(Duration),
    /// Half of it, then the end of the connection.
    Cut { is_reset: bool },
    /// A status, perhaps with a Retry-After in seconds.
    Status(u16, Option<u64>),
    /// A 500 that has a resultCode, or a 200 that has one.
    ResultCode(u16, &'static str),
    /// A 200 that is a page.
    Html,
    /// The end of the connection, no answer.
    Closed { is_reset: bool },
    /// Nothing, for as long as the gateway bears it.
    Hang,
}

/// One answer to queryTask.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueryScript {
    pub(crate) what: What,
    pub(crate) latency: Duration,
    /// Whether the state is looked up when the request comes, not when the answer goes.
    pub(crate) looks_first: bool,
    /// Chooses among the ways to say the same.
    pub(crate) style: u8,
}

/// What an answer to a login is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Grant {
    /// A token, which lives so long.
    Token {
        life: Duration,
    },
    Status(u16, Option<u64>),
    /// 200 without a token.
    Empty,
    Html,
    Closed {
        is_reset: bool,
    },
    Hang,
}

/// One answer to a login.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LoginScript {
    pub(crate) grant: Grant,
    pub(crate) latency: Duration,
    /// `Expires`, where the answer has it.
    pub(crate) expires: Option<u64>,
    /// As a number, not as a text.
    pub(crate) is_number: bool,
    /// The vendor's clock, which jumps.
    pub(crate) create_time: i64,
}

/// All answers of a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answers {
    seed: u64,
    attempt_timeout: Duration,
    /// How many of a hundred queryTask answers are faults.
    faults: u32,
}

impl Answers {
    pub(super) fn new(seed: u64, attempt_timeout: Duration) -> Self {
        let faults = *[3, 12, 30].choose(&mut stream(seed, Part::Answer, 0)).expect("three are there");
        Self { seed, attempt_timeout, faults }
    }

    /// The answer to the nth queryTask request.
    pub(crate) fn query(&self, nth: usize, used_by: Use, is_calm: bool) -> QueryScript {
        let random = &mut stream(self.seed, Part::Answer, nth + 1);
        let (looks_first, style) = (random.random(), random.random());
        let latency = match random.random_range(0..100) {
            0..70 => millis(random, 0, 25),
            70..98 => millis(random, 20, 150),
            _ => self.attempt_timeout.mul_f64(random.random_range(0.1..0.5)),
        };
        let is_fault = !is_calm && random.random_range(0..100) < self.faults;
        // Where each try can be counted there are more that are tried again.
        let is_passing = !is_calm && matches!(used_by, Use::Loner | Use::Watcher) && random.random_bool(0.3);
        let what = match (is_passing, is_fault) {
            (true, _) => passing(random),
            (_, true) => self.fault(random),
            _ => What::Good,
        };
        let latency = if is_calm { Duration::ZERO } else { latency };
        QueryScript { what, latency, looks_first, style }
    }

    fn fault(&self, random: &mut StdRng) -> What {
        let after = |random: &mut StdRng| *[None, Some(0), Some(1)].choose(random).expect("three are there");
        let is_reset = random.random();
        match random.random_range(0..100) {
            0..9 => What::Closed { is_reset },
            9..17 => What::Cut { is_reset },
            17..30 => What::Stray,
            30..34 => What::Hang,
            34..38 => What::Trickle(millis(random, 2, 60)),
            38..46 => What::Status(401, None),
            46..56 => What::Status(429, after(random)),
            56..74 => {
                let status = *[408, 502, 503, 504].choose(random).expect("four are there");
                What::Status(status, after(random))
            }
            74..82 => {
                let status = *[400, 403, 404, 301, 418, 500, 204].choose(random).expect("some are there");
                What::Status(status, None)
            }
            82..92 => {
                let codes = ["60101040050", "60101900002", "60101060007"];
                let code = *codes.choose(random).expect("three are there");
                What::ResultCode(if random.random() { 200 } else { 500 }, code)
            }
            92..95 => What::Html,
            // Longer than a try may take.
            _ => What::Trickle(self.attempt_timeout / 4),
        }
    }

    /// The answer to the nth login.
    pub(crate) fn login(&self, nth: usize, is_calm: bool) -> LoginScript {
        let random = &mut stream(self.seed, Part::Login, nth);
        let lives = [Duration::from_millis(2500), Duration::from_secs(5), Duration::from_secs(60)];
        let life = *lives.choose(random).expect("three are there");
        let told = life.as_secs_f64().ceil();
        let (expires, life) = match random.random_range(0..10) {
            // It ends sooner than was told.
            0..3 => (Some(told as u64), life.mul_f64(0.6)),
            // How long it lasts is not told.
            3..4 => (None, life),
            _ => (Some(told as u64), Duration::from_secs_f64(told + 1.0)),
        };
        let is_reset = random.random();
        // Of three in a row one is good, so that no back-off grows long.
        let is_fault = !is_calm && !nth.is_multiple_of(3) && random.random_bool(0.4);
        let grant = match random.random_range(0..8) {
            _ if !is_fault => Grant::Token { life },
            0..2 => Grant::Status(403, None),
            2 => Grant::Status(500, None),
            3 => Grant::Status(503, Some(1)),
            4 => Grant::Status(429, Some(1)),
            5 => *[Grant::Empty, Grant::Html].choose(random).expect("two are there"),
            6 => Grant::Hang,
            _ => Grant::Closed { is_reset },
        };
        let latency = if is_calm { Duration::ZERO } else { millis(random, 0, 60) };
        LoginScript {
            grant,
            latency,
            expires,
            is_number: random.random(),
            create_time: random.random_range(-1_000_000_000..4_000_000_000),
        }
    }
}
