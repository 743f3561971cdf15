//! What every test starts with: a vendor, a gateway, callers, and conditions to wait for.

mod answer;
mod caller;
#[path = "../support/connection.rs"]
mod connection;
pub(crate) mod frames;
mod front;
mod gateway;
#[path = "../support/http_get.rs"]
mod http_get;
mod process;
#[path = "../support/told.rs"]
mod told;
mod vendor;
mod wire;

use std::time::Duration;

use tokio::time::Instant;

pub(crate) use answer::{Answer, Gate, Step, done, task};
pub(crate) use caller::{Caller, Messages, bounded, duration, query, watch};
pub(crate) use connection::Connection;
pub(crate) use front::{Front, Mode};
pub(crate) use gateway::{Gateway, IMPATIENT, SECRET};
pub(crate) use http_get::http_get;
pub(crate) use process::Process;
pub(crate) use told::{Told, told};
pub(crate) use vendor::Vendor;

/// Longer than anything takes that happens at all, on a busy machine.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// Waits until the condition holds.
pub(crate) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < LONG, "never came true: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// What the future comes to, which it must do some time.
pub(crate) async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    tokio::time::timeout(LONG, future).await.unwrap_or_else(|_| panic!("never ended: {what}"))
}

/// How many tasks there are in this test's runtime: its gateway's, its vendor's and its callers'.
pub(crate) fn alive_tasks() -> usize {
    tokio::runtime::Handle::current().metrics().num_alive_tasks()
}
