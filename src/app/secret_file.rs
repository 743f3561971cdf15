//! The app secret's file, read again when it changes: also when an orchestrator swaps a symlink under it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::token::Tokens;
use crate::token::secret::Secret;
use crate::vendor::SharedSecret;

/// How often the file is looked at: a change counts within 10 s (contract 4). Reading it costs less than being
/// told, and sees what every kind of mount does to a file.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// A watched file that holds the app secret.
#[derive(Debug)]
pub(super) struct SecretFile {
    path: PathBuf,
    secret: SharedSecret,
    tokens: Arc<Tokens>,
}

impl SecretFile {
    pub(super) fn new(path: PathBuf, secret: SharedSecret, tokens: Arc<Tokens>) -> Self {
        Self { path, secret, tokens }
    }

    /// Looks at the file for as long as it is polled. A broken new version is logged once and the old one kept.
    pub(super) async fn run(self) {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        let mut was_broken = false;
        loop {
            ticks.tick().await;
            let path = self.path.clone();
            let read = tokio::task::spawn_blocking(move || Secret::read(&path)).await;
            match read {
                Ok(Ok(secret)) => {
                    was_broken = false;
                    if secret.expose() != self.secret.load().expose() {
                        self.secret.store(Arc::new(secret));
                        tracing::info!(setting = "app-secret-file", "the app secret changed");
                        self.tokens.secret_changed();
                    }
                }
                Ok(Err(error)) => {
                    if !was_broken {
                        tracing::error!(%error, setting = "app-secret-file", "a new version is broken; the old secret is kept");
                    }
                    was_broken = true;
                }
                Err(error) => tracing::error!(%error, "reading a file died"),
            }
        }
    }
}
