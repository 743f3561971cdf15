//! How many of something there may be at once: a count with a limit. Nobody waits here; who finds no place is refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// How often refusals are worth a line in the log: an overload must not become one of the log too.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Places, up to a limit; clones share them.
#[derive(Clone, Debug)]
pub struct Room(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    places: usize,
    taken: AtomicUsize,
    made: Instant,
    /// The span of time, counted from 1, in which a refusal was told last.
    told: AtomicU64,
}

impl Room {
    /// A room of so many places.
    #[must_use]
    pub fn new(places: usize) -> Self {
        let (taken, told) = (AtomicUsize::new(0), AtomicU64::new(0));
        Self(Arc::new(Inner { places, taken, made: Instant::now(), told }))
    }

    /// How many places there are in all.
    #[must_use]
    pub fn places(&self) -> usize {
        self.0.places
    }

    /// A place, if one is free.
    #[must_use]
    pub fn enter(&self) -> Option<Place> {
        // Nothing else is published by the count: it only has to be right.
        let counts = (Ordering::Relaxed, Ordering::Relaxed);
        let taken = &self.0.taken;
        let free = |taken: usize| (taken < self.0.places).then_some(taken + 1);
        taken.fetch_update(counts.0, counts.1, free).ok()?;
        Some(Place(Arc::clone(&self.0)))
    }

    /// Whether a refusal at `now` is the first one in a while.
    #[must_use]
    pub fn is_news(&self, now: Instant) -> bool {
        let span = 1 + now.duration_since(self.0.made).as_secs() / TELL_EVERY.as_secs();
        self.0.told.swap(span, Ordering::Relaxed) != span
    }
}

/// One place of a [`Room`], free again when this is dropped.
#[derive(Debug)]
pub struct Place(Arc<Inner>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_place_is_free_again_when_it_is_dropped() {
        let room = Room::new(2);
        assert_eq!(room.places(), 2);
        let (first, second) = (room.enter(), room.clone().enter());
        assert!(first.is_some() && second.is_some());
        assert!(room.enter().is_none() && room.enter().is_none());
        drop(first);
        let third = room.enter();
        assert!(third.is_some() && room.enter().is_none());
        drop((second, third));
        let places = [(); 3].map(|()| room.enter().is_some());
        assert_eq!(places, [true; 3], "each is dropped at once");
        let _held = [room.enter(), room.enter()];
        assert!(room.enter().is_none());
    }

    #[test]
    fn threads_never_share_a_place() {
        let (room, most) = (Room::new(3), AtomicUsize::new(0));
        let inside = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..10_000 {
                        let Some(_place) = room.enter() else { continue };
                        most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        inside.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert!((1..=3).contains(&most.into_inner()));
        assert_eq!(room.0.taken.load(Ordering::SeqCst), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn refusals_are_told_now_and_then() {
        let room = Room::new(1);
        let mut told = 0;
        for _ in 0..400 {
            told += u32::from(room.is_news(Instant::now()));
            tokio::time::advance(Duration::from_millis(100)).await;
        }
        assert_eq!(told, 4);
    }
}
