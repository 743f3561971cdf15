//! `max-in-flight` and `max-watches`: what is refused, how, and when there is room again.

use std::time::Duration;

use bytes::Bytes;
use federation_gateway::pb::WatchReason;
use federation_gateway::settings::QUERY_PATH;
use futures_util::stream;
use http_body::Frame;
use http_body_util::StreamBody;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tonic::body::Body;
use tonic::{Code, Request, Streaming};
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tower_service::Service as _;

use crate::support::frames::{
    BEGINNING, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, frame, query_headers, read,
};
use crate::support::{
    Answer, Caller, Gate, Gateway, LONG, Told, Vendor, done, eventually, query, soon, told, watch,
};

const QUERIES: &str =
    r#"grpc_method="QueryTask",grpc_service="federation.v1.FederationTasks",grpc_type="unary""#;
const POLL_MIN: Option<Duration> = Some(Duration::from_millis(50));

fn assert_overloaded(told: &Told) {
    assert_eq!((told.code, &*told.reason), (Code::ResourceExhausted, "GATEWAY_OVERLOADED"), "{}", told.text);
    assert_eq!(told.domain, "federation.v1");
    let wait = told.retry.expect("it says when to come back");
    assert!((1.0..=1.2).contains(&wait.as_secs_f64()), "{wait:?}");
    assert_eq!(told.pushback_ms.map(u128::from), Some(wait.as_millis()));
}

/// Why a query that is refused in any case is refused: its field, if there is room for it.
async fn reason(caller: &Caller) -> String {
    caller.refused(query("")).await.reason
}

/// A query whose body is none of the generated client's.
fn post(caller: &Caller, body: Body) -> http::Request<Body> {
    http::Request::post(format!("{}federation.v1.FederationTasks/QueryTask", caller.origin()))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(body)
        .expect("a request of constants")
}

fn health(caller: &Caller) -> HealthClient<crate::support::Connection> {
    HealthClient::with_origin(caller.connection(), caller.origin())
}

async fn watch_health(caller: &Caller) -> Result<Streaming<HealthCheckResponse>, Told> {
    let request = HealthCheckRequest { service: String::new() };
    let answer = soon("a health watch", health(caller).watch(request)).await;
    answer.map(tonic::Response::into_inner).map_err(|status| told(&status))
}

/// Reads a frame and counts it, if it is a refusal; whether it is the answer to a ping.
async fn refusal_or_pong(flood: &mut TcpStream, refused: &mut usize) -> bool {
    let (kind, flags, ..) = soon("a frame", read(flood)).await.expect("the connection lasts");
    assert_ne!(kind, GOAWAY, "the connection was closed for all who share it");
    *refused += usize::from(kind == HEADERS && flags & END_STREAM != 0);
    kind == PING && flags == 1
}

#[tokio::test]
async fn a_flood_of_refusals_costs_nobody_the_connection() {
    let vendor = Vendor::start().await;
    let gate = Gate::shut();
    let held = gate.clone();
    vendor.on_query(move |_, _| Answer::doing("").held(&held));
    let gateway = Gateway::start(&vendor, &["--max-in-flight=1"]).await;
    let caller = gateway.caller().await;
    let mut patient = JoinSet::new();
    let waiting = caller.clone();
    patient.spawn(async move { waiting.query(query("1")).await });
    eventually("it is under way", async || vendor.under_way() == 1).await;
    // By hand, each request in two pieces, so that a message can meet its refusal on the way; and more of them than
    // HTTP/2 lets streams end out of order (h2: 1,024 a connection).
    let mut flood = TcpStream::connect(gateway.address()).await.unwrap();
    flood.set_nodelay(true).unwrap();
    flood.write_all(BEGINNING).await.unwrap();
    let mut first = 1;
    for _ in 0..100 {
        // So few that the gateway has not waited in vain for the first one's message when it has read the last one's head.
        let streams: Vec<u32> = (first..).step_by(2).take(25).collect();
        first += 50;
        let heads = streams.iter().map(|stream| frame(HEADERS, END_HEADERS, *stream, &query_headers()));
        let heads = [heads.collect::<Vec<_>>().concat(), frame(PING, 0, 0, &[0; 8])].concat();
        flood.write_all(&heads).await.unwrap();
        // What makes them two pieces: the ping is answered once the heads were read.
        let mut refused = 0;
        while !refusal_or_pong(&mut flood, &mut refused).await {}
        let messages = streams.iter().map(|stream| frame(DATA, END_STREAM, *stream, &[0; 5]));
        flood.write_all(&messages.collect::<Vec<_>>().concat()).await.unwrap();
        while refused < streams.len() {
            refusal_or_pong(&mut flood, &mut refused).await;
        }
    }
    gate.open();
    soon("its answer", patient.join_next()).await.unwrap().unwrap().unwrap();
    assert_eq!(vendor.queries(), 1);
}

#[tokio::test]
async fn queries_over_max_in_flight_are_refused_at_once() {
    let vendor = Vendor::start().await;
    let gate = Gate::shut();
    let held = gate.clone();
    vendor.on_query(move |_, _| Answer::doing("").held(&held));
    let gateway = Gateway::start(&vendor, &["--max-in-flight=2"]).await;
    let caller = gateway.caller().await;
    let mut calls = JoinSet::new();
    for id in ["1", "2"] {
        let caller = caller.clone();
        calls.spawn(async move { caller.query(query(id)).await });
    }
    eventually("both are under way", async || vendor.under_way() == 2).await;
    // Also one that would join a call that is under way, and one over another connection.
    for (caller, id) in [(&caller, "1"), (&gateway.caller().await, "3")] {
        assert_overloaded(&caller.refused(query(id)).await);
    }
    // The request of a call that is refused need not come to an end.
    let body = StreamBody::new(stream::pending::<Result<Frame<Bytes>, tonic::Status>>());
    let unended = post(&caller, Body::new(body));
    let refused = soon("a refusal", caller.connection().call(unended)).await.unwrap();
    assert_eq!((refused.status().as_u16(), &refused.headers()["grpc-status"]), (200, &"8".parse().unwrap()));
    // Health and watches have room of their own.
    let check = HealthCheckRequest { service: String::new() };
    soon("a check", health(&caller).check(check)).await.unwrap();
    assert_eq!(told(&caller.watch(watch("", None)).await.unwrap_err()).reason, "INVALID_FIELD");
    assert_eq!(vendor.queries(), 2);
    assert_eq!(gateway.metric(&format!("grpc_server_started_total{{{QUERIES}}}")).await, 5.0);
    let refused = format!(r#"grpc_server_handled_total{{grpc_code="ResourceExhausted",{QUERIES}}}"#);
    eventually("the refusals are counted", async || gateway.metric(&refused).await == 3.0).await;
    gate.open();
    for call in calls.join_all().await {
        call.unwrap();
    }
    for _ in 0..5 {
        caller.query(query("4")).await.unwrap();
    }
    gateway.stop().await;
}

#[tokio::test]
async fn a_query_makes_room_however_it_ends() {
    let vendor = Vendor::start().await;
    let gate = Gate::shut();
    let held = gate.clone();
    vendor.on_query(move |_, _| Answer::doing("").held(&held));
    let gateway = Gateway::start(&vendor, &["--max-in-flight=1"]).await;
    let (caller, other) = (gateway.caller().await, gateway.caller().await);
    let holds = async |caller: &Caller, timeout| {
        eventually("the last one is gone", async || vendor.under_way() == 0).await;
        let (caller, mut call) = (caller.clone(), JoinSet::new());
        call.spawn(async move {
            let mut request = Request::new(query("7"));
            request.set_timeout(timeout);
            caller.query(request).await
        });
        eventually("it is under way", async || vendor.under_way() == 1).await;
        assert_eq!(reason(&other).await, "GATEWAY_OVERLOADED");
        call
    };
    // At its deadline, which is far enough away for all that is seen before it.
    let mut call = holds(&caller, Duration::from_secs(5)).await;
    let ended = soon("the deadline", call.join_next()).await.unwrap().unwrap();
    assert_eq!(told(&ended.unwrap_err()).reason, "DEADLINE");
    assert_eq!(reason(&caller).await, "INVALID_FIELD");
    // When it is cancelled.
    drop(holds(&caller, LONG).await);
    eventually("there is room", async || reason(&other).await == "INVALID_FIELD").await;
    // When its connection breaks.
    let _call = holds(&caller, LONG).await;
    caller.cut();
    eventually("there is room", async || reason(&other).await == "INVALID_FIELD").await;
    // When it fails, and when it is answered.
    vendor.first([Answer::status(403)]);
    assert_eq!(other.refused(query("7")).await.reason, "UPSTREAM_FORBIDDEN");
    assert_eq!(reason(&other).await, "INVALID_FIELD");
    gate.open();
    other.query(query("7")).await.unwrap();
    assert_eq!(reason(&other).await, "INVALID_FIELD");
    gateway.stop().await;
}

#[tokio::test]
async fn watches_of_both_kinds_share_max_watches() {
    let vendor = Vendor::start().await;
    let gateway = Gateway::start(&vendor, &["--max-watches=2", "--poll-min=50ms"]).await;
    let (caller, vanishing) = (gateway.caller().await, gateway.caller().await);
    let why = async || told(&caller.watch(watch("", None)).await.unwrap_err()).reason;
    let mut ending = caller.watch(watch("1", POLL_MIN)).await.unwrap();
    let mut of_health = watch_health(&vanishing).await.unwrap();
    soon("a status", of_health.message()).await.unwrap();
    assert_overloaded(&told(&caller.watch(watch("2", POLL_MIN)).await.unwrap_err()));
    assert_overloaded(&watch_health(&caller).await.unwrap_err());
    assert!(vendor.seen().iter().all(|seen| seen.path != QUERY_PATH || seen.task() == "1"));
    // Neither queries nor checks are of their kind.
    caller.query(query("3")).await.unwrap();
    let check = HealthCheckRequest { service: String::new() };
    soon("a check", health(&caller).check(check)).await.unwrap();
    // One of them vanishes, and another takes its place.
    vanishing.cut();
    eventually("there is room", async || why().await == "INVALID_FIELD").await;
    let cancelled = caller.watch(watch("2", POLL_MIN)).await.unwrap();
    assert_eq!(why().await, "GATEWAY_OVERLOADED");
    drop(cancelled);
    eventually("there is room", async || why().await == "INVALID_FIELD").await;
    let mut of_health = watch_health(&caller).await.unwrap();
    soon("a status", of_health.message()).await.unwrap();
    assert_eq!(why().await, "GATEWAY_OVERLOADED");
    // A watch that ends by itself makes room before its caller knows.
    vendor.on_query(|_, _| done());
    ending.next().await;
    assert_eq!(ending.next().await.0, WatchReason::Changed);
    assert_eq!(ending.message().await.unwrap(), None);
    assert_eq!(why().await, "INVALID_FIELD");
    gateway.stop().await;
}
