//! One exchange with the vendor: which connections are used again, and what must not get through one.

use std::collections::HashSet;

use federation_gateway::settings::QUERY_PATH;
use serde_json::json;
use tokio::task::JoinSet;

use crate::support::{Answer, Gate, Gateway, Step, Vendor, eventually, query, told};

#[tokio::test]
async fn a_stray_second_answer_never_reaches_another_caller() {
    let vendor = Vendor::start().await;
    let gateway = Gateway::start(&vendor, &[]).await;
    let caller = gateway.caller().await;
    vendor.on_query(|seen, _| {
        let own = Answer::doing(&format!("of {}", seen.task()));
        own.followed_by(Answer::doing("somebody else's"))
    });
    for number in 0..50 {
        let id = number.to_string();
        let answer = caller.query(query(&id)).await.unwrap();
        assert_eq!(answer.task.unwrap().remark, format!("of {id}"));
    }
    assert_eq!(vendor.queries(), 50);
    gateway.stop().await;
}

#[tokio::test]
async fn an_answer_that_nobody_asked_for_costs_the_connection() {
    let vendor = Vendor::start().await;
    let gateway = Gateway::start(&vendor, &["--max-attempts=1"]).await;
    let caller = gateway.caller().await;
    for number in 0..5 {
        let gate = Gate::shut();
        let (own, stray) = (Answer::doing("its own").bytes(), Answer::doing("somebody else's").bytes());
        vendor.first([Answer::raw([
            Step::Send(own),
            Step::Wait(gate.clone()),
            Step::Send(stray),
            Step::Hang,
        ])]);
        assert_eq!(caller.query(query("7")).await.unwrap().task.unwrap().remark, "its own");
        let ended = || vendor.connections() - vendor.open_connections();
        assert_eq!(ended(), number);
        // Before the next request.
        gate.open();
        eventually("the connection is given up", async || ended() == number + 1).await;
        vendor.on_query(|seen, _| Answer::doing(&format!("of {}", seen.task())));
        assert_eq!(caller.query(query("8")).await.unwrap().task.unwrap().remark, "of 8");
    }
    gateway.stop().await;
}

#[tokio::test]
async fn a_connection_that_the_vendor_closes_as_it_is_used_again_is_seen_by_nobody() {
    let vendor = Vendor::start().await;
    let gateway = Gateway::start(&vendor, &[]).await;
    let caller = gateway.caller().await;
    // As a load balancer does it whose patience ends just then: it takes one request over each connection, and what
    // comes after it is lost.
    for last in [Step::Close, Step::Reset] {
        let mut used = HashSet::new();
        vendor.on_query(move |seen, _| {
            let own = Answer::doing(&format!("of {}", seen.task()));
            if used.insert(seen.connection) { own } else { Answer::raw([last.clone()]) }
        });
        for number in 0..40 {
            let id = number.to_string();
            let answer = caller.query(query(&id)).await.unwrap();
            assert_eq!(answer.task.unwrap().remark, format!("of {id}"));
        }
    }
    // Every second call met it.
    assert!(vendor.queries() >= 100, "{}", vendor.queries());
    gateway.stop().await;
}

#[tokio::test]
async fn a_vendor_that_closes_after_each_answer_without_a_word_is_seen_by_nobody() {
    let vendor = Vendor::start().await;
    let gateway = Gateway::start(&vendor, &[]).await;
    let mut callers = JoinSet::new();
    vendor.on_query(|seen, _| {
        let own = Answer::doing(&format!("of {}", seen.task()));
        Answer::raw([Step::Send(own.bytes()), Step::Close])
    });
    for number in 0..4 {
        let caller = gateway.caller().await;
        callers.spawn(async move {
            for call in 0..25 {
                let id = format!("{number}-{call}");
                let answer = caller.query(query(&id)).await.expect("a new connection helps");
                assert_eq!(answer.task.expect("there is one").remark, format!("of {id}"));
            }
        });
    }
    while let Some(caller) = callers.join_next().await {
        caller.unwrap();
    }
    assert!(vendor.connections() >= 100, "{}", vendor.connections());
    gateway.stop().await;
}

#[tokio::test]
async fn connections_are_used_again_after_error_answers_too() {
    let vendor = Vendor::start().await;
    let gateway = Gateway::start(&vendor, &["--max-attempts=1"]).await;
    let caller = gateway.caller().await;
    caller.query(query("7")).await.unwrap();
    let before = vendor.connections();
    for status in [400, 403, 404, 408, 429, 500, 502, 503, 504, 418] {
        vendor.first([Answer::new(status, "x".repeat(60_000)), Answer::result("7", "no")]);
        caller.query(query("7")).await.unwrap_err();
        caller.query(query("7")).await.unwrap_err();
    }
    assert_eq!(vendor.queries(), 21);
    assert_eq!(vendor.connections(), before);
    gateway.stop().await;
}

#[tokio::test]
async fn a_connection_whose_exchange_did_not_end_cleanly_is_not_used_again() {
    let vendor = Vendor::start().await;
    let gateway = Gateway::start(&vendor, &["--max-attempts=1"]).await;
    let caller = gateway.caller().await;
    // More than is read of an error's body, and of a good one's.
    for (status, bytes) in [(503, 4 * 1024 * 1024), (200, 4 * 1024 * 1024)] {
        vendor.first([Answer::new(status, vec![b' '; bytes])]);
        caller.query(query("7")).await.unwrap_err();
        caller.query(query("7")).await.unwrap();
        let seen = vendor.seen();
        let [.., broken, next] = &seen[..] else { panic!("two queries were sent") };
        assert_ne!(broken.connection, next.connection, "after HTTP {status}");
    }
    gateway.stop().await;
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let vendor = Vendor::start().await;
    let elsewhere = Vendor::start().await;
    let target = format!("{}{QUERY_PATH}", elsewhere.url());
    let gateway = Gateway::start(&vendor, &[]).await;
    let caller = gateway.caller().await;
    for status in [301, 302, 303, 307, 308] {
        vendor.first([Answer::status(status).header("Location", &target)]);
        assert_eq!(caller.refused(query("7")).await.reason, "UPSTREAM_REDIRECT");
    }
    assert_eq!((vendor.queries(), elsewhere.connections()), (5, 0));
    gateway.stop().await;
}

#[tokio::test]
async fn a_vendor_that_echoes_the_token_makes_nobody_see_it() {
    let vendor = Vendor::start().await;
    let gateway = Gateway::start(&vendor, &[]).await;
    let caller = gateway.caller().await;
    for status in [200, 400, 500, 403] {
        for escaped in [false, true] {
            vendor.on_query(move |seen, _| {
                let authorization = seen.header("authorization").to_owned();
                let text = format!("you sent Authorization: {authorization}");
                let body = json!({"resultCode": authorization, "resultMessage": text}).to_string();
                let body = if escaped { body.replace("token-1", "\\u0074oken-1") } else { body };
                Answer::new(status, body)
            });
            let status = caller.query(query("7")).await.unwrap_err();
            let text = format!("{status:?} {} {:?}", told(&status).text, status.metadata());
            assert!(!text.contains("token-1"), "{text}");
            assert!(!String::from_utf8_lossy(status.details()).contains("token-1"));
        }
    }
    assert!(!gateway.metrics().await.contains("token-1"));
    gateway.stop().await;
}

#[tokio::test]
async fn an_error_answer_whose_body_never_ends_keeps_its_status_and_its_retry_after() {
    let vendor = Vendor::start().await;
    let gateway = Gateway::start(&vendor, &["--attempt-timeout=3s", "--request-timeout=30s"]).await;
    let caller = gateway.caller().await;
    vendor.first([Answer::new(429, "x".repeat(1000)).header("Retry-After", "60").trickled()]);
    let failure = caller.refused(query("7")).await;
    assert_eq!(&*failure.reason, "UPSTREAM_RATE_LIMITED");
    assert!(failure.retry.is_some_and(|wait| wait.as_secs() >= 60));
    assert_eq!(vendor.queries(), 1, "not before Retry-After");
    gateway.stop().await;
}
