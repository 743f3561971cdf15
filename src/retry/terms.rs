//! For how long somebody still waits for a piece of work, and on whose behalf it is done: written by those who
//! know the waiters, read by whoever does the work. Both may change while it goes on.

use std::sync::{Arc, PoisonError};

use tokio::time::Instant;

use crate::sync::{self, Mutex, MutexGuard, Notify};

/// What the work is bounded by now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Term {
    /// When the last one who waits stops waiting.
    pub deadline: Instant,
    /// Whether only pollers wait: their tries have a smaller share of what is scarce.
    pub is_poll: bool,
}

/// How far the work has come, for those who decide whether to wait for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// When the try that is under way began; `None` between tries.
    pub trying_since: Option<Instant>,
    /// Whether a try was ever begun.
    pub has_tried: bool,
    /// Since when it waits for a turn, that is, for a limit of the gateway's own; `None` if it does not.
    pub awaits_turn_since: Option<Instant>,
}

/// What both ends share.
#[derive(Debug)]
struct Shared {
    // Held for a copy, never across an await.
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug)]
struct State {
    term: Term,
    /// How often `term` has changed.
    changes: u64,
    progress: Progress,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The writing end.
#[derive(Clone, Debug)]
pub struct TermSetter(Arc<Shared>);

/// The reading end, for whoever does the work.
#[derive(Clone, Debug)]
pub struct Terms {
    shared: Arc<Shared>,
    /// The change that was seen last.
    seen: u64,
}

/// A linked pair that starts with `term`.
#[must_use]
pub fn channel(term: Term) -> (TermSetter, Terms) {
    let state = Mutex::new(State { term, changes: 0, progress: Progress::default() });
    let shared = Arc::new(Shared { state, changed: Notify::new() });
    (TermSetter(Arc::clone(&shared)), Terms { shared, seen: 0 })
}

impl TermSetter {
    /// Changes the terms; whoever sleeps by the old ones wakes up.
    pub fn set(&self, term: Term) {
        {
            let mut state = self.0.state();
            if state.term == term {
                return;
            }
            state.term = term;
            state.changes += 1;
        }
        self.0.changed.notify_waiters();
    }

    /// How far the work has come.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.0.state().progress
    }
}

impl Terms {
    /// Terms that nobody will change.
    #[must_use]
    pub fn fixed(deadline: Instant) -> Self {
        channel(Term { deadline, is_poll: false }).1
    }

    /// The terms as they are now.
    #[must_use]
    pub fn now(&self) -> Term {
        self.shared.state().term
    }

    /// Waits until the terms change; for ever if nobody does.
    pub async fn changed(&mut self) {
        loop {
            // Made before the look, so that no change falls in between.
            let notified = self.shared.changed.notified();
            let changes = self.shared.state().changes;
            if changes != self.seen {
                self.seen = changes;
                return;
            }
            notified.await;
        }
    }

    /// Says that the work waits for a turn from now on.
    pub fn awaits_turn(&self, now: Instant) {
        self.shared.state().progress.awaits_turn_since = Some(now);
    }

    /// Says that a try begins now.
    pub fn try_begins(&self, now: Instant) {
        self.shared.state().progress =
            Progress { trying_since: Some(now), has_tried: true, awaits_turn_since: None };
    }

    /// Says that the try is over.
    pub fn try_ended(&self) {
        self.shared.state().progress.trying_since = None;
    }

    /// Sleeps until `due`.
    ///
    /// # Errors
    /// [`TooLate`], at once, when `due` is not before the deadline, also when that becomes so in between.
    pub async fn sleep_until(&mut self, due: Instant) -> Result<(), TooLate> {
        loop {
            if due >= self.now().deadline {
                return Err(TooLate);
            }
            sync::select! {
                () = sync::sleep_until(due) => return Ok(()),
                () = self.changed() => {}
            }
        }
    }
}

/// What was to be waited for comes after the last waiter's deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLate;

#[cfg(all(test, shuttle))]
mod interleavings {
    use std::time::Duration;

    use shuttle::future::spawn;

    use super::*;
    use crate::sync::sleep;
    use crate::sync::woven::explorer::explore;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn no_change_is_lost_on_whoever_waits_for_changes() {
        explore(400, 10 * SECOND, || async {
            let start = Instant::now();
            let term = move |secs| Term { deadline: start + secs * SECOND, is_poll: false };
            let (setter, mut terms) = channel(term(100));
            let setters = [[1, 2], [3, 4]].map(|deadlines| {
                let setter = setter.clone();
                spawn(async move { deadlines.map(|secs| setter.set(term(secs))) })
            });
            let reader = spawn(async move {
                let mut last = terms.now();
                // One of the setters has the last word.
                while ![term(2), term(4)].contains(&last) {
                    terms.changed().await;
                    last = terms.now();
                }
            });
            for setter in setters {
                setter.await.unwrap();
            }
            reader.await.unwrap();
        });
    }

    #[test]
    fn a_sleep_ends_when_its_end_comes_after_the_deadline() {
        // Time stands long before the sleep is over.
        explore(400, 10 * SECOND, || async {
            let start = Instant::now();
            let term = move |secs| Term { deadline: start + secs * SECOND, is_poll: false };
            let (setter, mut terms) = channel(term(100));
            let sleeper = spawn(async move { terms.sleep_until(start + 50 * SECOND).await });
            for secs in [80, 60, 40] {
                setter.set(term(secs));
                sleep(SECOND / 10).await;
            }
            assert_eq!(sleeper.await.unwrap(), Err(TooLate));
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_sleep_ends_when_the_last_patient_waiter_leaves() {
        let start = Instant::now();
        let in_secs = |secs| start + Duration::from_secs(secs);
        let (setter, mut terms) = channel(Term { deadline: in_secs(60), is_poll: false });
        assert_eq!(terms.sleep_until(in_secs(60)).await, Err(TooLate));
        assert_eq!(start.elapsed(), Duration::ZERO);
        assert_eq!(terms.sleep_until(in_secs(5)).await, Ok(()));
        let leave = async {
            tokio::time::sleep_until(in_secs(7)).await;
            setter.set(Term { deadline: in_secs(20), is_poll: false });
        };
        let (slept, ()) = tokio::join!(terms.sleep_until(in_secs(30)), leave);
        assert_eq!(slept, Err(TooLate));
        assert_eq!(start.elapsed(), Duration::from_secs(7));
    }

    #[tokio::test(start_paused = true)]
    async fn progress_tells_what_the_work_is_at() {
        let start = Instant::now();
        let (setter, terms) = channel(Term { deadline: start, is_poll: false });
        assert_eq!(setter.progress(), Progress::default());
        terms.awaits_turn(start);
        let waiting = Progress { awaits_turn_since: Some(start), ..Progress::default() };
        assert_eq!(setter.progress(), waiting);
        let trying = Progress { trying_since: Some(start), has_tried: true, awaits_turn_since: None };
        terms.try_begins(start);
        assert_eq!(setter.progress(), trying);
        terms.try_ended();
        assert_eq!(setter.progress(), Progress { trying_since: None, ..trying });
    }
}
