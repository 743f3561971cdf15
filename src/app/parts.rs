//! The parts that run for as long as the process. Owns their tasks: the end of one, before its time, is the end of all,
//! as a gateway without it would answer health and nothing else.

use std::collections::HashMap;

use tokio::task::{Id, JoinSet};

/// A part of the gateway ended before it was told to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a part of the gateway ended before its time: {0}")]
pub struct PartEnded(pub(super) &'static str);

/// Those that run now; dropping it ends them.
#[derive(Debug, Default)]
pub(super) struct Parts {
    tasks: JoinSet<()>,
    names: HashMap<Id, &'static str>,
}

impl Parts {
    /// Runs one more until it ends or all are stopped.
    pub(super) fn run(&mut self, name: &'static str, part: impl Future<Output = ()> + Send + 'static) {
        let running = self.tasks.spawn(part);
        self.names.insert(running.id(), name);
    }

    /// Waits for the first that ends, which none should. May be dropped and called again.
    pub(super) async fn ended(&mut self) -> PartEnded {
        let id = match self.tasks.join_next_with_id().await {
            Some(Ok((id, ()))) => id,
            Some(Err(error)) => error.id(),
            None => std::future::pending().await,
        };
        PartEnded(self.names.remove(&id).unwrap_or("unknown"))
    }

    /// Ends all, and waits until they are gone.
    pub(super) async fn stop(mut self) {
        self.tasks.shutdown().await;
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn whichever_ends_is_named_however_it_ends() {
        let mut parts = Parts::default();
        assert!(parts.ended().now_or_never().is_none());
        parts.run("lasting", pending());
        parts.run("short", async {});
        assert_eq!(parts.ended().await, PartEnded("short"));
        parts.run("broken", async { panic!("on purpose") });
        assert_eq!(parts.ended().await, PartEnded("broken"));
        assert!(parts.ended().now_or_never().is_none());
        parts.stop().await;
    }
}
