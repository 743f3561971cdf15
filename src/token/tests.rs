//! The token's owner and its callers, on paused time, over the memory store and over one that is far away.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::*;
use crate::task::failure::Reason;

/// A vendor that answers logins as scripted, then well; each answer may be held back.
#[derive(Debug)]
struct Vendor {
    begun: AtomicUsize,
    under_way: AtomicUsize,
    most_under_way: AtomicUsize,
    script: Mutex<VecDeque<Result<f64, Failure>>>,
    gate: Semaphore,
}

#[derive(Clone, Debug)]
struct ToVendor(Arc<Vendor>);

impl Login for ToVendor {
    fn login(&self) -> BoxFuture<'_, Result<Grant, Failure>> {
        Box::pin(async {
            let vendor = &self.0;
            let number = vendor.begun.fetch_add(1, Ordering::SeqCst);
            let under_way = vendor.under_way.fetch_add(1, Ordering::SeqCst) + 1;
            vendor.most_under_way.fetch_max(under_way, Ordering::SeqCst);
            vendor.gate.acquire().await.unwrap().forget();
            vendor.under_way.fetch_sub(1, Ordering::SeqCst);
            let answer = vendor.script.lock().unwrap().pop_front().unwrap_or(Ok(3600.0));
            answer.map(|life| Grant {
                bearer: Bearer::new(&format!("token-{number}")).unwrap(),
                life: Duration::from_secs_f64(life),
            })
        })
    }
}

/// A store far away: each operation takes its time, and every so many fail.
#[derive(Debug)]
struct FarStore {
    near: store::Memory,
    operations: AtomicUsize,
    every_nth_fails: usize,
    /// Whether a token, once there, can't be dropped.
    keeps: bool,
    delay: Duration,
}

impl FarStore {
    async fn travel(&self) -> Result<(), StoreError> {
        tokio::time::sleep(self.delay).await;
        let number = self.operations.fetch_add(1, Ordering::SeqCst) + 1;
        if number.is_multiple_of(self.every_nth_fails) { Err(StoreError) } else { Ok(()) }
    }
}

impl TokenStore for FarStore {
    fn get(&self) -> BoxFuture<'_, Result<Option<Stored>, StoreError>> {
        Box::pin(async {
            self.travel().await?;
            self.near.get().await
        })
    }

    fn replace(&self, seen: Option<Generation>, new: Stored) -> BoxFuture<'_, Result<Stored, StoreError>> {
        Box::pin(async move {
            self.travel().await?;
            self.near.replace(seen, new).await
        })
    }

    fn drop_generation(&self, generation: Generation) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            self.travel().await?;
            if self.keeps { Err(StoreError) } else { self.near.drop_generation(generation).await }
        })
    }
}

fn stores() -> Vec<Arc<dyn TokenStore>> {
    let far = |every_nth_fails, delay_ms| {
        let near = store::Memory::new();
        let delay = Duration::from_millis(delay_ms);
        Arc::new(FarStore { near, operations: AtomicUsize::new(0), every_nth_fails, keeps: false, delay })
    };
    vec![
        Arc::new(store::Memory::new()),
        far(usize::MAX, 40),
        // Every other operation fails, all fail, none answers in time.
        far(2, 10),
        far(1, 0),
        far(usize::MAX, 10_000),
    ]
}

struct World {
    vendor: Arc<Vendor>,
    tokens: Arc<Tokens>,
    health: Health,
    store: Arc<dyn TokenStore>,
    _owner: JoinSet<()>,
}

fn world(store: Arc<dyn TokenStore>, script: Vec<Result<f64, Failure>>, gate: usize) -> World {
    world_that_waits_for(3, store, script, gate)
}

fn world_that_waits_for(
    logins: u32,
    store: Arc<dyn TokenStore>,
    script: Vec<Result<f64, Failure>>,
    gate: usize,
) -> World {
    let vendor = Arc::new(Vendor {
        begun: AtomicUsize::new(0),
        under_way: AtomicUsize::new(0),
        most_under_way: AtomicUsize::new(0),
        script: Mutex::new(script.into()),
        gate: Semaphore::new(gate),
    });
    let health = Health::new();
    let login = Box::new(ToVendor(Arc::clone(&vendor)));
    let tokens = Arc::new(Tokens::new(login, Arc::clone(&store), logins, health.clone(), Metrics::new()));
    let mut owner = JoinSet::new();
    let owned = Arc::clone(&tokens);
    owner.spawn(async move { owned.run().await });
    World { vendor, tokens, health, store, _owner: owner }
}

impl World {
    async fn get(&self) -> Result<Arc<Held>, Failure> {
        let mut terms = Terms::fixed(Instant::now() + Duration::from_secs(30));
        let day = Duration::from_secs(24 * 3600);
        tokio::time::timeout(day, self.tokens.get(&mut terms)).await.expect("nobody waits for ever")
    }

    fn logins(&self) -> usize {
        self.vendor.begun.load(Ordering::SeqCst)
    }

    /// Lets time go by until a login is under way.
    async fn login_begins(&self) {
        while self.vendor.under_way.load(Ordering::SeqCst) == 0 {
            tokio::time::advance(Duration::from_millis(10)).await;
        }
    }
}

fn no(reason: Reason) -> Result<f64, Failure> {
    Err(Failure::new(reason, "no"))
}

#[tokio::test(start_paused = true)]
async fn many_callers_share_one_login() {
    for store in stores() {
        let world = world(store, vec![], 0);
        let mut callers = JoinSet::new();
        for _ in 0..500 {
            let tokens = Arc::clone(&world.tokens);
            callers.spawn(async move {
                tokens
                    .get(&mut Terms::fixed(Instant::now() + Duration::from_secs(30)))
                    .await
                    .map(|held| held.generation)
            });
        }
        world.login_begins().await;
        world.vendor.gate.add_permits(1);
        let generations = callers.join_all().await;
        assert!(generations.iter().all(|generation| *generation == generations[0] && generation.is_ok()));
        assert_eq!(world.logins(), 1, "{:?}", world.store);
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_is_renewed_ahead_and_nobody_waits() {
    for store in stores() {
        let world = world(store, vec![Ok(60.0), Ok(60.0)], 1000);
        let first = world.get().await.unwrap().generation;
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(58) {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let asked = Instant::now();
            world.get().await.unwrap();
            assert_eq!(asked.elapsed(), Duration::ZERO, "{:?}", world.store);
        }
        assert_eq!(world.logins(), 2);
        assert_ne!(world.get().await.unwrap().generation, first);
        assert_eq!(world.vendor.most_under_way.load(Ordering::SeqCst), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_waits_for_three_failing_logins_and_no_more() {
    let script = (0..9).map(|_| no(Reason::TokenUnavailable)).collect();
    let world = world(Arc::new(store::Memory::new()), script, 1000);
    let failure = world.get().await.unwrap_err();
    assert_eq!((failure.reason, world.logins()), (Reason::TokenUnavailable, 3));
    let wait = failure.retry_after.unwrap();
    assert!(wait > Duration::from_secs(3) && wait < Duration::from_secs(5), "{wait:?}");
    // The next one is due in 4 s: nobody waits for so long.
    let asked = Instant::now();
    world.get().await.unwrap_err();
    assert_eq!((asked.elapsed(), world.logins()), (Duration::ZERO, 3));
    let standing = world.health.standing();
    assert!(!standing.is_ready() && !standing.is_serving());
}

#[tokio::test(start_paused = true)]
async fn a_login_that_recovers_serves_those_who_wait() {
    let script = vec![no(Reason::TokenUnavailable), no(Reason::TokenUnavailable)];
    let world = world(Arc::new(store::Memory::new()), script, 1000);
    world.get().await.unwrap();
    assert_eq!(world.logins(), 3);
    tokio::task::yield_now().await;
    assert!(world.health.standing().is_serving());
}

#[tokio::test(start_paused = true)]
async fn rejected_credentials_fail_calls_at_once_until_the_secret_changes() {
    let script = vec![no(Reason::CredentialsRejected), no(Reason::CredentialsRejected)];
    let world = world(Arc::new(store::Memory::new()), script, 1000);
    assert_eq!(world.get().await.unwrap_err().reason, Reason::CredentialsRejected);
    for _ in 0..100 {
        let asked = Instant::now();
        assert_eq!(world.get().await.unwrap_err().reason, Reason::CredentialsRejected);
        assert_eq!(asked.elapsed(), Duration::ZERO);
    }
    assert_eq!(world.logins(), 1);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(world.logins(), 2);
    world.tokens.secret_changed();
    let asked = Instant::now();
    world.get().await.unwrap();
    assert_eq!((asked.elapsed(), world.logins()), (Duration::ZERO, 3));
}

#[tokio::test(start_paused = true)]
async fn a_revoked_token_costs_one_login_over_any_store() {
    for store in stores() {
        let world = world(store, vec![], 1000);
        let first = world.get().await.unwrap().generation;
        for _ in 0..50 {
            assert_eq!(world.tokens.refused(first), Verdict::Retry);
        }
        let asked = Instant::now();
        let second = world.get().await.unwrap().generation;
        assert!(asked.elapsed() < Duration::from_secs(1), "the owner is told at once: {:?}", world.store);
        assert_ne!(second, first);
        assert_eq!(world.logins(), 2, "{:?}", world.store);
        world.tokens.retried(second, true);
        assert_eq!(world.tokens.refused(first), Verdict::Retry, "an older one's 401 drops nothing");
        assert_eq!(world.get().await.unwrap().generation, second);
    }
}

#[tokio::test(start_paused = true)]
async fn another_replicas_token_is_taken_instead_of_a_login() {
    let store = Arc::new(store::Memory::new());
    let bearer = Arc::new(Bearer::new("theirs").unwrap());
    let theirs = Stored { bearer, generation: Generation::new(), left: Duration::from_secs(600) };
    store.replace(None, theirs.clone()).await.unwrap();
    let world = world(store, vec![], 1000);
    assert_eq!(world.get().await.unwrap().generation, theirs.generation);
    assert_eq!(world.logins(), 0);
    // A 401 drops it for all, and the login that follows is ours.
    assert_eq!(world.tokens.refused(theirs.generation), Verdict::Retry);
    let ours = world.get().await.unwrap().generation;
    assert_eq!(world.logins(), 1);
    assert_eq!(world.store.get().await.unwrap().unwrap().generation, ours);
}

#[tokio::test(start_paused = true)]
async fn health_falls_when_the_token_ends_and_the_last_login_failed() {
    let mut script = vec![Ok(20.0)];
    script.extend((0..20).map(|_| no(Reason::TokenUnavailable)));
    let world = world(Arc::new(store::Memory::new()), script, 1000);
    world.get().await.unwrap();
    tokio::time::sleep(Duration::from_secs(19)).await;
    assert!(world.logins() > 1 && world.health.standing().is_serving());
    tokio::time::sleep(Duration::from_secs(2)).await;
    let standing = world.health.standing();
    assert!(!standing.is_serving() && standing.is_ready());
}

#[tokio::test(start_paused = true)]
async fn a_caller_whose_deadline_shrinks_is_not_kept() {
    let script = (0..9).map(|_| no(Reason::TokenUnavailable)).collect();
    let world = world(Arc::new(store::Memory::new()), script, 1000);
    let mut soon = Terms::fixed(Instant::now() + Duration::from_millis(500));
    let asked = Instant::now();
    let failure = world.tokens.get(&mut soon).await.unwrap_err();
    assert_eq!((failure.reason, asked.elapsed()), (Reason::TokenUnavailable, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn a_token_that_has_ended_is_given_to_nobody() {
    let mut script = vec![Ok(20.0)];
    script.extend((0..20).map(|_| no(Reason::TokenUnavailable)));
    let world = world(Arc::new(store::Memory::new()), script, 1000);
    let ends = world.get().await.unwrap().ends;
    // Renewals fail from 10 s on; the next one after the end is some seconds away by then.
    tokio::time::sleep(Duration::from_millis(19_900)).await;
    assert_eq!(world.get().await.unwrap().ends, ends);
    tokio::time::advance(ends - Instant::now()).await;
    assert_eq!(world.get().await.unwrap_err().reason, Reason::TokenUnavailable);
    tokio::time::advance(Duration::from_millis(1)).await;
    assert_eq!(world.get().await.unwrap_err().reason, Reason::TokenUnavailable);
}

#[tokio::test(start_paused = true)]
async fn a_call_waits_for_no_more_logins_than_it_may_though_the_next_is_near() {
    let script = (0..9).map(|_| no(Reason::TokenUnavailable)).collect();
    let world = world_that_waits_for(2, Arc::new(store::Memory::new()), script, 1000);
    let failure = world.get().await.unwrap_err();
    assert_eq!((failure.reason, world.logins()), (Reason::TokenUnavailable, 2));
    assert!(failure.retry_after.unwrap() < Duration::from_millis(2500));
}

#[tokio::test(start_paused = true)]
async fn the_gap_after_a_401_is_wider_once_its_retry_was_refused_and_narrow_again_after_a_success() {
    let world = world(Arc::new(store::Memory::new()), vec![], 1000);
    let first = world.get().await.unwrap().generation;
    assert_eq!(world.tokens.refused(first), Verdict::Retry);
    let second = world.get().await.unwrap().generation;
    world.tokens.retried(second, false);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(world.tokens.refused(second), Verdict::TooSoon, "the gap is 2 s");
    assert_eq!(world.get().await.unwrap().generation, second);
    world.tokens.retried(second, true);
    assert_eq!(world.tokens.refused(second), Verdict::Retry, "the gap is 1 s");
}

#[tokio::test(start_paused = true)]
async fn a_life_counts_from_before_the_login_was_sent_however_long_vendor_and_store_take() {
    for store in stores() {
        let world = world(store, vec![Ok(60.0)], 0);
        world.login_begins().await;
        let sent_by = Instant::now();
        tokio::time::sleep(Duration::from_secs(5)).await;
        world.vendor.gate.add_permits(1);
        let ends = world.get().await.unwrap().ends;
        let life = Duration::from_secs(60);
        assert!(ends <= sent_by + life && ends > sent_by + life / 2, "{:?}", world.store);
    }
}

#[tokio::test(start_paused = true)]
async fn the_token_of_a_replica_that_was_quicker_serves_here_too() {
    let world = world(Arc::new(store::Memory::new()), vec![Ok(60.0)], 0);
    world.login_begins().await;
    let bearer = Arc::new(Bearer::new("theirs").unwrap());
    let theirs = Stored { bearer, generation: Generation::new(), left: Duration::from_secs(600) };
    world.store.replace(None, theirs.clone()).await.unwrap();
    let ends = Instant::now() + theirs.left;
    world.vendor.gate.add_permits(1);
    let held = world.get().await.unwrap();
    assert_eq!((held.generation, held.ends), (theirs.generation, ends));
    assert_eq!(world.store.get().await.unwrap().unwrap().generation, theirs.generation);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_the_store_can_not_drop_is_not_taken_again() {
    let near = store::Memory::new();
    let (operations, delay) = (AtomicUsize::new(0), Duration::from_millis(10));
    let far = FarStore { near, operations, every_nth_fails: usize::MAX, keeps: true, delay };
    let world = world(Arc::new(far), vec![], 1000);
    let first = world.get().await.unwrap().generation;
    assert_eq!(world.tokens.refused(first), Verdict::Retry);
    assert_ne!(world.get().await.unwrap().generation, first);
    assert_eq!(world.logins(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_401_drops_the_token_for_all_before_the_next_one_is_there() {
    let world = world(Arc::new(store::Memory::new()), vec![], 1);
    let first = world.get().await.unwrap().generation;
    assert_eq!(world.store.get().await.unwrap().unwrap().generation, first);
    assert_eq!(world.tokens.refused(first), Verdict::Retry);
    world.login_begins().await;
    assert!(world.store.get().await.unwrap().is_none());
}
