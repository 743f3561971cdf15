//! Tools for trying again: how long to wait ([`full_jitter`], [`after`]), how often at most ([`budget`]), and for
//! how long somebody still waits ([`terms`]). Knows nothing of what is tried.

pub mod after;
pub mod budget;
pub mod terms;

use std::time::Duration;

use crate::sync::draw;

/// The first back-off between tries of one upstream call (contract 2).
const FIRST: Duration = Duration::from_millis(100);
/// The longest back-off between tries of one upstream call (contract 2).
const LONGEST: Duration = Duration::from_secs(2);

/// The wait before the next try after `failed` tries: exponential with full jitter, so that callers that failed
/// together do not come back together.
#[must_use]
pub fn full_jitter(failed: u32) -> Duration {
    let ceiling = doubled(FIRST, failed.saturating_sub(1), LONGEST);
    ceiling.mul_f64(draw())
}

/// `first` doubled `times` times, at most `longest`.
#[must_use]
pub fn doubled(first: Duration, times: u32, longest: Duration) -> Duration {
    first.saturating_mul(1_u32.checked_shl(times).unwrap_or(u32::MAX)).min(longest)
}

/// `duration`, give or take `share` of it (0.1 is ±10 %).
#[must_use]
pub fn jittered(duration: Duration, share: f64) -> Duration {
    duration.mul_f64(1.0 + share * (draw() * 2.0 - 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn back_off_doubles_to_its_ceiling_and_spreads_over_all_of_it() {
        for (failed, ceiling_ms) in [(1, 100), (2, 200), (3, 400), (5, 1600), (6, 2000), (40, 2000)] {
            let waits: Vec<_> = (0..200).map(|_| full_jitter(failed).as_millis()).collect();
            assert!(waits.iter().all(|wait| *wait <= ceiling_ms), "{failed}");
            // Of 200 uniform draws, the chance that none falls into a given third is below 1e-35.
            assert!(waits.iter().any(|wait| *wait < ceiling_ms / 3), "{failed}");
            assert!(waits.iter().any(|wait| *wait > ceiling_ms * 2 / 3), "{failed}");
        }
    }

    #[test]
    fn jitter_stays_within_its_share_and_takes_all_of_it() {
        let draws: Vec<_> = (0..200).map(|_| jittered(Duration::from_secs(10), 0.1).as_secs_f64()).collect();
        assert!(draws.iter().all(|draw| (9.0..=11.0).contains(draw)));
        // As above: the chance that none falls into a given quarter is below 1e-24.
        assert!(draws.iter().any(|draw| *draw < 9.5) && draws.iter().any(|draw| *draw > 10.5));
    }
}
