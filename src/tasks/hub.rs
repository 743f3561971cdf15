//! The hub: every task that somebody wants, the calls under way for it, its poller, and the memory of answers.
//! Membership changes under one short lock a shard; nothing is awaited under it.

use std::hash::BuildHasher as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use foldhash::quality::RandomState;
use tokio::time::Instant;

use super::cache::{Cache, Limits};
use super::call::{Asker, Call, Outcome, Ticket, Waiter};
use super::decide::{self, Decision, Freshness, Known, Situation};
use super::poller::Poller;
use super::shard::{Shard, lock};
use super::watch::{Later, Place, Shown, Watch, WatchDemand, Watched};
use super::{Answered, Caller, Config, Seams, Upstream};
use crate::metrics::{Metrics, Source};
use crate::retry::terms::Terms;
use crate::sync::{self, AtomicBool, Mutex, MutexGuard, TaskTracker, watch};
use crate::task::failure::Failure;
use crate::task::{Observation, TaskId};

/// Answers are kept at least so long for `max_age` (contract 1).
const KEEP_AT_LEAST: Duration = Duration::from_secs(60);
/// All answers together take at most so many bytes (contract 1).
const CACHE_BYTES: usize = 256 * 1024 * 1024;
/// Locks that callers of different tasks meet on.
const SHARDS: usize = 16;
/// With fewer answers than this to each shard, an uneven spread would waste too much of the capacity.
const ANSWERS_A_SHARD: usize = 256;
/// How often answers that nobody will want are looked for.
const SWEEP: Duration = Duration::from_secs(30);

/// A handle to the hub; clones share it.
#[derive(Clone, Debug)]
pub struct Hub(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    shards: Box<[Mutex<Shard>]>,
    hasher: RandomState,
    config: Config,
    upstream: Arc<dyn Upstream>,
    seams: Seams,
    metrics: Metrics,
    /// Owns every call and every poller.
    tasks: TaskTracker,
    ids: AtomicU64,
    is_ended: AtomicBool,
}

/// What a look at the hub gave.
enum Found {
    Known(Observation),
    Wait(Ticket),
}

impl Hub {
    /// A hub that asks `upstream`.
    #[must_use]
    pub fn new(config: Config, upstream: Arc<dyn Upstream>, seams: Seams, metrics: Metrics) -> Self {
        let shards = if config.cache_capacity < SHARDS * ANSWERS_A_SHARD { 1 } else { SHARDS };
        let limits = Limits {
            answers: config.cache_capacity / shards,
            bytes: CACHE_BYTES / shards,
            keep: config.done_cache_ttl.max(KEEP_AT_LEAST),
        };
        let shard = || Mutex::new(Shard::new(Cache::new(limits)));
        Self(Arc::new(Inner {
            shards: (0..shards).map(|_| shard()).collect(),
            hasher: RandomState::default(),
            config,
            upstream,
            seams,
            metrics,
            tasks: TaskTracker::new(),
            ids: AtomicU64::new(0),
            is_ended: AtomicBool::new(false),
        }))
    }

    /// Answers with a task's state, as fresh as asked.
    ///
    /// # Errors
    /// The upstream call's failure, or `DEADLINE` when the caller's has passed.
    pub async fn query(
        &self,
        task: &TaskId,
        freshness: Freshness,
        caller: Caller,
    ) -> Result<Answered, Failure> {
        if caller.deadline <= Instant::now() {
            return Err(Failure::deadline());
        }
        let found = {
            let shard = &mut *self.shard(task);
            // Looked at under the lock that end() takes after it was set: nobody slips in behind it.
            if self.0.is_ended.load(Ordering::SeqCst) {
                return Err(Failure::shutting_down());
            }
            self.find(shard, task, freshness, &caller, Asker::Query)
        };
        let answered = match found {
            Found::Known(observation) => Answered { observation, source: Source::Cache },
            Found::Wait(ticket) => {
                let source = if ticket.is_joined { Source::Shared } else { Source::Upstream };
                Answered { observation: ticket.wait(&caller).await?, source }
            }
        };
        self.0.metrics.answered(answered.source);
        Ok(answered)
    }

    /// Watches a task: waits for its first state by the rules of a query, and is fed by the task's poller from then
    /// on.
    ///
    /// # Errors
    /// As [`query`](Self::query).
    pub async fn watch(&self, task: &TaskId, demand: WatchDemand, caller: Caller) -> Result<Watch, Failure> {
        if caller.deadline <= Instant::now() {
            return Err(Failure::deadline());
        }
        let (ticket, mut later) = {
            let shard = &mut *self.shard(task);
            if let Some(known) = self.known_done(shard, task, &caller) {
                return Ok(Watch { first: known, later: None });
            }
            let later = self.enter_watch(shard, task, demand, &caller);
            if let Some(shown) = later.0.borrow().clone() {
                return Ok(Watch {
                    first: shown.observation,
                    later: Some(Later::new(later.0.clone(), later.1)),
                });
            }
            match self.find(shard, task, Freshness::Shared, &caller, Asker::Query) {
                // known_done() has looked already, and nothing else is answered from memory without max_age.
                Found::Known(first) => return Ok(Watch { first, later: None }),
                Found::Wait(ticket) => (ticket, later),
            }
        };
        // Another call may bring the first state before this one, or where this one fails.
        let outcome = sync::select! {
            biased;
            // The value is given back at once: giving up the ticket takes the shard's lock, and whoever has that reads
            // the value.
            true = async { later.0.wait_for(Option::is_some).await.is_ok() } => None,
            outcome = ticket.wait(&caller) => Some(outcome),
        };
        let shown = later.0.borrow_and_update().clone();
        match (outcome, shown) {
            (_, Some(shown)) => {
                Ok(Watch { first: shown.observation, later: Some(Later::new(later.0, later.1)) })
            }
            (Some(Err(failure)), None) => Err(failure),
            // settle() shows an answer before it hands it out.
            (Some(Ok(_)) | None, None) => Err(Failure::defect()),
        }
    }

    /// Lets go of outlived answers, for as long as it is polled.
    pub async fn run(&self) {
        let mut ticks = tokio::time::interval(SWEEP);
        loop {
            let now = ticks.tick().await;
            for shard in &self.0.shards {
                lock(shard).cache.sweep(now);
            }
        }
    }

    /// The process's time is up: whoever waits for a query's answer is told so, and so is whoever comes later.
    pub fn end(&self) {
        self.0.is_ended.store(true, Ordering::SeqCst);
        for shard in &self.0.shards {
            let calls = lock(shard).take_calls();
            for call in calls {
                call.give_up(&Err(Failure::shutting_down()));
            }
        }
    }

    /// Waits until no call is under way and no poller is left; whoever wants something must have gone before.
    pub async fn closed(&self) {
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    /// What will do for a caller: something known, or a place at a call that is under way or begins now.
    fn find(
        &self,
        shard: &mut Shard,
        task: &TaskId,
        freshness: Freshness,
        caller: &Caller,
        asker: Asker,
    ) -> Found {
        let slot = shard.slots.get(task);
        let polled = slot.and_then(|slot| slot.watched.as_ref()?.shown().borrow().clone());
        let cached = shard.cache.get(task);
        let situation = Situation {
            arrived: caller.arrived,
            done_ttl: self.0.config.done_cache_ttl,
            cached: cached.map(Known::of),
            polled: polled.as_ref().map(|shown| Known::of(&shown.observation)),
            under_way: slot.map_or(&[][..], |slot| &slot.calls).iter().map(Call::under_way),
        };
        let decision = decide::decide(freshness, situation);
        let waiter = (caller.deadline, self.next_id());
        match (decision, cached, polled) {
            (Decision::Cached, Some(cached), _) => return Found::Known(cached.clone()),
            (Decision::Polled, _, Some(polled)) => return Found::Known(polled.observation),
            (Decision::Join(at), ..) => {
                let call = shard.slots.get_mut(task).and_then(|slot| slot.calls.get_mut(at));
                let call = call.expect("decide() chooses among the slot's calls, under the same lock");
                return Found::Wait(call.enter(self.clone(), task.clone(), waiter, asker, true));
            }
            _ => {}
        }
        let (mut call, terms) = Call::new(self.next_id(), waiter, asker);
        let ticket = call.enter(self.clone(), task.clone(), waiter, asker, false);
        let made = self.0.tasks.spawn(self.clone().make_call(task.clone(), call.id(), terms));
        call.made_by(made.abort_handle());
        shard.slots.entry(task.clone()).or_default().calls.push(call);
        Found::Wait(ticket)
    }

    /// A call that begins now, for a poller.
    pub(super) fn poll(&self, task: &TaskId, caller: &Caller) -> Ticket {
        match self.find(&mut self.shard(task), task, Freshness::New, caller, Asker::Poll) {
            Found::Wait(ticket) => ticket,
            Found::Known(_) => unreachable!("nothing known is new"),
        }
    }

    /// A task that is known to be DONE is answered from memory.
    fn known_done(&self, shard: &Shard, task: &TaskId, caller: &Caller) -> Option<Observation> {
        let cached = shard.cache.get(task)?;
        decide::suffices(Freshness::Shared, Known::of(cached), caller.arrived, self.0.config.done_cache_ttl)
            .then(|| cached.clone())
    }

    fn enter_watch(
        &self,
        shard: &mut Shard,
        task: &TaskId,
        demand: WatchDemand,
        caller: &Caller,
    ) -> (watch::Receiver<Option<Shown>>, Place) {
        let config = &self.0.config;
        let slot = shard.slots.entry(task.clone()).or_default();
        let watched = slot.watched.get_or_insert_with(|| Watched::new(self.next_id()));
        let number = self.next_id();
        let is_too_old = watched.shown().borrow().as_ref().is_some_and(|shown| {
            let interval = demand.interval.map_or(shown.back_off, |interval| interval.max(config.poll_min));
            let within = Freshness::Within(interval);
            !decide::suffices(within, Known::of(&shown.observation), caller.arrived, config.done_cache_ttl)
        });
        watched.enter(number, demand, self.0.metrics.watcher());
        if is_too_old {
            watched.hurry();
        }
        let place = Place { hub: self.clone(), task: task.clone(), watched: watched.id, number };
        (watched.shown().subscribe(), place)
    }

    /// Makes an upstream call; aborted when all who wait for it have left.
    async fn make_call(self, task: TaskId, call: u64, terms: Terms) {
        // Also when this is torn down, nobody may join a call that is dead.
        let cleared = Cleared { hub: &self, task: &task, call };
        let outcome = self.0.upstream.query_task(task.clone(), terms).await;
        self.settle(&task, call, &outcome);
        // It is settled: a look for it would find nothing.
        std::mem::forget(cleared);
    }

    /// Remembers what a call brought, starts the poller that waits for its first answer, and tells those who wait.
    fn settle(&self, task: &TaskId, call: u64, outcome: &Outcome) {
        let settled = {
            let shard = &mut *self.shard(task);
            if let Ok(observation) = outcome {
                shard.cache.put(task, observation.clone(), Instant::now());
            }
            let settled = shard.take_call(task, call);
            if let (Ok(first), Some(slot)) = (outcome, shard.slots.get_mut(task))
                && let Some(watched) = slot.watched.as_mut().filter(|watched| !watched.is_polled)
            {
                if first.state().is_done() {
                    watched.show(first.clone());
                    slot.watched = None;
                } else {
                    let poller =
                        Poller::new(self.clone(), task.clone(), watched, first.clone(), &self.0.config);
                    self.0.tasks.spawn(poller.run());
                    watched.is_polled = true;
                }
            }
            shard.clear(task);
            settled
        };
        // Without the lock, as it wakes others up.
        if let Some(call) = settled {
            call.settle(outcome);
        }
    }

    /// Remembers what a poller of whatever replica saw.
    pub(super) fn remember(&self, task: &TaskId, observation: Observation) {
        self.shard(task).cache.put(task, observation, Instant::now());
    }

    pub(super) fn leave_call(&self, task: &TaskId, call: u64, waiter: Waiter, asker: Asker) {
        self.shard(task).keep_calls(task, |other| other.id() != call || !other.leave(waiter, asker));
    }

    pub(super) fn leave_watch(&self, task: &TaskId, watched: u64, number: u64) {
        self.shard(task).keep_watched(task, watched, |watched| !watched.leave(number));
    }

    /// Lets go of watchers whose deadline has passed.
    pub(super) fn expire_watches(&self, task: &TaskId, watched: u64) {
        self.shard(task).keep_watched(task, watched, |watched| !watched.expire(Instant::now()));
    }

    /// Nobody may join what ends now.
    pub(super) fn end_watch(&self, task: &TaskId, watched: u64) {
        self.shard(task).keep_watched(task, watched, |_| false);
    }

    pub(super) fn config(&self) -> &Config {
        &self.0.config
    }

    pub(super) fn seams(&self) -> &Seams {
        &self.0.seams
    }

    pub(super) fn upstream(&self) -> &dyn Upstream {
        &*self.0.upstream
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// Whether nobody wants anything.
    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        self.0.shards.iter().all(|shard| lock(shard).slots.is_empty()) && self.0.tasks.is_empty()
    }

    fn next_id(&self) -> u64 {
        self.0.ids.fetch_add(1, Ordering::Relaxed)
    }

    fn shard(&self, task: &TaskId) -> MutexGuard<'_, Shard> {
        let shards = &self.0.shards;
        // The remainder is below the number of shards, which a usize holds.
        let at = self.0.hasher.hash_one(task) % shards.len() as u64;
        lock(&shards[at as usize])
    }
}

/// Takes a call out of the hub when it is over, however it ends.
struct Cleared<'a> {
    hub: &'a Hub,
    task: &'a TaskId,
    call: u64,
}

impl Drop for Cleared<'_> {
    fn drop(&mut self) {
        self.hub.shard(self.task).keep_calls(self.task, |other| other.id() != self.call);
    }
}
