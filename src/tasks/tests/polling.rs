//! When a poller polls, and when it must not: the right to, what the vendor holds back, and what is asked meanwhile.

use tokio::sync::watch;

use super::*;
use crate::tasks::feed::{Feed, Follow, Item, Order};
use crate::tasks::right::{Right, Rights};

/// One right to each task, had at once and given once; it can be taken away.
#[derive(Debug)]
struct Once {
    is_there: Mutex<bool>,
    is_lost: watch::Sender<bool>,
}

#[derive(Debug)]
struct Revocable(watch::Receiver<bool>);

impl Right for Revocable {
    fn epoch(&self) -> u64 {
        0
    }

    fn lost(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            self.0.wait_for(|is_lost| *is_lost).await.expect("the test holds the sender");
        })
    }
}

impl Rights for Once {
    fn acquire(&self, _: &TaskId) -> BoxFuture<'_, Result<Box<dyn Right>, SeamError>> {
        if !std::mem::take(&mut *self.is_there.lock().unwrap()) {
            return Box::pin(std::future::pending());
        }
        let right = Revocable(self.is_lost.subscribe());
        Box::pin(std::future::ready(Ok(Box::new(right) as Box<dyn Right>)))
    }
}

fn once(is_there: bool) -> (Arc<Once>, Seams) {
    let rights = Arc::new(Once { is_there: Mutex::new(is_there), is_lost: watch::Sender::new(false) });
    (Arc::clone(&rights), Seams { rights, ..Seams::in_memory() })
}

#[tokio::test(start_paused = true)]
async fn whoever_loses_the_right_polls_no_more_and_watches_on() {
    for is_in_mid_poll in [false, true] {
        let (rights, seams) = once(true);
        let world = world_over(seams.clone(), vec![], if is_in_mid_poll { 2 } else { OPEN });
        let watch = world.watch(Some(1.0)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(2500)).await;
        assert_eq!(world.begun(), 3);
        rights.is_lost.send_replace(true);
        settle().await;
        // Also what was under way is given up: whoever has the right now asks.
        assert_eq!(world.vendor.dropped.load(Ordering::SeqCst), usize::from(is_in_mid_poll));
        assert_eq!(world.gauge("federation_pollers"), "0");
        tokio::time::sleep(Duration::from_secs(100)).await;
        assert_eq!(world.begun(), 3);
        let state = State { raw_status: "DONE".into(), ..State::default() };
        let answer = Arc::new(Answer::new(state, String::new(), crate::clock::wall_now()));
        let order = Order { epoch: 1, number: 1 };
        let item = Item { order, answer, age: Duration::ZERO, end: None };
        seams.feed.publish(&id(), item).await.unwrap();
        assert_eq!(see(watch).await, (vec!["DOING".into(), "DONE".into()], None));
        settle().await;
        assert!(world.is_idle());
    }
}

#[tokio::test(start_paused = true)]
async fn a_deadline_lets_go_of_a_watcher_that_no_longer_reads_whatever_the_poller_does() {
    // It waits for its right, for the next poll, and for an answer.
    for (has_right, interval, gate) in [(false, 1, OPEN), (true, 60, OPEN), (true, 1, 1)] {
        let world = world_over(once(has_right).1, vec![], gate);
        let deadline = Some(Instant::now() + Duration::from_secs(10));
        let demand = WatchDemand { interval: Some(Duration::from_secs(interval)), deadline };
        let stalled = world.hub.watch(&id(), demand, caller(10)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(9900)).await;
        assert_eq!(world.gauge("federation_watchers"), "1");
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(world.gauge("federation_watchers"), "0", "{has_right} {interval}");
        settle().await;
        assert!(world.is_idle());
        drop(stalled);
    }
}

#[tokio::test(start_paused = true)]
async fn a_watch_gives_up_in_time_though_no_poll_is_due() {
    let away = away().with_retry_after(Some(Duration::from_secs(300)));
    let world = world(vec![Ok("DOING"), Err(away)], OPEN);
    let start = Instant::now();
    let (_, end) = see(world.watch(None).await.unwrap()).await;
    assert_eq!((start.elapsed().as_secs(), world.begun()), (61, 2));
    assert_eq!(end.unwrap().retry_after, Some(Duration::from_secs(240)));
}

#[tokio::test(start_paused = true)]
async fn a_poll_waits_for_as_long_as_polls_are_held_back() {
    #[derive(Debug)]
    struct Holding(ToVendor, watch::Sender<bool>);
    impl Upstream for Holding {
        fn query_task(&self, task: TaskId, terms: Terms) -> BoxFuture<'static, Result<Observation, Failure>> {
            self.0.query_task(task, terms)
        }
        fn polls_may_start(&self) -> BoxFuture<'_, ()> {
            Box::pin(async {
                self.1.subscribe().wait_for(|may| *may).await.expect("self holds the sender");
            })
        }
    }
    let World { vendor, metrics, .. } = world(vec![], OPEN);
    let holding = Arc::new(Holding(ToVendor(Arc::clone(&vendor)), watch::Sender::new(false)));
    let hub = Hub::new(CONFIG, Arc::clone(&holding) as Arc<dyn Upstream>, Seams::in_memory(), metrics);
    let begun = || vendor.begun.load(Ordering::SeqCst);
    let _watch = hub.watch(&id(), asks(Some(1.0)), caller(20)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!(begun(), 1, "the first answer was a query's");
    holding.1.send_replace(true);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(begun(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_interval_below_poll_min_hurries_nobody() {
    let world = world(vec![], OPEN);
    let _first = world.watch(Some(1.0)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let _hasty = world.watch(Some(0.1)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert_eq!(world.begun(), 1);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(world.begun(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_task_that_is_done_at_the_first_look_is_never_polled() {
    let world = world(vec![Ok("DONE")], OPEN);
    let _stays = world.watch(None).await.unwrap();
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!((world.begun(), &*world.gauge("federation_pollers")), (1, "0"));
}

/// A feed that is lost again and again, and of which each reader gets what is told it, older things too.
#[derive(Debug)]
struct Fickle {
    items: Mutex<Vec<Item>>,
    followed: AtomicUsize,
}

#[derive(Debug)]
struct FickleFollower(Vec<Item>);

impl Follow for FickleFollower {
    fn next(&mut self) -> BoxFuture<'_, Result<Item, SeamError>> {
        Box::pin(std::future::ready(self.0.pop().ok_or(SeamError)))
    }
}

impl Feed for Fickle {
    fn publish(&self, _: &TaskId, _: Item) -> BoxFuture<'_, Result<(), SeamError>> {
        Box::pin(std::future::ready(Err(SeamError)))
    }

    fn follow(&self, _: &TaskId) -> BoxFuture<'_, Result<Box<dyn Follow>, SeamError>> {
        self.followed.fetch_add(1, Ordering::SeqCst);
        let follower = FickleFollower(std::mem::take(&mut *self.items.lock().unwrap()));
        Box::pin(std::future::ready(Ok(Box::new(follower) as Box<dyn Follow>)))
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_feed_is_followed_again_at_a_walk_and_what_it_tells_late_is_not_shown() {
    let item = |status: &str, epoch, number| {
        let state = State { raw_status: status.into(), ..State::default() };
        let answer = Arc::new(Answer::new(state, String::new(), crate::clock::wall_now()));
        Item { order: Order { epoch, number }, answer, age: Duration::ZERO, end: None }
    };
    let feed = Arc::new(Fickle { items: Mutex::default(), followed: AtomicUsize::new(0) });
    let seams = Seams { feed: Arc::clone(&feed) as Arc<dyn Feed>, ..once(false).1 };
    let world = world_over(seams, vec![], OPEN);
    let watch = world.watch(None).await.unwrap();
    tokio::time::sleep(Duration::from_millis(10_500)).await;
    assert_eq!(feed.followed.load(Ordering::SeqCst), 11, "once each poll-min");
    let late = vec![item("TODO", 1, 9), item("TODO", 2, 1), item("PAUSED", 2, 1)];
    *feed.items.lock().unwrap() = late;
    tokio::time::sleep(Duration::from_secs(1)).await;
    *feed.items.lock().unwrap() = vec![item("DONE", 2, 2), item("TODO", 1, 10)];
    assert_eq!(see(watch).await, (vec!["DOING".into(), "PAUSED".into(), "DONE".into()], None));
}
