//! The hub under every order of its callers' steps that the explorer comes to: whoever waits is told, no call goes on for
//! nobody, no poller without a watcher and no watcher without a poller.

mod seams;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex as Script, MutexGuard};

use shuttle::future::{JoinHandle, spawn};

use super::*;
use crate::metrics::Metrics;
use crate::sync::woven::choose;
use crate::sync::woven::explorer::explore;
use crate::sync::{sleep, timeout};
use crate::task::failure::Reason;
use crate::task::{Answer, State};

const SECOND: Duration = Duration::from_secs(1);
const CONFIG: Config = Config {
    done_cache_ttl: Duration::from_secs(300),
    cache_capacity: 1000,
    poll_min: SECOND,
    poll_max: Duration::from_secs(15),
    watch_give_up: Duration::from_secs(3600),
    request_timeout: Duration::from_secs(3600),
};

/// What the vendor does with a call.
#[derive(Clone, Debug)]
enum Reply {
    State(&'static str),
    Failure(Reason),
    Panic,
    Never,
}

/// A vendor that replies as scripted, then in one way for ever, each time after a while.
#[derive(Debug)]
struct Vendor {
    under_way: AtomicUsize,
    script: Script<VecDeque<Reply>>,
    then: Reply,
}

impl Vendor {
    fn script(&self) -> MutexGuard<'_, VecDeque<Reply>> {
        self.script.lock().expect("nobody panics under it")
    }
}

struct UnderWay(Arc<Vendor>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::SeqCst);
    }
}

#[derive(Clone, Debug)]
struct ToVendor(Arc<Vendor>);

impl Upstream for ToVendor {
    fn query_task(&self, _: TaskId, terms: Terms) -> BoxFuture<'static, Result<Observation, Failure>> {
        let vendor = Arc::clone(&self.0);
        Box::pin(async move {
            vendor.under_way.fetch_add(1, Ordering::SeqCst);
            let _under_way = UnderWay(Arc::clone(&vendor));
            let began = Instant::now();
            terms.try_begins(began);
            sleep(SECOND / 10).await;
            let reply = vendor.script().pop_front().unwrap_or_else(|| vendor.then.clone());
            match reply {
                Reply::State(raw_status) => {
                    let state = State { raw_status: raw_status.to_owned(), ..State::default() };
                    let answer = Answer::new(state, String::new(), crate::clock::wall_now());
                    Ok(Observation { answer: Arc::new(answer), began })
                }
                Reply::Failure(reason) => Err(Failure::new(reason, "as scripted")),
                // Without the panic's hook, which takes every panic for the end of the exploration.
                Reply::Panic => std::panic::resume_unwind(Box::new("as scripted")),
                Reply::Never => std::future::pending().await,
            }
        })
    }

    fn polls_may_start(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// Rights that tell how often they were asked for: once by each poller, as they are never lost.
#[derive(Debug, Default)]
struct Counted {
    rights: right::Memory,
    asked: AtomicUsize,
}

impl right::Rights for Counted {
    fn acquire(&self, task: &TaskId) -> BoxFuture<'_, Result<Box<dyn right::Right>, SeamError>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.rights.acquire(task)
    }
}

#[derive(Clone)]
struct World {
    vendor: Arc<Vendor>,
    hub: Hub,
    rights: Arc<Counted>,
}

impl World {
    fn new(metrics: &Metrics, script: impl IntoIterator<Item = Reply>, then: Reply) -> Self {
        let script = Script::new(script.into_iter().collect());
        let vendor = Arc::new(Vendor { under_way: AtomicUsize::new(0), script, then });
        let upstream = Arc::new(ToVendor(Arc::clone(&vendor)));
        let rights = Arc::new(Counted::default());
        let seams = Seams { rights: Arc::clone(&rights) as Arc<dyn right::Rights>, ..Seams::in_memory() };
        let hub = Hub::new(CONFIG, upstream, seams, metrics.clone());
        Self { vendor, hub, rights }
    }

    /// A caller who asks after a while that is drawn, and whose deadline does not come.
    fn query(&self, freshness: Freshness) -> JoinHandle<Result<Answered, Failure>> {
        let hub = self.hub.clone();
        spawn(async move {
            dawdle().await;
            hub.query(&id(), freshness, caller()).await
        })
    }

    /// A caller who asks after a while that is drawn, and leaves after another.
    fn query_and_leave(&self) -> JoinHandle<()> {
        let hub = self.hub.clone();
        spawn(async move {
            dawdle().await;
            let patience = u32::from(choose(4) != 0) * choose(4) * SECOND / 20;
            let _ = timeout(patience, hub.query(&id(), Freshness::Shared, caller())).await;
        })
    }

    /// A watcher who comes after a while that is drawn, and stays to the end: gives what it saw, and why it ended.
    fn watch(&self) -> JoinHandle<(Vec<String>, Option<Failure>)> {
        let hub = self.hub.clone();
        spawn(async move {
            dawdle().await;
            match hub.watch(&id(), WatchDemand { interval: None, deadline: None }, caller()).await {
                Ok(watch) => see(watch).await,
                Err(failure) => (Vec::new(), Some(failure)),
            }
        })
    }

    /// A watcher who leaves after a while that is drawn, whatever it has come to; gives why it ended before, if for a
    /// failure.
    fn watch_and_leave(&self) -> JoinHandle<Option<Failure>> {
        let hub = self.hub.clone();
        spawn(async move {
            dawdle().await;
            let demand = WatchDemand { interval: None, deadline: None };
            let watch = async {
                match hub.watch(&id(), demand, caller()).await {
                    Ok(watch) => see(watch).await.1,
                    Err(failure) => Some(failure),
                }
            };
            timeout(choose(5) * SECOND / 2, watch).await.ok().flatten()
        })
    }

    /// Waits for the end of all work, which must come when nobody wants anything, and checks that nothing is left.
    async fn close(&self) {
        self.hub.closed().await;
        assert!(self.hub.is_idle());
        assert_eq!(self.vendor.under_way.load(Ordering::SeqCst), 0);
    }
}

/// Some time or none: less than a call takes, as much, or more.
async fn dawdle() {
    let wait = choose(4) * SECOND / 20;
    if !wait.is_zero() {
        sleep(wait).await;
    }
}

async fn see(watch: Watch) -> (Vec<String>, Option<Failure>) {
    let mut seen = vec![watch.first.state().raw_status.clone()];
    let Some(mut later) = watch.later else { return (seen, None) };
    loop {
        // Looks before it waits, as the state may be another by now.
        let shown = later.now().expect("a state is shown before a change is");
        seen.push(shown.observation.state().raw_status.clone());
        if shown.end.is_some() || shown.observation.state().is_done() {
            return (seen, shown.end);
        }
        if let Err(failure) = later.changed().await {
            return (seen, Some(failure));
        }
    }
}

fn id() -> TaskId {
    TaskId::parse("1659446191820726274").expect("a valid id")
}

fn caller() -> Caller {
    let arrived = Instant::now();
    Caller { arrived, deadline: arrived + 1800 * SECOND, is_own_deadline: true }
}

#[test]
fn the_last_to_leave_takes_the_call_along() {
    let metrics = Metrics::new();
    explore(400, 10 * SECOND, move || {
        let metrics = metrics.clone();
        async move {
            let world = World::new(&metrics, [], Reply::Never);
            for leaver in [(); 3].map(|()| world.query_and_leave()) {
                leaver.await.unwrap();
            }
            world.close().await;
        }
    });
}

#[test]
fn whoever_stays_is_told_however_the_call_ends_and_whoever_leaves() {
    let metrics = Metrics::new();
    explore(400, 10 * SECOND, move || {
        let metrics = metrics.clone();
        async move {
            let replies = [Reply::State("DOING"), Reply::Failure(Reason::UpstreamForbidden), Reply::Panic];
            let reply = replies[choose(3) as usize].clone();
            let world = World::new(&metrics, [], reply.clone());
            let within = Freshness::Within(SECOND / 20);
            let stay = [Freshness::Shared, Freshness::New, within].map(|freshness| world.query(freshness));
            let (leaver, watcher) = (world.query_and_leave(), world.watch_and_leave());
            for query in stay {
                match (query.await.unwrap(), &reply) {
                    (Ok(answered), Reply::State(status)) => {
                        assert_eq!(answered.observation.state().raw_status, *status);
                    }
                    (Err(failure), Reply::Failure(reason)) => assert_eq!(failure.reason, *reason),
                    (Err(failure), Reply::Panic) => assert_eq!(failure.reason, Reason::GatewayDefect),
                    (outcome, reply) => panic!("{outcome:?} where the vendor's reply is {reply:?}"),
                }
            }
            leaver.await.unwrap();
            watcher.await.unwrap();
            world.close().await;
        }
    });
}

#[test]
fn when_the_time_is_up_all_are_told_who_wait_and_who_come() {
    let metrics = Metrics::new();
    explore(400, 10 * SECOND, move || {
        let metrics = metrics.clone();
        async move {
            let world = World::new(&metrics, [], Reply::Never);
            let queries =
                [Freshness::Shared, Freshness::New, Freshness::Shared].map(|fresh| world.query(fresh));
            let watcher = world.watch_and_leave();
            dawdle().await;
            world.hub.end();
            for query in queries {
                assert_eq!(query.await.unwrap().unwrap_err().reason, Reason::ShuttingDown);
            }
            watcher.await.unwrap();
            world.close().await;
        }
    });
}

#[test]
fn whoever_watches_sees_the_end_and_the_poller_ends_with_it() {
    let metrics = Metrics::new();
    explore(300, 600 * SECOND, move || {
        let metrics = metrics.clone();
        async move {
            // In alphabetical order up to DONE: an order that is wrong is seen at a glance. Polls fail in between.
            let away = Reply::Failure(Reason::UpstreamUnavailable);
            let world =
                World::new(&metrics, [Reply::State("A"), away, Reply::State("B")], Reply::State("DONE"));
            // Whoever is first has the first answer; the others need not ask.
            let first =
                world.hub.watch(&id(), WatchDemand { interval: None, deadline: None }, caller()).await;
            let first = spawn(see(first.expect("the first call succeeds")));
            let (stays, leaves) = (world.watch(), world.watch_and_leave());
            let query = world.query(Freshness::Within(SECOND));
            for watcher in [first, stays] {
                let (seen, end) = watcher.await.unwrap();
                assert_eq!(end, None, "{seen:?}");
                assert!(seen.is_sorted(), "{seen:?}");
                assert_eq!(seen.last().map(String::as_str), Some("DONE"));
            }
            leaves.await.unwrap();
            let _ = query.await.unwrap();
            world.close().await;
            assert_eq!(world.rights.asked.load(Ordering::SeqCst), 1, "one poller for all");
        }
    });
}

#[test]
fn whoever_comes_as_the_poller_ends_has_a_new_one_or_is_told() {
    let metrics = Metrics::new();
    explore(400, 600 * SECOND, move || {
        let metrics = metrics.clone();
        async move {
            // The second call, a poll for those who are there, ends the watch. Calls after it are of those who came then.
            let forbidden = Reply::Failure(Reason::UpstreamForbidden);
            let script = [Reply::State("A"), forbidden.clone(), Reply::State("B"), Reply::State("C")];
            let world = World::new(&metrics, script, Reply::State("DONE"));
            let early = world.watch();
            let hub = world.hub.clone();
            let late = spawn(async move {
                // The first call takes 100 ms, and its poll begins 1 s later.
                sleep(SECOND + (1 + choose(3)) * SECOND / 10).await;
                match hub.watch(&id(), WatchDemand { interval: None, deadline: None }, caller()).await {
                    Ok(watch) => see(watch).await,
                    Err(failure) => (Vec::new(), Some(failure)),
                }
            });
            let leaves = world.watch_and_leave();
            for watcher in [early, late] {
                let (seen, end) = watcher.await.unwrap();
                match end {
                    Some(failure) => assert_eq!(failure.reason, Reason::UpstreamForbidden),
                    None => assert_eq!(seen.last().map(String::as_str), Some("DONE")),
                }
            }
            leaves.await.unwrap();
            world.close().await;
        }
    });
}

#[test]
fn the_poller_ends_when_the_last_watcher_leaves_also_as_another_comes() {
    let metrics = Metrics::new();
    explore(400, 30 * SECOND, move || {
        let metrics = metrics.clone();
        async move {
            let world = World::new(&metrics, [], Reply::State("DOING"));
            for leaver in [(); 3].map(|()| world.watch_and_leave()) {
                assert_eq!(leaver.await.unwrap(), None);
            }
            world.close().await;
        }
    });
}

#[test]
fn the_poller_ends_when_the_last_deadline_has_passed_though_nobody_reads() {
    let metrics = Metrics::new();
    explore(300, 30 * SECOND, move || {
        let metrics = metrics.clone();
        async move {
            let world = World::new(&metrics, [], Reply::State("DOING"));
            let stalled = [1, 2].map(|half_seconds| {
                let hub = world.hub.clone();
                spawn(async move {
                    dawdle().await;
                    let deadline = Some(Instant::now() + half_seconds * SECOND / 2);
                    hub.watch(&id(), WatchDemand { interval: None, deadline }, caller()).await
                })
            });
            let mut held = Vec::new();
            for watcher in stalled {
                held.push(watcher.await.unwrap().expect("the call succeeds"));
            }
            world.close().await;
            drop(held);
        }
    });
}
