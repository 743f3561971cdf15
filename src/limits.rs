//! Limits of the gateway's own. Permission to ask the vendor: how many tries may be under way, and until when polls
//! are held back. This is a seam: a store that replicas share can stand behind [`Permits`]; [`Memory`] is the one for
//! a process by itself. And [`Room`]s: how many of something there may be.
//!
//! Says nothing about who waits for how long: whoever waits bounds it, and leaves by dropping the future.

mod room;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;

pub use self::room::{Place, Room};

/// Where permission is had.
pub trait Permits: fmt::Debug + Send + Sync + 'static {
    /// Waits, first come first served, until one more try may be under way. A poll's tries have a smaller share,
    /// so that watches never starve queries.
    fn turn(&self, is_poll: bool) -> BoxFuture<'_, Turn>;

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
    held_until: watch::Sender<Option<Instant>>,
}

impl Memory {
    /// At most `concurrency` tries under way, of which polls hold at most three quarters (the quarter that is
    /// kept free is rounded down, so that one place still lets polls through; contract 4).
    #[must_use]
    pub fn new(concurrency: usize) -> Self {
        let concurrency = concurrency.min(Semaphore::MAX_PERMITS);
        Self {
            tries: Arc::new(Semaphore::new(concurrency)),
            polls: Arc::new(Semaphore::new(concurrency - concurrency / 4)),
            held_until: watch::Sender::new(None),
        }
    }
}

impl Permits for Memory {
    fn turn(&self, is_poll: bool) -> BoxFuture<'_, Turn> {
        Box::pin(async move {
            let take = async |permits: &Arc<Semaphore>| {
                Some(Arc::clone(permits).acquire_owned().await.expect("the semaphores are never closed"))
            };
            let poll = if is_poll { take(&self.polls).await } else { None };
            Turn { _permits: [take(&self.tries).await, poll] }
        })
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
        let mut held_until = self.held_until.subscribe();
        Box::pin(async move {
            loop {
                let held = *held_until.borrow_and_update();
                match held.filter(|until| *until > Instant::now()) {
                    None => return,
                    Some(until) => tokio::time::sleep_until(until).await,
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn polls_leave_a_quarter_to_queries() {
        let permits = Memory::new(4);
        let mut polls = Vec::new();
        for _ in 0..3 {
            polls.push(permits.turn(true).await);
        }
        assert!(permits.turn(true).now_or_never().is_none());
        let query = permits.turn(false).now_or_never().expect("the quarter is free");
        assert!(permits.turn(false).now_or_never().is_none());
        drop(query);
        assert!(permits.turn(false).now_or_never().is_some());
        // With one place there is no quarter to leave.
        assert!(Memory::new(1).turn(true).now_or_never().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn polls_are_held_until_the_latest_hold_is_over() {
        let permits = Memory::new(4);
        let start = Instant::now();
        permits.polls_may_start().await;
        assert_eq!(start.elapsed(), Duration::ZERO);
        permits.hold_polls(Duration::from_secs(7)).await;
        permits.hold_polls(Duration::from_secs(3)).await;
        permits.polls_may_start().await;
        assert_eq!(start.elapsed(), Duration::from_secs(7));
    }
}
