//! The two signals that end the process in order: "finish what you have" and "your time is up".
//!
//! Owns nothing but the signals; what a part does on each is the part's own.

use tokio_util::sync::CancellationToken;

/// The listening end, one for every part that has something to finish.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    draining: CancellationToken,
    ended: CancellationToken,
}

impl Shutdown {
    /// A signal that nobody has given yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks every part to take nothing new and to finish what it has.
    pub fn drain(&self) {
        self.draining.cancel();
    }

    /// Tells every part that its time is up: what is unfinished now is answered as such.
    pub fn end(&self) {
        self.draining.cancel();
        self.ended.cancel();
    }

    /// Whether the drain has begun.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.is_cancelled()
    }

    /// Whether the time is up.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.ended.is_cancelled()
    }

    /// Waits for the drain to begin.
    pub async fn draining(&self) {
        self.draining.cancelled().await;
    }

    /// Waits for the time to be up.
    pub async fn ended(&self) {
        self.ended.cancelled().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_end_is_a_drain_too() {
        let shutdown = Shutdown::new();
        let part = shutdown.clone();
        assert!(!part.is_draining());
        shutdown.end();
        part.draining().await;
        part.ended().await;
        assert!(part.is_draining() && part.is_ended());
    }
}
