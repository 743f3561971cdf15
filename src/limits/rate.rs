//! So many a second, first come first served. governor decides; the waiting is done here, by tokio's time: governor's
//! own futures sleep by a timer thread of their own, and their order is nobody's.

use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use governor::clock::Clock;
use governor::nanos::Nanos;
use governor::state::{NotKeyed, StateStore};
use governor::{Quota, RateLimiter};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

const SECOND: Duration = Duration::from_secs(1);

/// A line of those who want to start, so many a second, after a burst of one second's worth.
#[derive(Debug)]
pub(super) struct Line {
    /// Held by the head of the line: a semaphore serves in order, and whoever leaves leaves no gap.
    head: Semaphore,
    limiter: RateLimiter<NotKeyed, Arrival, SinceMade>,
    clock: SinceMade,
    state: Arrival,
}

impl Line {
    pub(super) fn new(rate: NonZeroU32) -> Self {
        let (clock, state) = (SinceMade(Instant::now()), Arrival::default());
        let limiter = RateLimiter::new(quota(rate), state.clone(), clock);
        Self { head: Semaphore::new(1), limiter, clock, state }
    }

    /// Waits to be the head of the line, and until one more may start. Nothing is taken yet.
    pub(super) async fn head(&self) -> Head<'_> {
        let place = self.head.acquire().await.expect("the semaphore is never closed");
        let head = Head { line: self, _place: place };
        while let Some(wait) = head.wait() {
            tokio::time::sleep(wait).await;
        }
        head
    }
}

/// The head of a line, who may start; whoever drops this instead leaves nothing behind.
#[derive(Debug)]
pub(super) struct Head<'a> {
    line: &'a Line,
    _place: SemaphorePermit<'a>,
}

impl Head<'_> {
    /// How long it is until one more may start; `None` if that is now. governor can't be asked without taking.
    fn wait(&self) -> Option<Duration> {
        let Line { limiter, clock, state, .. } = self.line;
        let before = state.0.load(Ordering::Relaxed);
        let decision = limiter.check();
        state.0.store(before, Ordering::Relaxed);
        decision.err().map(|until| until.wait_time_from(clock.now()))
    }

    /// Starts now.
    pub(super) fn start(self) {
        let decision = self.line.limiter.check();
        debug_assert!(decision.is_ok(), "only the head takes, and waiting takes nothing away");
    }
}

/// A start every so often, rounded up to what a clock can tell: never more than asked.
fn quota(rate: NonZeroU32) -> Quota {
    let nanos = SECOND.as_nanos().div_ceil(u128::from(rate.get()));
    let period = Duration::from_nanos(u64::try_from(nanos).expect("a part of a second"));
    Quota::with_period(period).expect("it is positive").allow_burst(rate)
}

/// governor's state: by when all that was taken is paid for. Only the head of the line touches it, and orders it by
/// the semaphore.
#[derive(Clone, Debug, Default)]
struct Arrival(Arc<AtomicU64>);

impl StateStore for Arrival {
    type Key = NotKeyed;

    fn measure_and_replace<T, F, E>(&self, _key: &NotKeyed, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let before = NonZeroU64::new(self.0.load(Ordering::Relaxed)).map(|nanos| nanos.get().into());
        let (outcome, after) = decide(before)?;
        self.0.store(after.into(), Ordering::Relaxed);
        Ok(outcome)
    }
}

/// tokio's clock, as governor reads it.
#[derive(Clone, Copy, Debug)]
struct SinceMade(Instant);

impl Clock for SinceMade {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        self.0.elapsed().into()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use tokio::task::JoinSet;

    use super::*;

    fn line(rate: u32) -> Arc<Line> {
        Arc::new(Line::new(NonZeroU32::new(rate).unwrap()))
    }

    /// When each of so many who come at once starts.
    async fn starts(line: &Arc<Line>, number: usize) -> Vec<(usize, Duration)> {
        let began = Instant::now();
        let (mut waiting, mut order) = (JoinSet::new(), Vec::new());
        for at in 0..number {
            let line = Arc::clone(line);
            waiting.spawn(async move {
                line.head().await.start();
                (at, began.elapsed())
            });
        }
        while let Some(start) = waiting.join_next().await {
            order.push(start.unwrap());
        }
        order
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_of_a_seconds_worth_and_then_the_rate_in_order() {
        for rate in [1, 3, 10, 1000] {
            let line = line(rate);
            tokio::time::sleep(Duration::from_secs(60)).await;
            let burst = rate as usize;
            let order = starts(&line, 3 * burst).await;
            for (at, (who, when)) in order.into_iter().enumerate() {
                assert_eq!(who, at);
                let due =
                    Duration::from_secs(1).mul_f64((at + 1).saturating_sub(burst) as f64 / f64::from(rate));
                // tokio's timers count in milliseconds.
                assert!(when >= due && when <= due + Duration::from_millis(2), "{rate}: {at} at {when:?}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_rate_is_never_passed_whatever_it_is() {
        for rate in (1..2000).chain([700_000, 999_999, 1_000_000]) {
            let quota = quota(NonZeroU32::new(rate).unwrap());
            assert!(
                quota.replenish_interval() * rate >= SECOND && quota.burst_size().get() == rate,
                "{rate}"
            );
        }
        for rate in [7, 999, 10_007] {
            let line = line(rate);
            let began = Instant::now();
            let mut started = 0_u64;
            while began.elapsed() < Duration::from_millis(1500) {
                line.head().await.start();
                started += 1;
            }
            let most = f64::from(rate) * (1.0 + began.elapsed().as_secs_f64());
            assert!(started as f64 <= most + 1e-6, "{rate}: {started} of {most}");
            assert!(started as f64 >= f64::from(rate) * 2.4, "{rate}: {started}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_leaves_takes_nothing_and_holds_up_nobody() {
        let line = line(1);
        line.head().await.start();
        // The head waits for its second, two more behind it; the first two leave.
        let mut first = Box::pin(line.head());
        assert!((&mut first).now_or_never().is_none());
        let mut second = Box::pin(line.head());
        assert!((&mut second).now_or_never().is_none());
        let mut third = Box::pin(line.head());
        assert!((&mut third).now_or_never().is_none());
        let began = Instant::now();
        drop((first, second));
        third.await.start();
        assert_eq!(began.elapsed(), Duration::from_secs(1));
        // Nor does one who might have started, and who is the only head until then.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let head = line.head().now_or_never().expect("one may start");
        assert!(line.head().now_or_never().is_none());
        drop(head);
        line.head().now_or_never().expect("one may start still").start();
        assert!(line.head().now_or_never().is_none());
    }
}
