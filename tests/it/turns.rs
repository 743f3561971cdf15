//! `upstream-concurrency` and `upstream-rate`: whose turn it is to ask the vendor, how long one waits for it, and that
//! watches leave queries their share.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use federation_gateway::pb::{QueryTaskRequest, QueryTaskResponse};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::{Code, Request, Status};

use crate::support::{
    Answer, Caller, Gate, Gateway, LONG, Messages, Vendor, done, eventually, query, soon, told, watch,
};

const POLL_MIN: Option<Duration> = Some(Duration::from_millis(50));
const STARTED: &str = r#"grpc_server_started_total{grpc_method="QueryTask",grpc_service="federation.v1.FederationTasks",grpc_type="unary"}"#;

/// Three places are for polls.
const FOUR_PLACES: [&str; 2] = ["--upstream-concurrency=4", "--poll-min=50ms"];

type Call = JoinSet<Result<QueryTaskResponse, Status>>;

fn begin(caller: &Caller, request: Request<QueryTaskRequest>) -> Call {
    let (caller, mut call) = (caller.clone(), JoinSet::new());
    call.spawn(async move { caller.query(request).await });
    call
}

async fn end(mut call: Call) -> Result<QueryTaskResponse, Status> {
    soon("a query", call.join_next()).await.expect("one was spawned").expect("it does not panic")
}

fn bounded(id: &str, timeout: Duration) -> Request<QueryTaskRequest> {
    let mut request = Request::new(query(id));
    request.set_timeout(timeout);
    request
}

/// Answers that each wait for a gate of their own.
fn gated(vendor: &Vendor) -> Arc<Mutex<Vec<Gate>>> {
    let gates = Arc::<Mutex<Vec<Gate>>>::default();
    let made = Arc::clone(&gates);
    vendor.on_query(move |_, _| {
        let gate = Gate::shut();
        made.lock().expect("nobody panics with it").push(gate.clone());
        Answer::doing("").held(&gate)
    });
    gates
}

/// Asserts that no more tries came than a burst and the rate allow from `start` on. Each came later than it started,
/// so that no delay can make it fail.
fn assert_rate(times: &[Instant], start: Instant, rate: usize) {
    for (at, time) in times.iter().enumerate().skip(rate) {
        let least = Duration::from_secs_f64((at + 1 - rate) as f64 / rate as f64);
        // Half a millisecond: what two clocks' rounding may come to.
        let since = *time - start + Duration::from_micros(500);
        assert!(since >= least, "try {at} came {since:?} after the start, at {rate} a second");
    }
}

#[tokio::test]
async fn no_more_tries_are_under_way_than_allowed_and_they_begin_in_order() {
    for concurrency in [1, 3] {
        let vendor = Vendor::start().await;
        let gates = gated(&vendor);
        let flag = format!("--upstream-concurrency={concurrency}");
        let gateway = Gateway::start(&vendor, &[&flag]).await;
        let (caller, mut calls) = (gateway.caller().await, Vec::new());
        let ids: Vec<_> = (0..12).map(|id| id.to_string()).collect();
        for (at, id) in ids.iter().enumerate() {
            calls.push(begin(&caller, Request::new(query(id))));
            eventually("it has begun", async || gateway.metric(STARTED).await == (at + 1) as f64).await;
            // Those who need not wait in line come by connections of their own, of which any might be the quickest.
            eventually("it is asked for", async || vendor.queries() == (at + 1).min(concurrency)).await;
        }
        for at in 0..calls.len() {
            let under_way = concurrency.min(calls.len() - at);
            eventually("as many as may are under way", async || vendor.under_way() == under_way).await;
            assert_eq!(vendor.queries(), at + under_way);
            let gate = gates.lock().unwrap()[at].clone();
            gate.open();
            eventually("one more is asked for", async || {
                vendor.queries() == (at + 1 + concurrency).min(calls.len())
            })
            .await;
        }
        for call in calls {
            end(call).await.unwrap();
        }
        assert_eq!(vendor.most_under_way(), concurrency);
        assert_eq!(vendor.asked_for(), ids);
        gateway.stop().await;
    }
}

#[tokio::test]
async fn who_waits_in_vain_is_told_whose_bound_it_was() {
    let vendor = Vendor::start().await;
    let gates = gated(&vendor);
    let flags = ["--upstream-concurrency=1", "--request-timeout=1s"];
    let gateway = Gateway::start(&vendor, &flags).await;
    let caller = gateway.caller().await;
    let holding = begin(&caller, bounded("holding", LONG));
    eventually("the place is taken", async || vendor.under_way() == 1).await;
    let start = Instant::now();
    let waiting = [
        (Request::new(query("1")), 1000, "GATEWAY_OVERLOADED"),
        (bounded("2", Duration::from_millis(600)), 600, "DEADLINE"),
        // A deadline of one's own makes nobody wait longer than request-timeout.
        (bounded("3", LONG), 1000, "GATEWAY_OVERLOADED"),
    ];
    let waiting = waiting.map(|(request, least, reason)| (begin(&caller, request), least, reason));
    for (call, least, reason) in waiting {
        let told = told(&end(call).await.unwrap_err());
        assert_eq!(told.reason, reason);
        let is_overload = reason == "GATEWAY_OVERLOADED";
        let code = if is_overload { Code::ResourceExhausted } else { Code::DeadlineExceeded };
        assert_eq!(
            (told.code, told.retry.is_some(), told.pushback_ms.is_some()),
            (code, is_overload, is_overload)
        );
        assert!(start.elapsed() >= Duration::from_millis(least));
    }
    // A watch's first answer is bounded by whichever is sooner.
    for (timeout, reason) in [(LONG, "GATEWAY_OVERLOADED"), (Duration::from_millis(500), "DEADLINE")] {
        let mut request = Request::new(watch("4", None));
        request.set_timeout(timeout);
        assert_eq!(told(&caller.watch(request).await.unwrap_err()).reason, reason);
    }
    assert!(start.elapsed() < LONG);
    assert_eq!(vendor.queries(), 1);
    gates.lock().unwrap()[0].open();
    end(holding).await.unwrap();
    // Nobody is left in the line.
    vendor.on_query(|_, _| done());
    caller.query(query("5")).await.unwrap();
    assert_eq!(vendor.asked_for(), ["holding", "5"]);
    gateway.stop().await;
}

#[tokio::test]
async fn a_poll_that_waits_in_vain_counts_as_an_overload() {
    let vendor = Vendor::start().await;
    let gate = Gate::shut();
    let held = gate.clone();
    vendor.on_query(move |seen, _| match &*seen.task() {
        "holding" => done().held(&held),
        _ => Answer::doing(""),
    });
    // Polls that do not wait, and the first answer, must come to their end within that time.
    let flags = ["--upstream-concurrency=1", "--request-timeout=5s", "--poll-min=50ms", "--watch-give-up=0s"];
    let gateway = Gateway::start(&vendor, &flags).await;
    let caller = gateway.caller().await;
    let mut messages = caller.watch(watch("7", POLL_MIN)).await.unwrap();
    messages.next().await;
    let holding = begin(&caller, bounded("holding", LONG));
    let told = messages.failure().await;
    assert_eq!((told.code, &*told.reason), (Code::ResourceExhausted, "GATEWAY_OVERLOADED"));
    assert!(told.retry.is_some());
    gate.open();
    end(holding).await.unwrap();
    gateway.stop().await;
}

/// Four watched tasks, of which three are being polled; the fourth's poll waits as polls leave a place to queries.
async fn with_a_poll_in_line(vendor: &Vendor, gateway: &Gateway) -> (Vec<Messages>, String, Gate) {
    let (caller, mut watches) = (gateway.caller().await, Vec::new());
    let ids = ["a", "b", "c", "d"];
    for id in ids {
        watches.push(caller.watch(watch(id, POLL_MIN)).await.expect("there is room for all"));
    }
    let gate = Gate::shut();
    let held = gate.clone();
    vendor.on_query(move |seen, _| match &*seen.task() {
        "free" => done(),
        _ => Answer::doing("").held(&held),
    });
    eventually("three are polled", async || vendor.under_way() == 3).await;
    let asked = vendor.asked_for();
    let polled = &asked[asked.len() - 3..];
    let waiting = ids.into_iter().find(|id| !polled.iter().any(|task| task == id)).expect("one waits");
    (watches, waiting.to_owned(), gate)
}

#[tokio::test]
async fn a_query_that_joins_a_poll_in_line_makes_it_a_query() {
    let vendor = Vendor::start().await;
    let gateway = Gateway::start(&vendor, &FOUR_PLACES).await;
    let caller = gateway.caller().await;
    let (_watches, waiting, gate) = with_a_poll_in_line(&vendor, &gateway).await;
    // The poll comes into line before this is over, however busy the machine is: it is due earlier by the same clock.
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(vendor.under_way(), 3);
    let joined = begin(&caller, Request::new(query(&waiting)));
    eventually("the fourth is under way", async || vendor.under_way() == 4).await;
    assert_eq!(vendor.asked_for().last(), Some(&waiting));
    gate.open();
    end(joined).await.unwrap();
    assert_eq!(gateway.metric(r#"federation_answers_total{source="shared"}"#).await, 1.0);
    gateway.stop().await;
}

#[tokio::test]
async fn a_poll_whose_last_query_leaves_is_a_poll_again() {
    let vendor = Vendor::start().await;
    let gateway = Gateway::start(&vendor, &FOUR_PLACES).await;
    let caller = gateway.caller().await;
    let (_watches, waiting, gate) = with_a_poll_in_line(&vendor, &gateway).await;
    let last = Gate::shut();
    vendor.first([done().held(&last)]);
    let holding = begin(&caller, Request::new(query("holding")));
    eventually("the last place is taken", async || vendor.under_way() == 4).await;
    let before = vendor.asked_for();
    let started = gateway.metric(STARTED).await;
    let leaving = begin(&caller, Request::new(query(&waiting)));
    eventually("it waits", async || gateway.metric(STARTED).await == started + 1.0).await;
    drop(leaving);
    let left = r#"grpc_server_handled_total{grpc_code="Canceled",grpc_method="QueryTask",grpc_service="federation.v1.FederationTasks",grpc_type="unary"}"#;
    eventually("it has left", async || gateway.metric(left).await == 1.0).await;
    last.open();
    end(holding).await.unwrap();
    // Had the poll kept its place among the queries, it would have this one's turn.
    caller.query(query("free")).await.unwrap();
    assert_eq!(vendor.asked_for()[before.len()..], ["free"]);
    assert_eq!(vendor.under_way(), 3);
    gate.open();
    eventually("it is polled", async || vendor.asked_for()[before.len()..].contains(&waiting)).await;
    gateway.stop().await;
}

#[tokio::test]
async fn tries_start_at_the_rate_and_retries_are_tries() {
    const RATE: usize = 20;
    let vendor = Vendor::start().await;
    // Every task's first try fails.
    let mut known = std::collections::HashSet::new();
    vendor.on_query(move |seen, _| if known.insert(seen.task()) { Answer::status(503) } else { done() });
    let gateway = Gateway::start(&vendor, &["--upstream-rate=20"]).await;
    let (caller, start) = (gateway.caller().await, Instant::now());
    let calls: Vec<_> = (0..30).map(|id| begin(&caller, Request::new(query(&id.to_string())))).collect();
    for call in calls {
        end(call).await.unwrap();
    }
    let times = vendor.query_times();
    assert_eq!(times.len(), 60);
    assert_rate(&times, start, RATE);
    // Logins are no tries.
    assert_eq!(vendor.logins(), 1);
    gateway.stop().await;
}

#[tokio::test]
async fn a_hundred_watches_leave_queries_a_quarter_of_the_rate() {
    const RATE: usize = 40;
    const WATCHES: usize = 100;
    // More than all that the rate may have saved up for them.
    const QUERIES: usize = 2 * RATE;
    let vendor = Vendor::start().await;
    let gateway = Gateway::start(&vendor, &["--upstream-rate=40", "--poll-min=50ms"]).await;
    let (caller, start) = (gateway.caller().await, Instant::now());
    let mut opening = JoinSet::new();
    for id in 0..WATCHES {
        let caller = caller.clone();
        opening.spawn(async move { caller.watch(watch(&format!("w{id}"), POLL_MIN)).await.unwrap() });
    }
    let _watches = opening.join_all().await;
    let seen = vendor.queries();
    eventually("the burst of polls is used up", async || vendor.queries() >= seen + RATE).await;
    let calls: Vec<_> =
        (0..QUERIES).map(|id| begin(&caller, Request::new(query(&format!("q{id}"))))).collect();
    eventually("all have begun", async || gateway.metric(STARTED).await == QUERIES as f64).await;
    let before = vendor.queries();
    for call in calls {
        end(call).await.unwrap();
    }
    // Those that are in line by now have one poll before them, and not all the others, of which few come to the vendor
    // by a quicker connection.
    let since = &vendor.asked_for()[before..];
    let queries = since.iter().filter(|task| task.starts_with('q')).count();
    let last = since.iter().rposition(|task| task.starts_with('q'));
    let polls = last.map_or(0, |last| last + 1 - queries);
    assert!(polls < WATCHES * 3 / 4, "{polls} polls came before the last of {queries} queries");
    let mut known = std::collections::HashSet::new();
    let (mut polls, mut tries) = (Vec::new(), Vec::new());
    for (task, time) in vendor.asked_for().into_iter().zip(vendor.query_times()) {
        let is_first = known.insert(task.clone());
        tries.push(time);
        if !is_first && task.starts_with('w') {
            polls.push(time);
        }
    }
    assert_rate(&tries, start, RATE);
    assert_rate(&polls, start, RATE - RATE / 4);
    assert!(polls.len() >= RATE, "polls go on: {}", polls.len());
    gateway.stop().await;
}
