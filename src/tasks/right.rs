//! The right to poll a task. A seam: over all that share a store, one holds it at a time, and it may be lost at
//! any moment; [`Memory`] is the one for a process by itself. Apart from the demand for polls: whether anybody
//! watches is not known here.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};

use futures_util::future::BoxFuture;

use super::SeamError;
use crate::sync::{AsyncMutex, Mutex, OwnedMutexGuard};
use crate::task::TaskId;

/// Where the right to poll is had.
pub trait Rights: fmt::Debug + Send + Sync + 'static {
    /// Waits until the right to poll a task is ours; dropping the guard gives it back.
    ///
    /// # Errors
    /// If nobody can be asked: try again.
    fn acquire(&self, task: &TaskId) -> BoxFuture<'_, Result<Box<dyn Right>, SeamError>>;
}

/// The right to poll one task, for as long as this lives and is not lost.
pub trait Right: fmt::Debug + Send {
    /// Greater than that of every right to this task before.
    fn epoch(&self) -> u64;

    /// Waits until the right is lost. May be dropped and called again.
    fn lost(&mut self) -> BoxFuture<'_, ()>;
}

type Places = Arc<Mutex<HashMap<TaskId, Arc<AsyncMutex<()>>>>>;

/// The rights of a process by itself: never lost.
#[derive(Debug, Default)]
pub struct Memory {
    // Held for a look-up, never across an await; the inner locks are what is waited for.
    places: Places,
    epoch: Arc<AtomicU64>,
}

impl Memory {
    /// Rights that nobody holds.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether nobody holds a right or waits for one.
    #[cfg(all(test, shuttle))]
    pub(super) fn is_empty(&self) -> bool {
        self.places.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}

impl Rights for Memory {
    fn acquire(&self, task: &TaskId) -> BoxFuture<'_, Result<Box<dyn Right>, SeamError>> {
        let place = {
            let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(places.entry(task.clone()).or_default())
        };
        // Made before the first poll, so that a future that is never polled clears its place too.
        let cleared = Cleared { places: Arc::clone(&self.places), task: task.clone() };
        let waiting = Waiting { place, _cleared: cleared };
        Box::pin(async move {
            let place = Arc::clone(&waiting.place).lock_owned().await;
            let epoch = self.epoch.fetch_add(1, Ordering::Relaxed);
            Ok(Box::new(Held { epoch, _place: place, _waiting: waiting }) as Box<dyn Right>)
        })
    }
}

/// Whoever holds a right or waits for one; the last to go clears the task's place.
#[derive(Debug)]
struct Waiting {
    // Dropped first: of two who go at once, each would take the other for one who stays.
    place: Arc<AsyncMutex<()>>,
    _cleared: Cleared,
}

/// Clears a task's place when it goes, if nobody else has it.
#[derive(Debug)]
struct Cleared {
    places: Places,
    task: TaskId,
}

impl Drop for Cleared {
    fn drop(&mut self) {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        // Only the map's own is left.
        if places.get(&self.task).is_some_and(|place| Arc::strong_count(place) == 1) {
            places.remove(&self.task);
        }
    }
}

#[derive(Debug)]
struct Held {
    epoch: u64,
    // Dropped before `_waiting`, which counts who is left.
    _place: OwnedMutexGuard<()>,
    _waiting: Waiting,
}

impl Right for Held {
    fn epoch(&self) -> u64 {
        self.epoch
    }

    fn lost(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::pending())
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn one_holds_it_at_a_time_and_epochs_grow() {
        let rights = Memory::new();
        let [task, other] = ["1", "2"].map(|id| TaskId::parse(id).unwrap());
        let first = rights.acquire(&task).await.unwrap();
        assert!(rights.acquire(&task).now_or_never().is_none());
        let elsewhere = rights.acquire(&other).await.unwrap();
        let mut second = rights.acquire(&task);
        assert!((&mut second).now_or_never().is_none());
        let epoch = first.epoch();
        drop(first);
        let second = second.await.unwrap();
        assert!(second.epoch() > epoch);
        drop((second, elsewhere));
        assert!(rights.places.lock().unwrap().is_empty());
    }
}
