//! Figures made of many: percentiles, medians, and the time that processes agree on.

use std::time::UNIX_EPOCH;

use federation_gateway::clock;

/// The value that so many of a hundred are not above; of sorted values.
pub(crate) fn percentile(sorted: &[u32], percent: f64) -> u32 {
    let last = sorted.len().saturating_sub(1);
    let index = (last as f64 * percent / 100.0).round() as usize;
    sorted.get(index.min(last)).copied().unwrap_or_default()
}

/// The middle one, or the middle of the middle two.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match (values.len().checked_rem(2), values.get(middle.saturating_sub(1)), values.get(middle)) {
        (Some(0), Some(low), Some(high)) => (low + high) / 2.0,
        (Some(_), _, Some(value)) => *value,
        _ => f64::NAN,
    }
}

/// Microseconds since the epoch: the clock that two processes of one machine share.
pub(crate) fn wall_us() -> u64 {
    let since = clock::wall_now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
