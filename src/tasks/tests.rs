//! The hub on paused time: sharing, leaving, remembering, watching; over the memory seams and over ones that are far
//! away, fail, and revoke.

mod far;
mod memory;
mod polling;
mod turns;
mod watching;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::FutureExt as _;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::*;
use crate::metrics::{Metrics, Source};
use crate::task::failure::Reason;
use crate::task::{Answer, State};

const CONFIG: Config = Config {
    done_cache_ttl: Duration::from_secs(300),
    cache_capacity: 1000,
    poll_min: Duration::from_secs(1),
    poll_max: Duration::from_secs(15),
    watch_give_up: Duration::from_secs(60),
    request_timeout: Duration::from_secs(30),
};

/// A vendor that answers as scripted, then with its last state for ever; each answer may be held back.
#[derive(Debug)]
struct Vendor {
    begun: AtomicUsize,
    /// Calls that were given up before they ended.
    dropped: AtomicUsize,
    under_way: AtomicUsize,
    script: Mutex<VecDeque<Result<&'static str, Failure>>>,
    state: Mutex<String>,
    terms: Mutex<Vec<Terms>>,
    gate: Semaphore,
}

#[derive(Debug)]
struct UnderWay<'a>(&'a Vendor, bool);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::SeqCst);
        self.0.dropped.fetch_add(usize::from(!self.1), Ordering::SeqCst);
    }
}

#[derive(Clone, Debug)]
struct ToVendor(Arc<Vendor>);

impl Upstream for ToVendor {
    fn query_task(&self, _: TaskId, terms: Terms) -> BoxFuture<'static, Result<Observation, Failure>> {
        let vendor = Arc::clone(&self.0);
        Box::pin(async move {
            vendor.begun.fetch_add(1, Ordering::SeqCst);
            vendor.under_way.fetch_add(1, Ordering::SeqCst);
            let mut under_way = UnderWay(&vendor, false);
            let began = Instant::now();
            terms.try_begins(began);
            vendor.terms.lock().unwrap().push(terms);
            vendor.gate.acquire().await.unwrap().forget();
            under_way.1 = true;
            let next = vendor.script.lock().unwrap().pop_front();
            match next {
                Some(Err(failure)) if failure.detail == "panic" => panic!("on purpose"),
                Some(Err(failure)) => return Err(failure),
                Some(Ok(state)) => state.clone_into(&mut vendor.state.lock().unwrap()),
                None => {}
            }
            let raw_status = vendor.state.lock().unwrap().clone();
            let state = State { raw_status, ..State::default() };
            let answer = Answer::new(state, String::new(), crate::clock::wall_now());
            Ok(Observation { answer: Arc::new(answer), began })
        })
    }

    fn polls_may_start(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

struct World {
    vendor: Arc<Vendor>,
    hub: Hub,
    metrics: Metrics,
}

fn world_over(seams: Seams, script: Vec<Result<&'static str, Failure>>, gate: usize) -> World {
    world_of(CONFIG, seams, script, gate)
}

fn world_of(config: Config, seams: Seams, script: Vec<Result<&'static str, Failure>>, gate: usize) -> World {
    let vendor = Arc::new(Vendor {
        begun: AtomicUsize::new(0),
        dropped: AtomicUsize::new(0),
        under_way: AtomicUsize::new(0),
        script: Mutex::new(script.into()),
        state: Mutex::new("DOING".into()),
        terms: Mutex::new(Vec::new()),
        gate: Semaphore::new(gate),
    });
    let metrics = Metrics::new();
    let hub = Hub::new(config, Arc::new(ToVendor(Arc::clone(&vendor))), seams, metrics.clone());
    World { vendor, hub, metrics }
}

/// Answers at once.
const OPEN: usize = 1_000_000;

fn world(script: Vec<Result<&'static str, Failure>>, gate: usize) -> World {
    world_over(Seams::in_memory(), script, gate)
}

fn id() -> TaskId {
    TaskId::parse("1659446191820726274").unwrap()
}

fn caller(secs: u64) -> Caller {
    let arrived = Instant::now();
    Caller { arrived, deadline: arrived + Duration::from_secs(secs), is_own_deadline: true }
}

fn asks(interval: Option<f64>) -> WatchDemand {
    WatchDemand { interval: interval.map(Duration::from_secs_f64), deadline: None }
}

fn away() -> Failure {
    Failure::new(Reason::UpstreamUnavailable, "away")
}

async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

impl World {
    async fn query(&self, freshness: Freshness) -> Result<Answered, Failure> {
        self.hub.query(&id(), freshness, caller(20)).await
    }

    async fn watch(&self, interval: Option<f64>) -> Result<Watch, Failure> {
        self.hub.watch(&id(), asks(interval), caller(20)).await
    }

    fn begun(&self) -> usize {
        self.vendor.begun.load(Ordering::SeqCst)
    }

    fn is_idle(&self) -> bool {
        self.hub.is_idle() && self.vendor.under_way.load(Ordering::SeqCst) == 0
    }

    fn gauge(&self, name: &str) -> String {
        let text = self.metrics.render();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.rsplit(' ').next().unwrap_or_default().to_owned()
    }
}

#[tokio::test(start_paused = true)]
async fn overlapping_calls_share_one_and_only_new_ones_begin() {
    let world = world(vec![], 0);
    let mut first = Box::pin(world.query(Freshness::Shared));
    let mut second = Box::pin(world.query(Freshness::Shared));
    let mut within = Box::pin(world.query(Freshness::Within(Duration::from_secs(5))));
    assert!((&mut first).now_or_never().is_none() && (&mut second).now_or_never().is_none());
    settle().await;
    assert!((&mut within).now_or_never().is_none());
    let mut new = Box::pin(world.query(Freshness::New));
    let mut newer = Box::pin(world.query(Freshness::New));
    assert!((&mut new).now_or_never().is_none() && (&mut newer).now_or_never().is_none());
    settle().await;
    assert_eq!(world.begun(), 3);
    world.vendor.gate.add_permits(3);
    let sources =
        [first.await, second.await, within.await, new.await, newer.await].map(|it| it.unwrap().source);
    assert_eq!(
        sources,
        [Source::Upstream, Source::Shared, Source::Shared, Source::Upstream, Source::Upstream]
    );
    assert!(world.is_idle());
}

#[tokio::test(start_paused = true)]
async fn a_call_goes_on_to_the_latest_deadline_and_dies_with_its_last_waiter() {
    let world = world(vec![], 0);
    let start = Instant::now();
    let id = id();
    let mut patient = Box::pin(world.hub.query(&id, Freshness::Shared, caller(60)));
    let mut hasty = Box::pin(world.hub.query(&id, Freshness::Shared, caller(3)));
    assert!((&mut patient).now_or_never().is_none() && (&mut hasty).now_or_never().is_none());
    settle().await;
    let deadline = || (world.vendor.terms.lock().unwrap()[0].now().deadline - start).as_secs();
    assert_eq!(deadline(), 60);
    assert_eq!(hasty.await.unwrap_err().reason, Reason::Deadline);
    assert_eq!(start.elapsed().as_secs(), 3);
    settle().await;
    assert_eq!((world.begun(), world.vendor.dropped.load(Ordering::SeqCst)), (1, 0));
    let mut late = Box::pin(world.hub.query(&id, Freshness::Shared, caller(10)));
    assert!((&mut late).now_or_never().is_none());
    drop(patient);
    settle().await;
    assert_eq!(deadline(), 13);
    drop(late);
    settle().await;
    assert_eq!((world.begun(), world.vendor.dropped.load(Ordering::SeqCst)), (1, 1));
    assert!(world.is_idle());
}

#[tokio::test(start_paused = true)]
async fn memory_answers_what_is_fresh_enough() {
    let world = world(vec![Ok("DOING"), Ok("DONE")], OPEN);
    let ask = async |freshness| world.query(freshness).await.unwrap().source;
    let within = |secs| Freshness::Within(Duration::from_secs(secs));
    assert_eq!(ask(Freshness::Shared).await, Source::Upstream);
    tokio::time::advance(Duration::from_secs(5)).await;
    assert_eq!(ask(within(5)).await, Source::Cache);
    assert_eq!(ask(within(4)).await, Source::Upstream);
    tokio::time::advance(Duration::from_secs(300)).await;
    assert_eq!(ask(Freshness::Shared).await, Source::Cache);
    assert_eq!(ask(Freshness::New).await, Source::Upstream);
    tokio::time::advance(Duration::from_secs(301)).await;
    assert_eq!(ask(Freshness::Shared).await, Source::Upstream);
    assert_eq!(world.gauge("federation_answers_total{source=\"cache\"}"), "2");
    // A deadline that has passed costs nothing, whatever memory has.
    let past = Caller { deadline: Instant::now(), ..caller(0) };
    let failure = world.hub.query(&id(), within(5), past).await.unwrap_err();
    assert_eq!((failure.reason, world.begun()), (Reason::Deadline, 4));
}

#[tokio::test(start_paused = true)]
async fn a_panic_upstream_is_its_callers_failure_and_nobody_elses() {
    let world = world(vec![Err(Failure::new(Reason::GatewayDefect, "panic"))], OPEN);
    assert_eq!(world.query(Freshness::Shared).await.unwrap_err().reason, Reason::GatewayDefect);
    assert!(world.query(Freshness::Shared).await.is_ok());
    assert!(world.is_idle());
}

#[tokio::test(start_paused = true)]
async fn a_polls_call_is_a_querys_too_for_as_long_as_one_waits_for_it() {
    let world = world(vec![], 1);
    let watch = world.watch(None).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let is_poll = || world.vendor.terms.lock().unwrap()[1].now().is_poll;
    assert!(is_poll());
    let id = id();
    let mut queries = [(), ()].map(|()| Box::pin(world.hub.query(&id, Freshness::Shared, caller(20))));
    for query in &mut queries {
        assert!(query.now_or_never().is_none());
        assert!(!is_poll());
    }
    let [first, second] = queries;
    drop(first);
    assert!(!is_poll());
    drop(second);
    assert!(is_poll());
    assert_eq!((world.begun(), world.vendor.dropped.load(Ordering::SeqCst)), (2, 0));
    drop(watch);
}

#[tokio::test(start_paused = true)]
async fn whoever_joins_joins_the_call_that_began_last_whichever_has_ended() {
    let world = world(vec![], 0);
    let mut begun = Vec::new();
    for _ in 0..3 {
        let mut query = Box::pin(world.query(Freshness::New));
        assert!((&mut query).now_or_never().is_none());
        tokio::time::sleep(Duration::from_secs(1)).await;
        begun.push(query);
    }
    let mut begun = begun.into_iter();
    world.vendor.gate.add_permits(1);
    begun.next().unwrap().await.unwrap();
    let mut joined = Box::pin(world.query(Freshness::Shared));
    assert!((&mut joined).now_or_never().is_none());
    world.vendor.gate.add_permits(2);
    let second = begun.next().unwrap().await.unwrap().observation.began;
    let last = begun.next().unwrap().await.unwrap().observation.began;
    let joined = joined.await.unwrap();
    assert_eq!((joined.source, joined.observation.began), (Source::Shared, last));
    assert!(second < last);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_ended_before_it_was_begun_leaves_nothing() {
    let world = world(vec![], 0);
    let mut query = Box::pin(world.query(Freshness::Shared));
    assert!((&mut query).now_or_never().is_none());
    world.hub.end();
    assert_eq!(query.await.unwrap_err().reason, Reason::ShuttingDown);
    world.hub.closed().await;
    assert!(world.is_idle());
    assert_eq!(world.begun(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_hub_is_closed_when_the_last_call_is_over() {
    let world = world(vec![], 0);
    let mut query = Box::pin(world.query(Freshness::Shared));
    assert!((&mut query).now_or_never().is_none());
    let mut closed = Box::pin(world.hub.closed());
    settle().await;
    assert!((&mut closed).now_or_never().is_none());
    world.vendor.gate.add_permits(1);
    query.await.unwrap();
    closed.await;
    assert!(world.is_idle());
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_waits_sees_what_another_call_brought() {
    /// The first call is never answered.
    #[derive(Debug)]
    struct Stuck(AtomicUsize, ToVendor);
    impl Upstream for Stuck {
        fn query_task(&self, task: TaskId, terms: Terms) -> BoxFuture<'static, Result<Observation, Failure>> {
            if self.0.fetch_add(1, Ordering::SeqCst) == 0 {
                return Box::pin(std::future::pending());
            }
            self.1.query_task(task, terms)
        }
        fn polls_may_start(&self) -> BoxFuture<'_, ()> {
            self.1.polls_may_start()
        }
    }
    for state in ["DONE", "DOING"] {
        let World { vendor, metrics, .. } = world(vec![Ok(state)], OPEN);
        let stuck = Stuck(AtomicUsize::new(0), ToVendor(vendor));
        let hub = Hub::new(CONFIG, Arc::new(stuck), Seams::in_memory(), metrics);
        let id = id();
        let mut watch = Box::pin(hub.watch(&id, asks(None), caller(20)));
        assert!((&mut watch).now_or_never().is_none());
        settle().await;
        hub.query(&id, Freshness::New, caller(20)).await.unwrap();
        let watch = watch.await.unwrap();
        assert_eq!(watch.first.state().raw_status, state);
        drop(watch);
        settle().await;
        assert!(hub.is_idle());
    }
}

#[tokio::test(start_paused = true)]
async fn those_who_join_during_a_poll_have_its_answer() {
    let world = world(vec![], 1);
    let first = world.watch(Some(1.0)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(world.begun(), 2, "the second poll takes its time");
    let mut joined = Vec::new();
    for _ in 0..10 {
        joined.push(world.watch(Some(1.0)).await.unwrap());
    }
    world.vendor.gate.add_permits(1);
    tokio::time::sleep(Duration::from_millis(900)).await;
    assert_eq!(world.begun(), 2, "no poll follows at its heels");
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(world.begun(), 3);
    drop((first, joined));
}

/// What one watcher sees to its end, which comes within the day: raw statuses, and the failure if it ends with one.
async fn see(watch: Watch) -> (Vec<String>, Option<Failure>) {
    let day = Duration::from_secs(24 * 3600);
    tokio::time::timeout(day, see_all(watch)).await.expect("nobody watches for ever")
}

async fn see_all(watch: Watch) -> (Vec<String>, Option<Failure>) {
    let mut seen = vec![watch.first.state().raw_status.clone()];
    let Some(mut later) = watch.later else { return (seen, None) };
    loop {
        if let Err(failure) = later.changed().await {
            return (seen, Some(failure));
        }
        let shown = later.now().expect("a state is shown before a change is");
        let status = shown.observation.state().raw_status.clone();
        if seen.last() != Some(&status) {
            seen.push(status);
        }
        if shown.end.is_some() || shown.observation.state().is_done() {
            return (seen, shown.end);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn two_hundred_watchers_cost_the_polls_of_one() {
    let world = world(vec![Ok("TODO"), Ok("TODO"), Ok("DOING"), Ok("DOING"), Ok("DONE")], OPEN);
    let start = Instant::now();
    let mut watchers = JoinSet::new();
    for _ in 0..200 {
        watchers.spawn(see(world.watch(None).await.unwrap()));
    }
    assert_eq!(world.gauge("federation_watchers"), "200");
    assert_eq!(world.gauge("federation_pollers"), "1");
    for seen in watchers.join_all().await {
        assert_eq!(seen, (vec!["TODO".into(), "DOING".into(), "DONE".into()], None));
    }
    // 0, +1 (same), +2 (changed), +1 (same), +2 (DONE).
    assert_eq!((world.begun(), start.elapsed().as_secs()), (5, 6));
    settle().await;
    assert!(world.is_idle());
    // Known DONE, it is answered from memory.
    assert!(world.watch(None).await.unwrap().later.is_none());
    assert_eq!(world.begun(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_poller_dies_with_its_last_watcher_also_in_mid_poll() {
    let world = world(vec![], 1);
    let [first, second] = [world.watch(None).await.unwrap(), world.watch(None).await.unwrap()];
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!((world.begun(), world.vendor.under_way.load(Ordering::SeqCst)), (2, 1));
    drop(first);
    settle().await;
    assert_eq!(world.vendor.dropped.load(Ordering::SeqCst), 0);
    drop(second);
    settle().await;
    assert_eq!(world.vendor.dropped.load(Ordering::SeqCst), 1);
    assert!(world.is_idle());
    assert_eq!(world.gauge("federation_pollers"), "0");
}

#[tokio::test(start_paused = true)]
async fn a_joiner_gets_the_last_answer_and_hurries_the_poller_if_that_is_too_old() {
    let world = world(vec![], OPEN);
    let slow = world.watch(Some(100.0)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(40)).await;
    assert_eq!(world.begun(), 1);
    let joined = world.watch(Some(50.0)).await.unwrap();
    assert_eq!(joined.first.began, slow.first.began);
    settle().await;
    assert_eq!(world.begun(), 1);
    tokio::time::sleep(Duration::from_millis(10_500)).await;
    assert_eq!(world.begun(), 2, "the smaller interval counts from the last poll's end");
    tokio::time::sleep(Duration::from_secs(20)).await;
    let _hasty = world.watch(Some(20.0)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(world.begun(), 3, "older than its own interval: due at once");
    // Queries with a fitting age are served from what the poller saw.
    assert_eq!(world.query(Freshness::Within(Duration::from_secs(1))).await.unwrap().source, Source::Cache);
    drop((slow, joined));
}

#[tokio::test(start_paused = true)]
async fn a_first_failure_is_the_watchers_and_later_ones_are_absorbed() {
    let forbidden = Failure::new(Reason::UpstreamForbidden, "no");
    let script = vec![
        Err(away()),
        Ok("DOING"),
        Err(away()),
        Err(away()),
        Ok("PAUSED"),
        Err(forbidden.clone()),
        Ok("DOING"),
    ];
    let world = world(script, OPEN);
    assert_eq!(world.watch(None).await.unwrap_err(), away());
    assert!(world.is_idle());
    let watch = world.watch(None).await.unwrap();
    assert_eq!(see(watch).await, (vec!["DOING".into(), "PAUSED".into()], Some(forbidden)));
    settle().await;
    assert!(world.is_idle());
    // Whoever comes then begins anew.
    assert_eq!(world.watch(None).await.unwrap().first.state().raw_status, "DOING");
}

#[tokio::test(start_paused = true)]
async fn a_watch_gives_up_in_time_also_in_mid_poll() {
    let world = world(vec![Ok("DOING"), Err(away())], 2);
    let watch = world.watch(None).await.unwrap();
    let start = Instant::now();
    // The second poll fails after 1 s; those after it are never answered, the third for its whole 30 s and the
    // fourth until 60 s after the first failure it is over.
    let (seen, end) = see(watch).await;
    assert_eq!((seen, end.unwrap().reason), (vec!["DOING".to_owned()], Reason::UpstreamUnreachable));
    assert_eq!(start.elapsed().as_secs(), 61);
    settle().await;
    assert!(world.is_idle());
}

#[tokio::test(start_paused = true)]
async fn a_poll_that_reaches_its_bound_is_absorbed() {
    let world = world(vec![Ok("DOING")], 1);
    let watch = world.watch(None).await.unwrap();
    tokio::time::sleep(Duration::from_secs(32)).await;
    world.vendor.script.lock().unwrap().push_back(Ok("DONE"));
    world.vendor.gate.add_permits(OPEN);
    assert_eq!(see(watch).await, (vec!["DOING".into(), "DONE".into()], None));
    assert_eq!(world.vendor.dropped.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_watcher_that_no_longer_reads_is_let_go_at_its_deadline() {
    let world = world(vec![], OPEN);
    let deadline = Some(Instant::now() + Duration::from_secs(10));
    let demand = WatchDemand { interval: Some(Duration::from_secs(1)), deadline };
    let stalled = world.hub.watch(&id(), demand, caller(10)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(11)).await;
    settle().await;
    let begun = world.begun();
    assert!(world.is_idle());
    assert_eq!(world.gauge("federation_watchers"), "0");
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(world.begun(), begun);
    drop(stalled);
}

#[tokio::test(start_paused = true)]
async fn watchers_feel_nothing_but_time_over_seams_that_are_far_fail_and_revoke() {
    for seed in 0..20 {
        let seams = far::seams(seed);
        // In alphabetical order up to DONE, so that a watcher's order is seen at a glance.
        let script = ["A", "A", "B", "B1", "B1", "C", "C1", "C1", "C2", "D"].map(Ok);
        let world = world_over(seams, script.into_iter().chain([Ok("DONE")]).collect(), OPEN);
        let mut watchers = JoinSet::new();
        for at in 0..20 {
            let hub = world.hub.clone();
            watchers.spawn(async move {
                tokio::time::sleep(Duration::from_millis(at * 150)).await;
                see(hub.watch(&id(), asks(Some(1.0)), caller(60)).await.unwrap()).await
            });
        }
        for (seen, end) in watchers.join_all().await {
            assert_eq!(end, None, "seed {seed}");
            assert!(seen.is_sorted(), "seed {seed}: {seen:?}");
            assert_eq!(seen.last().unwrap(), "DONE", "seed {seed}");
        }
        settle().await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(world.is_idle(), "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn when_the_time_is_up_whoever_waits_is_told_and_nobody_waits_any_more() {
    let World { vendor, hub, .. } = world(vec![], 0);
    let end = async {
        settle().await;
        assert_eq!(vendor.under_way.load(Ordering::SeqCst), 1);
        hub.end();
    };
    let task = id();
    let (waited, ()) = tokio::join!(hub.query(&task, Freshness::New, caller(60)), end);
    assert_eq!(waited.unwrap_err().reason, Reason::ShuttingDown);
    let late = hub.query(&id(), Freshness::Shared, caller(60)).await;
    assert_eq!(late.unwrap_err().reason, Reason::ShuttingDown);
    hub.closed().await;
    assert!(hub.is_idle());
    assert_eq!((vendor.begun.load(Ordering::SeqCst), vendor.dropped.load(Ordering::SeqCst)), (1, 1));
}
