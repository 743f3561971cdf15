//! What is told of a run: what the oracle found, the gateway's last words, the command that runs it again; and how
//! much there was to be judged.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::gateway::Log;
use crate::record::{Outcome, Records};

static CALLS: AtomicUsize = AtomicUsize::new(0);
static FAILED: AtomicUsize = AtomicUsize::new(0);
/// Failures by their reasons.
static REASONS: Mutex<BTreeMap<String, usize>> = Mutex::new(BTreeMap::new());
/// The longest that this process stood still.
static STALL_MS: AtomicUsize = AtomicUsize::new(0);
static MESSAGES: AtomicUsize = AtomicUsize::new(0);
static EXCHANGES: AtomicUsize = AtomicUsize::new(0);

/// A line for whoever runs this.
pub(crate) fn say(line: &str) {
    // Nobody may be listening.
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Counts what the oracle was given.
pub(crate) fn count(records: &Records) {
    STALL_MS.fetch_max(records.stall.as_millis() as usize, Ordering::Relaxed);
    let mut failed = 0;
    let mut reasons = REASONS.lock().unwrap_or_else(PoisonError::into_inner);
    for call in &records.calls {
        if let Outcome::Failed(told) = &call.outcome {
            failed += 1;
            let reason = if told.reason.is_empty() { "cut off" } else { &told.reason };
            *reasons.entry(reason.to_owned()).or_default() += 1;
        }
    }
    let messages = records.calls.iter().map(|call| call.messages.len()).sum();
    CALLS.fetch_add(records.calls.len(), Ordering::Relaxed);
    FAILED.fetch_add(failed, Ordering::Relaxed);
    MESSAGES.fetch_add(messages, Ordering::Relaxed);
    EXCHANGES.fetch_add(records.exchanges.len(), Ordering::Relaxed);
}

/// What was counted, in words.
pub(crate) fn summary() -> String {
    let of = |count: &AtomicUsize| count.load(Ordering::Relaxed);
    format!(
        "{} calls ({} of them failed), {} messages, {} exchanges, stood still for {} ms at most",
        of(&CALLS),
        of(&FAILED),
        of(&MESSAGES),
        of(&EXCHANGES),
        of(&STALL_MS)
    )
}

/// What the calls that failed were told.
pub(crate) fn reasons() -> String {
    let reasons = REASONS.lock().unwrap_or_else(PoisonError::into_inner);
    let reasons: Vec<_> = reasons.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
    reasons.join(", ")
}

/// Tells of a run that failed.
pub(crate) fn failed(what: &str, again: &str, findings: &[String], log: &Log) {
    say(&format!("\nFAILED: {what}"));
    for finding in findings {
        say(&format!("  - {finding}"));
    }
    say("  the gateway's last words:");
    for line in &log.tail {
        say(&format!("    {line}"));
    }
    say(&format!("  again: {again}\n"));
}
