//! A watch's stream: INITIAL, CHANGED, HEARTBEAT, and how it ends. It keeps what it sent last and nothing else, so
//! that a reader that falls behind costs no more than one that keeps up.

use std::time::Duration;

use futures_util::{Stream, stream};
use tokio::time::Instant;
use tonic::Status;

use super::arrival::Arrival;
use super::convert;
use super::message::Message;
use crate::clock::until;
use crate::pb::WatchReason;
use crate::shutdown::Shutdown;
use crate::task::failure::Failure;
use crate::task::{Observation, TaskId};
use crate::tasks::{Later, Watch};

/// The messages of one watch.
#[derive(Debug)]
pub(super) struct Messages {
    id: TaskId,
    later: Option<Later>,
    heartbeat: Option<Duration>,
    arrival: Arrival,
    shutdown: Shutdown,
    /// What was sent last; `None` before INITIAL, which is `known` then.
    sent: Option<Sent>,
    known: Observation,
    /// What the stream ends with, once its last message is sent.
    end: Option<Failure>,
    is_over: bool,
}

#[derive(Debug)]
struct Sent {
    observation: Observation,
    changes: u64,
    at: Instant,
}

/// What woke a watch up.
enum Woken {
    Shown(Result<(), Failure>),
    Heartbeat,
    End(Failure),
}

impl Messages {
    pub(super) fn new(
        id: TaskId,
        watch: Watch,
        heartbeat: Option<Duration>,
        arrival: Arrival,
        shutdown: Shutdown,
    ) -> Self {
        let Watch { first: known, later } = watch;
        Self { id, later, heartbeat, arrival, shutdown, sent: None, known, end: None, is_over: false }
    }

    /// The stream of them; it ends after DONE, or with a failure.
    pub(super) fn into_stream(self) -> impl Stream<Item = Result<Message, Status>> + Send {
        stream::unfold(self, |mut messages| async move {
            let next = messages.next().await?;
            let item = next.map_err(|failure| messages.arrival.refuse(&failure));
            Some((item, messages))
        })
    }

    async fn next(&mut self) -> Option<Result<Message, Failure>> {
        if self.sent.is_none() {
            let changes = self.look();
            return Some(Ok(self.send(WatchReason::Initial, changes)));
        }
        loop {
            if self.is_over {
                return None;
            }
            if let Some(failure) = self.end.take() {
                return Some(Err(self.finish(failure)));
            }
            match self.wake().await {
                Woken::End(failure) => return Some(Err(self.finish(failure))),
                // The poller lets go of a watch at its deadline too, and may be first.
                Woken::Shown(Err(_))
                    if self.arrival.deadline.is_some_and(|deadline| deadline <= Instant::now()) =>
                {
                    return Some(Err(self.finish(Failure::deadline())));
                }
                Woken::Shown(Err(failure)) => return Some(Err(self.finish(failure))),
                Woken::Heartbeat => {
                    let changes = self.look();
                    let reason =
                        if self.is_news(changes) { WatchReason::Changed } else { WatchReason::Heartbeat };
                    return Some(Ok(self.send(reason, changes)));
                }
                Woken::Shown(Ok(())) => {
                    let changes = self.look();
                    if self.is_news(changes) {
                        return Some(Ok(self.send(WatchReason::Changed, changes)));
                    }
                }
            }
        }
    }

    async fn wake(&mut self) -> Woken {
        let last = self.sent.as_ref().map_or_else(Instant::now, |sent| sent.at);
        let beats_at = self.heartbeat.and_then(|interval| last.checked_add(interval));
        let Some(later) = &mut self.later else {
            // Nothing comes after DONE; `send` has said that it is over.
            return Woken::End(Failure::defect());
        };
        tokio::select! {
            biased;
            () = self.shutdown.draining() => Woken::End(Failure::shutting_down()),
            () = until(self.arrival.deadline) => {
                Woken::End(Failure::deadline())
            }
            shown = later.changed() => Woken::Shown(shown),
            () = until(beats_at) => Woken::Heartbeat,
        }
    }

    /// Takes in what is shown now; gives how often the state has changed.
    fn look(&mut self) -> u64 {
        let shown = self.later.as_mut().and_then(Later::now);
        let Some(shown) = shown else { return 0 };
        self.known = shown.observation;
        self.end = shown.end;
        shown.changes
    }

    /// Whether the known state differs from the last one sent.
    fn is_news(&mut self, changes: u64) -> bool {
        let Some(sent) = &mut self.sent else { return true };
        // A state that changed and changed back while this reader was behind is no news.
        let is_news = sent.changes != changes && sent.observation.state() != self.known.state();
        sent.changes = changes;
        is_news
    }

    fn send(&mut self, reason: WatchReason, changes: u64) -> Message {
        let message = Message::watch(&convert::form(&self.id, &self.known), reason);
        self.sent = Some(Sent { observation: self.known.clone(), changes, at: Instant::now() });
        if self.known.state().is_done() {
            self.over();
        }
        message
    }

    fn finish(&mut self, failure: Failure) -> Failure {
        self.over();
        failure
    }

    /// Leaves the poller at once, also if the end is never read.
    fn over(&mut self) {
        self.is_over = true;
        self.later = None;
        self.end = None;
    }
}
