//! The token's state machine: when a login is due, who waits for it, what a 401 means. Pure: it is told the time
//! and what happened, and starts nothing. All its rules are those of contract section 3.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::store::{Generation, Stored};
use super::{Held, Life};
use crate::retry;
use crate::task::failure::{Failure, Reason};

/// A login is renewed when this share of its life is left.
const RENEW_AT_SHARE: f64 = 0.2;
/// How far that share strays, so that replicas do not renew together.
const RENEW_JITTER: f64 = 0.1;
/// What is left at least when a token is renewed.
const RENEW_AT_LEAST: Duration = Duration::from_secs(10);
/// Logins other than those caused by a 401 begin at least so far apart.
const LOGIN_GAP: Duration = Duration::from_secs(1);
/// The first back-off after a failed login, and the longest after one that failed or was rejected.
const BACK_OFF: Duration = Duration::from_secs(1);
const LONGEST_BACK_OFF: Duration = Duration::from_secs(60);
const LONGEST_BACK_OFF_REJECTED: Duration = Duration::from_secs(5 * 60);
const BACK_OFF_JITTER: f64 = 0.1;
/// A call waits for the next login if that is due within this.
const PATIENCE: Duration = Duration::from_millis(2500);
/// Logins caused by 401s are so far apart at first, and at most.
const UNAUTHORIZED_GAP: Duration = Duration::from_secs(1);
const LONGEST_UNAUTHORIZED_GAP: Duration = Duration::from_secs(30);

/// What a caller who needs a token is to do.
#[derive(Debug)]
pub(super) enum Advice {
    /// Use this one.
    Use(Arc<Held>),
    /// Wait for the login that is under way or due soon.
    Wait,
    /// Give up, with this.
    Fail(Failure),
}

/// What a caller whose token was refused with a 401 is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Get a token again, and retry once with it.
    Retry,
    /// Fail: it is too soon for another login.
    TooSoon,
}

#[derive(Debug, Default)]
pub(super) struct Machine {
    held: Option<Arc<Held>>,
    renew_at: Option<Instant>,
    login: Option<Login>,
    last_login: Option<Instant>,
    /// Whether the last login that ended failed; unlike `failing` not forgotten when the secret changes.
    has_failed: bool,
    failing: Option<Failing>,
    /// The generation that a 401 dropped and that no other has followed yet.
    dropped: Option<Generation>,
    refusals: Refusals,
    /// Counts changes of the secret, so that a login with an old one is known as such.
    secret: u64,
}

#[derive(Debug)]
struct Login {
    secret: u64,
    caused_by_401: bool,
}

#[derive(Debug)]
struct Failing {
    times: u32,
    next: Instant,
    failure: Failure,
}

/// Logins that 401s caused.
#[derive(Debug)]
struct Refusals {
    last_login: Option<Instant>,
    gap: Duration,
    brought: Option<Generation>,
    counted: Option<Generation>,
}

impl Default for Refusals {
    fn default() -> Self {
        Self { last_login: None, gap: UNAUTHORIZED_GAP, brought: None, counted: None }
    }
}

impl Machine {
    /// The held token, if it is alive.
    pub(super) fn held(&self, now: Instant) -> Option<&Arc<Held>> {
        self.held.as_ref().filter(|held| held.is_alive(now))
    }

    /// Whether the last login that ended failed.
    pub(super) fn is_failing(&self) -> bool {
        self.has_failed
    }

    /// When a login is due; `None` while one is under way.
    pub(super) fn next_login(&self, now: Instant) -> Option<Instant> {
        if self.login.is_some() {
            return None;
        }
        let due = match (self.held(now), self.dropped) {
            (Some(held), _) => self.renew_at.unwrap_or(held.ends),
            (None, Some(_)) => now,
            // The back-off alone spaces failing logins.
            (None, None) if self.failing.is_some() => now,
            (None, None) => self.last_login.map_or(now, |last| last + LOGIN_GAP),
        };
        Some(self.failing.as_ref().map_or(due, |failing| due.max(failing.next)))
    }

    /// What somebody is to do who needs a token before `deadline`.
    pub(super) fn advise(&self, now: Instant, deadline: Instant) -> Advice {
        if let Some(held) = self.held(now) {
            return Advice::Use(Arc::clone(held));
        }
        match &self.failing {
            Some(failing) if failing.failure.reason == Reason::CredentialsRejected => {
                Advice::Fail(self.last_failure(now))
            }
            Some(failing)
                if self.login.is_none() && (failing.next > now + PATIENCE || failing.next >= deadline) =>
            {
                Advice::Fail(self.last_failure(now))
            }
            _ => Advice::Wait,
        }
    }

    /// The last login's failure, with the time until the next one.
    pub(super) fn last_failure(&self, now: Instant) -> Failure {
        match &self.failing {
            Some(failing) => {
                let wait = failing.next.saturating_duration_since(now);
                failing.failure.clone().with_retry_after(Some(wait))
            }
            None => Failure::new(Reason::TokenUnavailable, "each new token was refused as soon as it came"),
        }
    }

    /// A login begins.
    pub(super) fn login_begins(&mut self, now: Instant) {
        let caused_by_401 = self.dropped.is_some();
        if caused_by_401 {
            self.refusals.last_login = Some(now);
        }
        self.last_login = Some(now);
        self.login = Some(Login { secret: self.secret, caused_by_401 });
    }

    /// The generation that a 401 dropped and that no other has followed yet.
    pub(super) fn dropped(&self) -> Option<Generation> {
        self.dropped
    }

    /// The login brought a token, or somebody else's was found in the store.
    pub(super) fn login_succeeded(&mut self, stored: Stored, life: Life) {
        if self.login.take().is_some_and(|login| login.caused_by_401) {
            self.refusals.brought = Some(stored.generation);
        }
        (self.failing, self.dropped, self.has_failed) = (None, None, false);
        let left = retry::jittered(life.whole.mul_f64(RENEW_AT_SHARE), RENEW_JITTER).max(RENEW_AT_LEAST);
        let renew_at = life.ends.checked_sub(left).unwrap_or(life.began);
        let earliest = (life.began + life.whole / 2).max(self.last_login.unwrap_or(life.began) + LOGIN_GAP);
        self.renew_at = Some(renew_at.max(earliest));
        self.held =
            Some(Arc::new(Held { bearer: stored.bearer, generation: stored.generation, ends: life.ends }));
    }

    /// The login failed. A login with a secret that has changed since tells nothing of the new one.
    pub(super) fn login_failed(&mut self, now: Instant, failure: Failure) {
        self.has_failed = true;
        let secret = self.login.take().map(|login| login.secret);
        if secret != Some(self.secret) {
            self.last_login = None;
            return;
        }
        let is_rejected = failure.reason == Reason::CredentialsRejected;
        let longest = if is_rejected { LONGEST_BACK_OFF_REJECTED } else { LONGEST_BACK_OFF };
        let times = self.failing.as_ref().map_or(0, |failing| failing.times);
        let back_off = retry::jittered(retry::doubled(BACK_OFF, times, longest), BACK_OFF_JITTER);
        let wait = back_off.max(failure.retry_after.unwrap_or_default());
        self.failing = Some(Failing { times: times + 1, next: now + wait, failure });
    }

    /// The vendor refused a token of that generation with a 401.
    pub(super) fn refused(&mut self, now: Instant, generation: Generation) -> Verdict {
        match self.held(now) {
            Some(held) if held.generation == generation => {}
            // A newer one is held, or one is coming anyway.
            _ => return Verdict::Retry,
        }
        if self.refusals.last_login.is_some_and(|last| now < last + self.refusals.gap) {
            return Verdict::TooSoon;
        }
        self.held = None;
        self.dropped = Some(generation);
        if let Some(login) = &mut self.login {
            // A renewal that is under way serves as the login that this 401 asks for.
            login.caused_by_401 = true;
            self.refusals.last_login = Some(now);
        }
        Verdict::Retry
    }

    /// How the retry ended that followed a 401 and was made with a token of that generation.
    pub(super) fn retried(&mut self, generation: Generation, is_accepted: bool) {
        if is_accepted {
            self.refusals.gap = UNAUTHORIZED_GAP;
        } else if self.refusals.brought == Some(generation) && self.refusals.counted != Some(generation) {
            // Once a login, however many calls shared it.
            self.refusals.counted = Some(generation);
            self.refusals.gap = (self.refusals.gap * 2).min(LONGEST_UNAUTHORIZED_GAP);
        }
    }

    /// The secret changed: the next login may well succeed.
    pub(super) fn secret_changed(&mut self) {
        self.secret += 1;
        self.failing = None;
        if self.held.is_none() {
            self.last_login = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::bearer::Bearer;
    use super::*;

    fn secs(secs: f64) -> Duration {
        Duration::from_secs_f64(secs)
    }

    /// A login that begins and succeeds now.
    fn log_in(machine: &mut Machine, life: f64) -> Generation {
        machine.login_begins(Instant::now());
        succeed(machine, life)
    }

    /// The login that is under way succeeds, as if it had begun now.
    fn succeed(machine: &mut Machine, life: f64) -> Generation {
        let now = Instant::now();
        let stored = Stored {
            bearer: Arc::new(Bearer::new("token").unwrap()),
            generation: Generation::new(),
            left: secs(life),
        };
        let generation = stored.generation;
        machine.login_succeeded(stored, Life::that_lasts(secs(life), now));
        generation
    }

    fn fail(machine: &mut Machine, reason: Reason, retry_after: Option<f64>) {
        machine.login_begins(Instant::now());
        machine
            .login_failed(Instant::now(), Failure::new(reason, "no").with_retry_after(retry_after.map(secs)));
    }

    fn due_in(machine: &Machine) -> f64 {
        let now = Instant::now();
        machine.next_login(now).expect("no login is under way").duration_since(now).as_secs_f64()
    }

    fn advice(machine: &Machine, deadline: f64) -> Advice {
        machine.advise(Instant::now(), Instant::now() + secs(deadline))
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewal_is_due_at_a_fifth_of_the_life_within_its_bounds() {
        // Life, and the earliest and latest moment of its renewal.
        for (life, earliest, latest) in [
            (3600.0, 3600.0 * 0.78, 3600.0 * 0.82),
            (60.0, 60.0 - 13.2, 50.0),
            // At least 10 s before the end, but not before half the life.
            (40.0, 30.0, 30.0),
            (12.0, 6.0, 6.0),
            // Not within 1 s of the last login.
            (1.5, 1.0, 1.0),
            (0.1, 1.0, 1.0),
        ] {
            for _ in 0..50 {
                let mut machine = Machine::default();
                log_in(&mut machine, life);
                let due = due_in(&machine);
                assert!((earliest - 1e-6..=latest + 1e-6).contains(&due), "{life}: {due}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn replicas_that_logged_in_together_do_not_renew_together() {
        let renewals = (0..50).map(|_| {
            let mut machine = Machine::default();
            log_in(&mut machine, 3600.0);
            due_in(&machine) as u64
        });
        // Spread over 144 s.
        assert!(renewals.collect::<std::collections::BTreeSet<_>>().len() > 10);
    }

    #[tokio::test(start_paused = true)]
    async fn the_back_off_alone_spaces_failing_logins_and_a_success_ends_it() {
        let first_back_offs = (0..100).map(|_| {
            let mut machine = Machine::default();
            fail(&mut machine, Reason::TokenUnavailable, None);
            due_in(&machine)
        });
        let (sooner, later): (Vec<_>, Vec<_>) = first_back_offs.partition(|due| *due < 1.0);
        assert!(sooner.len() > 10 && later.len() > 10, "{} {}", sooner.len(), later.len());
        let mut machine = Machine::default();
        (0..5).for_each(|_| fail(&mut machine, Reason::TokenUnavailable, Some(300.0)));
        log_in(&mut machine, 40.0);
        assert_eq!(due_in(&machine), 30.0, "a renewal is not put off by failures of the past");
        fail(&mut machine, Reason::TokenUnavailable, None);
        tokio::time::advance(secs(40.0)).await;
        fail(&mut machine, Reason::TokenUnavailable, None);
        assert!((1.8..=2.2).contains(&due_in(&machine)), "the second of its own row");
    }

    #[tokio::test(start_paused = true)]
    async fn the_old_token_serves_while_renewal_fails() {
        let mut machine = Machine::default();
        let first = log_in(&mut machine, 60.0);
        tokio::time::advance(secs(50.0)).await;
        for _ in 0..3 {
            fail(&mut machine, Reason::CredentialsRejected, None);
            assert!(matches!(advice(&machine, 9.0), Advice::Use(held) if held.generation == first));
        }
        tokio::time::advance(secs(10.0)).await;
        assert!(machine.held(Instant::now()).is_none());
        assert!(
            matches!(advice(&machine, 9.0), Advice::Fail(failure) if failure.reason == Reason::CredentialsRejected)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn failing_logins_are_spaced() {
        for (reason, longest) in [(Reason::TokenUnavailable, 60.0), (Reason::CredentialsRejected, 300.0)] {
            let mut machine = Machine::default();
            let mut expected: f64 = 1.0;
            for _ in 0..12 {
                fail(&mut machine, reason, None);
                let due = due_in(&machine);
                assert!((expected * 0.9 - 1e-6..=expected * 1.1 + 1e-6).contains(&due), "{reason}: {due}");
                expected = (expected * 2.0).min(longest);
            }
            fail(&mut machine, reason, Some(600.0));
            assert_eq!(due_in(&machine), 600.0);
            log_in(&mut machine, 60.0);
            assert!(!machine.is_failing());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_waits_for_a_login_that_is_near_and_within_its_deadline() {
        let mut machine = Machine::default();
        assert!(matches!(advice(&machine, 9.0), Advice::Wait), "nothing has failed yet");
        fail(&mut machine, Reason::TokenUnavailable, None);
        assert!(matches!(advice(&machine, 9.0), Advice::Wait));
        let Advice::Fail(failure) = advice(&machine, 0.5) else { panic!("the deadline comes first") };
        assert_eq!(failure.reason, Reason::TokenUnavailable);
        assert_eq!(failure.retry_after.unwrap().as_secs_f64(), due_in(&machine));
        fail(&mut machine, Reason::TokenUnavailable, Some(2.6));
        assert!(matches!(advice(&machine, 9.0), Advice::Fail(_)));
        tokio::time::advance(secs(0.2)).await;
        assert!(matches!(advice(&machine, 9.0), Advice::Wait));
        machine.login_begins(Instant::now());
        assert!(matches!(advice(&machine, 0.1), Advice::Wait), "one is under way");
        machine.login_failed(Instant::now(), Failure::new(Reason::CredentialsRejected, "no"));
        machine.login_begins(Instant::now());
        assert!(matches!(advice(&machine, 9.0), Advice::Fail(_)), "after a rejected one at once");
        let mut machine = Machine::default();
        fail(&mut machine, Reason::TokenUnavailable, Some(2.5));
        assert!(matches!(advice(&machine, 9.0), Advice::Wait), "2.5 s are near enough");
    }

    #[tokio::test(start_paused = true)]
    async fn a_401_drops_that_very_token_and_logins_are_spaced() {
        let mut machine = Machine::default();
        let first = log_in(&mut machine, 600.0);
        assert_eq!(machine.refused(Instant::now(), first), Verdict::Retry);
        assert_eq!(due_in(&machine), 0.0);
        assert_eq!(machine.refused(Instant::now(), first), Verdict::Retry, "it is dropped already");
        let second = log_in(&mut machine, 600.0);
        assert_eq!(machine.refused(Instant::now(), first), Verdict::Retry, "a newer one is held");
        assert!(machine.held(Instant::now()).is_some_and(|held| held.generation == second));
        // The gap doubles once a login, however many retries it disappoints, up to 30 s.
        let mut held = second;
        for gap in [2.0, 4.0, 8.0, 16.0, 30.0, 30.0] {
            machine.retried(held, false);
            machine.retried(held, false);
            tokio::time::advance(secs(gap - 0.1)).await;
            assert_eq!(machine.refused(Instant::now(), held), Verdict::TooSoon, "{gap}");
            assert!(machine.held(Instant::now()).is_some());
            tokio::time::advance(secs(0.1)).await;
            assert_eq!(machine.refused(Instant::now(), held), Verdict::Retry, "{gap}");
            held = log_in(&mut machine, 600.0);
        }
        machine.retried(held, true);
        tokio::time::advance(secs(1.0)).await;
        assert_eq!(machine.refused(Instant::now(), held), Verdict::Retry, "the gap is 1 s again");
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewal_under_way_serves_as_the_login_that_a_401_asks_for() {
        let mut machine = Machine::default();
        let first = log_in(&mut machine, 60.0);
        tokio::time::advance(secs(50.0)).await;
        machine.login_begins(Instant::now());
        assert_eq!(machine.refused(Instant::now(), first), Verdict::Retry);
        assert_eq!(machine.next_login(Instant::now()), None);
        assert!(matches!(advice(&machine, 1.0), Advice::Wait));
        // As any login that a 401 caused, it spaces the next ones, the wider if it did not help.
        let second = succeed(&mut machine, 600.0);
        assert_eq!(machine.refused(Instant::now(), second), Verdict::TooSoon);
        machine.retried(second, false);
        tokio::time::advance(secs(1.9)).await;
        assert_eq!(machine.refused(Instant::now(), second), Verdict::TooSoon);
        tokio::time::advance(secs(0.1)).await;
        assert_eq!(machine.refused(Instant::now(), second), Verdict::Retry);
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewal_after_a_401_is_no_login_that_a_401_caused() {
        let mut machine = Machine::default();
        let first = log_in(&mut machine, 60.0);
        assert_eq!(machine.refused(Instant::now(), first), Verdict::Retry);
        assert_eq!(machine.dropped(), Some(first));
        log_in(&mut machine, 60.0);
        assert_eq!(machine.dropped(), None);
        tokio::time::advance(secs(50.0)).await;
        let renewed = log_in(&mut machine, 60.0);
        assert_eq!(machine.refused(Instant::now(), renewed), Verdict::Retry);
    }

    #[tokio::test(start_paused = true)]
    async fn a_changed_secret_ends_the_back_off_also_of_a_login_with_the_old_one() {
        let mut machine = Machine::default();
        fail(&mut machine, Reason::CredentialsRejected, Some(300.0));
        machine.secret_changed();
        assert_eq!(due_in(&machine), 0.0);
        assert!(matches!(advice(&machine, 9.0), Advice::Wait));
        machine.login_begins(Instant::now());
        machine.secret_changed();
        machine.login_failed(Instant::now(), Failure::new(Reason::CredentialsRejected, "the old one"));
        assert_eq!(due_in(&machine), 0.0);
        assert!(machine.is_failing(), "the last login that ended failed all the same");
        log_in(&mut machine, 60.0);
        assert!(!machine.is_failing());
    }

    #[tokio::test(start_paused = true)]
    async fn an_expired_token_is_not_used_and_the_next_login_keeps_its_distance() {
        let mut machine = Machine::default();
        log_in(&mut machine, 0.5);
        tokio::time::advance(secs(0.5)).await;
        assert!(matches!(advice(&machine, 9.0), Advice::Wait));
        assert_eq!(due_in(&machine), 0.5);
    }
}
