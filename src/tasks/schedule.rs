//! When a poller polls, and when it gives up. Pure: it is told the time and what happened. Its rules are those of
//! contract section 1, WatchTask.

use std::time::Duration;

use tokio::time::Instant;

use crate::task::failure::{Failure, Reason};

/// The intervals that a task's watchers ask for, taken together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    /// The smallest that was asked, if any was.
    pub(super) smallest: Option<Duration>,
    /// Whether somebody leaves it to the back-off.
    pub(super) any_unset: bool,
}

/// The bounds that the operator sets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) poll_min: Duration,
    pub(super) poll_max: Duration,
    pub(super) give_up: Duration,
}

/// A poller's clockwork.
#[derive(Debug)]
pub(super) struct Schedule {
    bounds: Bounds,
    /// When the last poll ended.
    last_end: Instant,
    back_off: Duration,
    failing: Option<Failing>,
    is_due_at_once: bool,
}

/// Failures since the last good answer.
#[derive(Debug)]
struct Failing {
    since: Instant,
    wait: Duration,
    not_before: Instant,
    last: Failure,
}

impl Schedule {
    /// The clockwork of a poller whose task was seen `now`.
    pub(super) fn new(bounds: Bounds, now: Instant) -> Self {
        Self { bounds, last_end: now, back_off: bounds.poll_min, failing: None, is_due_at_once: false }
    }

    /// The back-off's current interval: what an unset interval counts as.
    pub(super) fn back_off(&self) -> Duration {
        self.back_off
    }

    /// When the next poll is due.
    pub(super) fn due(&self, wanted: Wanted) -> Instant {
        match &self.failing {
            // Whatever interval was asked.
            Some(failing) => (self.last_end + failing.wait).max(failing.not_before),
            None if self.is_due_at_once => self.last_end,
            None => {
                let asked = wanted.smallest.map(|interval| interval.max(self.bounds.poll_min));
                let unset = (wanted.any_unset || asked.is_none()).then_some(self.back_off);
                let interval = asked.into_iter().chain(unset).min().unwrap_or(self.back_off);
                self.last_end.checked_add(interval).unwrap_or(self.last_end + super::watch::FAR)
            }
        }
    }

    /// Somebody came for whom the last answer is too old.
    pub(super) fn hurry(&mut self) {
        self.is_due_at_once = true;
    }

    /// A poll begins.
    pub(super) fn poll_begins(&mut self) {
        self.is_due_at_once = false;
    }

    /// A poll brought an answer.
    pub(super) fn answered(&mut self, now: Instant, is_changed: bool) {
        self.last_end = now;
        self.failing = None;
        self.back_off =
            if is_changed { self.bounds.poll_min } else { (self.back_off * 2).min(self.bounds.poll_max) };
    }

    /// A poll failed.
    ///
    /// # Errors
    /// The failure, if the watch ends with it: it will not pass, or it has lasted for too long.
    pub(super) fn failed(&mut self, now: Instant, failure: Failure) -> Result<(), Failure> {
        if !failure.is_absorbed_by_watches() {
            return Err(failure);
        }
        self.last_end = now;
        let (since, wait) = match &self.failing {
            Some(failing) => (failing.since, (failing.wait * 2).min(self.bounds.poll_max)),
            None => (now, self.bounds.poll_min),
        };
        // What a failed login says is when the next login is due, which the operator may bring forward; a poll
        // that fails for want of a token costs the vendor nothing.
        let is_vendors = !matches!(failure.reason, Reason::TokenUnavailable | Reason::CredentialsRejected);
        let not_before = now + failure.retry_after.filter(|_| is_vendors).unwrap_or_default();
        self.failing = Some(Failing { since, wait, not_before, last: failure });
        if self.gives_up_at().is_some_and(|at| at <= now) { Err(self.give_up(now)) } else { Ok(()) }
    }

    /// When the watch ends if no good answer comes.
    pub(super) fn gives_up_at(&self) -> Option<Instant> {
        self.failing.as_ref().map(|failing| failing.since + self.bounds.give_up)
    }

    /// What the watch ends with when it gives up.
    pub(super) fn give_up(&self, now: Instant) -> Failure {
        self.failing.as_ref().map_or_else(Failure::defect, |failing| {
            let since = now.saturating_duration_since(self.last_end);
            let wait = failing
                .last
                .retry_after
                .and_then(|wait| wait.checked_sub(since))
                .filter(|wait| !wait.is_zero());
            failing.last.clone().with_retry_after(wait)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds {
        poll_min: Duration::from_secs(1),
        poll_max: Duration::from_secs(15),
        give_up: Duration::from_secs(300),
    };
    const UNSET: Wanted = Wanted { smallest: None, any_unset: true };

    fn wait(schedule: &Schedule, wanted: Wanted) -> f64 {
        (schedule.due(wanted) - Instant::now()).as_secs_f64()
    }

    fn asked(secs: f64) -> Wanted {
        Wanted { smallest: Some(Duration::from_secs_f64(secs)), any_unset: false }
    }

    fn failure(retry_after: Option<u64>) -> Failure {
        Failure::new(Reason::UpstreamUnavailable, "away")
            .with_retry_after(retry_after.map(Duration::from_secs))
    }

    #[tokio::test(start_paused = true)]
    async fn unset_backs_off_and_starts_again_on_a_change() {
        let now = Instant::now();
        let mut schedule = Schedule::new(BOUNDS, now);
        let mut waits = Vec::new();
        for changed in [false, false, false, false, false, true, false] {
            waits.push(wait(&schedule, UNSET));
            schedule.answered(now, changed);
        }
        assert_eq!(waits, [1.0, 2.0, 4.0, 8.0, 15.0, 15.0, 1.0]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_smallest_interval_counts_raised_to_poll_min() {
        let mut schedule = Schedule::new(BOUNDS, Instant::now());
        (0..3).for_each(|_| schedule.answered(Instant::now(), false));
        assert_eq!(wait(&schedule, UNSET), 8.0);
        assert_eq!(wait(&schedule, asked(5.0)), 5.0);
        assert_eq!(wait(&schedule, asked(0.0)), 1.0);
        assert_eq!(wait(&schedule, asked(60.0)), 60.0);
        assert_eq!(wait(&schedule, Wanted { any_unset: true, ..asked(60.0) }), 8.0);
        schedule.hurry();
        assert_eq!(wait(&schedule, asked(60.0)), 0.0);
        schedule.poll_begins();
        assert_eq!(wait(&schedule, asked(60.0)), 60.0);
        let far = Wanted { smallest: Some(Duration::MAX), any_unset: false };
        assert!(wait(&schedule, far) > 99.0 * 365.0 * 24.0 * 3600.0);
    }

    #[tokio::test(start_paused = true)]
    async fn failures_pace_polls_whatever_was_asked() {
        let now = Instant::now();
        let mut schedule = Schedule::new(BOUNDS, now);
        let mut waits = Vec::new();
        for retry_after in [None, None, Some(7), None, None, None] {
            schedule.failed(now, failure(retry_after)).unwrap();
            schedule.hurry();
            waits.push(wait(&schedule, asked(60.0)));
        }
        assert_eq!(waits, [1.0, 2.0, 7.0, 8.0, 15.0, 15.0]);
        // The time to the next login is not the vendor's Retry-After.
        let rejected = Failure::new(Reason::CredentialsRejected, "no").with_retry_after(Some(BOUNDS.give_up));
        schedule.failed(now, rejected).unwrap();
        assert_eq!(wait(&schedule, asked(60.0)), 15.0);
        schedule.poll_begins();
        schedule.answered(now, false);
        assert_eq!(wait(&schedule, asked(60.0)), 60.0);
    }

    #[tokio::test(start_paused = true)]
    async fn lasting_failures_end_the_watch() {
        let mut schedule = Schedule::new(BOUNDS, Instant::now());
        schedule.failed(Instant::now(), failure(None)).unwrap();
        tokio::time::advance(Duration::from_secs(200)).await;
        schedule.failed(Instant::now(), failure(Some(299))).unwrap();
        assert_eq!(schedule.gives_up_at(), Some(Instant::now() + Duration::from_secs(100)));
        tokio::time::advance(Duration::from_secs(100)).await;
        assert_eq!(schedule.give_up(Instant::now()).retry_after, Some(Duration::from_secs(199)));
        assert_eq!(schedule.failed(Instant::now(), failure(None)), Err(failure(None)));
        let lasting = Failure::new(Reason::UpstreamForbidden, "no");
        assert_eq!(schedule.failed(Instant::now(), lasting.clone()), Err(lasting));
        // Whoever is told to come back is told when the next login is due, though polls don't wait for it.
        let mut schedule = Schedule::new(BOUNDS, Instant::now());
        let token =
            Failure::new(Reason::TokenUnavailable, "no").with_retry_after(Some(Duration::from_secs(30)));
        schedule.failed(Instant::now(), token).unwrap();
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(schedule.give_up(Instant::now()).retry_after, Some(Duration::from_secs(28)));
        let rejected = Failure::new(Reason::CredentialsRejected, "the operator can mend it");
        assert_eq!(Schedule::new(BOUNDS, Instant::now()).failed(Instant::now(), rejected), Ok(()));
        let mut spaced = Failure::new(Reason::UpstreamUnauthorized, "logins are spaced");
        assert!(Schedule::new(BOUNDS, Instant::now()).failed(Instant::now(), spaced.clone()).is_err());
        spaced.is_spaced = true;
        assert_eq!(Schedule::new(BOUNDS, Instant::now()).failed(Instant::now(), spaced), Ok(()));
    }
}
