//! WatchTask: what is sent, in which order, and how often the vendor is asked for it.

use std::time::Duration;

use federation_gateway::pb::{QueryTaskRequest, WatchReason, WatchTaskRequest};
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::{Code, Request};

use crate::support::{
    Answer, Gate, Gateway, Vendor, done, duration, eventually, query, soon, task, told, watch,
};

const POLL_MIN: Duration = Duration::from_millis(50);
const HOUR: Option<Duration> = Some(Duration::from_secs(3600));
const FLAGS: [&str; 1] = ["--poll-min=50ms"];

fn failed(code: &str) -> Answer {
    let users = json!([{"failCode": code}]);
    Answer::json(&json!({"resultCode": "0", "taskInfo": {"status": "DOING"}, "failDataList": users}))
}

#[tokio::test]
async fn initial_then_changes_then_done_and_the_end() {
    let vendor = Vendor::start().await;
    let doing = Answer::doing;
    vendor.first([task("TODO"), task("TODO"), task("PAUSED"), doing("a"), doing("a"), doing("b")]);
    vendor.first([failed("7"), failed("8"), failed("8"), done()]);
    let gateway = Gateway::start(&vendor, &FLAGS).await;
    let mut messages = gateway.caller().await.watch(watch("7", Some(POLL_MIN))).await.unwrap();
    let mut sent = Vec::new();
    while let Some(message) = messages.message().await.unwrap() {
        let task = message.task.clone().unwrap();
        assert_eq!(task.task_id, "7");
        assert!(task.observed_at.is_some());
        let code = task.fail_data.first().map(|failed| failed.fail_code.clone()).unwrap_or_default();
        sent.push((message.reason(), format!("{} {}{code}", task.raw_status, task.remark)));
    }
    let expected = ["TODO ", "PAUSED ", "DOING a", "DOING b", "DOING 7", "DOING 8", "DONE "];
    assert_eq!(sent.iter().map(|(_, state)| &**state).collect::<Vec<_>>(), expected);
    assert_eq!(sent[0].0, WatchReason::Initial);
    assert!(sent[1..].iter().all(|(reason, _)| *reason == WatchReason::Changed));
    assert_eq!(vendor.queries(), 10);
    gateway.stop().await;
}

#[tokio::test]
async fn two_hundred_watchers_have_one_poller_and_see_one_order() {
    let vendor = Vendor::start().await;
    vendor.on_query(|_, number| Answer::doing(&number.to_string()));
    let gateway = Gateway::start(&vendor, &FLAGS).await;
    let mut watchers = JoinSet::new();
    for _ in 0..4 {
        let caller = gateway.caller().await;
        for _ in 0..50 {
            let caller = caller.clone();
            watchers.spawn(async move {
                let mut messages = caller.watch(watch("7", Some(POLL_MIN))).await.expect("it is answered");
                let mut last = 0;
                for _ in 0..6 {
                    let number = messages.next().await.2.parse().expect("the vendor says numbers");
                    assert!(number > last, "{number} after {last}");
                    last = number;
                }
                messages
            });
        }
    }
    let mut open = Vec::new();
    while let Some(watcher) = soon("the watchers' messages", watchers.join_next()).await {
        open.push(watcher.unwrap());
    }
    assert_eq!(gateway.metric("federation_watchers").await, 200.0);
    assert_eq!(gateway.metric("federation_pollers").await, 1.0);
    let times = vendor.query_times();
    // One poller: an interval lies between each two of its polls, and nobody else asked.
    assert!(times.len() >= 6);
    assert!(times.windows(2).all(|pair| pair[1] - pair[0] >= POLL_MIN), "{times:?}");
    drop(open);
    eventually("nobody watches", async || gateway.metric("federation_watchers").await == 0.0).await;
    gateway.stop().await;
}

#[tokio::test]
async fn who_joins_gets_the_pollers_last_answer_and_no_poll_of_its_own() {
    let vendor = Vendor::start().await;
    vendor.on_query(|_, number| Answer::doing(&number.to_string()));
    let gateway = Gateway::start(&vendor, &FLAGS).await;
    let mut open = Vec::new();
    for _ in 0..5 {
        let mut messages = gateway.caller().await.watch(watch("7", HOUR)).await.unwrap();
        assert_eq!(messages.next().await, (WatchReason::Initial, "DOING".into(), "1".into()));
        open.push(messages);
    }
    assert_eq!(vendor.queries(), 1);
    // A query whose age fits is served from the poller too.
    let max_age = Some(duration(Duration::from_secs(60)));
    let answer = gateway.caller().await.query(QueryTaskRequest { max_age, ..query("7") }).await.unwrap();
    assert_eq!((answer.task.unwrap().remark, vendor.queries()), ("1".into(), 1));
    // A smaller interval takes effect at once, for all; INITIAL is the last answer all the same.
    let mut hasty = gateway.caller().await.watch(watch("7", Some(Duration::ZERO))).await.unwrap();
    let first: usize = hasty.next().await.2.parse().unwrap();
    assert!(first <= 2);
    for messages in &mut open {
        assert_eq!(messages.next().await.0, WatchReason::Changed);
    }
    eventually("polls go on", async || vendor.queries() >= 6).await;
    let times = vendor.query_times();
    assert!(
        times.windows(2).skip(1).all(|pair| pair[1] - pair[0] >= POLL_MIN),
        "raised to poll-min: {times:?}"
    );
    gateway.stop().await;
}

#[tokio::test]
async fn one_who_finds_the_last_answer_too_old_makes_the_next_poll_due() {
    const INTERVAL: Duration = Duration::from_secs(8);
    let vendor = Vendor::start().await;
    let gateway = Gateway::start(&vendor, &FLAGS).await;
    let gate = Gate::shut();
    vendor.first([Answer::doing("").held(&gate)]);
    let mut first = JoinSet::new();
    let caller = gateway.caller().await;
    first.spawn(async move { caller.watch(watch("7", HOUR)).await });
    eventually("it is under way", async || vendor.under_way() == 1).await;
    // An answer is as old as the try that brought it: this one is too old for some as soon as it is there.
    eventually("it is old", async || vendor.query_times()[0].elapsed() > INTERVAL).await;
    let opened = Instant::now();
    gate.open();
    let _first = first.join_next().await.unwrap().unwrap().unwrap();
    let _second = gateway.caller().await.watch(watch("7", Some(INTERVAL))).await.unwrap();
    eventually("there is a second poll", async || vendor.queries() == 2).await;
    // Otherwise it would have come an interval after the end of the first, which was after the gate was opened.
    assert!(vendor.query_times()[1] - opened < INTERVAL, "it was due at once");
    gateway.stop().await;
}

#[tokio::test]
async fn polls_back_off_while_nothing_changes_and_start_again_on_a_change() {
    let vendor = Vendor::start().await;
    vendor.on_query(|_, number| Answer::doing(if number < 8 { "same" } else { "changed" }));
    let gateway = Gateway::start(&vendor, &["--poll-min=50ms", "--poll-max=1h"]).await;
    let _messages = gateway.caller().await.watch(watch("7", None)).await.unwrap();
    eventually("there were polls", async || vendor.queries() >= 10).await;
    let times = vendor.query_times();
    let gaps: Vec<_> = times.windows(2).map(|pair| (pair[1] - pair[0]).as_millis()).collect();
    for (gap, least) in gaps.iter().zip([50, 100, 200, 400, 800, 1600, 3200, 50, 100]) {
        assert!(*gap >= least, "{gaps:?}");
    }
    assert!(gaps[7] < 6400, "it would be this if it went on: {gaps:?}");
    gateway.stop().await;
}

#[tokio::test]
async fn polls_back_off_to_poll_max_and_no_further() {
    let vendor = Vendor::start().await;
    let gateway = Gateway::start(&vendor, &["--poll-min=50ms", "--poll-max=100ms"]).await;
    let _messages = gateway.caller().await.watch(watch("7", None)).await.unwrap();
    // If their intervals doubled on and on, as many would take more than three minutes.
    eventually("there were polls", async || vendor.queries() >= 13).await;
    let times = vendor.query_times();
    let gaps: Vec<_> = times.windows(2).map(|pair| (pair[1] - pair[0]).as_millis()).collect();
    assert!(gaps[0] >= 50 && gaps[1..].iter().all(|gap| *gap >= 100), "{gaps:?}");
    gateway.stop().await;
}

#[tokio::test]
async fn a_task_known_done_is_answered_from_memory() {
    let vendor = Vendor::start().await;
    vendor.on_query(|_, _| done());
    let gateway = Gateway::start(&vendor, &FLAGS).await;
    let caller = gateway.caller().await;
    caller.query(query("7")).await.unwrap();
    for _ in 0..2 {
        let mut messages = caller.watch(watch("7", None)).await.unwrap();
        assert_eq!(messages.next().await.0, WatchReason::Initial);
        assert!(messages.message().await.unwrap().is_none());
    }
    assert_eq!(vendor.queries(), 1);
    assert_eq!(gateway.metric("federation_pollers").await, 0.0);
    gateway.stop().await;
}

#[tokio::test]
async fn the_poller_stops_with_its_last_watcher_and_not_before() {
    let vendor = Vendor::start().await;
    let gateway = Gateway::start(&vendor, &FLAGS).await;
    let (one, other) = (gateway.caller().await, gateway.caller().await);
    let gate = Gate::shut();
    vendor.first([Answer::doing("")]);
    let held = gate.clone();
    vendor.on_query(move |_, _| Answer::doing("").held(&held));
    let first = one.watch(watch("7", Some(POLL_MIN))).await.unwrap();
    let second = other.watch(watch("7", Some(POLL_MIN))).await.unwrap();
    eventually("a poll is under way", async || vendor.under_way() == 1).await;
    drop(first);
    eventually("one has left", async || gateway.metric("federation_watchers").await == 1.0).await;
    assert_eq!((vendor.under_way(), gateway.metric("federation_pollers").await), (1, 1.0));
    other.cut();
    eventually("the socket is free", async || vendor.under_way() == 0).await;
    eventually("the poller is gone", async || gateway.metric("federation_pollers").await == 0.0).await;
    drop(second);
    gateway.stop().await;
}

#[tokio::test]
async fn a_watch_ends_at_its_own_deadline() {
    let vendor = Vendor::start().await;
    let gateway = Gateway::start(&vendor, &["--poll-min=50ms", "--request-timeout=3s"]).await;
    let caller = gateway.caller().await;
    let (mut request, start) = (Request::new(watch("7", None)), Instant::now());
    // Longer than request-timeout, which bounds the first answer alone; that must come within it.
    request.set_timeout(Duration::from_secs(5));
    let mut messages = caller.watch(request).await.unwrap();
    assert_eq!(messages.next().await.0, WatchReason::Initial);
    let told = messages.failure().await;
    assert_eq!((told.code, &*told.reason), (Code::DeadlineExceeded, "DEADLINE"));
    assert!(start.elapsed() >= Duration::from_secs(5));
    eventually("the poller is gone", async || gateway.metric("federation_pollers").await == 0.0).await;
    gateway.stop().await;
}

#[tokio::test]
async fn a_slow_reader_gets_the_newest_state_and_delays_nobody() {
    const CHANGES: usize = 40;
    let vendor = Vendor::start().await;
    // Each answer comes when the quick one has read the last: a busy machine makes it no slow reader.
    let gates: Vec<_> = (0..CHANGES).map(|_| Gate::shut()).collect();
    let of_vendor = gates.clone();
    vendor.on_query(move |_, number| {
        let status = if number < CHANGES { "DOING" } else { "DONE" };
        let remark = format!("{number} {}", "x".repeat(200_000));
        let answer =
            Answer::json(&json!({"resultCode": "0", "taskInfo": {"status": status, "remark": remark}}));
        answer.held(&of_vendor[number - 1])
    });
    gates[0].open();
    let gateway = Gateway::start(&vendor, &FLAGS).await;
    let request = || watch("7", Some(POLL_MIN));
    let mut slow = gateway.caller().await.watch(request()).await.unwrap();
    let mut quick = gateway.caller().await.watch(request()).await.unwrap();
    let numbers = async |messages: &mut crate::support::Messages| {
        let mut numbers = Vec::new();
        while let Some(message) = messages.message().await.unwrap() {
            let remark = message.task.unwrap().remark;
            let number = remark.split(' ').next().unwrap().parse::<usize>().unwrap();
            if let Some(next) = gates.get(number) {
                next.open();
            }
            numbers.push(number);
        }
        numbers
    };
    let seen = numbers(&mut quick).await;
    assert_eq!(seen, (1..=CHANGES).collect::<Vec<_>>(), "the quick one saw them all");
    let seen = numbers(&mut slow).await;
    assert!(seen.len() < CHANGES / 2, "states in between were dropped: {seen:?}");
    assert!(seen.is_sorted_by(|one, next| one < next), "{seen:?}");
    assert_eq!(seen.last(), Some(&CHANGES));
    gateway.stop().await;
}

#[tokio::test]
async fn heartbeats_tell_how_stale_the_state_is_and_the_watch_goes_on() {
    let vendor = Vendor::start().await;
    vendor.first([Answer::doing("before")]);
    vendor.on_query(|_, _| Answer::status(503));
    let gateway = Gateway::start(&vendor, &["--poll-min=50ms", "--poll-max=200ms"]).await;
    let heartbeat_interval = Some(duration(Duration::from_millis(1)));
    let request = WatchTaskRequest { heartbeat_interval, ..watch("7", None) };
    let start = Instant::now();
    let mut messages = gateway.caller().await.watch(request).await.unwrap();
    let first = messages.message().await.unwrap().unwrap();
    for beats in 1..=2 {
        let beat = messages.message().await.unwrap().unwrap();
        assert_eq!(beat.reason(), WatchReason::Heartbeat);
        assert_eq!(beat.task, first.task, "the same state, with its time");
        // Raised to 1 s. Counted from before the first was sent, as each may be read later than it was sent.
        assert!(start.elapsed() >= Duration::from_secs(beats), "{:?}", start.elapsed());
    }
    eventually("polls go on", async || vendor.queries() > 3).await;
    vendor.on_query(|_, _| Answer::doing("after"));
    loop {
        let (reason, _, remark) = messages.next().await;
        if reason == WatchReason::Changed {
            assert_eq!(remark, "after");
            break;
        }
    }
    gateway.stop().await;
}

#[tokio::test]
async fn a_drain_ends_watches_at_once() {
    let vendor = Vendor::start().await;
    let gateway = Gateway::start(&vendor, &FLAGS).await;
    let mut messages = gateway.caller().await.watch(watch("7", HOUR)).await.unwrap();
    messages.next().await;
    gateway.drain();
    let failure = told(&messages.message().await.unwrap_err());
    assert_eq!((failure.code, &*failure.reason), (Code::Unavailable, "SHUTTING_DOWN"));
    assert!(failure.retry.unwrap() <= Duration::from_secs(1));
    gateway.stop().await;
}
