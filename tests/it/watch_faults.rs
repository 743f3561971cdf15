//! WatchTask while polls fail: what is absorbed, for how long, and what ends a watch.

use std::time::Duration;

use federation_gateway::pb::WatchReason;
use tonic::Code;

use crate::support::{Answer, Gate, Gateway, SECRET, Vendor, eventually, query, told, watch};

const POLL_MIN: Option<Duration> = Some(Duration::from_millis(50));

#[tokio::test]
async fn passing_failures_are_absorbed() {
    let vendor = Vendor::start().await;
    vendor.first([Answer::doing("before")]);
    vendor.first([408, 429, 502, 503, 504].map(Answer::status));
    vendor.first([Answer::doing("").cut_off()]);
    vendor.on_query(|_, _| Answer::doing("after"));
    let flags = ["--poll-min=50ms", "--poll-max=100ms", "--max-attempts=1"];
    let gateway = Gateway::start(&vendor, &flags).await;
    let mut messages = gateway.caller().await.watch(watch("7", POLL_MIN)).await.unwrap();
    assert_eq!(messages.next().await, (WatchReason::Initial, "DOING".into(), "before".into()));
    assert_eq!(messages.next().await, (WatchReason::Changed, "DOING".into(), "after".into()));
    assert!(vendor.queries() >= 8);
    gateway.stop().await;
}

#[tokio::test]
async fn polls_after_a_failure_double_to_poll_max_and_keep_a_retry_after() {
    let vendor = Vendor::start().await;
    vendor.first([Answer::doing("before")]);
    vendor.first([503, 503, 503, 503].map(Answer::status));
    vendor.first([Answer::status(503).header("Retry-After", "1")]);
    vendor.on_query(|_, _| Answer::doing("after"));
    let flags = ["--poll-min=50ms", "--poll-max=200ms", "--max-attempts=1"];
    let gateway = Gateway::start(&vendor, &flags).await;
    let mut messages = gateway.caller().await.watch(watch("7", POLL_MIN)).await.unwrap();
    messages.next().await;
    assert_eq!(messages.next().await.2, "after");
    let times = vendor.query_times();
    let gaps: Vec<_> = times.windows(2).map(|pair| (pair[1] - pair[0]).as_millis()).collect();
    for (gap, least) in gaps.iter().zip([50, 50, 100, 200, 200, 1000]) {
        assert!(*gap >= least, "{gaps:?}");
    }
    gateway.stop().await;
}

#[tokio::test]
async fn a_lasting_failure_ends_every_watch_of_its_task_and_no_other() {
    let vendor = Vendor::start().await;
    let gate = Gate::shut();
    vendor.first([Answer::doing("")]);
    let gateway = Gateway::start(&vendor, &["--poll-min=50ms"]).await;
    let caller = gateway.caller().await;
    let mut other = caller.watch(watch("other", Some(Duration::from_secs(3600)))).await.unwrap();
    let held = gate.clone();
    let mut polls = 0;
    vendor.on_query(move |seen, _| {
        match (&*seen.task(), {
            polls += 1;
            polls
        }) {
            ("7", 1) => Answer::doing(""),
            ("7", _) => Answer::status(403).held(&held),
            _ => Answer::doing("goes on"),
        }
    });
    let mut watches = Vec::new();
    for _ in 0..3 {
        watches.push(caller.watch(watch("7", POLL_MIN)).await.unwrap());
    }
    gate.open();
    for messages in &mut watches {
        let told = messages.failure().await;
        assert_eq!((told.code, &*told.reason), (Code::FailedPrecondition, "UPSTREAM_FORBIDDEN"));
    }
    let before = vendor.queries();
    let _hasty = caller.watch(watch("other", POLL_MIN)).await.unwrap();
    other.next().await;
    assert_eq!(other.next().await.2, "goes on");
    assert!(vendor.queries() > before);
    gateway.stop().await;
}

#[tokio::test]
async fn a_watch_gives_up_after_its_time_and_a_good_answer_begins_it_anew() {
    let vendor = Vendor::start().await;
    vendor.first([Answer::doing("1"), Answer::status(503), Answer::doing("2")]);
    vendor.on_query(|_, _| Answer::status(503));
    // The good answer in between must come within that time.
    const GIVE_UP: Duration = Duration::from_secs(4);
    let flags = ["--poll-min=50ms", "--poll-max=100ms", "--max-attempts=1", "--watch-give-up=4s"];
    let gateway = Gateway::start(&vendor, &flags).await;
    let mut messages = gateway.caller().await.watch(watch("7", POLL_MIN)).await.unwrap();
    assert_eq!(messages.next().await.2, "1");
    assert_eq!(messages.next().await.2, "2");
    let told = told(&messages.message().await.unwrap_err());
    assert_eq!((told.code, &*told.reason), (Code::Unavailable, "UPSTREAM_UNAVAILABLE"));
    assert!(told.retry.is_some());
    // From the first failure after the last good answer.
    assert!(vendor.query_times()[3].elapsed() >= GIVE_UP);
    assert!(vendor.queries() >= 5);
    gateway.stop().await;
}

#[tokio::test]
async fn a_429_holds_back_the_polls_of_all_tasks() {
    let vendor = Vendor::start().await;
    vendor.on_query(|_, _| Answer::doing(""));
    let gateway = Gateway::start(&vendor, &["--poll-min=50ms", "--max-attempts=1"]).await;
    let caller = gateway.caller().await;
    let _polled = caller.watch(watch("polled", POLL_MIN)).await.unwrap();
    let mut limited = false;
    vendor.on_query(move |seen, _| {
        if seen.task() == "limited" && !std::mem::replace(&mut limited, true) {
            return Answer::status(429).header("Retry-After", "2");
        }
        Answer::doing("")
    });
    let told = caller.refused(query("limited")).await;
    assert_eq!(told.reason, "UPSTREAM_RATE_LIMITED");
    let began = vendor.query_times().len();
    eventually("polls come again", async || vendor.queries() >= began + 5).await;
    // Counted from when the vendor was asked: the gateway has heard of its limit later, and the caller later still.
    let limited = vendor.asked_for().iter().position(|task| task == "limited").unwrap();
    let times = vendor.query_times();
    let until = times[limited] + Duration::from_secs(2);
    let early = times[began..].iter().filter(|at| **at < until).count();
    // One may have been on its way.
    assert!(early <= 1, "{early} polls although the key is limited");
    gateway.stop().await;
}

#[tokio::test]
async fn a_poll_that_reaches_request_timeout_counts_as_unreachable() {
    let vendor = Vendor::start().await;
    let gate = Gate::shut();
    vendor.first([Answer::doing("")]);
    vendor.on_query(move |_, _| Answer::doing("").held(&gate));
    // The first answer must come within that time.
    let flags = ["--poll-min=50ms", "--request-timeout=4s", "--watch-give-up=0s"];
    let gateway = Gateway::start(&vendor, &flags).await;
    let mut messages = gateway.caller().await.watch(watch("7", POLL_MIN)).await.unwrap();
    let told = messages.failure().await;
    assert_eq!((told.code, &*told.reason), (Code::Unavailable, "UPSTREAM_UNREACHABLE"));
    gateway.stop().await;
}

#[tokio::test]
async fn rejected_credentials_are_absorbed_until_the_operator_has_mended_them() {
    let vendor = Vendor::start().await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), SECRET).unwrap();
    let path = format!("--app-secret-file={}", file.path().display());
    let gateway = Gateway::start(&vendor, &["--poll-min=50ms", "--poll-max=100ms", &path]).await;
    let mut messages = gateway.caller().await.watch(watch("7", POLL_MIN)).await.unwrap();
    messages.next().await;
    // The secret was changed at the vendor: its token ends, and only the new secret gets another.
    vendor.on_login(|seen, _| {
        if seen.json()["app_secret"] == "mended" {
            Answer::token("mended-token", &serde_json::json!(600))
        } else {
            Answer::status(403)
        }
    });
    vendor.on_query(|seen, _| match seen.header("authorization") {
        "Bearer mended-token" => Answer::doing("after"),
        _ => Answer::status(401),
    });
    eventually("logins fail", async || {
        gateway.metric(r#"federation_token_refreshes_total{outcome="credentials_rejected"}"#).await >= 1.0
    })
    .await;
    std::fs::write(file.path(), "mended\n").unwrap();
    assert_eq!(messages.next().await.2, "after");
    gateway.stop().await;
}

#[tokio::test]
async fn a_401_that_gets_no_login_only_as_logins_are_spaced_is_absorbed() {
    let vendor = Vendor::start().await;
    let gateway = Gateway::start(&vendor, &["--poll-min=50ms"]).await;
    let caller = gateway.caller().await;
    let mut messages = caller.watch(watch("7", POLL_MIN)).await.unwrap();
    messages.next().await;
    // A task that no token helps: from now on a login that a 401 asks for is not due for 2 s.
    vendor.on_query(|seen, _| if seen.task() == "7" { Answer::doing("") } else { Answer::status(401) });
    assert_eq!(caller.refused(query("refused")).await.reason, "UPSTREAM_UNAUTHORIZED");
    assert_eq!(vendor.logins(), 2);
    vendor.first([Answer::status(401)]);
    vendor.on_query(|_, _| Answer::doing("after"));
    assert_eq!(messages.next().await.2, "after");
    gateway.stop().await;
}
