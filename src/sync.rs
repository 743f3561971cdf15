//! What tasks share and meet at: locks, channels, signals, timers, and tasks themselves, in one place. In the program they
//! are std's, tokio's and arc-swap's own, by another path. The tests of interleavings (`--cfg shuttle`) have stand-ins
//! here (`woven`), so that they explore the very code that runs.

#[cfg(all(test, shuttle))]
pub(crate) mod woven;

#[cfg(not(all(test, shuttle)))]
mod plain {
    pub(crate) use std::sync::atomic::AtomicBool;
    pub(crate) use std::sync::{Mutex, MutexGuard};

    pub(crate) use arc_swap::ArcSwapOption;
    use rand::RngExt as _;
    pub(crate) use tokio::select;
    pub(crate) use tokio::sync::{Mutex as AsyncMutex, Notify, OwnedMutexGuard, oneshot, watch};
    pub(crate) use tokio::task::AbortHandle;
    pub(crate) use tokio::time::{sleep, sleep_until, timeout};
    pub(crate) use tokio_util::sync::CancellationToken;
    pub(crate) use tokio_util::task::TaskTracker;

    /// A number from 0 to 1 that nobody foresees.
    pub(crate) fn draw() -> f64 {
        rand::rng().random()
    }
}

#[cfg(not(all(test, shuttle)))]
pub(crate) use plain::*;
#[cfg(all(test, shuttle))]
pub(crate) use woven::*;
