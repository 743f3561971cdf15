//! The service without sockets, on paused time: requests that take their time, and watches to their end.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::{Buf as _, Bytes};
use futures_util::future::BoxFuture;
use futures_util::{StreamExt as _, stream};
use http::Request;
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::service::Service as _;
use tokio::time::Instant;
use tonic::Code;
use tonic::service::Routes;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use super::message::RequestBody;
use super::*;
use crate::health::Health;
use crate::limits::Room;
use crate::metrics::Metrics;
use crate::pb::{QueryTaskRequest, QueryTaskResponse, WatchReason, WatchTaskRequest, WatchTaskResponse};
use crate::retry::terms::Terms;
use crate::shutdown::Shutdown;
use crate::task::failure::Failure;
use crate::task::{Answer, Observation, State, TaskId};
use crate::tasks::feed::{self, Feed, Follow, Item};
use crate::tasks::{Config, Hub, SeamError, Seams, Upstream};

const CONFIG: Config = Config {
    done_cache_ttl: Duration::from_secs(300),
    cache_capacity: 1000,
    poll_min: Duration::from_secs(1),
    poll_max: Duration::from_secs(15),
    watch_give_up: Duration::from_secs(60),
    request_timeout: Duration::from_secs(30),
};

/// Answers at once, with one state after another, and with the last one for ever.
#[derive(Debug)]
struct Vendor(Mutex<VecDeque<&'static str>>);

impl Upstream for Vendor {
    fn query_task(&self, _: TaskId, terms: Terms) -> BoxFuture<'static, Result<Observation, Failure>> {
        let began = Instant::now();
        terms.try_begins(began);
        let mut states = self.0.lock().unwrap();
        let raw_status = states.front().copied().unwrap_or_default().to_owned();
        if states.len() > 1 {
            states.pop_front();
        }
        let state = State { raw_status, ..State::default() };
        let answer = Answer::new(state, String::new(), SystemTime::UNIX_EPOCH);
        Box::pin(std::future::ready(Ok(Observation { answer: Arc::new(answer), began })))
    }

    fn polls_may_start(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// A feed whose defect kills whoever publishes.
#[derive(Debug)]
struct Defective(feed::Memory);

impl Feed for Defective {
    fn publish(&self, _: &TaskId, _: Item) -> BoxFuture<'_, Result<(), SeamError>> {
        panic!("on purpose")
    }

    fn follow(&self, task: &TaskId) -> BoxFuture<'_, Result<Box<dyn Follow>, SeamError>> {
        self.0.follow(task)
    }
}

struct World {
    service: CallService,
    shutdown: Shutdown,
}

fn world(states: &[&'static str]) -> World {
    world_over(Seams::in_memory(), states)
}

fn world_over(seams: Seams, states: &[&'static str]) -> World {
    let (metrics, shutdown) = (Metrics::new(), Shutdown::new());
    let vendor = Arc::new(Vendor(Mutex::new(states.iter().copied().collect())));
    let hub = Hub::new(CONFIG, vendor, seams, metrics.clone());
    let tasks = TasksService::new(hub, CONFIG.request_timeout, shutdown.clone());
    let rooms = Rooms { in_flight: Room::new(10), watches: Room::new(10) };
    let others = Routes::new(HealthServer::new(HealthService::new(Health::new())));
    let service = CallService::new(tasks, others, rooms, metrics, CONFIG.request_timeout, shutdown.clone());
    World { service, shutdown }
}

const QUERY: &str = "federation.v1.FederationTasks/QueryTask";
const WATCH: &str = "federation.v1.FederationTasks/WatchTask";
const CHECK: &str = "grpc.health.v1.Health/Check";

fn framed(message: &impl prost::Message) -> Bytes {
    let message = message.encode_to_vec();
    let length = u32::try_from(message.len()).unwrap();
    [&[0][..], &length.to_be_bytes(), &message].concat().into()
}

fn watch_request() -> Bytes {
    let heartbeat_interval = Some(prost_types::Duration { seconds: 5, nanos: 0 });
    framed(&WatchTaskRequest { task_id: "7".into(), poll_interval: None, heartbeat_interval })
}

impl World {
    /// A call up to its answer's head.
    async fn call<B: RequestBody>(&self, method: &str, timeout: Option<&str>, body: B) -> CallBody {
        let mut request = Request::post(format!("http://gateway/{method}"));
        if let Some(timeout) = timeout {
            request = request.header("grpc-timeout", timeout);
        }
        let request = request.header("content-type", "application/grpc").body(body).unwrap();
        let Ok(response) = self.service.call(request).await;
        assert_eq!(response.headers().get("grpc-status"), None, "it is not refused");
        response.into_body()
    }

    async fn watch(&self, timeout: Option<&str>) -> CallBody {
        self.call(WATCH, timeout, Full::from(watch_request())).await
    }
}

/// What comes next of an answer: a message, or the status that it ends with.
async fn next<T: prost::Message + Default>(body: &mut CallBody) -> Result<T, Code> {
    let frame = body.frame().await.expect("it ends with a status").expect("a body of ours never breaks");
    match frame.into_data() {
        Ok(mut message) => {
            let bytes = message.copy_to_bytes(message.remaining());
            Ok(T::decode(&bytes[5..]).unwrap())
        }
        Err(trailers) => {
            let trailers = trailers.into_trailers().expect("neither message nor trailers");
            Err(Code::from_bytes(trailers["grpc-status"].as_bytes()))
        }
    }
}

fn seen(response: &WatchTaskResponse) -> (&str, WatchReason) {
    (&response.task.as_ref().unwrap().raw_status, response.reason())
}

/// A request that comes byte by byte, a second each; of one that is cut off the end never comes.
fn slow(bytes: &Bytes, is_cut_off: bool) -> impl RequestBody + use<> {
    let bytes: Vec<_> = bytes.chunks(1).map(Bytes::copy_from_slice).collect();
    let pieces = stream::iter(bytes).then(|byte| async move {
        tokio::time::sleep(Duration::from_secs(1)).await;
        Ok::<_, std::io::Error>(Frame::data(byte))
    });
    let rest = stream::pending().take(usize::from(is_cut_off));
    StreamBody::new(Box::pin(pieces.chain(rest)))
}

#[tokio::test(start_paused = true)]
async fn a_request_that_takes_its_time_is_waited_for() {
    let world = world(&["DOING"]);
    let query = framed(&QueryTaskRequest { task_id: "7".into(), max_age: None });
    let mut answer = world.call(QUERY, None, slow(&query, false)).await;
    let response: QueryTaskResponse = next(&mut answer).await.unwrap();
    assert_eq!(response.task.unwrap().raw_status, "DOING");
    assert_eq!(next::<QueryTaskResponse>(&mut answer).await, Err(Code::Ok));
    let mut answer = world.call(WATCH, None, slow(&watch_request(), false)).await;
    assert_eq!(seen(&next(&mut answer).await.unwrap()), ("DOING", WatchReason::Initial));
    let check = framed(&HealthCheckRequest { service: "".into() });
    let mut answer = world.call(CHECK, None, slow(&check, false)).await;
    assert_eq!(next::<HealthCheckResponse>(&mut answer).await.unwrap().status, 1);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_never_ends_holds_up_no_drain() {
    let check = framed(&HealthCheckRequest { service: "".into() });
    for (method, request) in [(WATCH, watch_request()), (CHECK, check)] {
        let world = world(&["DOING"]);
        let request = Request::post(format!("http://gateway/{method}")).body(slow(&request, true)).unwrap();
        let mut call = world.service.call(request);
        let waited = tokio::time::timeout(Duration::from_secs(20), &mut call).await;
        assert!(waited.is_err(), "{method} is waited for until the drain");
        world.shutdown.drain();
        let drained = Instant::now();
        let Ok(response) = call.await;
        assert_eq!(response.headers()["grpc-status"], "14", "{method}");
        assert!(drained.elapsed() <= Duration::from_secs(2), "{method}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_state_that_changed_and_changed_back_behind_a_readers_back_is_no_news() {
    let world = world(&["DOING", "PAUSED", "DOING"]);
    let mut watch = world.watch(None).await;
    assert_eq!(seen(&next(&mut watch).await.unwrap()), ("DOING", WatchReason::Initial));
    let start = Instant::now();
    tokio::time::sleep(Duration::from_millis(3500)).await;
    assert_eq!(seen(&next(&mut watch).await.unwrap()), ("DOING", WatchReason::Heartbeat));
    assert_eq!(start.elapsed().as_secs(), 5);
}

#[tokio::test(start_paused = true)]
async fn each_change_is_sent_once_and_after_done_comes_the_end() {
    let world = world(&["TODO", "DOING", "DOING", "DONE"]);
    let mut watch = world.watch(None).await;
    let expected =
        [("TODO", WatchReason::Initial), ("DOING", WatchReason::Changed), ("DONE", WatchReason::Changed)];
    for expected in expected {
        assert_eq!(seen(&next(&mut watch).await.unwrap()), expected);
    }
    assert_eq!(next::<WatchTaskResponse>(&mut watch).await, Err(Code::Ok));
    assert!(watch.frame().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_loses_its_poller_ends_with_the_defect_or_with_its_deadline_if_that_has_passed() {
    // The second poll kills the poller after 1 s. A deadline half a millisecond later has passed when the watch is
    // looked at, but the timer, which knows whole milliseconds, does not know it yet.
    for (timeout, code) in
        [(None, Code::Internal), (Some("60S"), Code::Internal), (Some("1000400u"), Code::DeadlineExceeded)]
    {
        let seams = Seams { feed: Arc::new(Defective(feed::Memory::new())), ..Seams::in_memory() };
        let world = world_over(seams, &["DOING"]);
        let mut watch = world.watch(timeout).await;
        assert_eq!(seen(&next(&mut watch).await.unwrap()), ("DOING", WatchReason::Initial));
        tokio::time::advance(Duration::from_micros(1_000_500)).await;
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        let lost = Instant::now();
        assert_eq!(next::<WatchTaskResponse>(&mut watch).await, Err(code), "{timeout:?}");
        assert_eq!(lost.elapsed(), Duration::ZERO);
    }
}
