//! Those who watch a task: what each demands, taken together for the poller, and what the poller shows to all.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::hub::Hub;
use super::schedule::Wanted;
use crate::metrics::Occupied;
use crate::sync::{CancellationToken, watch};
use crate::task::failure::Failure;
use crate::task::{Observation, TaskId};

/// Longer than any process runs, and short enough to be added to any clock.
pub(super) const FAR: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// What a watcher wants.
#[derive(Clone, Copy, Debug)]
pub struct WatchDemand {
    /// Its interval; `None` leaves it to the back-off.
    pub interval: Option<Duration>,
    /// When it stops watching by itself, if it does.
    pub deadline: Option<Instant>,
}

/// What a task's poller shows to all who watch it.
#[derive(Clone, Debug)]
pub struct Shown {
    /// The last good answer.
    pub observation: Observation,
    /// How often the state has changed: who has seen the same number has seen this state.
    pub changes: u64,
    /// Why nothing more will come, if so.
    pub end: Option<Failure>,
    /// What an interval that nobody set counts as now.
    pub(super) back_off: Duration,
}

/// A watch that has its first state.
#[derive(Debug)]
pub struct Watch {
    /// The last known state.
    pub first: Observation,
    /// What comes later; `None` if nothing does, since the task is DONE.
    pub later: Option<Later>,
}

/// What comes after a watch's first state.
#[derive(Debug)]
pub struct Later {
    shown: watch::Receiver<Option<Shown>>,
    _place: Place,
}

impl Later {
    pub(super) fn new(shown: watch::Receiver<Option<Shown>>, place: Place) -> Self {
        Self { shown, _place: place }
    }

    /// Waits for a change or for the end; a state that only was observed again wakes nobody. May be dropped and
    /// called again. Look [`now`](Self::now) first: what was shown when this was had, be it the end, is no change.
    ///
    /// # Errors
    /// If the poller died of a defect.
    pub async fn changed(&mut self) -> Result<(), Failure> {
        self.shown.changed().await.map_err(|_| Failure::defect())
    }

    /// What is shown now.
    #[must_use]
    pub fn now(&mut self) -> Option<Shown> {
        self.shown.borrow_and_update().clone()
    }
}

/// A watched task, as the hub keeps it.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) id: u64,
    places: BTreeMap<u64, Demand>,
    deadlines: BTreeSet<(Instant, u64)>,
    intervals: BTreeMap<Option<Duration>, usize>,
    control: watch::Sender<Control>,
    shown: watch::Sender<Option<Shown>>,
    pub(super) is_polled: bool,
    /// Tells the poller that nobody is left.
    abandoned: CancellationToken,
}

#[derive(Debug)]
struct Demand {
    interval: Option<Duration>,
    deadline: Option<Instant>,
    _counted: Occupied,
}

/// What the poller is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Control {
    pub(super) wanted: Wanted,
    /// The earliest deadline of a watcher.
    pub(super) expires: Option<Instant>,
    /// How often somebody came for whom the last answer was too old.
    pub(super) hurries: u64,
}

impl Watched {
    pub(super) fn new(id: u64) -> Self {
        Self {
            id,
            places: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            intervals: BTreeMap::new(),
            control: watch::Sender::new(Control::default()),
            shown: watch::Sender::new(None),
            is_polled: false,
            abandoned: CancellationToken::new(),
        }
    }

    /// One more watches.
    pub(super) fn enter(&mut self, place: u64, demand: WatchDemand, counted: Occupied) {
        let WatchDemand { interval, deadline } = demand;
        *self.intervals.entry(interval).or_default() += 1;
        self.deadlines.extend(deadline.map(|deadline| (deadline, place)));
        self.places.insert(place, Demand { interval, deadline, _counted: counted });
        self.tell(0);
    }

    /// One watches no longer; tells whether nobody is left.
    pub(super) fn leave(&mut self, place: u64) -> bool {
        if let Some(Demand { interval, deadline, .. }) = self.places.remove(&place) {
            if let Some(deadline) = deadline {
                self.deadlines.remove(&(deadline, place));
            }
            if let Some(count) = self.intervals.get_mut(&interval) {
                *count -= 1;
                if *count == 0 {
                    self.intervals.remove(&interval);
                }
            }
            self.tell(0);
        }
        if self.places.is_empty() {
            self.abandoned.cancel();
        }
        self.places.is_empty()
    }

    /// Lets go of those whose deadline has passed, also if they no longer read; tells whether nobody is left.
    pub(super) fn expire(&mut self, now: Instant) -> bool {
        while let Some((_, place)) = self.deadlines.first().filter(|(deadline, _)| *deadline <= now).copied()
        {
            self.leave(place);
        }
        self.places.is_empty()
    }

    /// Shows a state after which nothing comes.
    pub(super) fn show(&self, observation: Observation) {
        self.shown.send_replace(Some(Shown { observation, changes: 0, end: None, back_off: Duration::ZERO }));
    }

    /// Somebody came for whom the last answer is too old.
    pub(super) fn hurry(&self) {
        self.tell(1);
    }

    fn tell(&self, hurries: u64) {
        // None sorts before every interval that was asked.
        let any_unset = self.intervals.contains_key(&None);
        let smallest = self.intervals.keys().nth(usize::from(any_unset)).copied().flatten();
        let expires = self.deadlines.first().map(|(deadline, _)| *deadline);
        self.control.send_if_modified(|control| {
            let next = Control {
                wanted: Wanted { smallest, any_unset },
                expires,
                hurries: control.hurries + hurries,
            };
            std::mem::replace(control, next) != next
        });
    }

    pub(super) fn control(&self) -> watch::Receiver<Control> {
        self.control.subscribe()
    }

    pub(super) fn shown(&self) -> &watch::Sender<Option<Shown>> {
        &self.shown
    }

    pub(super) fn abandoned(&self) -> CancellationToken {
        self.abandoned.clone()
    }
}

/// A place among those who watch; dropping it leaves.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) hub: Hub,
    pub(super) task: TaskId,
    pub(super) watched: u64,
    pub(super) number: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.hub.leave_watch(&self.task, self.watched, self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    #[tokio::test(start_paused = true)]
    async fn demands_are_taken_together() {
        let metrics = Metrics::new();
        let mut watched = Watched::new(1);
        let control = watched.control();
        let now = Instant::now();
        let secs = Duration::from_secs;
        let demand = |interval: Option<u64>, deadline: Option<u64>| WatchDemand {
            interval: interval.map(secs),
            deadline: deadline.map(|deadline| now + secs(deadline)),
        };
        let wanted = |smallest: Option<u64>, any_unset| Wanted { smallest: smallest.map(secs), any_unset };
        for (place, interval, deadline) in [(1, Some(5), None), (2, None, Some(9)), (3, Some(2), Some(4))] {
            watched.enter(place, demand(interval, deadline), metrics.watcher());
        }
        assert_eq!(control.borrow().wanted, wanted(Some(2), true));
        assert_eq!(control.borrow().expires, Some(now + secs(4)));
        assert!(!watched.expire(now + secs(4)));
        assert_eq!(control.borrow().wanted, wanted(Some(5), true));
        assert!(metrics.render().contains("federation_watchers 2\n"));
        // Its stream, once it is read again, finds its place gone.
        assert!(!watched.leave(3));
        assert!(!watched.leave(2));
        assert_eq!(control.borrow().wanted, wanted(Some(5), false));
        assert!(!watched.abandoned.is_cancelled());
        assert!(watched.leave(1));
        assert!(watched.abandoned.is_cancelled());
    }
}
