//! What probes are told: whether the process lives, is ready, and serves. Owns the state, knows no transport.

use tokio::sync::watch;

/// A cloneable handle to the process's standing; those who know something write it, probes read it.
#[derive(Clone, Debug)]
pub struct Health {
    standing: watch::Sender<Standing>,
}

/// The facts that every probe's answer is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// A token has been held at least once since the start.
    pub had_token: bool,
    /// Calls can be served as far as the token goes: one is held and alive, or the last login did not fail.
    pub token_usable: bool,
    /// The process takes nothing new.
    pub draining: bool,
}

impl Standing {
    /// What `/readyz` says: one vendor's outage must not take every replica out of its service.
    #[must_use]
    pub fn is_ready(self) -> bool {
        self.had_token && !self.draining
    }

    /// What health says of `federation.v1.FederationTasks`.
    #[must_use]
    pub fn is_serving(self) -> bool {
        self.had_token && self.token_usable && !self.draining
    }

    /// What health says of the process as a whole (the service name `""`).
    #[must_use]
    pub fn is_up(self) -> bool {
        !self.draining
    }
}

impl Default for Health {
    fn default() -> Self {
        Self { standing: watch::Sender::new(Standing::default()) }
    }
}

impl Health {
    /// The standing of a process that has just begun.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Says how the token stands: `usable` if one is held and alive, or if the last login did not fail.
    pub fn set_token(&self, held: bool, usable: bool) {
        self.standing.send_if_modified(|standing| {
            let before = *standing;
            standing.had_token |= held;
            standing.token_usable = usable;
            *standing != before
        });
    }

    /// Says that the process takes nothing new.
    pub fn set_draining(&self) {
        self.standing.send_if_modified(|standing| !std::mem::replace(&mut standing.draining, true));
    }

    /// How the process stands now.
    #[must_use]
    pub fn standing(&self) -> Standing {
        *self.standing.borrow()
    }

    /// A view that wakes its holder on each change.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_from_the_first_token_until_the_drain() {
        let health = Health::new();
        assert!(!health.standing().is_ready() && !health.standing().is_serving());
        assert!(health.standing().is_up());
        health.set_token(true, true);
        assert!(health.standing().is_ready() && health.standing().is_serving());
        // The vendor is away: callers get its errors, but the replica stays in its service.
        health.set_token(false, false);
        assert!(health.standing().is_ready() && !health.standing().is_serving());
        health.set_draining();
        assert!(!health.standing().is_ready() && !health.standing().is_up());
    }
}
