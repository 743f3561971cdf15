//! One upstream call and all who wait for it. It goes on to the latest deadline among them, and is dropped when
//! the last one is gone.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Caller;
use super::decide::UnderWay;
use super::hub::Hub;
use crate::retry::terms::{self, Term, TermSetter, Terms};
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
    terms: Arc<TermSetter>,
    waiters: BTreeSet<Waiter>,
    queries: usize,
    outcome: watch::Receiver<Option<Outcome>>,
    abandoned: CancellationToken,
}

/// What the task needs that makes the call.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) terms: Terms,
    pub(super) abandoned: CancellationToken,
    pub(super) outcome: watch::Sender<Option<Outcome>>,
}

impl Call {
    /// A call that begins on behalf of its first waiter.
    pub(super) fn begin(id: u64, waiter: Waiter, asker: Asker) -> (Self, Work) {
        let (setter, terms) = terms::channel(Term { deadline: waiter.0, is_poll: asker == Asker::Poll });
        let outcome = watch::Sender::new(None);
        let abandoned = CancellationToken::new();
        let call = Self {
            id,
            terms: Arc::new(setter),
            waiters: BTreeSet::from([waiter]),
            queries: usize::from(asker == Asker::Query),
            outcome: outcome.subscribe(),
            abandoned: abandoned.clone(),
        };
        (call, Work { terms, abandoned, outcome })
    }

    /// What tells it apart.
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// How far it has come, for the decision whether it will do.
    pub(super) fn under_way(&self) -> UnderWay {
        UnderWay { trying_since: self.terms.progress().trying_since }
    }

    /// One more waits.
    pub(super) fn enter(&mut self, waiter: Waiter, asker: Asker) {
        self.waiters.insert(waiter);
        self.queries += usize::from(asker == Asker::Query);
        self.tell_terms();
    }

    /// One waits no longer; tells whether nobody is left, in which case the call is given up.
    pub(super) fn leave(&mut self, waiter: Waiter, asker: Asker) -> bool {
        if self.waiters.remove(&waiter) {
            self.queries -= usize::from(asker == Asker::Query);
        }
        self.tell_terms();
        if self.waiters.is_empty() {
            self.abandoned.cancel();
        }
        self.waiters.is_empty()
    }

    fn tell_terms(&self) {
        if let Some((deadline, _)) = self.waiters.last() {
            self.terms.set(Term { deadline: *deadline, is_poll: self.queries == 0 });
        }
    }

    /// A place among those who wait, for `waiter` who has entered.
    pub(super) fn ticket(
        &self,
        hub: Hub,
        task: TaskId,
        waiter: Waiter,
        asker: Asker,
        is_joined: bool,
    ) -> Ticket {
        let (terms, outcome) = (Arc::clone(&self.terms), self.outcome.clone());
        Ticket { hub, task, call: self.id, waiter, asker, is_joined, terms, outcome }
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
    terms: Arc<TermSetter>,
    outcome: watch::Receiver<Option<Outcome>>,
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
            loop {
                if let Some(outcome) = &*self.outcome.borrow_and_update() {
                    return outcome.clone();
                }
                if self.outcome.changed().await.is_err() {
                    // The task that made the call died of a defect, which its panic has logged.
                    return Err(Failure::defect());
                }
            }
        };
        tokio::select! {
            biased;
            outcome = settled => outcome,
            () = tokio::time::sleep_until(caller.deadline) => Err(self.too_late(caller)),
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
        tokio::time::sleep_until(due).await;
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
        self.hub.leave_call(&self.task, self.call, self.waiter, self.asker);
    }
}
