//! One poller a watched task. While it has the right to poll, it polls by its schedule and publishes what it saw;
//! always it follows the feed, and shows what it reads there to all who watch in this process. It dies with its
//! last watcher, at DONE, and with a failure that does not pass.

use tokio::time::Instant;

use super::call::{Outcome, Ticket};
use super::feed::{Follow, Item, Order};
use super::hub::Hub;
use super::right::Right;
use super::schedule::{Bounds, Schedule};
use super::watch::{Control, FAR, Shown, Watched};
use super::{Caller, Config, SeamError};
use crate::clock::until;
use crate::sync::{self, CancellationToken, sleep, sleep_until, watch};
use crate::task::failure::{Failure, Reason};
use crate::task::{Observation, TaskId};

/// A watched task's poller; [`run`](Self::run) is its life.
#[derive(Debug)]
pub(super) struct Poller {
    hub: Hub,
    task: TaskId,
    watched: u64,
    abandoned: CancellationToken,
    control: watch::Receiver<Control>,
    shown: watch::Sender<Option<Shown>>,
    config: Config,
    schedule: Schedule,
    /// The newest item that was read.
    read: Order,
}

/// Why a poller's loop goes on or ends.
enum Turn {
    /// The feed or the right was lost: get both again.
    Again,
    /// Nobody is left, or nothing more will come.
    Over,
}

impl Poller {
    /// A poller that begins with what a first call brought.
    pub(super) fn new(
        hub: Hub,
        task: TaskId,
        watched: &Watched,
        first: Observation,
        config: &Config,
    ) -> Self {
        let now = Instant::now();
        let bounds =
            Bounds { poll_min: config.poll_min, poll_max: config.poll_max, give_up: config.watch_give_up };
        let schedule = Schedule::new(bounds, now);
        let shown = Shown { observation: first, changes: 0, end: None, back_off: schedule.back_off() };
        watched.shown().send_replace(Some(shown));
        Self {
            hub,
            task,
            watched: watched.id,
            abandoned: watched.abandoned(),
            control: watched.control(),
            shown: watched.shown().clone(),
            config: *config,
            schedule,
            read: Order::default(),
        }
    }

    /// Follows and polls until nobody is left or nothing more will come.
    pub(super) async fn run(self) {
        let ended = Ended { hub: self.hub.clone(), task: self.task.clone(), watched: self.watched };
        let abandoned = self.abandoned.clone();
        sync::select! {
            biased;
            () = abandoned.cancelled() => {}
            () = self.live() => {}
        }
        drop(ended);
    }

    async fn live(mut self) {
        loop {
            match self.hub.seams().feed.follow(&self.task).await {
                Ok(mut feed) => {
                    if let Turn::Over = self.follow(&mut *feed).await {
                        return;
                    }
                }
                Err(error) => tracing::debug!(%error, "a poller can't follow its task's feed"),
            }
            // Watchers notice nothing but time.
            sleep(self.config.poll_min).await;
        }
    }

    /// Follows the feed, and polls whenever the right to it is had.
    async fn follow(&mut self, feed: &mut dyn Follow) -> Turn {
        loop {
            let hub = self.hub.clone();
            let acquire = hub.seams().rights.acquire(&self.task);
            tokio::pin!(acquire);
            let mut control = self.control.clone();
            let right = loop {
                let expires = control.borrow_and_update().expires;
                sync::select! {
                    right = &mut acquire => break right,
                    item = feed.next() => if let Some(turn) = self.read(item) { return turn },
                    Ok(()) = control.changed() => {}
                    () = until(expires) => self.hub.expire_watches(&self.task, self.watched),
                }
            };
            let Ok(mut right) = right else { return Turn::Again };
            match self.poll(&mut *right, feed).await {
                Some(turn) => return turn,
                None => tracing::debug!("the right to poll a task was lost"),
            }
        }
    }

    /// Polls while the right lasts; `None` when it is lost.
    async fn poll(&mut self, right: &mut dyn Right, feed: &mut dyn Follow) -> Option<Turn> {
        let hub = self.hub.clone();
        let _counted = hub.metrics().poller();
        let mut order = Order { epoch: right.epoch(), number: 0 };
        let mut control = self.control.clone();
        let mut hurries = control.borrow().hurries;
        loop {
            let Control { wanted, expires, hurries: now_hurries } = *control.borrow_and_update();
            if std::mem::replace(&mut hurries, now_hurries) != now_hurries {
                self.schedule.hurry();
            }
            let due = self.schedule.due(wanted);
            let gives_up_at = self.schedule.gives_up_at().unwrap_or(due + FAR);
            let outcome = sync::select! {
                // What was published is read before the next poll can begin.
                biased;
                item = feed.next() => match self.read(item) {
                    Some(turn) => return Some(turn),
                    None => continue,
                },
                () = right.lost() => return None,
                // A sender that is gone means that nobody is left, which `run` sees to.
                Ok(()) = control.changed() => continue,
                () = until(expires) => {
                    self.hub.expire_watches(&self.task, self.watched);
                    continue;
                }
                () = sleep_until(gives_up_at) => Err(Ending(self.schedule.give_up(Instant::now()))),
                ticket = self.poll_when(due) => {
                    self.schedule.poll_begins();
                    sync::select! {
                        () = right.lost() => return None,
                        () = sleep_until(gives_up_at) => {
                            Err(Ending(self.schedule.give_up(Instant::now())))
                        }
                        outcome = self.wait_expiring(ticket) => self.judge(outcome),
                    }
                }
            };
            // Those who came while the poll was under way have its answer.
            hurries = control.borrow().hurries;
            let Some(shown) = self.shown.borrow().clone() else { return Some(Turn::Over) };
            let (observation, end) = match outcome {
                Ok(Some(observation)) => (observation, None),
                Ok(None) => continue,
                Err(Ending(failure)) => (shown.observation, Some(failure)),
            };
            order.number += 1;
            let is_end = end.is_some();
            let age = observation.began.elapsed();
            let item = Item { order, answer: observation.answer, age, end };
            let published = self.hub.seams().feed.publish(&self.task, item.clone()).await;
            if let Err(error) = &published {
                // The next item tells the same and more.
                tracing::debug!(%error, "a poller can't publish");
            }
            if is_end {
                return self.end(item, published, right, feed).await;
            }
        }
    }

    /// Publishes the end until it is read; nothing is polled any more.
    async fn end(
        &mut self,
        item: Item,
        mut published: Result<(), SeamError>,
        right: &mut dyn Right,
        feed: &mut dyn Follow,
    ) -> Option<Turn> {
        loop {
            let again = async {
                match published {
                    Ok(()) => std::future::pending().await,
                    Err(SeamError) => sleep(self.config.poll_min).await,
                }
            };
            sync::select! {
                biased;
                read = feed.next() => if let Some(turn) = self.read(read) { return Some(turn) },
                () = right.lost() => return None,
                () = again => published = self.hub.seams().feed.publish(&self.task, item.clone()).await,
            }
        }
    }

    /// Waits until a poll is due and polls are not held back, and begins it.
    async fn poll_when(&self, due: Instant) -> (Ticket, Caller) {
        sleep_until(due).await;
        self.hub.upstream().polls_may_start().await;
        let arrived = Instant::now();
        let deadline = arrived + self.config.request_timeout;
        let caller = Caller { arrived, deadline, is_own_deadline: false };
        (self.hub.poll(&self.task, &caller), caller)
    }

    /// Waits for a poll's end; watchers whose deadline passes meanwhile are let go.
    async fn wait_expiring(&self, (ticket, caller): (Ticket, Caller)) -> Outcome {
        let wait = ticket.wait(&caller);
        tokio::pin!(wait);
        let mut control = self.control.clone();
        loop {
            let expires = control.borrow_and_update().expires;
            sync::select! {
                outcome = &mut wait => return outcome,
                () = until(expires) => self.hub.expire_watches(&self.task, self.watched),
                Ok(()) = control.changed() => {}
            }
        }
    }

    /// What a poll's outcome means: something to publish, nothing, or the end.
    fn judge(&mut self, outcome: Outcome) -> Result<Option<Observation>, Ending> {
        let now = Instant::now();
        match outcome {
            Ok(observation) => {
                let before = self.shown.borrow().as_ref().map(|shown| shown.observation.clone());
                let is_changed = before.is_none_or(|before| before.state() != observation.state());
                if self.schedule.gives_up_at().is_some() {
                    tracing::info!(task.id = %self.task, "polls of a watched task succeed again");
                }
                self.schedule.answered(now, is_changed);
                Ok(Some(observation))
            }
            Err(failure) => {
                let failure = match failure.reason {
                    // The poll's own bound: nobody's deadline.
                    Reason::Deadline => Failure::new(
                        Reason::UpstreamUnreachable,
                        "the vendor did not answer within request-timeout",
                    ),
                    _ => failure,
                };
                let (reason, detail) = (failure.reason, failure.detail.clone());
                let is_first = self.schedule.gives_up_at().is_none();
                self.schedule.failed(now, failure).map_err(Ending)?;
                if is_first {
                    tracing::info!(task.id = %self.task, %reason, %detail, "polls of a watched task fail; it is watched on");
                }
                Ok(None)
            }
        }
    }

    /// Shows an item to all who watch; gives how the loop goes on if not as before.
    fn read(&mut self, item: Result<Item, SeamError>) -> Option<Turn> {
        let Ok(item) = item else { return Some(Turn::Again) };
        if item.order <= self.read {
            return None;
        }
        self.read = item.order;
        let now = Instant::now();
        let began = now.checked_sub(item.age).unwrap_or(now);
        let observation = Observation { answer: item.answer, began };
        self.hub.remember(&self.task, observation.clone());
        let is_over = item.end.is_some() || observation.state().is_done();
        if is_over {
            // Before those who watch can see it and come back: whoever comes from now on needs a new poller.
            self.hub.end_watch(&self.task, self.watched);
        }
        let back_off = self.schedule.back_off();
        self.shown.send_if_modified(|shown| {
            let changes = shown.as_ref().map_or(0, |shown| shown.changes);
            let is_changed =
                shown.as_ref().is_none_or(|shown| shown.observation.state() != observation.state());
            let wakes = is_changed || item.end.is_some();
            let changes = changes + u64::from(is_changed);
            *shown = Some(Shown { observation, changes, end: item.end, back_off });
            wakes
        });
        is_over.then_some(Turn::Over)
    }
}

/// The failure that a watch ends with.
struct Ending(Failure);

/// Ends the watch when its poller is over, however that ends.
struct Ended {
    hub: Hub,
    task: TaskId,
    watched: u64,
}

impl Drop for Ended {
    fn drop(&mut self) {
        self.hub.end_watch(&self.task, self.watched);
    }
}
