//! The gateway's settings: short times, so that a few seconds hold many of them, and limits that are met.

use std::time::Duration;

use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

use super::millis;

/// So many callers watch from the beginning to the end; no limit is below what they need.
const FEWEST_WATCHES: u32 = 12;

/// What the gateway is told.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) connect_timeout: Duration,
    pub(crate) attempt_timeout: Duration,
    pub(crate) request_timeout: Duration,
    pub(crate) max_attempts: usize,
    /// 0 for none.
    pub(crate) upstream_rate: u32,
    pub(crate) upstream_concurrency: u32,
    pub(crate) done_cache_ttl: Duration,
    pub(crate) cache_capacity: u32,
    pub(crate) poll_min: Duration,
    pub(crate) poll_max: Duration,
    pub(crate) watch_give_up: Duration,
    pub(crate) max_watches: u32,
    pub(crate) max_in_flight: u32,
    pub(crate) drain_timeout: Duration,
}

fn one_of<T: Copy>(random: &mut StdRng, of: &[T]) -> T {
    *of.choose(random).expect("there is something to choose from")
}

impl Settings {
    pub(super) fn draw(random: &mut StdRng, is_rough: bool) -> Self {
        let ms = Duration::from_millis;
        let mut settings = Self {
            connect_timeout: millis(random, 300, 800),
            attempt_timeout: millis(random, 1200, 2000),
            request_timeout: millis(random, 2500, 4000),
            max_attempts: random.random_range(1..=4),
            upstream_rate: one_of(random, &[0, 0, 0, 40, 120]),
            upstream_concurrency: one_of(random, &[256, 256, 3, 6, 12]),
            done_cache_ttl: one_of(random, &[ms(0), ms(300), ms(1500), ms(300_000)]),
            cache_capacity: one_of(random, &[1, 2, 4, 10_000, 10_000]),
            poll_min: one_of(random, &[ms(50), ms(100), ms(250)]),
            poll_max: one_of(random, &[ms(300), ms(600), ms(1000)]),
            watch_give_up: one_of(random, &[ms(0), ms(800), ms(2500), ms(300_000)]),
            max_watches: one_of(random, &[FEWEST_WATCHES, 100_000, 100_000]),
            max_in_flight: one_of(random, &[8, 10_000, 10_000, 10_000]),
            drain_timeout: ms(3000),
        };
        if !is_rough {
            settings.upstream_rate = 0;
            settings.upstream_concurrency = 64;
            settings.cache_capacity = 200;
            settings.max_watches = 100_000;
            settings.max_in_flight = 10_000;
        }
        settings
    }

    /// As the command line has them.
    pub(crate) fn flags(&self) -> Vec<String> {
        let time = |name: &str, value: Duration| format!("--{name}={}ms", value.as_millis());
        let number = |name: &str, value: u32| format!("--{name}={value}");
        vec![
            time("connect-timeout", self.connect_timeout),
            time("attempt-timeout", self.attempt_timeout),
            time("request-timeout", self.request_timeout),
            format!("--max-attempts={}", self.max_attempts),
            number("upstream-rate", self.upstream_rate),
            number("upstream-concurrency", self.upstream_concurrency),
            time("done-cache-ttl", self.done_cache_ttl),
            number("cache-capacity", self.cache_capacity),
            time("poll-min", self.poll_min),
            time("poll-max", self.poll_max),
            time("watch-give-up", self.watch_give_up),
            number("max-watches", self.max_watches),
            number("max-in-flight", self.max_in_flight),
            time("drain-timeout", self.drain_timeout),
        ]
    }
}
