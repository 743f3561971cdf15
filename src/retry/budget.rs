//! One retry budget for a whole process, so that an outage is not amplified. Counts; never waits.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use tokio::time::Instant;

/// How far back is looked, in whole seconds (contract 2).
const WINDOW_SECONDS: u64 = 10;
/// Retries that are always allowed within the window (contract 2).
const FLOOR: u64 = 100;
/// One retry for so many calls within the window: 20 % (contract 2).
const CALLS_A_RETRY: u64 = 5;

/// Calls begun and retries made in each of the last seconds.
#[derive(Debug)]
pub struct Budget {
    start: Instant,
    // Held for a few additions, never across an await.
    seconds: Mutex<[Second; WINDOW_SECONDS as usize]>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Second {
    number: u64,
    calls: u64,
    retries: u64,
}

impl Default for Budget {
    fn default() -> Self {
        Self { start: Instant::now(), seconds: Mutex::default() }
    }
}

impl Budget {
    /// A budget that nothing has been drawn from.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts an upstream call that begins.
    pub fn call_begun(&self) {
        self.with_now(|seconds, now| slot(seconds, now).calls += 1);
    }

    /// Asks for a retry, and counts it if there is room.
    #[must_use]
    pub fn take_retry(&self) -> bool {
        self.with_now(|seconds, now| {
            let recent = seconds.iter().filter(|second| second.number + WINDOW_SECONDS > now);
            let (calls, retries) = recent
                .fold((0, 0), |(calls, retries), second| (calls + second.calls, retries + second.retries));
            // In fifths, so that 20 % of 1 call counts for what it is.
            let allowed = retries * CALLS_A_RETRY < FLOOR * CALLS_A_RETRY + calls;
            if allowed {
                slot(seconds, now).retries += 1;
            }
            allowed
        })
    }

    fn with_now<T>(&self, act: impl FnOnce(&mut [Second], u64) -> T) -> T {
        // Second 0 is what an unused slot has, so that the first second is number 10.
        let now = self.start.elapsed().as_secs() + WINDOW_SECONDS;
        act(&mut *self.seconds.lock().unwrap_or_else(PoisonError::into_inner), now)
    }
}

fn slot(seconds: &mut [Second], now: u64) -> &mut Second {
    let at = (now % WINDOW_SECONDS) as usize;
    let slot = &mut seconds[at];
    if slot.number != now {
        *slot = Second { number: now, ..Second::default() };
    }
    slot
}

/// The time after which a retry no longer weighs on the budget.
#[must_use]
pub fn window() -> Duration {
    Duration::from_secs(WINDOW_SECONDS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retries(budget: &Budget) -> usize {
        (0..1000).take_while(|_| budget.take_retry()).count()
    }

    #[tokio::test(start_paused = true)]
    async fn a_hundred_and_a_fifth_of_the_calls_in_ten_seconds() {
        let budget = Budget::new();
        assert_eq!(retries(&budget), 100);
        (0..50).for_each(|_| budget.call_begun());
        assert_eq!(retries(&budget), 10);
        tokio::time::advance(Duration::from_secs(9)).await;
        assert_eq!(retries(&budget), 0);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(retries(&budget), 100);
        tokio::time::advance(window()).await;
        assert_eq!(retries(&budget), 100);
    }

    #[tokio::test(start_paused = true)]
    async fn each_second_of_the_window_counts_however_long_the_process_runs() {
        let budget = Budget::new();
        for _ in 0..20 {
            // At 0, 3 and 6 s, all within the window; then it is empty again.
            for (pause, allowed) in [(3, 60), (3, 40), (4, 0)] {
                let retries = (0..60).take_while(|_| budget.take_retry()).count();
                assert_eq!(retries, allowed);
                tokio::time::advance(Duration::from_secs(pause)).await;
            }
            tokio::time::advance(Duration::from_secs(10)).await;
        }
    }
}
