//! Where the token is kept that serves all callers. A seam: a store that replicas share can stand behind
//! [`TokenStore`]; [`Memory`] is the one for a process by itself. Tokens are told apart by the login that
//! brought them (a [`Generation`]), and their age crosses the seam as the life that is left.

use std::fmt;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::Instant;

use super::bearer::Bearer;
use crate::sync::Mutex;

/// Which login brought a token. Two are equal or not; none is greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Generation(u64);

impl Generation {
    /// One that no other login has, in this process or another.
    #[must_use]
    pub fn new() -> Self {
        Self(rand::random())
    }
}

impl Default for Generation {
    fn default() -> Self {
        Self::new()
    }
}

/// A token as the store has it.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The token.
    pub bearer: Arc<Bearer>,
    /// The login that brought it.
    pub generation: Generation,
    /// The life that is left.
    pub left: Duration,
}

/// The store can't be asked, or does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the token store does not answer")]
pub struct StoreError;

/// Where the token is kept.
pub trait TokenStore: fmt::Debug + Send + Sync + 'static {
    /// The token that is there, if any is alive.
    ///
    /// # Errors
    /// If the store can't be asked.
    fn get(&self) -> BoxFuture<'_, Result<Option<Stored>, StoreError>>;

    /// Puts a new token in the place of the one of `seen`, or of none, and gives what is there then: the new one, or
    /// the one that somebody else was quicker to put there.
    ///
    /// # Errors
    /// If the store can't be asked.
    fn replace(&self, seen: Option<Generation>, new: Stored) -> BoxFuture<'_, Result<Stored, StoreError>>;

    /// Drops the token of that generation, and no other.
    ///
    /// # Errors
    /// If the store can't be asked.
    fn drop_generation(&self, generation: Generation) -> BoxFuture<'_, Result<(), StoreError>>;
}

/// The store of a process by itself.
#[derive(Debug, Default)]
pub struct Memory {
    // Held for a comparison and a move, never across an await.
    held: Mutex<Option<(Stored, Instant)>>,
}

impl Memory {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn with<T>(&self, act: impl FnOnce(&mut Option<(Stored, Instant)>) -> T) -> T {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.as_ref().is_some_and(|(_, ends)| *ends <= Instant::now()) {
            *held = None;
        }
        act(&mut held)
    }
}

fn as_of_now((stored, ends): &(Stored, Instant)) -> Stored {
    Stored { left: ends.saturating_duration_since(Instant::now()), ..stored.clone() }
}

impl TokenStore for Memory {
    fn get(&self) -> BoxFuture<'_, Result<Option<Stored>, StoreError>> {
        Box::pin(async { Ok(self.with(|held| held.as_ref().map(as_of_now))) })
    }

    fn replace(&self, seen: Option<Generation>, new: Stored) -> BoxFuture<'_, Result<Stored, StoreError>> {
        Box::pin(async move {
            Ok(self.with(|held| match held {
                Some(other) if Some(other.0.generation) != seen => as_of_now(other),
                _ => {
                    let ends = Instant::now() + new.left;
                    *held = Some((new.clone(), ends));
                    new
                }
            }))
        })
    }

    fn drop_generation(&self, generation: Generation) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            self.with(|held| {
                if held.as_ref().is_some_and(|(stored, _)| stored.generation == generation) {
                    *held = None;
                }
            });
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(secs: u64) -> Stored {
        let bearer = Arc::new(Bearer::new("token").unwrap());
        Stored { bearer, generation: Generation::new(), left: Duration::from_secs(secs) }
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_gives_way_to_the_one_that_saw_it_and_to_no_other() {
        let store = Memory::new();
        let [first, second, third] = [stored(60), stored(60), stored(60)];
        assert_eq!(store.replace(None, first.clone()).await.unwrap().generation, first.generation);
        assert_eq!(store.replace(None, second.clone()).await.unwrap().generation, first.generation);
        tokio::time::advance(Duration::from_secs(20)).await;
        assert_eq!(store.get().await.unwrap().unwrap().left, Duration::from_secs(40));
        let now = store.replace(Some(first.generation), second.clone()).await.unwrap();
        assert_eq!(now.generation, second.generation);
        store.drop_generation(first.generation).await.unwrap();
        assert!(store.get().await.unwrap().is_some());
        store.drop_generation(second.generation).await.unwrap();
        assert!(store.get().await.unwrap().is_none());
        store.replace(None, third).await.unwrap();
        tokio::time::advance(Duration::from_secs(60)).await;
        assert!(store.get().await.unwrap().is_none());
    }
}
