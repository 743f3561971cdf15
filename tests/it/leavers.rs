//! Who leaves a call that others wait for too: the others have their answer, whoever had begun it, and the call ends
//! with the last of them.

use std::time::Duration;

use federation_gateway::pb::{QueryTaskResponse, WatchReason};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::Status;

use crate::support::{
    Answer, Caller, Gate, Gateway, LONG, Messages, Vendor, bounded, eventually, query, soon, told, watch,
};

const HOUR: Option<Duration> = Some(Duration::from_secs(3600));
const POLL_MIN: Option<Duration> = Some(Duration::from_millis(50));

type Query = JoinSet<Result<QueryTaskResponse, Status>>;
type Watch = JoinSet<Result<Messages, Status>>;

/// A query that has come to the gateway.
async fn begin_query(gateway: &Gateway, caller: &Caller, timeout: Duration) -> Query {
    let (own, mut call, before) = (caller.clone(), JoinSet::new(), gateway.started("QueryTask").await);
    call.spawn(async move { own.query(bounded(query("7"), timeout)).await });
    eventually("it has begun", async || gateway.started("QueryTask").await == before + 1.0).await;
    call
}

/// A watch that has come to the gateway.
async fn begin_watch(gateway: &Gateway, caller: &Caller, timeout: Duration) -> Watch {
    let (own, mut call, before) = (caller.clone(), JoinSet::new(), gateway.started("WatchTask").await);
    call.spawn(async move { own.watch(bounded(watch("7", HOUR), timeout)).await });
    eventually("it has begun", async || gateway.started("WatchTask").await == before + 1.0).await;
    call
}

async fn end<T: 'static>(mut call: JoinSet<Result<T, Status>>) -> Result<T, Status> {
    soon("a call", call.join_next()).await.expect("one was spawned").expect("it does not panic")
}

/// A vendor whose next answer is held, a gateway, and the gate.
async fn scene(flags: &[&str]) -> (Vendor, Gateway, Gate) {
    let (vendor, gate) = (Vendor::start().await, Gate::shut());
    vendor.first([Answer::doing("held").held(&gate)]);
    let gateway = Gateway::start(&vendor, flags).await;
    (vendor, gateway, gate)
}

#[tokio::test]
async fn of_many_who_share_a_call_each_leaves_alone() {
    for is_begun_by_a_watch in [false, true] {
        let (vendor, gateway, gate) = scene(&[]).await;
        let (caller, cut) = (gateway.caller().await, gateway.caller().await);
        // The first is its owner, and of those who leave.
        let (mut leaving, mut leaving_watches, mut late) = (Vec::new(), Vec::new(), Vec::new());
        if is_begun_by_a_watch {
            leaving_watches.push(begin_watch(&gateway, &caller, LONG).await);
        }
        leaving.push(begin_query(&gateway, &caller, LONG).await);
        eventually("it is under way", async || vendor.under_way() == 1).await;
        for _ in 0..3 {
            leaving.push(begin_query(&gateway, &caller, LONG).await);
            leaving_watches.push(begin_watch(&gateway, &caller, LONG).await);
        }
        let (queries, watches) = (leaving.len() as f64, leaving_watches.len() as f64);
        // These go with their connection, and these at their deadline.
        let (mut cut_queries, mut cut_watches) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            cut_queries.push(begin_query(&gateway, &cut, LONG).await);
            cut_watches.push(begin_watch(&gateway, &cut, LONG).await);
            late.push(begin_query(&gateway, &caller, Duration::from_secs(2)).await);
        }
        let late_watch = begin_watch(&gateway, &caller, Duration::from_secs(2)).await;
        // And these stay.
        let stays = begin_query(&gateway, &caller, LONG).await;
        let stays_watching = begin_watch(&gateway, &caller, LONG).await;

        drop((leaving, leaving_watches));
        cut.cut();
        eventually("those have left", async || {
            gateway.handled("QueryTask", "Canceled").await == queries + 3.0
                && gateway.handled("WatchTask", "Canceled").await == watches + 3.0
        })
        .await;
        for call in late {
            assert_eq!(told(&end(call).await.unwrap_err()).reason, "DEADLINE");
        }
        assert_eq!(told(&end(late_watch).await.unwrap_err()).reason, "DEADLINE");
        assert_eq!((vendor.under_way(), vendor.queries()), (1, 1));
        eventually("one watches", async || gateway.metric("federation_watchers").await == 1.0).await;

        gate.open();
        assert_eq!(end(stays).await.unwrap().task.unwrap().remark, "held");
        let mut messages = end(stays_watching).await.unwrap();
        assert_eq!(messages.next().await, (WatchReason::Initial, "DOING".into(), "held".into()));
        assert_eq!(vendor.queries(), 1);
        assert_eq!(gateway.exchanges("canceled").await, 0.0);
        assert_eq!(gateway.metric("federation_pollers").await, 1.0);
        drop(messages);
        gateway.idle().await;
        gateway.stop().await;
    }
}

#[tokio::test]
async fn a_query_keeps_a_watchs_first_call_and_no_poller_comes_of_it() {
    let (vendor, gateway, gate) = scene(&[]).await;
    let caller = gateway.caller().await;
    let watching = begin_watch(&gateway, &caller, LONG).await;
    eventually("it is under way", async || vendor.under_way() == 1).await;
    let asking = begin_query(&gateway, &caller, LONG).await;
    drop(watching);
    eventually("nobody watches", async || gateway.metric("federation_watchers").await == 0.0).await;
    assert_eq!(vendor.under_way(), 1);
    gate.open();
    assert_eq!(end(asking).await.unwrap().task.unwrap().remark, "held");
    assert_eq!(vendor.queries(), 1);
    gateway.idle().await;
    gateway.stop().await;
}

#[tokio::test]
async fn a_poll_is_kept_by_a_query_that_joined_it_and_ends_with_that() {
    let (vendor, gateway, gate) = scene(&["--poll-min=50ms"]).await;
    gate.open();
    let caller = gateway.caller().await;
    let second = Gate::shut();
    vendor.first([Answer::doing("polled").held(&second)]);
    for (queries, is_answered) in [(2, true), (4, false)] {
        if !is_answered {
            vendor.first([Answer::doing("")]);
            vendor.first([Answer::doing("polled").held(&Gate::shut())]);
        }
        let watching = caller.watch(watch("7", POLL_MIN)).await.unwrap();
        eventually("it is polled", async || vendor.queries() == queries && vendor.under_way() == 1).await;
        let asking = begin_query(&gateway, &caller, LONG).await;
        drop(watching);
        eventually("nobody watches", async || gateway.metric("federation_watchers").await == 0.0).await;
        eventually("nobody polls", async || gateway.metric("federation_pollers").await == 0.0).await;
        assert_eq!((vendor.under_way(), vendor.queries()), (1, queries));
        if is_answered {
            second.open();
            assert_eq!(end(asking).await.unwrap().task.unwrap().remark, "polled");
            assert_eq!(gateway.exchanges("canceled").await, 0.0);
        } else {
            drop(asking);
            eventually("the socket is free", async || vendor.under_way() == 0).await;
            eventually("it is counted", async || gateway.exchanges("canceled").await == 1.0).await;
        }
    }
    gateway.idle().await;
    gateway.stop().await;
}

#[tokio::test]
async fn a_wait_between_tries_lasts_for_those_who_can_wait_so_long() {
    const HASTE: Duration = Duration::from_secs(6);
    // The time until the next try leaves the hasty one its own, however late it comes.
    let waits = async |patient_leaves: bool| {
        let vendor = Vendor::start().await;
        vendor.first([Answer::status(503).header("Retry-After", "14")]);
        let gateway = Gateway::start(&vendor, &[]).await;
        let caller = gateway.caller().await;
        let patient = begin_query(&gateway, &caller, LONG).await;
        eventually("its first try has failed", async || {
            gateway.exchanges("upstream_unavailable").await == 1.0
        })
        .await;
        let began = Instant::now();
        let hasty = begin_query(&gateway, &caller, HASTE).await;
        if patient_leaves {
            // With nobody left who could see it, the next try is none: the last failure is the answer at once.
            drop(patient);
            let told = told(&end(hasty).await.unwrap_err());
            assert_eq!(told.reason, "UPSTREAM_UNAVAILABLE", "{}", told.text);
            assert_eq!(vendor.queries(), 1);
        } else {
            let told = told(&end(hasty).await.unwrap_err());
            assert_eq!(told.reason, "DEADLINE", "{}", told.text);
            assert!(began.elapsed() >= HASTE);
            end(patient).await.unwrap();
            assert_eq!(vendor.queries(), 2);
        }
        gateway.idle().await;
        gateway.stop().await;
    };
    tokio::join!(waits(false), waits(true));
}
