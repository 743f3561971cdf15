//! QueryTask: which calls share one upstream call, and what is answered from memory.

use std::time::Duration;

use federation_gateway::pb::QueryTaskRequest;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::{Code, Request};

use crate::support::{Answer, Gate, Gateway, LONG, Vendor, done, duration, eventually, query, soon, told};

fn within(task_id: &str, max_age: Duration) -> QueryTaskRequest {
    QueryTaskRequest { max_age: Some(duration(max_age)), ..query(task_id) }
}

fn bounded(request: QueryTaskRequest, timeout: Duration) -> Request<QueryTaskRequest> {
    let mut request = Request::new(request);
    request.set_timeout(timeout);
    request
}

const MINUTE: Duration = Duration::from_secs(60);
const NOTHING: Duration = Duration::from_nanos(1);
const STARTED: &str = r#"grpc_server_started_total{grpc_method="QueryTask",grpc_service="federation.v1.FederationTasks",grpc_type="unary"}"#;

fn remark(
    answer: Option<
        Result<Result<federation_gateway::pb::QueryTaskResponse, tonic::Status>, tokio::task::JoinError>,
    >,
) -> String {
    let answer = answer.expect("a query was spawned").expect("it does not panic").expect("it is answered");
    answer.task.expect("every answer has a task").remark
}

#[tokio::test]
async fn calls_that_overlap_share_one_upstream_call() {
    let vendor = Vendor::start().await;
    let gateway = Gateway::start(&vendor, &[]).await;
    let gate = Gate::shut();
    vendor.first([Answer::doing("shared").held(&gate)]);
    let mut calls = JoinSet::new();
    for _ in 0..4 {
        let caller = gateway.caller().await;
        for _ in 0..25 {
            let caller = caller.clone();
            calls.spawn(async move { caller.query(query("7")).await });
        }
    }
    eventually("all have begun", async || gateway.metric(STARTED).await == 100.0).await;
    gate.open();
    while let Some(call) = calls.join_next().await {
        assert_eq!(remark(Some(call)), "shared");
    }
    assert_eq!(vendor.queries(), 1);
    assert_eq!(gateway.metric(r#"federation_answers_total{source="upstream"}"#).await, 1.0);
    assert_eq!(gateway.metric(r#"federation_answers_total{source="shared"}"#).await, 99.0);
    // What is not DONE is not remembered for those who set no max_age, and other tasks are other calls.
    let caller = gateway.caller().await;
    for (task, queries) in [("7", 2), ("7", 3), ("8", 4)] {
        caller.query(query(task)).await.unwrap();
        assert_eq!(vendor.queries(), queries);
    }
    gateway.stop().await;
}

#[tokio::test]
async fn an_answer_within_max_age_will_do_whoever_asked() {
    let vendor = Vendor::start().await;
    vendor.on_query(|_, number| Answer::doing(&number.to_string()));
    let gateway = Gateway::start(&vendor, &[]).await;
    let (one, other) = (gateway.caller().await, gateway.caller().await);
    let remark = async |request| one.query(request).await.unwrap().task.unwrap().remark;
    other.query(query("7")).await.unwrap();
    assert_eq!(remark(within("7", MINUTE)).await, "1");
    assert_eq!(gateway.metric(r#"federation_answers_total{source="cache"}"#).await, 1.0);
    assert_eq!(remark(within("7", NOTHING)).await, "2");
    assert_eq!(remark(within("7", Duration::ZERO)).await, "3");
    assert_eq!(remark(within("7", MINUTE)).await, "3");
    assert_eq!(vendor.queries(), 3);
    gateway.stop().await;
}

#[tokio::test]
async fn a_call_under_way_is_joined_if_it_is_young_enough() {
    let vendor = Vendor::start().await;
    let gateway = Gateway::start(&vendor, &[]).await;
    let (caller, gate) = (gateway.caller().await, Gate::shut());
    vendor.first([Answer::doing("first").held(&gate)]);
    vendor.on_query(|_, number| Answer::doing(&number.to_string()));
    let mut calls = JoinSet::new();
    for (max_age, started) in [(MINUTE, 1.0), (MINUTE, 2.0)] {
        let caller = caller.clone();
        calls.spawn(async move { caller.query(within("7", max_age)).await });
        eventually("it has begun", async || gateway.metric(STARTED).await == started).await;
        eventually("it is under way", async || vendor.under_way() == 1).await;
    }
    assert_eq!(vendor.queries(), 1);
    // Its try began more than a nanosecond ago, and before a request that takes nothing but a new call.
    for (max_age, own) in [(NOTHING, "2"), (Duration::ZERO, "3")] {
        let answer = caller.query(within("7", max_age)).await.unwrap();
        assert_eq!(answer.task.unwrap().remark, own);
        assert_eq!(vendor.under_way(), 1);
    }
    gate.open();
    assert_eq!(remark(calls.join_next().await), "first");
    assert_eq!(remark(calls.join_next().await), "first");
    assert_eq!(vendor.queries(), 3);
    gateway.stop().await;
}

#[tokio::test]
async fn a_retry_of_an_earlier_call_is_no_new_call() {
    let vendor = Vendor::start().await;
    let gateway = Gateway::start(&vendor, &[]).await;
    let caller = gateway.caller().await;
    // Long enough for a call to be made before it.
    vendor.first([Answer::status(503).header("Retry-After", "6")]);
    vendor.on_query(|_, number| Answer::doing(&number.to_string()));
    let mut calls = JoinSet::new();
    let earlier = caller.clone();
    calls.spawn(async move { earlier.query(query("7")).await });
    eventually("its first try has failed", async || {
        let failed =
            r#"federation_upstream_requests_total{endpoint="queryTask",outcome="upstream_unavailable"}"#;
        gateway.metric(failed).await == 1.0
    })
    .await;
    let own = caller.query(within("7", Duration::ZERO)).await.unwrap();
    assert_eq!(own.task.unwrap().remark, "2");
    // The retry of the earlier one is the third.
    assert_eq!(remark(calls.join_next().await), "3");
    let times = vendor.query_times();
    assert!(times[2] - times[0] >= Duration::from_secs(6), "a Retry-After is kept");
    gateway.stop().await;
}

#[tokio::test]
async fn an_answer_never_replaces_one_whose_try_began_later() {
    let vendor = Vendor::start().await;
    let gateway = Gateway::start(&vendor, &[]).await;
    let (caller, gate) = (gateway.caller().await, Gate::shut());
    vendor.first([Answer::doing("older").held(&gate), Answer::doing("newer")]);
    let mut calls = JoinSet::new();
    let earlier = caller.clone();
    calls.spawn(async move { earlier.query(query("7")).await });
    eventually("the first is under way", async || vendor.under_way() == 1).await;
    caller.query(within("7", Duration::ZERO)).await.unwrap();
    gate.open();
    assert_eq!(remark(calls.join_next().await), "older");
    let known = caller.query(within("7", MINUTE)).await.unwrap();
    assert_eq!(known.task.unwrap().remark, "newer");
    assert_eq!(vendor.queries(), 2);
    gateway.stop().await;
}

#[tokio::test]
async fn done_is_remembered_for_its_time() {
    let vendor = Vendor::start().await;
    vendor.on_query(|_, _| done());
    let gateway = Gateway::start(&vendor, &[]).await;
    let caller = gateway.caller().await;
    for _ in 0..3 {
        caller.query(query("7")).await.unwrap();
    }
    assert_eq!(vendor.queries(), 1);
    caller.query(within("7", Duration::ZERO)).await.unwrap();
    assert_eq!(vendor.queries(), 2);
    gateway.stop().await;

    let gateway = Gateway::start(&vendor, &["--done-cache-ttl=0s"]).await;
    let caller = gateway.caller().await;
    caller.query(query("7")).await.unwrap();
    caller.query(query("7")).await.unwrap();
    assert_eq!(vendor.queries(), 4);
    gateway.stop().await;

    let gateway = Gateway::start(&vendor, &["--done-cache-ttl=400ms"]).await;
    let (caller, start) = (gateway.caller().await, Instant::now());
    caller.query(query("7")).await.unwrap();
    eventually("the vendor is asked again", async || {
        caller.query(query("7")).await.unwrap();
        vendor.queries() == 6
    })
    .await;
    assert!(start.elapsed() >= Duration::from_millis(400));
    gateway.stop().await;
}

#[tokio::test]
async fn no_more_answers_are_kept_than_allowed() {
    let vendor = Vendor::start().await;
    let gateway = Gateway::start(&vendor, &["--cache-capacity=1"]).await;
    let caller = gateway.caller().await;
    for (task, queries) in [("1", 1), ("1", 1), ("2", 2), ("1", 3), ("1", 3)] {
        caller.query(within(task, MINUTE)).await.unwrap();
        assert_eq!(vendor.queries(), queries);
    }
    gateway.stop().await;
}

#[tokio::test]
async fn the_upstream_call_ends_with_its_last_waiter_and_not_before() {
    let vendor = Vendor::start().await;
    let gateway = Gateway::start(&vendor, &[]).await;
    let gate = Gate::shut();
    vendor.first([Answer::doing("").held(&gate)]);
    let callers = [gateway.caller().await, gateway.caller().await];
    let mut calls = Vec::new();
    for (caller, started) in callers.iter().zip([1.0, 2.0]) {
        let (caller, mut call) = (caller.clone(), JoinSet::new());
        call.spawn(async move { caller.query(query("7")).await });
        calls.push(call);
        eventually("it has begun", async || gateway.metric(STARTED).await == started).await;
    }
    eventually("it is under way", async || vendor.under_way() == 1).await;
    let left = r#"grpc_server_handled_total{grpc_code="Canceled",grpc_method="QueryTask",grpc_service="federation.v1.FederationTasks",grpc_type="unary"}"#;
    // Who began it leaves, by cancelling the call; the connection stays.
    drop(calls.remove(0));
    eventually("one is gone", async || gateway.metric(left).await == 1.0).await;
    assert_eq!((vendor.under_way(), vendor.queries()), (1, 1));
    assert_eq!(gateway.metric("federation_upstream_in_flight").await, 1.0);
    // The last one's connection breaks.
    callers[1].cut();
    eventually("the socket is free", async || vendor.under_way() == 0).await;
    eventually("both are gone", async || gateway.metric(left).await == 2.0).await;
    eventually("the request is counted", async || {
        let canceled = r#"federation_upstream_requests_total{endpoint="queryTask",outcome="canceled"}"#;
        gateway.metric(canceled).await == 1.0
    })
    .await;
    gateway.stop().await;
}

#[tokio::test]
async fn a_later_waiters_longer_deadline_keeps_the_call_and_its_retries() {
    let vendor = Vendor::start().await;
    let gateway = Gateway::start(&vendor, &[]).await;
    let (caller, gate) = (gateway.caller().await, Gate::shut());
    vendor.first([Answer::status(503).held(&gate), Answer::doing("for the patient")]);
    let mut hasty = JoinSet::new();
    let (of_hasty, start) = (caller.clone(), Instant::now());
    // Long enough for the patient one to come before it is over.
    const HASTE: Duration = Duration::from_secs(4);
    hasty.spawn(async move { of_hasty.query(bounded(query("7"), HASTE)).await });
    eventually("it is under way", async || vendor.under_way() == 1).await;
    let mut patient = JoinSet::new();
    let of_patient = caller.clone();
    patient.spawn(async move { of_patient.query(bounded(query("7"), LONG)).await });
    eventually("both have begun", async || gateway.metric(STARTED).await == 2.0).await;
    let status = soon("the deadline", hasty.join_next()).await.unwrap().unwrap().unwrap_err();
    let told = told(&status);
    assert_eq!((told.code, &*told.reason), (Code::DeadlineExceeded, "DEADLINE"));
    assert!(start.elapsed() >= HASTE);
    assert_eq!(vendor.under_way(), 1);
    gate.open();
    assert_eq!(remark(patient.join_next().await), "for the patient");
    assert_eq!(vendor.queries(), 2);
    gateway.stop().await;
}
