//! Panics, in a process of their own, as the hook that logs and counts them is the whole process's: what a panic's
//! caller is told, what the log says, and that nobody else notices.

use std::io;
use std::panic;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use federation_gateway::grpc::{CallService, Rooms, TasksService};
use federation_gateway::limits::Room;
use federation_gateway::metrics::{self, Metrics};
use federation_gateway::pb::federation_tasks_client::FederationTasksClient;
use federation_gateway::pb::{QueryTaskRequest, WatchTaskRequest};
use federation_gateway::retry::terms::Terms;
use federation_gateway::server::{self, Server};
use federation_gateway::shutdown::Shutdown;
use federation_gateway::task::failure::Failure;
use federation_gateway::task::{Answer, Observation, State, TaskId};
use federation_gateway::tasks::{Config, Hub, Seams, Upstream};
use federation_gateway::telemetry;
use futures_util::future::BoxFuture;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::service::Routes;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// Longer than anything takes that happens at all, on a busy machine.
const LONG: Duration = Duration::from_secs(20);
/// What no log may hold, though a panic says it.
const PRIVATE: &str = "ann@example.com";

const CONFIG: Config = Config {
    done_cache_ttl: Duration::from_secs(300),
    cache_capacity: 100,
    poll_min: Duration::from_millis(50),
    poll_max: Duration::from_secs(1),
    watch_give_up: Duration::from_secs(60),
    request_timeout: LONG,
};

/// A vendor that panics where it is asked to, and holds back what it is to.
#[derive(Debug)]
struct Vendor {
    gate: Semaphore,
    asked: Mutex<Vec<String>>,
}

#[derive(Debug)]
struct ToVendor(Arc<Vendor>);

impl Upstream for ToVendor {
    fn query_task(&self, task: TaskId, terms: Terms) -> BoxFuture<'static, Result<Observation, Failure>> {
        let vendor = Arc::clone(&self.0);
        Box::pin(async move {
            let began = Instant::now();
            terms.try_begins(began);
            let times = {
                let mut asked = vendor.asked.lock().unwrap_or_else(PoisonError::into_inner);
                asked.push(task.as_str().to_owned());
                asked.iter().filter(|asked| *asked == task.as_str()).count()
            };
            match task.as_str() {
                "held" => drop(vendor.gate.acquire().await.expect("it is never closed")),
                "literal" => panic!("as it stands in the code"),
                "private" => panic!("of {PRIVATE}"),
                "second" if times == 2 => panic!("at its second time"),
                _ => {}
            }
            let state = State { raw_status: "DOING".to_owned(), ..State::default() };
            let answer = Answer::new(state, String::new(), SystemTime::UNIX_EPOCH);
            Ok(Observation { answer: Arc::new(answer), began })
        })
    }

    fn polls_may_start(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// What was logged.
#[derive(Clone, Debug, Default)]
struct Page(Arc<Mutex<Vec<u8>>>);

impl Page {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }
}

impl io::Write for Page {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct World {
    vendor: Arc<Vendor>,
    hub: Hub,
    metrics: Metrics,
    shutdown: Shutdown,
    serving: JoinSet<()>,
    client: FederationTasksClient<Channel>,
    page: Page,
}

impl World {
    async fn begin() -> Self {
        let page = Page::default();
        let writer = page.clone();
        let lines =
            tracing_subscriber::fmt().json().flatten_event(true).with_writer(move || writer.clone()).finish();
        tracing::subscriber::set_global_default(lines).expect("this test is alone in its process");
        let shown = panic::take_hook();
        telemetry::log_panics(metrics::count_panic);
        let logged = panic::take_hook();
        // The test's own panics are to be seen too.
        panic::set_hook(Box::new(move |panic| {
            logged(panic);
            shown(panic);
        }));

        let vendor = Arc::new(Vendor { gate: Semaphore::new(0), asked: Mutex::default() });
        let (metrics, shutdown) = (Metrics::new(), Shutdown::new());
        let upstream = Arc::new(ToVendor(Arc::clone(&vendor)));
        let hub = Hub::new(CONFIG, upstream, Seams::in_memory(), metrics.clone());
        let tasks = TasksService::new(hub.clone(), CONFIG.request_timeout, shutdown.clone());
        let rooms = Rooms { in_flight: Room::new(100), watches: Room::new(100) };
        let service =
            CallService::new(tasks, Routes::default(), rooms, metrics.clone(), LONG, shutdown.clone());
        let server = Server::bind(&["127.0.0.1:0".to_owned()], server::Config::default())
            .await
            .expect("a port is free");
        let address = format!("http://{}", server.addresses().next().expect("it is bound"));
        let mut serving = JoinSet::new();
        let of_server = shutdown.clone();
        serving.spawn(async move { server.run(service, of_server).await.expect("no loop dies") });
        let endpoint = Endpoint::from_shared(address).expect("an address is one");
        let client = FederationTasksClient::new(endpoint.connect().await.expect("it listens"));
        Self { vendor, hub, metrics, shutdown, serving, client, page }
    }

    async fn query(&self, task: &str) -> Result<(), Status> {
        let request = QueryTaskRequest { task_id: task.to_owned(), max_age: None };
        let mut client = self.client.clone();
        let answer = tokio::time::timeout(LONG, client.query_task(request)).await;
        answer.expect("an answer comes").map(drop)
    }

    /// What the log says of the panics, in their order.
    fn panics(&self) -> Vec<serde_json::Value> {
        let text = self.page.text();
        let lines = text.lines().map(|line| serde_json::from_str(line).expect("each line is JSON"));
        lines.filter(|line: &serde_json::Value| line["place"].is_string()).collect()
    }
}

#[track_caller]
fn assert_is_defect(status: &Status) {
    let details = status.get_error_details();
    let reason = details.error_info().map(|info| info.reason.as_str());
    assert_eq!((status.code(), reason), (Code::Internal, Some("GATEWAY_DEFECT")), "{status:?}");
}

#[tokio::test]
async fn a_panic_is_its_callers_failure_and_is_logged_and_counted() {
    let mut world = World::begin().await;
    // Somebody else's call on the same connection, under way through all of it.
    let mut held = JoinSet::new();
    let mut client = world.client.clone();
    held.spawn(async move {
        client.query_task(QueryTaskRequest { task_id: "held".to_owned(), max_age: None }).await
    });
    let asked = || world.vendor.asked.lock().unwrap_or_else(PoisonError::into_inner).len();
    let begun = async {
        while asked() == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LONG, begun).await.expect("the held call begins");

    assert_is_defect(&world.query("literal").await.unwrap_err());
    assert_is_defect(&world.query("private").await.unwrap_err());
    // A poller's call: the watch has its first state by then.
    let watch = || WatchTaskRequest { task_id: "second".to_owned(), ..WatchTaskRequest::default() };
    let mut client = world.client.clone();
    let mut messages = client.watch_task(watch()).await.unwrap().into_inner();
    assert!(messages.message().await.unwrap().is_some());
    let end = tokio::time::timeout(LONG, messages.message()).await.expect("the watch ends");
    assert_is_defect(&end.unwrap_err());
    // The next ones are as good as ever.
    assert!(client.watch_task(watch()).await.unwrap().into_inner().message().await.unwrap().is_some());
    world.query("fine").await.unwrap();

    world.vendor.gate.add_permits(1);
    held.join_next().await.unwrap().unwrap().expect("whoever was there before has noticed nothing");

    let said: Vec<_> = world.panics().iter().map(|line| line["text"].as_str().map(str::to_owned)).collect();
    let literal = |text: &str| Some(text.to_owned());
    assert_eq!(said, [literal("as it stands in the code"), None, literal("at its second time")]);
    for line in world.panics() {
        assert_eq!(line["level"], "ERROR", "{line}");
        assert!(line["place"].as_str().is_some_and(|place| place.starts_with("tests/panics.rs:")), "{line}");
    }
    assert!(!world.page.text().contains(PRIVATE));
    let metrics = world.metrics.render();
    assert!(metrics.contains("federation_panics_total 3\n"), "{metrics}");
    let internal = r#"grpc_server_handled_total{grpc_code="Internal",grpc_method="QueryTask","#;
    let internal = metrics.lines().find(|line| line.starts_with(internal));
    assert!(internal.is_some_and(|line| line.ends_with(" 2")), "{internal:?}");

    drop(messages);
    world.shutdown.drain();
    let ended = async {
        while world.serving.join_next().await.is_some() {}
        world.hub.closed().await;
    };
    tokio::time::timeout(LONG, ended).await.expect("a drain ends after panics too");
}
