//! What a watcher and a remembered task cost in memory: bytes asked of the allocator, counted. No clock and no
//! other process has a say in it. What the whole process takes a watcher, sockets and all, `benches/gateway` measures.

#[path = "../../benches/instructions/world.rs"]
mod world;

use std::sync::Mutex;
use std::time::Duration;

use dhat::{HeapStats, Profiler};
use federation_gateway::tasks::{Freshness, WatchDemand};

use crate::world::{World, caller, id, query, watch};

#[global_allocator]
static COUNTING: dhat::Alloc = dhat::Alloc;

/// The counter is the process's, so one counts at a time.
static COUNTER: Mutex<()> = Mutex::new(());

/// The bytes that each of `count` things keeps, while what `make` returns is held.
fn bytes_each<T>(world: &World, count: usize, make: impl FnMut(usize) -> T) -> usize {
    let before = HeapStats::get().curr_bytes;
    let mut kept = Vec::with_capacity(count);
    kept.extend((0..count).map(make));
    world.settle();
    let each = (HeapStats::get().curr_bytes - before) / count;
    drop(kept);
    each
}

/// Holds what `count` gives to its bound.
#[track_caller]
fn assert_within(bound: usize, count: impl FnOnce(&World) -> usize) {
    let _alone = COUNTER.lock().expect("no count has failed before");
    // Where from is not asked, so few frames are looked at.
    let _profiler = Profiler::builder().testing().trim_backtraces(Some(0)).build();
    let bytes = count(&World::new());
    assert!(bytes <= bound, "{bytes} bytes each, where {bound} are the bound");
}

/// Measured: 228.
#[test]
fn a_watcher_of_the_hub() {
    assert_within(250, |world| {
        let demand = WatchDemand { interval: None, deadline: None };
        let watch = |_| world.runtime.block_on(async { world.hub.watch(&id(0), demand, caller()).await });
        let _first = watch(0).expect("the vendor answers");
        let bytes = bytes_each(world, 1_000, watch);
        assert_eq!(world.vendor.calls(), 1);
        bytes
    });
}

/// Measured: 1284. With the call around it and its stream, as the server holds it.
#[test]
fn a_watch_call() {
    assert_within(1400, |world| {
        let watch = |_| world.call(watch(0)).1;
        let _first = watch(0);
        bytes_each(world, 1_000, watch)
    });
}

/// Measured: 365. An answer with a status, a remark and a message.
#[test]
fn a_remembered_task() {
    assert_within(400, |world| {
        let age = Freshness::Within(Duration::from_secs(60));
        bytes_each(world, 10_000, |number| {
            let id = id(number);
            let query = async { world.hub.query(&id, age, caller()).await };
            drop(world.runtime.block_on(query).expect("the vendor answers"));
        })
    });
}

/// Measured: 466. The same with its encoded form, which it gets with the first caller.
#[test]
fn a_remembered_task_that_a_caller_got() {
    assert_within(510, |world| bytes_each(world, 10_000, |number| drop(world.call(query(number)))));
}
