//! Timers, and the task that moves the paused clock on from one to the next.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::time::Instant;

use super::{choose, point};

thread_local! {
    /// The timers of the execution that this thread explores. Never borrowed at a point.
    static TIMERS: RefCell<Timers> = RefCell::default();
}

#[derive(Debug, Default)]
struct Timers {
    number: u64,
    waiting: BTreeMap<(Instant, u64), Waker>,
    /// The clock, while no timer is due that it may come to.
    clock: Option<Waker>,
    /// What is due then or later never fires.
    end: Option<Instant>,
}

fn with<T>(act: impl FnOnce(&mut Timers) -> T) -> T {
    TIMERS.with(|timers| act(&mut timers.borrow_mut()))
}

/// A timer; dropping it takes it back.
#[derive(Debug)]
pub(crate) struct Sleep {
    due: Instant,
    number: Option<u64>,
}

pub(crate) fn sleep_until(due: Instant) -> Sleep {
    Sleep { due, number: None }
}

pub(crate) fn sleep(wait: Duration) -> Sleep {
    sleep_until(Instant::now() + wait)
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        point();
        if self.due <= Instant::now() {
            return Poll::Ready(());
        }
        let clock = with(|timers| {
            let number = *self.number.get_or_insert_with(|| {
                timers.number += 1;
                timers.number
            });
            timers.waiting.insert((self.due, number), context.waker().clone());
            timers.clock.take()
        });
        clock.into_iter().for_each(Waker::wake);
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            with(|timers| timers.waiting.remove(&(self.due, number)));
        }
    }
}

/// The time was up first.
#[derive(Debug)]
pub(crate) struct Elapsed;

pub(crate) async fn timeout<F: Future>(wait: Duration, future: F) -> Result<F::Output, Elapsed> {
    tokio::select! {
        biased;
        output = future => Ok(output),
        () = sleep(wait) => Err(Elapsed),
    }
}

/// Forgets the timers of the execution before.
pub(super) fn reset() {
    with(std::mem::take);
}

/// Lets the clock go on for so long from now, and no longer: what waits for a later time waits for ever.
pub(crate) fn goes_on_for(time: Duration) {
    let clock = with(|timers| {
        timers.end = Some(Instant::now() + time);
        timers.clock.take()
    });
    clock.into_iter().for_each(Waker::wake);
}

/// Moves the clock on, from timer to timer. How long it dawdles at each is the explorer's choice, so that now much
/// happens between two timers and now little.
pub(super) async fn run() {
    let dawdling = [1, 4, 32][choose(3) as usize];
    loop {
        let due = poll_fn(|context| {
            with(|timers| match timers.waiting.first_key_value() {
                Some(((due, _), _)) if Some(*due) < timers.end => Poll::Ready(*due),
                _ => {
                    timers.clock = Some(context.waker().clone());
                    Poll::Pending
                }
            })
        })
        .await;
        point();
        if choose(dawdling) == 0 {
            move_to(due);
        }
    }
}

/// Moves the clock on to `due`, and wakes whoever waits for that time or an earlier one.
fn move_to(due: Instant) {
    let step = due.saturating_duration_since(Instant::now());
    if !step.is_zero() {
        // It moves the clock when it is first polled; what it waits for then is for tokio's own timers.
        let _ = tokio::time::advance(step).now_or_never();
    }
    let fired: Vec<_> = with(|timers| {
        let later = timers.waiting.split_off(&(due, u64::MAX));
        std::mem::replace(&mut timers.waiting, later).into_values().collect()
    });
    fired.into_iter().for_each(Waker::wake);
}
