//! QueryTask: what goes in, what comes out, and until when.

use std::time::Duration;

use federation_gateway::pb::{FailReason, QueryTaskRequest, TaskStatus, UserAction, WatchTaskRequest};
use serde_json::json;
use tokio::task::JoinSet;
use tonic::{Code, Request};

use crate::support::{Answer, Gate, Gateway, LONG, Vendor, eventually, query, soon, told, watch};

fn bounded(task_id: &str, timeout: Duration) -> Request<QueryTaskRequest> {
    let mut request = Request::new(query(task_id));
    request.set_timeout(timeout);
    request
}

#[tokio::test]
async fn the_vendor_is_asked_as_its_reference_says() {
    let vendor = Vendor::start().await;
    let flags = ["--tenant-space-id=tenant", "--token-lifetime=600s"];
    let gateway = Gateway::start(&vendor, &flags).await;
    gateway.caller().await.query(query("1659446191820726274")).await.unwrap();
    let seen = vendor.seen();
    let [login, query] = &seen[..] else { panic!("one login and one query: {seen:?}") };
    assert_eq!(login.json(), json!({"app_key": "planted-key", "app_secret": "planted-app-secret"}));
    assert_eq!(login.header("x-token-expire"), "600");
    assert_eq!(login.header("content-type"), "application/json");
    assert_eq!(query.json(), json!({"taskId": "1659446191820726274"}));
    assert_eq!(query.header("authorization"), "Bearer token-1");
    assert_eq!(query.header("x-app-key"), "planted-key");
    assert_eq!(query.header("x-tenantspaceid"), "tenant");
    assert_eq!(query.header("content-type"), "application/json");
    gateway.stop().await;
}

#[tokio::test]
async fn nothing_of_callers_goes_to_the_vendor_but_the_id() {
    let vendor = Vendor::start().await;
    let gateway = Gateway::start(&vendor, &[]).await;
    let mut request = Request::new(query("7"));
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    for (name, value) in
        [("traceparent", trace), ("authorization", "Bearer a-callers-own"), ("x-own", "mine")]
    {
        request.metadata_mut().insert(name, value.parse().unwrap());
    }
    gateway.caller().await.query(request).await.unwrap();
    let asked = format!("{:?}", vendor.seen());
    assert!(!asked.contains("0af7651916cd43dd8448eb211c80319c"), "{asked}");
    assert!(!asked.contains("a-callers-own") && !asked.contains("x-own"), "{asked}");
    gateway.stop().await;
}

#[tokio::test]
async fn an_answer_is_translated_and_nothing_of_it_is_lost() {
    let vendor = Vendor::start().await;
    let body = json!({
        "resultCode": 0, "resultMessage": "fine", "unknown": {"a": [1]},
        "taskInfo": {"status": "DONE", "remark": "r"},
        "failDataList": [
            {
                "federationUser": {
                    "action": "CREATE", "userName": "Ada", "userAccount": "ada", "email": "a@example.org",
                    "roleIds": [1, "2"],
                },
                "failCode": "60101000108", "failMessage": "exists",
            },
            {"federationUser": {"action": "MERGE"}, "failCode": "1659446191820726274"},
        ],
    });
    // A byte-order mark, and a number with more digits than a double holds.
    let text = format!("\u{feff}{body}").replace("\"1659446191820726274\"", "1659446191820726274");
    vendor.on_query(move |_, _| Answer::new(200, text.clone()));
    let gateway = Gateway::start(&vendor, &[]).await;
    let answer = gateway.caller().await.query(query("7")).await.unwrap();
    assert_eq!(answer.result_message, "fine");
    let task = answer.task.unwrap();
    assert_eq!((&*task.task_id, task.status(), &*task.raw_status), ("7", TaskStatus::Done, "DONE"));
    assert!(task.observed_at.unwrap().seconds > 1_600_000_000);
    let [known, unknown] = &task.fail_data[..] else { panic!("{task:?}") };
    assert_eq!((known.fail_reason(), &*known.fail_message), (FailReason::UserAlreadyExists, "exists"));
    let user = known.federation_user.as_ref().unwrap();
    assert_eq!((user.action(), &*user.user_name, &*user.user_account), (UserAction::Create, "Ada", "ada"));
    assert_eq!((&*user.email, &user.role_ids[..]), ("a@example.org", &["1".into(), "2".into()][..]));
    assert_eq!(
        (unknown.fail_reason(), &*unknown.fail_code),
        (FailReason::Unspecified, "1659446191820726274")
    );
    let user = unknown.federation_user.as_ref().unwrap();
    assert_eq!((user.action(), &*user.raw_action), (UserAction::Unspecified, "MERGE"));
    gateway.stop().await;
}

#[tokio::test]
async fn a_bad_field_is_named_and_costs_no_upstream_call() {
    let vendor = Vendor::start().await;
    let gateway = Gateway::start(&vendor, &[]).await;
    let caller = gateway.caller().await;
    let mut refusals = Vec::new();
    let long = "x".repeat(129);
    for id in ["", " ", "planted id", "planted\n", "plantedé", "planted\u{7f}", &long] {
        refusals.push(("task_id", caller.refused(query(id)).await));
        refusals.push(("task_id", told(&caller.watch(watch(id, None)).await.unwrap_err())));
    }
    for (seconds, nanos) in [(-1, 0), (0, -1), (1, -1), (-1, 1), (315_576_000_001, 0), (0, 1_000_000_000)] {
        let bad = Some(prost_types::Duration { seconds, nanos });
        refusals.push(("max_age", caller.refused(QueryTaskRequest { max_age: bad, ..query("7") }).await));
        let polls = WatchTaskRequest { poll_interval: bad, ..watch("7", None) };
        refusals.push(("poll_interval", told(&caller.watch(polls).await.unwrap_err())));
        let beats = WatchTaskRequest { heartbeat_interval: bad, ..watch("7", None) };
        refusals.push(("heartbeat_interval", told(&caller.watch(beats).await.unwrap_err())));
    }
    for (field, told) in refusals {
        assert_eq!((told.code, &*told.reason), (Code::InvalidArgument, "INVALID_FIELD"), "{told:?}");
        assert_eq!((&told.fields[..], &*told.domain), (&[field.to_owned()][..], "federation.v1"));
        assert!(told.retry.is_none() && told.pushback_ms.is_none());
        assert!(!told.text.contains("planted"), "{}", told.text);
    }
    assert_eq!(vendor.queries(), 0);
    for id in ["x".repeat(128), "!~/?\"".into()] {
        caller.query(query(&id)).await.unwrap();
        assert_eq!(vendor.seen().last().unwrap().task(), id);
    }
    gateway.stop().await;
}

#[tokio::test]
async fn a_message_over_64_kib_is_refused_and_one_under_it_is_read() {
    let vendor = Vendor::start().await;
    let gateway = Gateway::start(&vendor, &[]).await;
    let caller = gateway.caller().await;
    for status in [
        caller.query(query(&"x".repeat(65 * 1024))).await.unwrap_err(),
        caller.watch(watch(&"x".repeat(65 * 1024), None)).await.unwrap_err(),
    ] {
        // The gRPC library's own refusal, with no details.
        assert!(matches!(status.code(), Code::OutOfRange | Code::ResourceExhausted), "{status:?}");
        assert_eq!(told(&status).reason, "");
    }
    assert_eq!(caller.refused(query(&"x".repeat(63 * 1024))).await.reason, "INVALID_FIELD");
    assert_eq!(vendor.queries(), 0);
    gateway.stop().await;
}

#[tokio::test]
async fn a_deadline_that_has_passed_costs_no_upstream_call() {
    let vendor = Vendor::start().await;
    let gateway = Gateway::start(&vendor, &[]).await;
    let caller = gateway.caller().await;
    let told_query = caller.refused(bounded("7", Duration::from_nanos(1))).await;
    let mut request = Request::new(watch("7", None));
    request.set_timeout(Duration::from_nanos(1));
    let told_watch = told(&caller.watch(request).await.unwrap_err());
    for told in [told_query, told_watch] {
        assert_eq!((told.code, &*told.reason), (Code::DeadlineExceeded, "DEADLINE"));
        assert!(told.retry.is_none());
    }
    assert_eq!(vendor.queries(), 0);
    gateway.stop().await;
}

#[tokio::test]
async fn request_timeout_bounds_a_call_without_a_deadline_and_no_other() {
    let vendor = Vendor::start().await;
    let gateway = Gateway::start(&vendor, &["--request-timeout=400ms"]).await;
    let (caller, gate) = (gateway.caller().await, Gate::shut());
    let held = gate.clone();
    vendor.on_query(move |_, _| Answer::doing("at last").held(&held));
    let mut patient = JoinSet::new();
    let own = caller.clone();
    patient.spawn(async move { own.query(bounded("patient", LONG)).await });
    eventually("it is under way", async || vendor.under_way() == 1).await;
    let told_query = caller.refused(query("7")).await;
    // A watch's first answer is bounded by both.
    let mut request = Request::new(watch("8", None));
    request.set_timeout(LONG);
    let told_watch = told(&caller.watch(request).await.unwrap_err());
    for told in [told_query, told_watch] {
        assert_eq!((told.code, &*told.reason), (Code::DeadlineExceeded, "DEADLINE"));
    }
    eventually("nobody else waits", async || vendor.under_way() == 1).await;
    gate.open();
    let answer = soon("the patient's answer", patient.join_next()).await.unwrap().unwrap();
    assert_eq!(answer.unwrap().task.unwrap().remark, "at last");
    gateway.stop().await;
}
