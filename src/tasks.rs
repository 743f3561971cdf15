//! Who wants which task: sharing of overlapping calls, the memory of answers, one poller a task, and the fan-out
//! to those who watch. Knows no HTTP and no gRPC: it asks through [`Upstream`] and answers with plain types.

mod cache;
mod call;
mod decide;
pub mod feed;
mod hub;
mod poller;
pub mod right;
mod schedule;
mod shard;
mod watch;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::Instant;

pub use self::decide::Freshness;
pub use self::hub::Hub;
pub use self::watch::{Later, Shown, Watch, WatchDemand};
use crate::metrics::Source;
use crate::retry::terms::Terms;
use crate::task::failure::Failure;
use crate::task::{Observation, TaskId};

/// Where tasks are asked for.
pub trait Upstream: fmt::Debug + Send + Sync + 'static {
    /// One upstream call with its tries, within `terms`. Dropping it gives it up, down to its socket.
    fn query_task(&self, task: TaskId, terms: Terms) -> BoxFuture<'static, Result<Observation, Failure>>;

    /// Waits until polls are not held back.
    fn polls_may_start(&self) -> BoxFuture<'_, ()>;
}

/// What lies behind a seam can't be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the store that replicas share does not answer")]
pub struct SeamError;

/// What replicas may share: each with an implementation for a process by itself.
#[derive(Clone, Debug)]
pub struct Seams {
    /// What pollers see.
    pub feed: Arc<dyn feed::Feed>,
    /// Who polls.
    pub rights: Arc<dyn right::Rights>,
}

impl Seams {
    /// The seams of a process by itself.
    #[must_use]
    pub fn in_memory() -> Self {
        Self { feed: Arc::new(feed::Memory::new()), rights: Arc::new(right::Memory::new()) }
    }
}

/// A good answer to a query, and where it came from.
#[derive(Clone, Debug)]
pub struct Answered {
    /// The answer.
    pub observation: Observation,
    /// Where it came from.
    pub source: Source,
}

/// How a [`Hub`] shares, remembers and polls.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// How long a DONE state is answered from memory.
    pub done_cache_ttl: Duration,
    /// How many answers are remembered at most.
    pub cache_capacity: usize,
    /// The shortest interval between polls, and the first of the back-off.
    pub poll_min: Duration,
    /// The longest interval of the back-off.
    pub poll_max: Duration,
    /// How long a watch outlives failures that may pass.
    pub watch_give_up: Duration,
    /// The longest that one poll may take.
    pub request_timeout: Duration,
}

/// Since when and for how long somebody waits for an answer.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// When the request arrived: what ages are judged by.
    pub arrived: Instant,
    /// When it is no longer waited for.
    pub deadline: Instant,
    /// Whether that deadline is the caller's own, not the gateway's bound.
    pub is_own_deadline: bool,
}

#[cfg(all(test, shuttle))]
mod interleavings;
#[cfg(test)]
mod tests;
