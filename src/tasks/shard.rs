//! A share of the hub's tasks under one lock: who wants which of them just now, and what is remembered. Membership
//! alone; what is awaited is awaited elsewhere.

use std::collections::HashMap;
use std::sync::PoisonError;

use foldhash::quality::RandomState;

use super::cache::Cache;
use super::call::Call;
use super::watch::Watched;
use crate::sync::{Mutex, MutexGuard};
use crate::task::TaskId;

/// The tasks whose ids fall on one lock.
#[derive(Debug)]
pub(super) struct Shard {
    pub(super) slots: HashMap<TaskId, Slot, RandomState>,
    pub(super) cache: Cache,
}

/// A task that somebody wants just now.
#[derive(Debug, Default)]
pub(super) struct Slot {
    pub(super) calls: Vec<Call>,
    pub(super) watched: Option<Watched>,
}

impl Shard {
    /// A share of which nobody wants anything.
    pub(super) fn new(cache: Cache) -> Self {
        Self { slots: HashMap::default(), cache }
    }

    /// Keeps those of a task's calls that are still wanted.
    pub(super) fn keep_calls(&mut self, task: &TaskId, is_wanted: impl FnMut(&mut Call) -> bool) {
        if let Some(slot) = self.slots.get_mut(task) {
            slot.calls.retain_mut(is_wanted);
        }
        self.clear(task);
    }

    /// Takes out a task's call of that number; what is left of its slot is for [`clear`](Self::clear).
    pub(super) fn take_call(&mut self, task: &TaskId, number: u64) -> Option<Call> {
        let calls = &mut self.slots.get_mut(task)?.calls;
        let at = calls.iter().position(|call| call.id() == number)?;
        // Their order is that of their beginning.
        Some(calls.remove(at))
    }

    /// Takes out all calls that are under way.
    pub(super) fn take_calls(&mut self) -> Vec<Call> {
        let calls = self.slots.values_mut().flat_map(|slot| std::mem::take(&mut slot.calls)).collect();
        self.slots.retain(|_, slot| slot.watched.is_some());
        calls
    }

    /// Keeps a task's watchers, if they are those of that number and still wanted.
    pub(super) fn keep_watched(
        &mut self,
        task: &TaskId,
        number: u64,
        is_wanted: impl FnOnce(&mut Watched) -> bool,
    ) {
        if let Some(slot) = self.slots.get_mut(task)
            && let Some(watched) = slot.watched.as_mut().filter(|watched| watched.id == number)
            && !is_wanted(watched)
        {
            slot.watched = None;
        }
        self.clear(task);
    }

    /// Forgets a task that nobody wants any more.
    pub(super) fn clear(&mut self, task: &TaskId) {
        if self.slots.get(task).is_some_and(|slot| slot.calls.is_empty() && slot.watched.is_none()) {
            self.slots.remove(task);
        }
    }
}

/// Takes a share's lock. A panic under it is a defect; what it left is still a share.
pub(super) fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}
