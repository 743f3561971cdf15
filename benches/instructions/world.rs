//! A gateway without sockets: the service over a hub, over a vendor in memory, on one thread and paused time. The
//! same work is then done in the same order each time, so that what it takes can be counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use federation_gateway::grpc::{CallBody, CallService, Message, Rooms, TasksService};
use federation_gateway::limits::Room;
use federation_gateway::metrics::Metrics;
use federation_gateway::pb::{QueryTaskRequest, WatchTaskRequest};
use federation_gateway::retry::terms::Terms;
use federation_gateway::shutdown::Shutdown;
use federation_gateway::task::failure::Failure;
use federation_gateway::task::{Answer, Observation, State, TaskId};
use federation_gateway::tasks::{Caller, Config, Hub, Seams, Upstream};
use futures_util::future::{BoxFuture, ready};
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper::service::Service as _;
use tokio::runtime::Runtime;
use tokio::time::Instant;
use tonic::service::Routes;

/// The settings' defaults.
const CONFIG: Config = Config {
    done_cache_ttl: Duration::from_secs(300),
    cache_capacity: 100_000,
    poll_min: Duration::from_secs(1),
    poll_max: Duration::from_secs(15),
    watch_give_up: Duration::from_secs(600),
    request_timeout: Duration::from_secs(30),
};
/// More than any of the counts needs.
const ROOM: usize = 100_000;

/// A vendor that answers at once, with something new each time.
#[derive(Debug, Default)]
pub(crate) struct Vendor {
    calls: AtomicUsize,
}

impl Vendor {
    /// How often it was asked.
    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
struct ToVendor(Arc<Vendor>);

impl Upstream for ToVendor {
    fn query_task(&self, _: TaskId, terms: Terms) -> BoxFuture<'static, Result<Observation, Failure>> {
        let began = Instant::now();
        terms.try_begins(began);
        let number = self.0.calls.fetch_add(1, Ordering::Relaxed);
        // Of one length, whatever the number.
        let remark = format!("answer {number:08}");
        let state = State { raw_status: "DOING".to_owned(), remark, fail_data: Vec::new() };
        let answer = Answer::new(state, "The query is successful.".to_owned(), SystemTime::UNIX_EPOCH);
        Box::pin(ready(Ok(Observation { answer: Arc::new(answer), began })))
    }

    fn polls_may_start(&self) -> BoxFuture<'_, ()> {
        Box::pin(ready(()))
    }
}

/// The gateway's parts, and what they run on.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) runtime: Runtime,
    pub(crate) vendor: Arc<Vendor>,
    pub(crate) hub: Hub,
    service: CallService,
}

impl World {
    pub(crate) fn new() -> Self {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_time().start_paused(true).build().expect("a thread needs nothing");
        let vendor = Arc::new(Vendor::default());
        let (metrics, shutdown) = (Metrics::new(), Shutdown::new());
        let upstream = Arc::new(ToVendor(Arc::clone(&vendor)));
        let hub = Hub::new(CONFIG, upstream, Seams::in_memory(), metrics.clone());
        let tasks = TasksService::new(hub.clone(), CONFIG.request_timeout, shutdown.clone());
        let rooms = Rooms { in_flight: Room::new(ROOM), watches: Room::new(ROOM) };
        let service =
            CallService::new(tasks, Routes::default(), rooms, metrics, CONFIG.request_timeout, shutdown);
        Self { runtime, vendor, hub, service }
    }

    /// Makes a call up to its first message, which comes with the rest of its body.
    pub(crate) fn call(&self, request: Request<Full<Bytes>>) -> (Message, CallBody) {
        self.runtime.block_on(async {
            let response = self.service.call(request).await;
            let Ok(mut body) = response.map(http::Response::into_body);
            let frame = body.frame().await.expect("a message").expect("no failure");
            (frame.into_data().expect("a message before the trailers"), body)
        })
    }

    /// Lets all run that can without time going by.
    pub(crate) fn settle(&self) {
        self.runtime.block_on(async {
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
        });
    }
}

pub(crate) fn id(number: usize) -> TaskId {
    TaskId::parse(&text(number)).expect("digits")
}

/// As long as the vendor's ids are.
fn text(number: usize) -> String {
    format!("{:019}", 1_659_446_191_820_000_000 + number)
}

/// Whoever asks now, without a deadline of his own.
pub(crate) fn caller() -> Caller {
    let arrived = Instant::now();
    Caller { arrived, deadline: arrived + CONFIG.request_timeout, is_own_deadline: false }
}

/// A QueryTask call that takes an answer of the last minute.
pub(crate) fn query(number: usize) -> Request<Full<Bytes>> {
    let max_age = Some(prost_types::Duration { seconds: 60, nanos: 0 });
    request("QueryTask", &QueryTaskRequest { task_id: text(number), max_age })
}

/// A WatchTask call.
pub(crate) fn watch(number: usize) -> Request<Full<Bytes>> {
    request("WatchTask", &WatchTaskRequest { task_id: text(number), ..WatchTaskRequest::default() })
}

fn request(method: &str, message: &impl prost::Message) -> Request<Full<Bytes>> {
    let message = message.encode_to_vec();
    let length = u32::try_from(message.len()).expect("a small message");
    let framed = [&[0][..], &length.to_be_bytes(), &message].concat();
    let uri = format!("http://gateway/federation.v1.FederationTasks/{method}");
    Request::post(uri).body(Full::from(framed)).expect("a valid path")
}
