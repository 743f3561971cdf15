//! Which observation will do? `max_age`, shared calls, pollers and the memory of answers are four ways to ask
//! this one question, and it is answered here alone: no other code compares ages. Pure.

use std::time::Duration;

use tokio::time::Instant;

use crate::task::Observation;

/// How fresh an answer a caller wants; its age is judged as of the request's arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// No `max_age`: overlapping calls are shared, and a DONE state is remembered for a while.
    Shared,
    /// `max_age` > 0: anything whose try began no longer ago.
    Within(Duration),
    /// `max_age` = 0: an upstream call that starts after the request arrived.
    New,
}

/// An observation that is at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Known {
    /// When the try that brought it began.
    pub(super) began: Instant,
    /// Whether it says DONE.
    pub(super) is_done: bool,
}

impl Known {
    pub(super) fn of(observation: &Observation) -> Self {
        Self { began: observation.began, is_done: observation.state().is_done() }
    }
}

/// An upstream call that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct UnderWay {
    /// When the try began that may bring its answer; `None` if the next one is still to begin.
    pub(super) trying_since: Option<Instant>,
}

/// What is at hand when a request is looked at.
#[derive(Clone, Debug)]
pub(super) struct Situation<I> {
    /// When the request arrived.
    pub(super) arrived: Instant,
    /// How long a DONE state is remembered.
    pub(super) done_ttl: Duration,
    /// What the cache has of the task.
    pub(super) cached: Option<Known>,
    /// What the task's poller saw last.
    pub(super) polled: Option<Known>,
    /// The task's calls under way, in the order of their beginning.
    pub(super) under_way: I,
}

/// What will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// What the cache has.
    Cached,
    /// What the poller saw last.
    Polled,
    /// What that call under way will bring (its place in the order).
    Join(usize),
    /// Nothing: a call must begin.
    Begin,
}

/// Decides which observation will do.
pub(super) fn decide<I>(freshness: Freshness, situation: Situation<I>) -> Decision
where
    I: DoubleEndedIterator<Item = UnderWay> + ExactSizeIterator,
{
    let Situation { arrived, done_ttl, cached, polled, mut under_way } = situation;
    let will_do = |known: Known| suffices(freshness, known, arrived, done_ttl);
    match (cached.filter(|known| will_do(*known)), polled.filter(|known| will_do(*known))) {
        (Some(cached), Some(polled)) if polled.began > cached.began => return Decision::Polled,
        (Some(_), _) => return Decision::Cached,
        (None, Some(_)) => return Decision::Polled,
        (None, None) => {}
    }
    // The call that began last is the freshest.
    let joined = match freshness {
        Freshness::Shared => under_way.len().checked_sub(1),
        Freshness::Within(age) => {
            under_way.rposition(|call| call.trying_since.is_none_or(|since| is_within(age, since, arrived)))
        }
        // A retry of an earlier call does not do, nor does one that has not begun to try: it began before.
        Freshness::New => None,
    };
    joined.map_or(Decision::Begin, Decision::Join)
}

/// Whether an observation that is at hand will do.
pub(super) fn suffices(freshness: Freshness, known: Known, arrived: Instant, done_ttl: Duration) -> bool {
    match freshness {
        Freshness::Shared => known.is_done && is_within(done_ttl, known.began, arrived),
        Freshness::Within(age) => is_within(age, known.began, arrived),
        Freshness::New => false,
    }
}

/// Whether what began at `began` is too old, `now`, to be kept any longer.
pub(super) fn is_outlived(began: Instant, keep: Duration, now: Instant) -> bool {
    !is_within(keep, began, now)
}

fn is_within(age: Duration, began: Instant, as_of: Instant) -> bool {
    // An age that reaches back beyond the clock's own beginning takes anything.
    as_of.checked_sub(age).is_none_or(|earliest| began >= earliest)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(300);

    /// Kind of request × what is remembered × poller × call under way: ages in seconds before the arrival, DONE
    /// marked by `true`.
    #[tokio::test(start_paused = true)]
    async fn the_table() {
        use Decision::{Begin, Cached, Join, Polled};
        use Freshness::{New, Shared, Within};
        type KnownAgo = Option<(u64, bool)>;
        type Row = (Freshness, KnownAgo, KnownAgo, &'static [Option<u64>], Decision);
        tokio::time::advance(Duration::from_secs(3600)).await;
        let within = |secs| Within(Duration::from_secs(secs));
        let rows: &[Row] = &[
            // Nothing at hand.
            (Shared, None, None, &[], Begin),
            (within(5), None, None, &[], Begin),
            (New, None, None, &[], Begin),
            // A call under way.
            (Shared, None, None, &[Some(100)], Join(0)),
            (Shared, None, None, &[None], Join(0)),
            (Shared, None, None, &[Some(3), Some(1)], Join(1)),
            (within(5), None, None, &[Some(5)], Join(0)),
            (within(5), None, None, &[Some(6)], Begin),
            (within(5), None, None, &[None], Join(0)),
            (within(5), None, None, &[Some(2), Some(6)], Join(0)),
            (within(5), None, None, &[Some(6), None], Join(1)),
            (New, None, None, &[Some(0)], Begin),
            (New, None, None, &[None], Begin),
            // Something is remembered.
            (Shared, Some((1, false)), None, &[], Begin),
            (Shared, Some((1, false)), None, &[Some(9)], Join(0)),
            (Shared, Some((300, true)), None, &[], Cached),
            (Shared, Some((300, true)), None, &[Some(1)], Cached),
            (Shared, Some((301, true)), None, &[], Begin),
            (within(5), Some((5, false)), None, &[], Cached),
            (within(5), Some((5, true)), None, &[Some(1)], Cached),
            (within(5), Some((6, false)), None, &[], Begin),
            // DONE is no excuse where an age is asked.
            (within(5), Some((6, true)), None, &[], Begin),
            (within(5), Some((6, false)), None, &[Some(2)], Join(0)),
            (within(100_000), Some((3000, false)), None, &[], Cached),
            (New, Some((0, true)), None, &[Some(0)], Begin),
            // A poller looks at the task.
            (Shared, None, Some((1, false)), &[], Begin),
            (Shared, None, Some((1, true)), &[], Polled),
            (within(5), None, Some((5, false)), &[], Polled),
            (within(5), None, Some((6, false)), &[], Begin),
            (within(5), None, Some((6, false)), &[Some(1)], Join(0)),
            (New, None, Some((0, false)), &[], Begin),
            // Both: the fresher of those that will do.
            (within(5), Some((4, false)), Some((2, false)), &[], Polled),
            (within(5), Some((2, false)), Some((4, false)), &[], Cached),
            (within(5), Some((4, false)), Some((4, false)), &[], Cached),
            (within(5), Some((6, false)), Some((4, false)), &[], Polled),
            (within(5), Some((4, false)), Some((6, false)), &[Some(1)], Cached),
            (Shared, Some((9, true)), Some((1, false)), &[Some(1)], Cached),
        ];
        let arrived = Instant::now();
        let ago = |secs: u64| arrived - Duration::from_secs(secs);
        let known = |known: KnownAgo| known.map(|(secs, is_done)| Known { began: ago(secs), is_done });
        for (freshness, cached, polled, calls, decision) in rows {
            let situation = Situation {
                arrived,
                done_ttl: TTL,
                cached: known(*cached),
                polled: known(*polled),
                under_way: calls.iter().map(|call| UnderWay { trying_since: call.map(ago) }),
            };
            assert_eq!(
                decide(*freshness, situation),
                *decision,
                "{freshness:?}, cached {cached:?}, polled {polled:?}, calls {calls:?}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_age_is_judged_as_of_the_arrival() {
        tokio::time::advance(Duration::from_secs(60)).await;
        let arrived = Instant::now();
        let known = Known { began: arrived + Duration::from_secs(1), is_done: false };
        assert!(suffices(Freshness::Within(Duration::from_nanos(1)), known, arrived, TTL));
    }
}
