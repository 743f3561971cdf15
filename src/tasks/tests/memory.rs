//! What the hub remembers, and for how long.

use super::*;
use crate::tasks::feed::{Item, Order};

#[tokio::test(start_paused = true)]
async fn outlived_answers_are_let_go_though_nobody_asks() {
    let world = world(vec![], OPEN);
    let answered = world.query(Freshness::Shared).await.unwrap();
    let answer = Arc::downgrade(&answered.observation.answer);
    drop(answered);
    let hub = world.hub.clone();
    let mut sweeper = JoinSet::new();
    sweeper.spawn(async move { hub.run().await });
    tokio::time::sleep(CONFIG.done_cache_ttl).await;
    assert!(answer.upgrade().is_some());
    tokio::time::sleep(Duration::from_secs(31)).await;
    assert!(answer.upgrade().is_none());
}

#[tokio::test(start_paused = true)]
async fn what_a_poller_saw_last_is_remembered_when_it_is_gone() {
    let world = world(vec![Ok("TODO"), Ok("DOING")], OPEN);
    let watch = world.watch(None).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    drop(watch);
    settle().await;
    assert!(world.is_idle());
    let answered = world.query(Freshness::Within(Duration::from_secs(1))).await.unwrap();
    assert_eq!((answered.source, answered.observation.state().raw_status.as_str()), (Source::Cache, "DOING"));
    assert_eq!(world.begun(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_a_poller_saw_last_answers_queries_where_memory_has_no_room_for_it() {
    let config = Config { cache_capacity: 0, ..CONFIG };
    let world = world_of(config, Seams::in_memory(), vec![], OPEN);
    let _watch = world.watch(None).await.unwrap();
    let answered = world.query(Freshness::Within(Duration::from_secs(1))).await.unwrap();
    assert_eq!((answered.source, world.begun()), (Source::Cache, 1));
    assert_eq!(world.query(Freshness::Shared).await.unwrap().source, Source::Upstream);
}

#[tokio::test(start_paused = true)]
async fn what_another_replicas_poller_saw_is_shown_here_and_remembered() {
    let seams = Seams::in_memory();
    let world = world_over(seams.clone(), vec![], OPEN);
    let watch = world.watch(Some(60.0)).await.unwrap();
    settle().await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let state = State { raw_status: "PAUSED".into(), ..State::default() };
    let answer = Arc::new(Answer::new(state, String::new(), crate::clock::wall_now()));
    let order = Order { epoch: u64::MAX, number: 1 };
    let theirs = Item { order, answer, age: Duration::from_secs(2), end: None };
    seams.feed.publish(&id(), theirs).await.unwrap();
    let mut later = watch.later.unwrap();
    later.changed().await.unwrap();
    assert_eq!(later.now().unwrap().observation.state().raw_status, "PAUSED");
    drop(later);
    settle().await;
    assert!(world.is_idle());
    let answered = world.query(Freshness::Within(Duration::from_secs(2))).await.unwrap();
    assert_eq!((answered.source, &*answered.observation.state().raw_status), (Source::Cache, "PAUSED"));
    // It is as old as it was when it came.
    let answered = world.query(Freshness::Within(Duration::from_millis(1999))).await.unwrap();
    assert_eq!((answered.source, world.begun()), (Source::Upstream, 2));
}

#[tokio::test(start_paused = true)]
async fn there_is_room_for_many_mebibytes_of_answers() {
    let world = world(vec![], OPEN);
    let large = "r".repeat(1024 * 1024);
    large.clone_into(&mut world.vendor.state.lock().unwrap());
    let ids: Vec<_> = (0..8).map(|number| TaskId::parse(&format!("{number}")).unwrap()).collect();
    for id in &ids {
        world.hub.query(id, Freshness::Shared, caller(20)).await.unwrap();
    }
    for id in &ids {
        let answered = world.hub.query(id, Freshness::Within(Duration::from_secs(60)), caller(20)).await;
        assert_eq!(answered.unwrap().source, Source::Cache);
    }
}
