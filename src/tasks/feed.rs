//! The feed of observations. A seam: pollers only publish, those who watch only read, and a store that replicas
//! share can stand in between; [`Memory`] is the one for a process by itself.
//!
//! An item tells all that a reader needs, so that a reader who missed some is none the worse. Items are plain
//! data, failures too; they are ordered by their poller's epoch and their number, never by a clock.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::Instant;

use super::SeamError;
use crate::sync::{Mutex, watch};
use crate::task::failure::Failure;
use crate::task::{Answer, TaskId};

/// Where an item stands among all of its task: by its poller's epoch, then by its number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Order {
    /// Each right to poll a task has a greater one than the right before.
    pub epoch: u64,
    /// Counts a poller's items.
    pub number: u64,
}

/// What a poller knows of its task.
#[derive(Clone, Debug)]
pub struct Item {
    /// Where this stands among the task's items.
    pub order: Order,
    /// The last good answer.
    pub answer: Arc<Answer>,
    /// How long ago the try began that brought it.
    pub age: Duration,
    /// Why nothing more will come, if so.
    pub end: Option<Failure>,
}

/// Where pollers publish and watchers read.
pub trait Feed: fmt::Debug + Send + Sync + 'static {
    /// Publishes a poller's newest item; one of an older order than the newest there is dropped.
    ///
    /// # Errors
    /// If it can't be published; the poller's next item tells the same and more.
    fn publish(&self, task: &TaskId, item: Item) -> BoxFuture<'_, Result<(), SeamError>>;

    /// Follows a task's items from now on.
    ///
    /// # Errors
    /// If the feed can't be reached.
    fn follow(&self, task: &TaskId) -> BoxFuture<'_, Result<Box<dyn Follow>, SeamError>>;
}

/// A reader's place in the feed.
pub trait Follow: fmt::Debug + Send {
    /// The newest item that was not given yet; waits for one. May be dropped and called again.
    ///
    /// # Errors
    /// If the feed was lost: follow again.
    fn next(&mut self) -> BoxFuture<'_, Result<Item, SeamError>>;
}

type Topic = watch::Sender<Option<(Item, Instant)>>;
type Topics = Arc<Mutex<HashMap<TaskId, Topic>>>;

/// The feed of a process by itself. What nobody follows is not kept.
#[derive(Debug, Default)]
pub struct Memory {
    // Held for a look-up, never across an await.
    topics: Topics,
}

impl Memory {
    /// A feed without an item.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether nobody follows anything.
    #[cfg(all(test, shuttle))]
    pub(super) fn is_empty(&self) -> bool {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}

impl Feed for Memory {
    fn publish(&self, task: &TaskId, item: Item) -> BoxFuture<'_, Result<(), SeamError>> {
        let topic = self.topics.lock().unwrap_or_else(PoisonError::into_inner).get(task).cloned();
        if let Some(topic) = topic {
            topic.send_if_modified(|newest| {
                let is_newer = newest.as_ref().is_none_or(|(newest, _)| item.order > newest.order);
                if is_newer {
                    *newest = Some((item, Instant::now()));
                }
                is_newer
            });
        }
        Box::pin(std::future::ready(Ok(())))
    }

    fn follow(&self, task: &TaskId) -> BoxFuture<'_, Result<Box<dyn Follow>, SeamError>> {
        let items = {
            let mut topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
            topics.entry(task.clone()).or_insert_with(|| watch::Sender::new(None)).subscribe()
        };
        let cleared = Cleared { topics: Arc::clone(&self.topics), task: task.clone() };
        let follower = Follower { items, _cleared: cleared };
        Box::pin(std::future::ready(Ok(Box::new(follower) as Box<dyn Follow>)))
    }
}

#[derive(Debug)]
struct Follower {
    // Dropped first: of two who go at once, each would take the other for one who stays.
    items: watch::Receiver<Option<(Item, Instant)>>,
    _cleared: Cleared,
}

/// Forgets a task's topic when it goes, if nobody else follows it.
#[derive(Debug)]
struct Cleared {
    topics: Topics,
    task: TaskId,
}

impl Follow for Follower {
    fn next(&mut self) -> BoxFuture<'_, Result<Item, SeamError>> {
        Box::pin(async move {
            loop {
                self.items.changed().await.map_err(|_| SeamError)?;
                if let Some((item, published)) = &*self.items.borrow_and_update() {
                    return Ok(Item { age: item.age + published.elapsed(), ..item.clone() });
                }
            }
        })
    }
}

impl Drop for Cleared {
    fn drop(&mut self) {
        let mut topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        if topics.get(&self.task).is_some_and(|topic| topic.receiver_count() == 0) {
            topics.remove(&self.task);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use futures_util::FutureExt as _;

    use super::*;
    use crate::task::State;

    fn item(epoch: u64, number: u64) -> Item {
        let observed_at = SystemTime::UNIX_EPOCH;
        let answer = Answer::new(State::default(), String::new(), observed_at);
        Item { order: Order { epoch, number }, answer: Arc::new(answer), age: Duration::ZERO, end: None }
    }

    #[tokio::test(start_paused = true)]
    async fn followers_get_the_newest_in_order_and_its_age() {
        let feed = Memory::new();
        let task = TaskId::parse("1").unwrap();
        let mut follower = feed.follow(&task).await.unwrap();
        assert!(follower.next().now_or_never().is_none());
        for (epoch, number) in [(1, 1), (1, 2), (2, 1), (1, 3)] {
            feed.publish(&task, item(epoch, number)).await.unwrap();
        }
        tokio::time::advance(Duration::from_secs(3)).await;
        let newest = follower.next().await.unwrap();
        assert_eq!((newest.order, newest.age), (Order { epoch: 2, number: 1 }, Duration::from_secs(3)));
        assert!(follower.next().now_or_never().is_none());
        // A poller that does not know whether it was heard says it again: that is no news.
        feed.publish(&task, item(2, 1)).await.unwrap();
        assert!(follower.next().now_or_never().is_none());
        drop(follower);
        assert!(feed.topics.lock().unwrap().is_empty());
    }
}
