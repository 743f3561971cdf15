//! The token's owner and its callers under every order of their steps that the explorer comes to: never two logins at
//! once, none more than is needed, and nobody waits for ever.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex as Script, MutexGuard};

use shuttle::future::{JoinHandle, spawn};

use super::*;
use crate::retry::terms::{self, Term};
use crate::sync::woven::explorer::explore;
use crate::sync::woven::{choose, clock};
use crate::sync::{sleep, sleep_until, timeout};
use crate::task::failure::Reason;

const SECOND: Duration = Duration::from_secs(1);
/// How many callers there are, so that some meet at one place while another is at the next.
const CALLERS: usize = 3;

/// A vendor that answers logins as scripted, then well, each after a while.
#[derive(Debug, Default)]
struct Vendor {
    begun: AtomicUsize,
    under_way: AtomicUsize,
    script: Script<VecDeque<Result<f64, Failure>>>,
    /// Whether logins that begin from now on have a good secret.
    is_mended: AtomicBool,
}

impl Vendor {
    fn script(&self) -> MutexGuard<'_, VecDeque<Result<f64, Failure>>> {
        self.script.lock().expect("nobody panics under it")
    }
}

#[derive(Clone, Debug, Default)]
struct ToVendor(Arc<Vendor>);

struct UnderWay<'a>(&'a Vendor);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Login for ToVendor {
    fn login(&self) -> BoxFuture<'_, Result<Grant, Failure>> {
        Box::pin(async {
            let vendor = &*self.0;
            let number = vendor.begun.fetch_add(1, Ordering::SeqCst);
            assert_eq!(vendor.under_way.fetch_add(1, Ordering::SeqCst), 0, "one login at a time");
            let _under_way = UnderWay(vendor);
            let is_mended = vendor.is_mended.load(Ordering::SeqCst);
            sleep(Duration::from_millis(100)).await;
            if is_mended {
                vendor.script().clear();
            }
            let answer = vendor.script().pop_front().unwrap_or(Ok(3600.0));
            answer.map(|life| Grant {
                bearer: Bearer::new(&format!("token-{number}")).expect("a good token"),
                life: Duration::from_secs_f64(life),
            })
        })
    }
}

struct World {
    vendor: Arc<Vendor>,
    tokens: Arc<Tokens>,
    health: Health,
}

impl World {
    /// A token whose owner is at work.
    fn new(metrics: &Metrics, script: impl IntoIterator<Item = Result<f64, Failure>>) -> Self {
        let vendor = ToVendor::default();
        vendor.0.script().extend(script);
        let (store, health) = (Arc::new(store::Memory::new()), Health::new());
        let tokens = Tokens::new(Box::new(vendor.clone()), store, 3, health.clone(), metrics.clone());
        let tokens = Arc::new(tokens);
        let owned = Arc::clone(&tokens);
        drop(spawn(async move { owned.run().await }));
        Self { vendor: vendor.0, tokens, health }
    }

    fn logins(&self) -> usize {
        self.vendor.begun.load(Ordering::SeqCst)
    }

    /// A caller who needs a token, and has no deadline that comes within the time explored.
    fn caller(&self) -> JoinHandle<Result<Arc<Held>, Failure>> {
        let tokens = Arc::clone(&self.tokens);
        spawn(async move { tokens.get(&mut unbounded()).await })
    }

    /// A caller who has left after 200 ms, whatever it has come to.
    fn leaver(&self) -> JoinHandle<()> {
        let tokens = Arc::clone(&self.tokens);
        spawn(async move {
            let _ = timeout(Duration::from_millis(200), tokens.get(&mut unbounded())).await;
        })
    }

    fn mend(&self) {
        self.vendor.is_mended.store(true, Ordering::SeqCst);
        self.tokens.secret_changed();
    }

    /// Checks what must hold whenever nobody holds the lock: callers are shown what the machine holds.
    fn check_shown(&self) {
        self.tokens.with(|machine| {
            let now = Instant::now();
            let shown = self.tokens.current.load_full().filter(|held| held.ends > now);
            let held = machine.held(now).map(|held| held.generation);
            assert_eq!(shown.map(|held| held.generation), held);
        });
    }
}

fn unbounded() -> Terms {
    Terms::fixed(Instant::now() + Duration::from_secs(24 * 3600))
}

fn away() -> Failure {
    Failure::new(Reason::TokenUnavailable, "away")
}

#[test]
fn the_first_login_serves_all_who_wait_for_it() {
    let metrics = Metrics::new();
    explore(400, 10 * SECOND, move || {
        let metrics = metrics.clone();
        async move {
            let world = World::new(&metrics, []);
            let callers = [(); CALLERS].map(|()| world.caller());
            let leaver = world.leaver();
            for caller in callers {
                caller.await.unwrap().expect("the login succeeds");
            }
            leaver.await.unwrap();
            assert_eq!(world.logins(), 1);
            world.check_shown();
        }
    });
}

#[test]
fn whoever_waits_is_served_by_the_login_that_succeeds_after_others_failed() {
    let metrics = Metrics::new();
    explore(400, 10 * SECOND, move || {
        let metrics = metrics.clone();
        async move {
            let world = World::new(&metrics, [Err(away()), Err(away())]);
            let callers = [(); CALLERS].map(|()| world.caller());
            let leaver = world.leaver();
            for caller in callers {
                caller.await.unwrap().expect("it waits for three logins, and the third succeeds");
            }
            leaver.await.unwrap();
            assert_eq!(world.logins(), 3);
            world.check_shown();
        }
    });
}

#[test]
fn nobody_waits_for_more_logins_than_it_may() {
    let metrics = Metrics::new();
    explore(400, 60 * SECOND, move || {
        let metrics = metrics.clone();
        async move {
            // With a Retry-After that is near, so that only the count ends the wait.
            let failure = away().with_retry_after(Some(2 * SECOND));
            let world = World::new(&metrics, vec![Err(failure); 20]);
            let callers = [(); CALLERS].map(|()| world.caller());
            for caller in callers {
                assert_eq!(caller.await.unwrap().unwrap_err().reason, Reason::TokenUnavailable);
            }
            assert!((1..20).contains(&world.logins()));
        }
    });
}

#[test]
fn a_changed_secret_is_tried_at_once_and_serves_whoever_comes_after_it() {
    let metrics = Metrics::new();
    // The back-off is longer than what is explored: only the change can end it.
    explore(400, 60 * SECOND, move || {
        let metrics = metrics.clone();
        async move {
            let rejected =
                Failure::new(Reason::CredentialsRejected, "no").with_retry_after(Some(300 * SECOND));
            let world = World::new(&metrics, [Err(rejected)]);
            let early = [(); 2].map(|()| world.caller());
            sleep(Duration::from_millis(u64::from(choose(3)) * 100)).await;
            world.mend();
            let late = [(); 2].map(|()| world.caller());
            for caller in late {
                caller.await.unwrap().expect("the new secret is good");
            }
            for caller in early {
                if let Err(failure) = caller.await.unwrap() {
                    assert_eq!(failure.reason, Reason::CredentialsRejected);
                }
            }
            assert!(world.logins() <= 2);
            world.check_shown();
        }
    });
}

#[test]
fn whoever_waits_in_the_back_off_is_woken_by_a_changed_secret_and_by_its_own_terms() {
    let metrics = Metrics::new();
    explore(400, 2 * SECOND, move || {
        let metrics = metrics.clone();
        async move {
            let failure = away().with_retry_after(Some(Duration::from_millis(2400)));
            let world = World::new(&metrics, [Err(failure)]);
            let waiting = world.caller();
            // Its last waiter but one leaves, and the one that is left has less time.
            let (setter, mut terms) =
                terms::channel(Term { deadline: Instant::now() + 3600 * SECOND, is_poll: false });
            let tokens = Arc::clone(&world.tokens);
            let hurried = spawn(async move { tokens.get(&mut terms).await });
            let shorten = spawn(async move {
                sleep(Duration::from_millis(300)).await;
                setter.set(Term { deadline: Instant::now() + SECOND, is_poll: false });
            });
            shorten.await.unwrap();
            assert_eq!(hurried.await.unwrap().unwrap_err().reason, Reason::TokenUnavailable);
            world.mend();
            waiting.await.unwrap().expect("the login after the change succeeds");
            assert_eq!(world.logins(), 2);
        }
    });
}

/// What a call does with its token: it is refused with a 401, and retries once.
async fn refused_call(tokens: Arc<Tokens>, held: Arc<Held>) {
    assert_eq!(tokens.refused(held.generation), Verdict::Retry);
    let shown = tokens.current.load_full().map(|held| held.generation);
    assert_ne!(shown, Some(held.generation), "what was refused is shown to nobody");
    let again = tokens.get(&mut unbounded()).await.expect("the login succeeds");
    assert_ne!(again.generation, held.generation);
    tokens.retried(again.generation, true);
}

#[test]
fn a_401_has_a_login_made_at_once() {
    let metrics = Metrics::new();
    // Nothing else is due in that time.
    explore(300, 60 * SECOND, move || {
        let metrics = metrics.clone();
        async move {
            let world = World::new(&metrics, []);
            let first = world.caller().await.unwrap().expect("the login succeeds");
            let calls =
                [(); CALLERS].map(|()| spawn(refused_call(Arc::clone(&world.tokens), Arc::clone(&first))));
            for call in calls {
                call.await.unwrap();
            }
            assert_eq!(world.logins(), 2);
            world.check_shown();
        }
    });
}

#[test]
fn the_401s_on_one_token_cost_one_login_also_beside_its_renewal() {
    let metrics = Metrics::new();
    explore(600, SECOND, move || {
        let metrics = metrics.clone();
        async move {
            let world = World::new(&metrics, [Ok(40.0), Ok(40.0)]);
            let first = world.caller().await.unwrap().expect("the login succeeds");
            // It is renewed 10 s before its end, the one after it not before 20 s after that.
            let at = first.ends - 10 * SECOND;
            clock::goes_on_for(at + 19 * SECOND - Instant::now());
            let calls = [(); CALLERS].map(|()| {
                let (tokens, held) = (Arc::clone(&world.tokens), Arc::clone(&first));
                spawn(async move {
                    // Before the renewal, as it begins, while it is under way, as it ends, or after.
                    let early = Duration::from_millis(100);
                    sleep_until(at - early + u64::from(choose(4)) as u32 * early).await;
                    refused_call(tokens, held).await;
                })
            });
            for call in calls {
                call.await.unwrap();
            }
            assert_eq!(world.logins(), 2);
            world.check_shown();
            let is_told = world.health.subscribe().wait_for(|standing| standing.is_serving()).await.is_ok();
            assert!(is_told);
            // It is an older one's 401 now, whoever comes with it.
            assert_eq!(world.tokens.refused(first.generation), Verdict::Retry);
            world.check_shown();
            assert!(world.tokens.current.load_full().is_some());
        }
    });
}

#[test]
fn callers_are_served_through_a_renewal_that_fails_and_one_that_succeeds() {
    let metrics = Metrics::new();
    explore(300, SECOND, move || {
        let metrics = metrics.clone();
        async move {
            let world = World::new(&metrics, [Ok(40.0), Err(away()), Ok(40.0)]);
            let first = world.caller().await.unwrap().expect("the login succeeds");
            clock::goes_on_for(first.ends + 2 * SECOND - Instant::now());
            let callers = [(); CALLERS].map(|()| {
                let (tokens, ends) = (Arc::clone(&world.tokens), first.ends);
                spawn(async move {
                    sleep_until(ends - 11 * SECOND + choose(12) * SECOND).await;
                    let held = tokens.get(&mut unbounded()).await.expect("one is alive all the time");
                    assert!(held.ends > Instant::now() || Instant::now() >= ends);
                })
            });
            for caller in callers {
                caller.await.unwrap();
            }
            world.check_shown();
        }
    });
}
