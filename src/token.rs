//! One token for all callers: [`Tokens`] is the handle that calls ask, and its [`run`](Tokens::run) the one task
//! that logs in, ahead of need and by one back-off. Owns the trait that a login implements; knows no HTTP.

pub mod bearer;
mod machine;
pub mod secret;
pub mod store;

use std::fmt;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::Instant;

use crate::clock::until;
use crate::health::Health;
use crate::metrics::{self, Metrics};
use crate::retry::terms::Terms;
use crate::sync::{self, ArcSwapOption, Mutex, Notify, watch};
use crate::task::failure::Failure;
use bearer::Bearer;
pub use machine::Verdict;
use machine::{Advice, Machine};
use store::{Generation, StoreError, Stored, TokenStore};

/// What one operation of the token store may take before a login goes on without it (contract 8, `store-timeout`).
const STORE_PATIENCE: Duration = Duration::from_millis(250);

/// What a login brought.
#[derive(Debug)]
pub struct Grant {
    /// The token.
    pub bearer: Bearer,
    /// How long it lives, counted from before the login was sent.
    pub life: Duration,
}

/// Logs in at the vendor.
pub trait Login: fmt::Debug + Send + Sync + 'static {
    /// Logs in once; bounded in time by the implementation.
    ///
    /// # Errors
    /// `CREDENTIALS_REJECTED` if the vendor refuses the credentials, else `TOKEN_UNAVAILABLE`; with the vendor's
    /// Retry-After, if it gave one.
    fn login(&self) -> BoxFuture<'_, Result<Grant, Failure>>;
}

/// A token that is held, for the calls that use it.
#[derive(Debug)]
pub struct Held {
    /// The token.
    pub bearer: Arc<Bearer>,
    /// The login that brought it: what a 401 is told apart by.
    pub generation: Generation,
    ends: Instant,
}

impl Held {
    fn is_alive(&self, now: Instant) -> bool {
        self.ends > now
    }
}

#[derive(Clone, Copy, Debug)]
struct Life {
    began: Instant,
    whole: Duration,
    ends: Instant,
}

impl Life {
    fn that_lasts(whole: Duration, began: Instant) -> Self {
        Self { began, whole, ends: began + whole }
    }
}

/// The token of the process: asked by every call, kept alive by [`run`](Self::run).
#[derive(Debug)]
pub struct Tokens {
    login: Box<dyn Login>,
    store: Arc<dyn TokenStore>,
    health: Health,
    metrics: Metrics,
    max_waits: u32,
    /// What `machine` holds, for the calls that need nothing else of it.
    current: ArcSwapOption<Held>,
    // Held for a few comparisons, never across an await.
    machine: Mutex<Machine>,
    /// How many logins ended: what whoever waits is woken by.
    logins: watch::Sender<u64>,
    /// Wakes the owner: something happened that may change when a login is due.
    stirred: Notify,
}

impl Tokens {
    /// A token that is not there yet: [`run`](Self::run) gets it. A call waits for at most `max_waits` logins.
    #[must_use]
    pub fn new(
        login: Box<dyn Login>,
        store: Arc<dyn TokenStore>,
        max_waits: u32,
        health: Health,
        metrics: Metrics,
    ) -> Self {
        Self {
            login,
            store,
            health,
            metrics,
            max_waits,
            current: ArcSwapOption::empty(),
            machine: Mutex::default(),
            logins: watch::Sender::new(0),
            stirred: Notify::new(),
        }
    }

    /// A living token; waits for one only as long as the contract lets a call wait.
    ///
    /// # Errors
    /// `TOKEN_UNAVAILABLE` or `CREDENTIALS_REJECTED`, with the time to the next login. A deadline that passes is
    /// for the caller to watch: this then is dropped.
    pub async fn get(&self, terms: &mut Terms) -> Result<Arc<Held>, Failure> {
        if let Some(held) = self.current.load_full().filter(|held| held.is_alive(Instant::now())) {
            return Ok(held);
        }
        let mut logins = self.logins.subscribe();
        let first = *logins.borrow_and_update();
        loop {
            let ended = *logins.borrow_and_update() - first;
            let advice = self.with(|machine| {
                // Looked at under the lock: what the machine holds is never of a later time.
                let now = Instant::now();
                match machine.advise(now, terms.now().deadline) {
                    Advice::Wait if ended >= u64::from(self.max_waits) => {
                        Advice::Fail(machine.last_failure(now))
                    }
                    advice => advice,
                }
            });
            match advice {
                Advice::Use(held) => return Ok(held),
                Advice::Fail(failure) => return Err(failure),
                Advice::Wait => {}
            }
            sync::select! {
                changed = logins.changed() => changed.expect("self holds the sender"),
                () = terms.changed() => {}
            }
        }
    }

    /// Says that the vendor refused this token with a 401, and asks what to do.
    #[must_use]
    pub fn refused(&self, generation: Generation) -> Verdict {
        let verdict = self.with(|machine| {
            let verdict = machine.refused(Instant::now(), generation);
            if machine.held(Instant::now()).is_none() {
                self.current.store(None);
            }
            verdict
        });
        if verdict == Verdict::Retry {
            self.stirred.notify_one();
        }
        verdict
    }

    /// Says how the retry ended that followed a 401.
    pub fn retried(&self, generation: Generation, is_accepted: bool) {
        self.with(|machine| machine.retried(generation, is_accepted));
    }

    /// Says that the app secret is another one now: the back-off ends.
    pub fn secret_changed(&self) {
        self.with(Machine::secret_changed);
        self.stirred.notify_one();
    }

    /// Keeps a token alive until dropped: the one task of the process that logs in.
    pub async fn run(&self) {
        let mut login: Option<BoxFuture<'_, ()>> = None;
        loop {
            let now = Instant::now();
            let (next, ends, is_failing) = self.with(|machine| {
                (machine.next_login(now), machine.held(now).map(|held| held.ends), machine.is_failing())
            });
            self.health.set_token(ends.is_some(), ends.is_some() || !is_failing);
            self.metrics.set_token_end(ends);
            if login.is_none() && next.is_some_and(|next| next <= now) {
                login = Some(Box::pin(self.log_in()));
            }
            sync::select! {
                () = async { login.as_mut().expect("checked by the branch's condition").await }, if login.is_some() => {
                    login = None;
                }
                () = self.stirred.notified() => {}
                () = until(next), if login.is_none() => {}
                () = until(ends) => {}
            }
        }
    }

    /// One turn at a token: the store's, if another replica brought one that is not ours, else a login.
    async fn log_in(&self) {
        let (dropped, seen) = self.with(|machine| {
            let seen = machine.held(Instant::now()).map(|held| held.generation);
            (machine.dropped(), seen)
        });
        let began = Instant::now();
        self.with(|machine| machine.login_begins(began));
        if let Some(generation) = dropped {
            self.ask_store("drop", self.store.drop_generation(generation)).await;
        }
        let found = self.ask_store("get", self.store.get()).await.flatten();
        let foreign =
            found.filter(|found| Some(found.generation) != seen && Some(found.generation) != dropped);
        let outcome = match foreign {
            Some(stored) => Ok((Life::that_lasts(stored.left, Instant::now()), stored)),
            // One that was dropped here and that the store could not drop has to give way as well.
            None => self.log_in_at_vendor(seen.or(dropped)).await,
        };
        match outcome {
            Ok((life, stored)) => self.adopt(stored, life),
            Err(failure) => self.endure(failure),
        }
        self.logins.send_modify(|ended| *ended += 1);
    }

    async fn log_in_at_vendor(&self, seen: Option<Generation>) -> Result<(Life, Stored), Failure> {
        let sent = Instant::now();
        let answer = self.login.login().await;
        self.metrics
            .login_ended(answer.as_ref().map_or_else(|failure| failure.reason.label(), |_| metrics::OK));
        let grant = answer?;
        let left = grant.life.saturating_sub(sent.elapsed());
        let new = Stored { bearer: Arc::new(grant.bearer), generation: Generation::new(), left };
        let own = new.generation;
        match self.ask_store("replace", self.store.replace(seen, new.clone())).await {
            Some(kept) if kept.generation != own => Ok((Life::that_lasts(kept.left, Instant::now()), kept)),
            _ => Ok((Life::that_lasts(grant.life, sent), new)),
        }
    }

    fn adopt(&self, stored: Stored, life: Life) {
        let now = Instant::now();
        let was_failing = self.with(|machine| {
            let was_failing = machine.is_failing();
            machine.login_succeeded(stored, life);
            self.current.store(machine.held(now).cloned());
            was_failing
        });
        if was_failing {
            tracing::info!(token.life_seconds = life.whole.as_secs(), "logged in at the vendor again");
        } else {
            tracing::debug!(token.life_seconds = life.whole.as_secs(), "logged in at the vendor");
        }
    }

    fn endure(&self, failure: Failure) {
        let now = Instant::now();
        let (reason, detail, http_status) = (failure.reason, failure.detail.clone(), failure.http_status);
        let next = self.with(|machine| {
            machine.login_failed(now, failure);
            machine.next_login(now)
        });
        tracing::warn!(
            %reason,
            detail = %detail,
            http.status = http_status,
            next_login_seconds = next.map(|next| next.saturating_duration_since(now).as_secs_f64()),
            "login at the vendor failed"
        );
    }

    /// The store's answer, if it gives one in time: a login never fails because of it.
    async fn ask_store<T>(&self, op: &str, ask: BoxFuture<'_, Result<T, StoreError>>) -> Option<T> {
        let answer = sync::timeout(STORE_PATIENCE, ask).await.unwrap_or(Err(StoreError));
        answer.inspect_err(|error| tracing::debug!(%error, op, "going on without the token store")).ok()
    }

    fn with<T>(&self, act: impl FnOnce(&mut Machine) -> T) -> T {
        act(&mut self.machine.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(all(test, shuttle))]
mod interleavings;
#[cfg(test)]
mod tests;
