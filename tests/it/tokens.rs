//! The token: one login for all, ahead of need, and what failing logins and refused tokens cost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::Code;

use crate::support::{Answer, Gate, Gateway, LONG, SECRET, Told, Vendor, eventually, query};

const STARTED: &str = r#"grpc_server_started_total{grpc_method="QueryTask",grpc_service="federation.v1.FederationTasks",grpc_type="unary"}"#;

/// A vendor that takes no token but the one that is told; each login brings one and makes it that, if told so.
fn guarded(vendor: &Vendor, valid: &Arc<AtomicUsize>, logins_help: bool) {
    let (of_login, of_query) = (Arc::clone(valid), Arc::clone(valid));
    vendor.on_login(move |_, number| {
        if logins_help {
            of_login.store(number, Ordering::SeqCst);
        }
        Answer::token(&format!("token-{number}"), &json!("3600"))
    });
    vendor.on_query(move |seen, _| {
        let valid = of_query.load(Ordering::SeqCst);
        let is_valid = seen.header("authorization") == format!("Bearer token-{valid}");
        if is_valid { Answer::doing("") } else { Answer::status(401) }
    });
}

#[track_caller]
fn check(told: &Told, code: Code, reason: &str) {
    assert_eq!((told.code, &*told.reason), (code, reason), "{}", told.text);
    assert_eq!(told.retry.is_some(), code == Code::Unavailable, "{}", told.text);
}

async fn logins_ended(gateway: &Gateway, outcome: &str) -> f64 {
    gateway.metric(&format!(r#"federation_token_refreshes_total{{outcome="{outcome}"}}"#)).await
}

#[tokio::test]
async fn five_hundred_cold_callers_cost_one_login() {
    let vendor = Vendor::start().await;
    let gate = Gate::shut();
    let held = gate.clone();
    vendor.on_login(move |_, _| Answer::token("token", &json!("3600")).held(&held));
    let gateway = Gateway::start_cold(&vendor, &[]).await;
    let mut calls = JoinSet::new();
    for connection in 0..5 {
        let caller = gateway.caller().await;
        for number in 0..100 {
            let caller = caller.clone();
            calls.spawn(async move { caller.query(query(&format!("{connection}-{number}"))).await });
        }
    }
    eventually("all have begun", async || gateway.metric(STARTED).await == 500.0).await;
    eventually("a login is under way", async || vendor.logins() == 1).await;
    assert_eq!(vendor.queries(), 0);
    gate.open();
    while let Some(call) = calls.join_next().await {
        call.unwrap().unwrap();
    }
    assert_eq!((vendor.logins(), vendor.queries()), (1, 500));
    gateway.stop().await;
}

#[tokio::test]
async fn a_token_revoked_under_load_is_seen_by_no_caller_and_costs_one_login() {
    let vendor = Vendor::start().await;
    let valid = Arc::new(AtomicUsize::new(0));
    guarded(&vendor, &valid, true);
    let gateway = Gateway::start(&vendor, &[]).await;
    let (answered, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let mut callers = JoinSet::new();
    for number in 0..20 {
        let (caller, answered, stop) = (gateway.caller().await, Arc::clone(&answered), Arc::clone(&stop));
        callers.spawn(async move {
            while !stop.load(Ordering::SeqCst) {
                caller.query(query(&number.to_string())).await.expect("no caller sees it");
                answered.fetch_add(1, Ordering::SeqCst);
            }
        });
    }
    eventually("there is load", async || answered.load(Ordering::SeqCst) > 200).await;
    valid.store(0, Ordering::SeqCst);
    let before = answered.load(Ordering::SeqCst);
    eventually("load goes on", async || answered.load(Ordering::SeqCst) > before + 400).await;
    stop.store(true, Ordering::SeqCst);
    while let Some(caller) = callers.join_next().await {
        caller.unwrap();
    }
    assert_eq!(vendor.logins(), 2);
    gateway.stop().await;
}

#[tokio::test]
async fn an_account_without_the_service_costs_no_login_a_call() {
    let vendor = Vendor::start().await;
    guarded(&vendor, &Arc::new(AtomicUsize::new(0)), false);
    let gateway = Gateway::start(&vendor, &[]).await;
    let caller = gateway.caller().await;
    // When the call began that caused a login: before that began, however late the vendor saw it.
    let mut causes = Vec::new();
    eventually("there were four logins", async || {
        let (began, before) = (Instant::now(), vendor.logins());
        check(&caller.refused(query("7")).await, Code::FailedPrecondition, "UPSTREAM_UNAUTHORIZED");
        assert!(vendor.logins() <= before + 1, "one try again, and one login for it");
        causes.extend((vendor.logins() > before).then_some(began));
        vendor.logins() == 4
    })
    .await;
    let times = vendor.login_times();
    let gaps: Vec<_> = (2..4).map(|login| (times[login] - causes[login - 2]).as_secs_f64()).collect();
    // The second login was caused by the first call; then the gap doubles with each that was in vain.
    assert!(gaps[0] >= 2.0 && gaps[1] >= 4.0, "{gaps:?}");
    gateway.stop().await;
}

#[tokio::test]
async fn rejected_credentials_fail_calls_at_once_and_cost_no_login_a_call() {
    let vendor = Vendor::start().await;
    vendor.on_login(|_, _| Answer::new(403, "<html>blocked</html>"));
    let gateway = Gateway::start_cold(&vendor, &[]).await;
    let caller = gateway.caller().await;
    for number in 0..200 {
        let told = caller.refused(query(&number.to_string())).await;
        check(&told, Code::FailedPrecondition, "CREDENTIALS_REJECTED");
        assert_eq!(told.metadata["http_status"], "403");
    }
    eventually("it is tried again", async || vendor.logins() >= 3).await;
    let times = vendor.login_times();
    let gaps: Vec<_> = times.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect();
    // From when it was refused, which was after the vendor saw it: 1 s doubling, and 10 % less by jitter. The more of
    // them a busy machine takes to come so far, the wider they are apart.
    let mut least = 0.9;
    for gap in &gaps {
        assert!(*gap >= least, "{gaps:?}");
        least *= 2.0;
    }
    assert_eq!(vendor.queries(), 0);
    gateway.stop().await;
}

#[tokio::test]
async fn each_failing_login_has_its_reason() {
    use Code::{FailedPrecondition, Unavailable};
    let rejected = |answer| (answer, "credentials_rejected", FailedPrecondition, "CREDENTIALS_REJECTED");
    let unavailable = |answer| (answer, "token_unavailable", Unavailable, "TOKEN_UNAVAILABLE");
    let token = |token: &str| Answer::token(token, &json!("600"));
    let cases = [
        rejected(Answer::status(400)),
        rejected(Answer::status(401)),
        rejected(Answer::status(404)),
        rejected(Answer::json(&json!({"error": "no"}))),
        rejected(token("two words")),
        rejected(token(&"x".repeat(8 * 1024 + 1))),
        unavailable(Answer::status(408)),
        unavailable(Answer::status(429)),
        unavailable(Answer::status(500)),
        unavailable(Answer::status(503)),
        unavailable(Answer::status(302)),
        unavailable(Answer::new(200, "<html>sign in</html>")),
        unavailable(token("token").cut_off()),
    ];
    join_all(cases.map(|(answer, outcome, code, reason)| async move {
        let vendor = Vendor::start().await;
        let shown = format!("{answer:?}");
        vendor.on_login(move |_, _| answer.clone());
        // One login for a call to wait for, if the next one is due by then: it fails as the first did.
        let gateway = Gateway::start_cold(&vendor, &["--max-attempts=1"]).await;
        eventually(&shown, async || logins_ended(&gateway, outcome).await >= 1.0).await;
        check(&gateway.caller().await.refused(query("7")).await, code, reason);
        assert_eq!(vendor.queries(), 0);
    }))
    .await;
}

#[tokio::test]
async fn a_call_waits_for_the_next_login_if_that_is_near() {
    let vendor = Vendor::start().await;
    vendor.on_login(|_, number| match number {
        1 => Answer::status(503),
        _ => Answer::token("token", &json!("3600")),
    });
    let gateway = Gateway::start_cold(&vendor, &[]).await;
    eventually("a login failed", async || logins_ended(&gateway, "token_unavailable").await == 1.0).await;
    gateway.caller().await.query(query("7")).await.unwrap();
    assert_eq!(vendor.logins(), 2);
    gateway.stop().await;
}

#[tokio::test]
async fn a_call_waits_for_so_many_logins_and_no_more() {
    let vendor = Vendor::start().await;
    let first = Gate::shut();
    let held = first.clone();
    vendor.on_login(move |_, number| match number {
        1 => Answer::status(503).held(&held),
        2 => Answer::status(503),
        // So late that it can't come within the test.
        _ => Answer::status(503).header("Retry-After", "300"),
    });
    let gateway = Gateway::start_cold(&vendor, &["--max-attempts=2"]).await;
    let (caller, mut calls) = (gateway.caller().await, JoinSet::new());
    calls.spawn(async move { caller.refused(query("7")).await });
    eventually("it waits for the first", async || gateway.metric(STARTED).await == 1.0).await;
    first.open();
    let told = calls.join_next().await.unwrap().unwrap();
    check(&told, Code::Unavailable, "TOKEN_UNAVAILABLE");
    // The second was 1 s away. The third is 2 s, with jitter: near enough to wait for, but it would be one too many.
    assert!(told.retry.unwrap() < Duration::from_secs(3), "{:?}", told.retry);
    let told = gateway.caller().await.refused(query("8")).await;
    check(&told, Code::Unavailable, "TOKEN_UNAVAILABLE");
    // Whoever comes later waits for the third and no longer, as nobody waits for what is so far away.
    assert!(told.retry.unwrap() > Duration::from_secs(300) - LONG, "{:?}", told.retry);
    assert_eq!((vendor.logins(), vendor.queries()), (3, 0));
    gateway.stop().await;
}

#[tokio::test]
async fn a_logins_retry_after_is_kept() {
    let vendor = Vendor::start().await;
    vendor.on_login(|_, _| Answer::status(429).header("Retry-After", "300"));
    let gateway = Gateway::start_cold(&vendor, &[]).await;
    eventually("a login failed", async || logins_ended(&gateway, "token_unavailable").await == 1.0).await;
    let told = gateway.caller().await.refused(query("7")).await;
    check(&told, Code::Unavailable, "TOKEN_UNAVAILABLE");
    assert!(told.retry.unwrap() > Duration::from_secs(300) - LONG, "{:?}", told.retry);
    assert_eq!(vendor.logins(), 1);
    gateway.stop().await;
}

#[tokio::test]
async fn a_life_is_believed_if_it_is_a_positive_number_and_not_beyond_an_hour() {
    for (expires, life) in [
        (json!("1000"), 1000.0),
        (json!(1000), 1000.0),
        (json!("7200"), 3600.0),
        (Value::Null, 600.0),
        (json!(0), 600.0),
        (json!("-5"), 600.0),
        (json!("soon"), 600.0),
    ] {
        let vendor = Vendor::start().await;
        let told = expires.clone();
        vendor.on_login(move |_, _| Answer::token("token", &told));
        let gateway = Gateway::start(&vendor, &["--token-lifetime=600s"]).await;
        let left = gateway.metric("federation_token_remaining_seconds").await;
        assert!(left <= life && left > life - 100.0, "{expires}: {left}");
        gateway.stop().await;
    }
}

#[tokio::test]
async fn a_renewal_goes_on_in_the_background_and_the_old_token_serves() {
    let vendor = Vendor::start().await;
    let gate = Gate::shut();
    let held = gate.clone();
    vendor.on_login(move |_, number| match number {
        1 => Answer::token("token-1", &json!("20")),
        2 => Answer::status(503),
        _ => Answer::token("token-3", &json!("3600")).held(&held),
    });
    let start = Instant::now();
    let gateway = Gateway::start(&vendor, &[]).await;
    let caller = gateway.caller().await;
    let token = async || {
        caller.query(query("7")).await.expect("it is answered");
        vendor.seen().last().expect("it was asked").header("authorization").to_owned()
    };
    eventually("a renewal failed", async || logins_ended(&gateway, "token_unavailable").await == 1.0).await;
    assert_eq!(token().await, "Bearer token-1");
    eventually("another is under way", async || vendor.logins() == 3).await;
    assert_eq!(token().await, "Bearer token-1");
    gate.open();
    eventually("the new token serves", async || token().await == "Bearer token-3").await;
    // Not before half the life, which is 10 s before its end: the time that all this may take.
    assert!(vendor.login_times()[1] - start >= Duration::from_secs(10));
    assert_eq!(vendor.logins(), 3);
    gateway.stop().await;
}

#[tokio::test]
async fn a_rotated_secret_ends_the_back_off() {
    let vendor = Vendor::start().await;
    let directory = tempfile::tempdir().unwrap();
    let [link, old, new] = ["link", "old", "new"].map(|name| directory.path().join(name));
    std::fs::write(&old, SECRET).unwrap();
    std::fs::write(&new, "rotated\n").unwrap();
    std::os::unix::fs::symlink(&old, &link).unwrap();
    // By itself it would come back in 5 min.
    vendor.on_login(|seen, _| match seen.json()["app_secret"].as_str() {
        Some("rotated") => Answer::token("token", &json!("3600")),
        _ => Answer::status(403).header("Retry-After", "3600"),
    });
    let gateway = Gateway::start_cold(&vendor, &[&format!("--app-secret-file={}", link.display())]).await;
    let caller = gateway.caller().await;
    check(&caller.refused(query("7")).await, Code::FailedPrecondition, "CREDENTIALS_REJECTED");
    // As an orchestrator does it.
    let next = directory.path().join("next");
    std::os::unix::fs::symlink(&new, &next).unwrap();
    std::fs::rename(&next, &link).unwrap();
    eventually("calls are answered", async || caller.query(query("7")).await.is_ok()).await;
    assert_eq!(vendor.logins(), 2);
    gateway.stop().await;
}
