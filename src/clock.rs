//! Time: the wall clock, read here alone, and waiting for what may never be due. All other waiting and every age
//! runs on [`tokio::time::Instant`]; the wall clock only dates an observation for people and for `observed_at`.

use std::time::SystemTime;

use tokio::time::Instant;

use crate::sync::sleep_until;

/// Now, by this machine's wall clock.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the one lawful place")]
pub fn wall_now() -> SystemTime {
    SystemTime::now()
}

/// Sleeps until `due`; for ever if nothing is due.
pub async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}
