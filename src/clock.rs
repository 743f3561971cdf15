//! The wall clock, read here alone. All waiting and every age runs on [`tokio::time::Instant`]; the wall clock
//! only dates an observation for people and for `observed_at`.

use std::time::SystemTime;

/// Now, by this machine's wall clock.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the one lawful place")]
pub fn wall_now() -> SystemTime {
    SystemTime::now()
}
