//! The memory of answers: the newest one of each task, bounded in number, in bytes and in time. Decides nothing
//! about whether an answer will do.

use std::time::Duration;

use foldhash::quality::RandomState;
use lru::LruCache;
use tokio::time::Instant;

use super::decide::is_outlived;
use crate::task::{Observation, TaskId};

/// What an entry takes beside its answer: its key, twice, and its place in the list.
const ENTRY_OVERHEAD: usize = 2 * TaskId::MAX_BYTES;

/// Answers in the order in which they came; the oldest give way.
#[derive(Debug)]
pub(super) struct Cache {
    entries: LruCache<TaskId, Entry, RandomState>,
    bytes: usize,
    limits: Limits,
}

/// How much is kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// So many answers.
    pub(super) answers: usize,
    /// So many bytes.
    pub(super) bytes: usize,
    /// For so long.
    pub(super) keep: Duration,
}

#[derive(Debug)]
struct Entry {
    observation: Observation,
    bytes: usize,
}

impl Cache {
    pub(super) fn new(limits: Limits) -> Self {
        Self { entries: LruCache::unbounded_with_hasher(RandomState::default()), bytes: 0, limits }
    }

    /// What is remembered of a task.
    pub(super) fn get(&self, task: &TaskId) -> Option<&Observation> {
        self.entries.peek(task).map(|entry| &entry.observation)
    }

    /// Remembers an answer, unless one is there whose try began later.
    pub(super) fn put(&mut self, task: &TaskId, observation: Observation, now: Instant) {
        if self.get(task).is_some_and(|known| known.began > observation.began) {
            return;
        }
        let bytes = observation.answer.size() + ENTRY_OVERHEAD;
        self.bytes += bytes;
        let replaced = self.entries.put(task.clone(), Entry { observation, bytes });
        self.bytes -= replaced.map_or(0, |entry| entry.bytes);
        while self.entries.len() > self.limits.answers || self.bytes > self.limits.bytes {
            self.pop();
        }
        self.sweep(now);
    }

    /// Lets go of what nobody will want any more.
    pub(super) fn sweep(&mut self, now: Instant) {
        while let Some((_, oldest)) = self.entries.peek_lru()
            && is_outlived(oldest.observation.began, self.limits.keep, now)
        {
            self.pop();
        }
    }

    fn pop(&mut self) {
        if let Some((_, entry)) = self.entries.pop_lru() {
            self.bytes -= entry.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::SystemTime;

    use super::*;
    use crate::task::{Answer, State};

    const LIMITS: Limits = Limits { answers: 3, bytes: 19_300, keep: Duration::from_secs(60) };

    fn id(number: usize) -> TaskId {
        TaskId::parse(&number.to_string()).unwrap()
    }

    fn observed(remark: usize) -> Observation {
        let state = State { remark: "r".repeat(remark), ..State::default() };
        let answer = Answer::new(state, String::new(), SystemTime::UNIX_EPOCH);
        Observation { answer: Arc::new(answer), began: Instant::now() }
    }

    fn kept(cache: &Cache) -> Vec<usize> {
        (0..10).filter(|number| cache.get(&id(*number)).is_some()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_give_way_to_number_bytes_and_time() {
        let mut cache = Cache::new(LIMITS);
        for number in 0..4 {
            cache.put(&id(number), observed(0), Instant::now());
        }
        assert_eq!(kept(&cache), [1, 2, 3]);
        cache.put(&id(4), observed(9_000), Instant::now());
        assert_eq!(kept(&cache), [3, 4]);
        // What has no room at all is not kept, and pushes nothing else out for long.
        cache.put(&id(5), observed(40_000), Instant::now());
        assert_eq!((kept(&cache), cache.bytes), (vec![], 0));
        cache.put(&id(6), observed(0), Instant::now());
        tokio::time::advance(Duration::from_secs(60)).await;
        cache.put(&id(7), observed(0), Instant::now());
        assert_eq!(kept(&cache), [6, 7]);
        tokio::time::advance(Duration::from_secs(1)).await;
        cache.sweep(Instant::now());
        assert_eq!(kept(&cache), [7]);
        // Each that comes lets the outlived go, so that no sweep has many to let go of.
        tokio::time::advance(Duration::from_secs(60)).await;
        cache.put(&id(8), observed(0), Instant::now());
        assert_eq!(kept(&cache), [8]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_never_replaces_one_whose_try_began_later() {
        let mut cache = Cache::new(LIMITS);
        let slow = observed(1);
        tokio::time::advance(Duration::from_secs(1)).await;
        cache.put(&id(1), observed(2), Instant::now());
        cache.put(&id(1), slow, Instant::now());
        assert_eq!(cache.get(&id(1)).unwrap().state().remark.len(), 2);
        cache.put(&id(1), observed(3), Instant::now());
        assert_eq!(cache.get(&id(1)).unwrap().state().remark.len(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_replaces_another_counts_once_and_what_just_fits_is_kept() {
        let size = |answer: &Observation| answer.answer.size() + ENTRY_OVERHEAD;
        let (small, large) = (observed(0), observed(9_000));
        let mut cache = Cache::new(Limits { bytes: size(&small) + size(&large), ..LIMITS });
        cache.put(&id(1), small.clone(), Instant::now());
        for _ in 0..10 {
            cache.put(&id(2), large.clone(), Instant::now());
        }
        assert_eq!((kept(&cache), cache.bytes), (vec![1, 2], size(&small) + size(&large)));
        cache.put(&id(2), small.clone(), Instant::now());
        assert_eq!((kept(&cache), cache.bytes), (vec![1, 2], 2 * size(&small)));
        cache.put(&id(2), observed(9_001), Instant::now());
        assert_eq!(kept(&cache), [2]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_small_answer_counts_with_its_key_which_is_kept_twice() {
        let each = observed(0).answer.size() + 2 * 128;
        let mut cache = Cache::new(Limits { answers: 100, bytes: 5 * each, ..LIMITS });
        (0..10).for_each(|number| cache.put(&id(number), observed(0), Instant::now()));
        assert_eq!(kept(&cache), [5, 6, 7, 8, 9]);
    }
}
