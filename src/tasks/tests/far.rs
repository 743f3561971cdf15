//! Seams to a store far away: everything takes its time, some of it fails, and the right to poll is revoked now
//! and then. What happens is drawn from a seed.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::time::Instant;

use crate::task::TaskId;
use crate::tasks::feed::{self, Feed, Follow, Item};
use crate::tasks::right::{self, Right, Rights};
use crate::tasks::{SeamError, Seams};

#[derive(Clone, Debug)]
struct Fate(Arc<Mutex<StdRng>>);

impl Fate {
    fn draw(&self, below: u64) -> u64 {
        self.0.lock().unwrap().random_range(0..below)
    }

    /// Takes up to 50 ms; one in eight fails.
    async fn travel(&self) -> Result<(), SeamError> {
        tokio::time::sleep(Duration::from_millis(self.draw(50))).await;
        if self.draw(8) == 0 { Err(SeamError) } else { Ok(()) }
    }
}

/// Seams whose fate is drawn from `seed`.
pub(super) fn seams(seed: u64) -> Seams {
    let fate = Fate(Arc::new(Mutex::new(StdRng::seed_from_u64(seed))));
    Seams {
        feed: Arc::new(FarFeed { near: feed::Memory::new(), fate: fate.clone() }),
        rights: Arc::new(FarRights { near: right::Memory::new(), fate }),
    }
}

#[derive(Debug)]
struct FarFeed {
    near: feed::Memory,
    fate: Fate,
}

impl Feed for FarFeed {
    fn publish(&self, task: &TaskId, item: Item) -> BoxFuture<'_, Result<(), SeamError>> {
        let task = task.clone();
        Box::pin(async move {
            self.fate.travel().await?;
            self.near.publish(&task, item).await
        })
    }

    fn follow(&self, task: &TaskId) -> BoxFuture<'_, Result<Box<dyn Follow>, SeamError>> {
        let task = task.clone();
        Box::pin(async move {
            self.fate.travel().await?;
            let near = self.near.follow(&task).await?;
            let lost_at = Instant::now() + Duration::from_millis(self.fate.draw(20_000));
            Ok(Box::new(FarFollower { near, lost_at }) as Box<dyn Follow>)
        })
    }
}

#[derive(Debug)]
struct FarFollower {
    near: Box<dyn Follow>,
    lost_at: Instant,
}

impl Follow for FarFollower {
    fn next(&mut self) -> BoxFuture<'_, Result<Item, SeamError>> {
        Box::pin(async {
            tokio::select! {
                item = self.near.next() => item,
                () = tokio::time::sleep_until(self.lost_at) => Err(SeamError),
            }
        })
    }
}

#[derive(Debug)]
struct FarRights {
    near: right::Memory,
    fate: Fate,
}

impl Rights for FarRights {
    fn acquire(&self, task: &TaskId) -> BoxFuture<'_, Result<Box<dyn Right>, SeamError>> {
        let task = task.clone();
        Box::pin(async move {
            self.fate.travel().await?;
            let near = self.near.acquire(&task).await?;
            let lost_at = Instant::now() + Duration::from_millis(self.fate.draw(6_000));
            Ok(Box::new(FarRight { near, lost_at }) as Box<dyn Right>)
        })
    }
}

#[derive(Debug)]
struct FarRight {
    near: Box<dyn Right>,
    lost_at: Instant,
}

impl Right for FarRight {
    fn epoch(&self) -> u64 {
        self.near.epoch()
    }

    fn lost(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(tokio::time::sleep_until(self.lost_at))
    }
}
