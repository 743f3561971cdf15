//! One upstream call and all who wait for it. It goes on to the latest deadline among them, and is dropped when
//! the last one is gone.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::Caller;
use super::decide::UnderWay;
use super::hub::Hub;
use crate::retry::terms::{self, Term, TermSetter, Terms};
use crate::sync::{self, AbortHandle, oneshot, sleep_until};
use crate::task::failure::Failure;
use crate::task::{Observation, TaskId};

/// How an upstream call ended.
pub(super) type Outcome = Result<Observation, Failure>;

/// Whoever waits: until when, and a number to tell them apart.
pub(super) type Waiter = (Instant, u64);

/// On whose behalf somebody waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asker {
    /// A caller, for itself.
    Query,
    /// A task's poller.
    Poll,
}

/// A call under way, as the hub keeps it.
#[derive(Debug)]
pub(super) struct Call {
    id: u64,
    terms: TermSetter,
    waiters: BTreeMap<Waiter, oneshot::Sender<Outcome>>,
    queries: usize,
    /// The task that makes it, once there is one.
    work: Option<AbortHandle>,
}

impl Call {
    /// A call that somebody is about to enter, and what it is bounded by: `waiter`'s terms, and those of whoever comes
    /// later.
    pub(super) fn new(id: u64, waiter: Waiter, asker: Asker) -> (Self, Terms) {
        let (setter, terms) = terms::channel(Term { deadline: waiter.0, is_poll: asker == Asker::Poll });
        (Self { id, terms: setter, waiters: BTreeMap::new(), queries: 0, work: None }, terms)
    }

    /// Says who makes it: aborted when nobody waits any longer.
    pub(super) fn made_by(&mut self, work: AbortHandle) {
        self.work = Some(work);
    }

    /// What tells it apart.
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// How far it has come, for the decision whether it will do.
    pub(super) fn under_way(&self) -> UnderWay {
        UnderWay { trying_since: self.terms.progress().trying_since }
    }

    /// One more waits: gives its place.
    pub(super) fn enter(
        &mut self,
        hub: Hub,
        task: TaskId,
        waiter: Waiter,
        asker: Asker,
        is_joined: bool,
    ) -> Ticket {
        let (outcome, awaited) = oneshot::channel();
        self.waiters.insert(waiter, outcome);
        self.queries += usize::from(asker == Asker::Query);
        self.tell_terms();
        let terms = self.terms.clone();
        Ticket { hub, task, call: self.id, waiter, asker, is_joined, terms, outcome: Some(awaited) }
    }

    /// One waits no longer; tells whether nobody is left, in which case the call is given up.
    pub(super) fn leave(&mut self, waiter: Waiter, asker: Asker) -> bool {
        if self.waiters.remove(&waiter).is_some() {
            self.queries -= usize::from(asker == Asker::Query);
        }
        self.tell_terms();
        if let (true, Some(work)) = (self.waiters.is_empty(), &self.work) {
            work.abort();
        }
        self.waiters.is_empty()
    }

    fn tell_terms(&self) {
        if let Some(((deadline, _), _)) = self.waiters.last_key_value() {
            self.terms.set(Term { deadline: *deadline, is_poll: self.queries == 0 });
        }
    }

    /// Makes an end of it before it has come to its own.
    pub(super) fn give_up(self, outcome: &Outcome) {
        if let Some(work) = &self.work {
            work.abort();
        }
        self.settle(outcome);
    }

    /// Tells all who wait how it ended.
    pub(super) fn settle(self, outcome: &Outcome) {
        for waiter in self.waiters.into_values() {
            // Whoever left in between wants no answer.
            let _ = waiter.send(outcome.clone());
        }
    }
}

/// A place among those who wait for a call; dropping it leaves.
#[derive(Debug)]
pub(super) struct Ticket {
    hub: Hub,
    task: TaskId,
    call: u64,
    waiter: Waiter,
    asker: Asker,
    /// Whether somebody else had begun the call.
    pub(super) is_joined: bool,
    terms: TermSetter,
    /// `None` once the call has ended.
    outcome: Option<oneshot::Receiver<Outcome>>,
}

impl Ticket {
    /// Waits for the call's end, at most to the caller's deadline.
    ///
    /// # Errors
    /// The call's own, or `DEADLINE`; `GATEWAY_OVERLOADED` if the gateway's own bound went by in waiting for a turn,
    /// whether or not the caller's own deadline is still to come.
    pub(super) async fn wait(mut self, caller: &Caller) -> Outcome {
        let bound = self.hub.config().request_timeout;
        let settled = async {
            let outcome = self.outcome.as_mut().expect("it is waited for once").await;
            // The call is over, and out of the hub: there is nothing to leave.
            self.outcome = None;
            // A call that tells nothing died of a defect, which its panic has logged.
            outcome.unwrap_or_else(|_| Err(Failure::defect()))
        };
        sync::select! {
            biased;
            outcome = settled => outcome,
            () = sleep_until(caller.deadline) => Err(self.too_late(caller)),
            () = no_turn_within(&self.terms, caller.arrived, bound), if caller.deadline > caller.arrived + bound => {
                Err(Failure::no_turn())
            }
        }
    }

    fn too_late(&self, caller: &Caller) -> Failure {
        let progress = self.terms.progress();
        if !caller.is_own_deadline && progress.awaits_turn_since.is_some() && !progress.has_tried {
            Failure::no_turn()
        } else {
            Failure::deadline()
        }
    }
}

/// Waits until somebody who came when it was `arrived` has waited for one turn as long as `bound`.
async fn no_turn_within(terms: &TermSetter, arrived: Instant, bound: Duration) {
    let mut due = arrived + bound;
    loop {
        sleep_until(due).await;
        let now = Instant::now();
        // What does not wait now may begin to at any time.
        due = terms.progress().awaits_turn_since.unwrap_or(now) + bound;
        if due <= now {
            return;
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.outcome.is_none() {
            return;
        }
        self.hub.leave_call(&self.task, self.call, self.waiter, self.asker);
    }
}
