//! Watchers that come and go while others stay, and watches that end.

use super::*;
use crate::tasks::feed::{Feed, Follow, Item};

/// A feed that does to items that tell an end what it is told to.
#[derive(Debug)]
struct Hindered {
    near: feed::Memory,
    hindrance: Hindrance,
    published: AtomicUsize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hindrance {
    /// The first so many can't be published.
    Away(usize),
    /// A defect.
    Panic,
}

impl Feed for Hindered {
    fn publish(&self, task: &TaskId, item: Item) -> BoxFuture<'_, Result<(), SeamError>> {
        let task = task.clone();
        Box::pin(async move {
            let number = self.published.fetch_add(usize::from(item.end.is_some()), Ordering::SeqCst);
            match self.hindrance {
                Hindrance::Away(times) if item.end.is_some() && number < times => Err(SeamError),
                Hindrance::Panic => panic!("on purpose"),
                Hindrance::Away(_) => self.near.publish(&task, item).await,
            }
        })
    }

    fn follow(&self, task: &TaskId) -> BoxFuture<'_, Result<Box<dyn Follow>, SeamError>> {
        self.near.follow(task)
    }
}

fn hindered(hindrance: Hindrance) -> Seams {
    let near = feed::Memory::new();
    let feed = Arc::new(Hindered { near, hindrance, published: AtomicUsize::new(0) });
    Seams { feed, ..Seams::in_memory() }
}

fn forbidden() -> Failure {
    Failure::new(Reason::UpstreamForbidden, "no")
}

#[tokio::test(start_paused = true)]
async fn whoever_comes_after_the_end_begins_anew_though_others_have_not_read_it_yet() {
    for (end, rest) in [(Ok("DONE"), "PAUSED"), (Err(forbidden()), "PAUSED")] {
        let is_done = end.is_ok();
        let world = world(vec![Ok("DOING"), end, Ok(rest)], OPEN);
        let mut stays = world.watch(None).await.unwrap().later.unwrap();
        tokio::time::sleep(Duration::from_secs(100)).await;
        assert_eq!(world.begun(), 2, "nothing is polled after the end");
        assert_eq!(world.gauge("federation_pollers"), "0");
        if is_done {
            // Known DONE, it is answered from memory for a while.
            tokio::time::sleep(CONFIG.done_cache_ttl).await;
        }
        let fresh = world.watch(None).await.unwrap();
        assert_eq!((fresh.first.state().raw_status.as_str(), world.begun()), (rest, 3));
        stays.changed().await.unwrap();
        let shown = stays.now().unwrap();
        assert_eq!((shown.observation.state().is_done(), shown.end.is_some()), (is_done, !is_done));
        // Its leaving is none of the others' business.
        drop(stays);
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert!(world.begun() > 3 && !world.is_idle());
        drop(fresh);
        settle().await;
        assert!(world.is_idle());
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_comes_while_the_last_poller_still_dies_is_not_taken_along() {
    let world = world(vec![Ok("DOING"), Ok("DOING"), Ok("DONE")], OPEN);
    let last = world.watch(None).await.unwrap();
    settle().await;
    // Nothing else has run between the leaving and the coming.
    drop(last);
    let watch = world.watch(None).await.unwrap();
    settle().await;
    assert!(!world.is_idle());
    assert_eq!(see(watch).await, (vec!["DOING".into(), "DONE".into()], None));
}

#[tokio::test(start_paused = true)]
async fn an_end_that_can_not_be_published_comes_later_and_nothing_is_polled_meanwhile() {
    let script = vec![Ok("DOING"), Err(forbidden())];
    let world = world_over(hindered(Hindrance::Away(5)), script, OPEN);
    let start = Instant::now();
    let watch = world.watch(None).await.unwrap();
    assert_eq!(see(watch).await, (vec!["DOING".into()], Some(forbidden())));
    // The poll after 1 s, and five times poll-min.
    assert_eq!((start.elapsed().as_secs(), world.begun()), (6, 2));
    settle().await;
    assert!(world.is_idle());
}

#[tokio::test(start_paused = true)]
async fn a_poller_that_dies_of_a_defect_ends_its_watch_with_it_and_the_next_one_begins_anew() {
    let world = world_over(hindered(Hindrance::Panic), vec![], OPEN);
    let watch = world.watch(None).await.unwrap();
    assert_eq!(see(watch).await, (vec!["DOING".into()], Some(Failure::defect())));
    settle().await;
    assert!(world.is_idle());
    let begun = world.begun();
    world.watch(None).await.unwrap();
    assert_eq!(world.begun(), begun + 1);
}

#[tokio::test(start_paused = true)]
async fn a_watcher_that_is_let_go_at_its_deadline_takes_nobody_along() {
    let world = world(vec![], OPEN);
    let stays = world.watch(Some(1.0)).await.unwrap();
    let deadline = Some(Instant::now() + Duration::from_secs(10));
    let stalled = world.hub.watch(&id(), WatchDemand { interval: None, deadline }, caller(10)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!(world.gauge("federation_watchers"), "1");
    let begun = world.begun();
    world.vendor.script.lock().unwrap().push_back(Ok("DONE"));
    assert_eq!(see(stays).await, (vec!["DOING".into(), "DONE".into()], None));
    assert_eq!(world.begun(), begun + 1);
    drop(stalled);
}

#[tokio::test(start_paused = true)]
async fn a_change_is_counted_once_and_a_state_seen_again_is_not() {
    let world = world(vec![Ok("TODO"), Ok("TODO"), Ok("DOING"), Ok("DOING"), Ok("DONE")], OPEN);
    let mut later = world.watch(None).await.unwrap().later.unwrap();
    assert_eq!(later.now().unwrap().changes, 0);
    for changes in [1, 2] {
        later.changed().await.unwrap();
        assert_eq!(later.now().unwrap().changes, changes);
    }
    assert_eq!(world.begun(), 5);
}

#[tokio::test(start_paused = true)]
async fn an_answers_age_counts_from_its_try_also_where_that_took_long() {
    // Each poll takes 10 s.
    let world = world(vec![], 1);
    let _slow = world.watch(Some(60.0)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(70)).await;
    assert_eq!(world.begun(), 2, "the second one is under way");
    world.vendor.gate.add_permits(1);
    tokio::time::sleep(Duration::from_secs(15)).await;
    // It began 25 s ago, and ended 15 s ago.
    let _content = world.watch(Some(26.0)).await.unwrap();
    settle().await;
    assert_eq!(world.begun(), 2);
    let _hasty = world.watch(Some(20.0)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(world.begun(), 3, "due at once, not only 20 s after the last one's end");
}

#[tokio::test(start_paused = true)]
async fn an_interval_that_is_not_set_counts_as_the_back_offs_current_one() {
    let world = world(vec![], OPEN);
    let _first = world.watch(None).await.unwrap();
    // Polls at 1, 3, 7 and 15 s; the next is due at 30 s.
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(world.begun(), 5);
    let _joined = world.watch(None).await.unwrap();
    tokio::time::sleep(Duration::from_secs(9)).await;
    assert_eq!(world.begun(), 5, "an answer of 5 s ago is young enough for an interval of 15 s");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(world.begun(), 6);
}
