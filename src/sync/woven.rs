//! What the tests of interleavings have in the place of what tasks meet at. Each operation is a point at which the explorer
//! chooses who goes on; behind that point it is the real one, of std, tokio, tokio-util or arc-swap, done at one stroke.
//! So every order of operations can come, and what an operation does inside is its maker's to test.
//!
//! Time is tokio's paused clock, which [`clock::run`] moves on from timer to timer: a task among the others, so that a
//! timer may fire at any point, but none before an earlier one.

mod channel;
pub(crate) mod clock;
pub(crate) mod explorer;
mod mutex;

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt as _;
use shuttle::rand::Rng as _;
use shuttle::sync::atomic::Ordering;

pub(crate) use shuttle::future::AbortHandle;
pub(crate) use shuttle::sync::atomic::AtomicBool;

pub(crate) use self::channel::{oneshot, watch};
pub(crate) use self::clock::{sleep, sleep_until, timeout};
pub(crate) use self::mutex::{Mutex, MutexGuard};

thread_local! {
    /// One for each thread that explores: its value is nothing to anybody.
    static POINT: AtomicBool = const { AtomicBool::new(false) };
}

/// A point at which another task may go on.
fn point() {
    // Whoever holds such a borrow holds a lock, that nobody knows as one, while it waits for another.
    let is_borrowed = watch::is_borrowed() && !std::thread::panicking();
    assert!(!is_borrowed, "somebody holds a watch's value borrowed where it may have to wait");
    POINT.with(|point| point.load(Ordering::SeqCst));
}

/// A number from 0 to 1 of the explorer's choice, so that a schedule holds it too.
pub(crate) fn draw() -> f64 {
    shuttle::rand::thread_rng().gen_range(0.0..1.0)
}

/// A number below `n` of the explorer's choice.
pub(crate) fn choose(n: u32) -> u32 {
    shuttle::rand::thread_rng().gen_range(0..n)
}

/// tokio's, but the branch that is looked at first is of the explorer's choice.
macro_rules! select {
    (biased; $($rest:tt)*) => { tokio::select! { biased; $($rest)* } };
    ($($rest:tt)*) => { tokio::select!(@{ start={ $crate::sync::woven::choose(BRANCHES) }; () } $($rest)*) };
}
pub(crate) use select;

/// arc-swap's.
#[derive(Debug)]
pub(crate) struct ArcSwapOption<T>(arc_swap::ArcSwapOption<T>);

impl<T> ArcSwapOption<T> {
    pub(crate) fn empty() -> Self {
        Self(arc_swap::ArcSwapOption::empty())
    }

    pub(crate) fn load_full(&self) -> Option<Arc<T>> {
        point();
        self.0.load_full()
    }

    pub(crate) fn store(&self, value: Option<Arc<T>>) {
        point();
        self.0.store(value);
    }
}

/// tokio's.
#[derive(Debug)]
pub(crate) struct Notify(tokio::sync::Notify);

impl Notify {
    pub(crate) fn new() -> Self {
        Self(tokio::sync::Notify::new())
    }

    pub(crate) fn notified(&self) -> impl Future<Output = ()> {
        point();
        // From here on it counts as one who waits.
        let notified = self.0.notified();
        async move {
            point();
            notified.await;
        }
    }

    pub(crate) fn notify_one(&self) {
        point();
        self.0.notify_one();
    }

    pub(crate) fn notify_waiters(&self) {
        point();
        self.0.notify_waiters();
    }
}

/// tokio's mutex.
#[derive(Debug, Default)]
pub(crate) struct AsyncMutex<T>(Arc<tokio::sync::Mutex<T>>);

/// Holds the mutex itself too, as tokio's does.
#[derive(Debug)]
pub(crate) struct OwnedMutexGuard<T> {
    _guard: tokio::sync::OwnedMutexGuard<T>,
    _mutex: Arc<AsyncMutex<T>>,
}

impl<T> AsyncMutex<T> {
    pub(crate) async fn lock_owned(self: Arc<Self>) -> OwnedMutexGuard<T> {
        point();
        let guard = Arc::clone(&self.0).lock_owned().await;
        OwnedMutexGuard { _guard: guard, _mutex: self }
    }
}

/// tokio-util's.
#[derive(Clone, Debug)]
pub(crate) struct CancellationToken(tokio_util::sync::CancellationToken);

impl CancellationToken {
    pub(crate) fn new() -> Self {
        Self(tokio_util::sync::CancellationToken::new())
    }

    pub(crate) fn cancel(&self) {
        point();
        self.0.cancel();
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        point();
        self.0.is_cancelled()
    }

    pub(crate) async fn cancelled(&self) {
        point();
        self.0.cancelled().await;
    }
}

/// tokio-util's, with tasks that the explorer runs.
#[derive(Debug)]
pub(crate) struct TaskTracker(tokio_util::task::TaskTracker);

impl TaskTracker {
    pub(crate) fn new() -> Self {
        Self(tokio_util::task::TaskTracker::new())
    }

    pub(crate) fn spawn<F>(&self, task: F) -> shuttle::future::JoinHandle<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let task = AssertUnwindSafe(self.0.track_future(task)).catch_unwind();
        shuttle::future::spawn(async {
            // A panic ends its task alone, as under tokio.
            let _ = task.await;
        })
    }

    pub(crate) fn close(&self) {
        point();
        self.0.close();
    }

    pub(crate) async fn wait(&self) {
        point();
        self.0.wait().await;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
