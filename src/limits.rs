//! Limits of the gateway's own. Permission to ask the vendor: how many tries may be under way, how many may start a
//! second, and until when polls are held back. This is a seam: a store that replicas share can stand behind
//! [`Permits`]; [`Memory`] is the one for a process by itself. And [`Room`]s: how many of something there may be.
//!
//! Says nothing about who waits for how long: whoever waits bounds it, and leaves by dropping the future.

mod rate;
mod room;

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;

use self::rate::Line;
pub use self::room::{Place, Room};

/// Where permission is had.
pub trait Permits: fmt::Debug + Send + Sync + 'static {
    /// Waits, first come first served, until one more try may start. A poll's tries have a smaller share, so that
    /// watches never starve queries, and none starts while polls are held back.
    fn turn(&self, is_poll: bool) -> BoxFuture<'_, Turn>;

    /// One more try for a query, if one may start at once and nobody stands in line before it.
    fn turn_at_once(&self) -> Option<Turn> {
        None
    }

    /// Holds back all polls for so long: the vendor's limit is the key's, not a task's.
    fn hold_polls(&self, wait: Duration) -> BoxFuture<'_, ()>;

    /// Waits until polls are no longer held back.
    fn polls_may_start(&self) -> BoxFuture<'_, ()>;
}

/// One try may be under way for as long as this lives.
#[derive(Debug)]
pub struct Turn {
    _permits: [Option<OwnedSemaphorePermit>; 2],
}

/// The permits of a process by itself.
#[derive(Debug)]
pub struct Memory {
    tries: Arc<Semaphore>,
    polls: Arc<Semaphore>,
    rate: Option<Rate>,
    held_until: watch::Sender<Option<Instant>>,
}

/// The lines of those who have a place among the tries under way and may not start yet.
#[derive(Debug)]
struct Rate {
    tries: Line,
    /// Polls stand here first, and one at a time in the common line, so that no query waits behind many.
    polls: Line,
}

/// What polls may have of a limit: three quarters, the quarter that is kept free being rounded down, so that one
/// place still lets polls through (contract 4).
fn share_of_polls(limit: u32) -> u32 {
    limit - limit / 4
}

impl Memory {
    /// At most `concurrency` tries under way, and so many starting a `rate`, if there is one; of both polls have at
    /// most three quarters.
    #[must_use]
    pub fn new(concurrency: NonZeroU32, rate: Option<NonZeroU32>) -> Self {
        let semaphore = |permits: u32| Arc::new(Semaphore::new(Semaphore::MAX_PERMITS.min(permits as usize)));
        let concurrency = concurrency.get();
        let rate = rate.map(|rate| {
            let polls =
                NonZeroU32::new(share_of_polls(rate.get())).expect("a part of something is something");
            Rate { tries: Line::new(rate), polls: Line::new(polls) }
        });
        Self {
            tries: semaphore(concurrency),
            polls: semaphore(share_of_polls(concurrency)),
            rate,
            held_until: watch::Sender::new(None),
        }
    }

    async fn query_turn(&self) -> Turn {
        let permit = take(&self.tries).await;
        // The rate comes last: what it gives is for now, and must not lie about while a place is waited for.
        if let Some(rate) = &self.rate {
            rate.tries.head().await.start();
        }
        Turn { _permits: [permit, None] }
    }

    async fn poll_turn(&self) -> Turn {
        loop {
            self.polls_may_start().await;
            let poll = take(&self.polls).await;
            let permit = take(&self.tries).await;
            let heads = match &self.rate {
                Some(rate) => {
                    let of_polls = rate.polls.head().await;
                    Some([of_polls, rate.tries.head().await])
                }
                None => None,
            };
            // Polls may have been held back while this one stood in line. Then it leaves, and has used up nothing.
            if self.held().is_none() {
                heads.into_iter().flatten().for_each(rate::Head::start);
                return Turn { _permits: [permit, poll] };
            }
        }
    }

    /// Until when polls are held back, if they are.
    fn held(&self) -> Option<Instant> {
        self.held_until.borrow().filter(|until| *until > Instant::now())
    }
}

async fn take(permits: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
    Some(Arc::clone(permits).acquire_owned().await.expect("the semaphores are never closed"))
}

impl Permits for Memory {
    fn turn(&self, is_poll: bool) -> BoxFuture<'_, Turn> {
        if is_poll { Box::pin(self.poll_turn()) } else { Box::pin(self.query_turn()) }
    }

    fn turn_at_once(&self) -> Option<Turn> {
        // With a rate, who may start is for its line to say.
        if self.rate.is_some() {
            return None;
        }
        // A semaphore's queue is fair: it has no permit to give while somebody stands in it.
        let permit = Arc::clone(&self.tries).try_acquire_owned().ok()?;
        Some(Turn { _permits: [Some(permit), None] })
    }

    fn hold_polls(&self, wait: Duration) -> BoxFuture<'_, ()> {
        let until = Some(Instant::now() + wait);
        self.held_until.send_if_modified(|held| {
            let is_later = until > *held;
            if is_later {
                *held = until;
            }
            is_later
        });
        Box::pin(std::future::ready(()))
    }

    fn polls_may_start(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            while let Some(until) = self.held() {
                tokio::time::sleep_until(until).await;
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use tokio::task::JoinSet;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn permits(concurrency: u32, rate: u32) -> Arc<Memory> {
        let concurrency = NonZeroU32::new(concurrency).unwrap();
        Arc::new(Memory::new(concurrency, NonZeroU32::new(rate)))
    }

    /// Lets everybody who can go on do so.
    async fn settle() {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn polls_leave_a_quarter_to_queries() {
        let four = permits(4, 0);
        let mut polls = Vec::new();
        for _ in 0..3 {
            polls.push(four.turn(true).await);
        }
        assert!(four.turn(true).now_or_never().is_none());
        let query = four.turn(false).now_or_never().expect("the quarter is free");
        assert!(four.turn(false).now_or_never().is_none());
        drop(query);
        assert!(four.turn(false).now_or_never().is_some());
        // With one place there is no quarter to leave.
        assert!(permits(1, 0).turn(true).now_or_never().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn polls_are_held_until_the_latest_hold_is_over() {
        let permits = permits(4, 0);
        let start = Instant::now();
        permits.polls_may_start().await;
        assert_eq!(start.elapsed(), Duration::ZERO);
        permits.hold_polls(Duration::from_secs(7)).await;
        permits.hold_polls(Duration::from_secs(3)).await;
        permits.polls_may_start().await;
        assert_eq!(start.elapsed(), Duration::from_secs(7));
    }

    #[tokio::test]
    async fn tries_begin_in_the_order_in_which_they_came() {
        let permits = permits(1, 0);
        let first = permits.turn(false).await;
        let (mut waiting, order) = (JoinSet::new(), Arc::new(std::sync::Mutex::new(Vec::new())));
        for at in 0..10 {
            let (permits, order) = (Arc::clone(&permits), Arc::clone(&order));
            waiting.spawn(async move {
                let turn = permits.turn(at % 3 == 0).await;
                order.lock().unwrap().push(at);
                drop(turn);
            });
            settle().await;
        }
        drop(first);
        waiting.join_all().await;
        // Of the polls only one stands in the common line, as there is one place for polls.
        assert_eq!(*order.lock().unwrap(), [0, 1, 2, 4, 5, 7, 8, 3, 6, 9]);
    }

    #[tokio::test]
    async fn a_query_has_its_turn_at_once_where_one_is_free_and_nobody_stands_in_line() {
        let free = permits(1, 0);
        let first = free.turn_at_once().expect("it is free");
        assert!(free.turn_at_once().is_none());
        let mut waiting = free.turn(false);
        assert!((&mut waiting).now_or_never().is_none());
        drop(first);
        assert!(free.turn_at_once().is_none(), "who waits is first");
        drop(waiting.await);
        assert!(free.turn_at_once().is_some());
        assert!(permits(1, 1).turn_at_once().is_none(), "with a rate its line decides");
    }

    #[tokio::test]
    async fn who_leaves_the_line_leaves_no_gap() {
        let permits = permits(1, 0);
        let first = permits.turn(true).await;
        let mut leaving = permits.turn(false);
        assert!((&mut leaving).now_or_never().is_none());
        let mut next = permits.turn(false);
        assert!((&mut next).now_or_never().is_none());
        drop((leaving, first));
        assert!(next.now_or_never().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn polls_start_three_quarters_of_the_rate_and_queries_have_the_rest() {
        // Of one a second there is no quarter to leave.
        for (rate, share) in [(1, 1), (3, 3), (4, 3), (8, 6), (400, 300)] {
            let permits = permits(1000, rate);
            let (began, mut polls) = (Instant::now(), 0);
            while began.elapsed() < 10 * SECOND {
                drop(permits.turn(true).await);
                polls += 1;
            }
            // A burst, ten seconds, and the one that came too late.
            assert_eq!(polls, share + 10 * share, "{rate}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn polls_never_starve_a_query() {
        for rate in [1, 4, 100] {
            let permits = permits(256, rate);
            let mut polls = JoinSet::new();
            for _ in 0..300 {
                let permits = Arc::clone(&permits);
                polls.spawn(async move {
                    loop {
                        drop(permits.turn(true).await);
                    }
                });
            }
            tokio::time::sleep(5 * SECOND).await;
            for _ in 0..20 {
                let asked = Instant::now();
                drop(permits.turn(false).await);
                // Behind one poll at most, and its own period.
                let bound = SECOND.mul_f64(2.0 / f64::from(rate)) + Duration::from_millis(5);
                assert!(asked.elapsed() <= bound, "{rate}: {:?}", asked.elapsed());
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_rate_is_used_up_only_by_those_who_start() {
        let permits = permits(2, 1);
        drop(permits.turn(false).await);
        // A second later, two waited for the rate and left, one of either kind; a third takes the place.
        for is_poll in [true, false] {
            let mut leaving = permits.turn(is_poll);
            assert!((&mut leaving).now_or_never().is_none());
        }
        let began = Instant::now();
        drop(permits.turn(true).await);
        assert_eq!(began.elapsed(), SECOND);
        // Who waits for a place under way has not used up the rate meanwhile.
        tokio::time::sleep(SECOND).await;
        let held = [
            permits.turn(false).await,
            permits
                .tries
                .clone()
                .acquire_owned()
                .await
                .map(|permit| Turn { _permits: [Some(permit), None] })
                .unwrap(),
        ];
        tokio::time::sleep(SECOND).await;
        let mut waiting = permits.turn(false);
        assert!((&mut waiting).now_or_never().is_none());
        assert!(
            permits.rate.as_ref().unwrap().tries.head().now_or_never().is_some(),
            "the rate is untouched"
        );
        drop(held);
        assert!(waiting.now_or_never().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn polls_that_are_held_back_in_line_use_up_nothing() {
        let permits = permits(8, 1);
        drop(permits.turn(true).await);
        let mut poll = permits.turn(true);
        assert!((&mut poll).now_or_never().is_none());
        permits.hold_polls(Duration::from_secs(5)).await;
        let began = Instant::now();
        tokio::select! {
            biased;
            _ = &mut poll => panic!("polls are held back"),
            () = tokio::time::sleep(2 * SECOND) => {}
        }
        assert!(permits.turn(false).now_or_never().is_some(), "nobody has taken what a second gave");
        drop(poll.await);
        assert_eq!(began.elapsed(), Duration::from_secs(5));
    }
}
