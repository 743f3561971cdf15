//! The calling commands as processes, against a server in this one that answers as each test scripts it: exit
//! codes and what is said where. Knows nothing of the gateway itself.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::collections::HashMap;
use std::process::{Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use federation_gateway::pb;
use federation_gateway::pb::federation_tasks_server::{FederationTasks, FederationTasksServer};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// Far beyond what any step takes: a hang fails its test instead of the whole run.
const PATIENCE: Duration = Duration::from_secs(30);

type Answer<T> = Result<T, Status>;

/// What the server was asked and what it answers.
#[derive(Clone, Default)]
struct Script {
    asked: Arc<Mutex<Asked>>,
    query: Arc<Mutex<Option<Answer<pb::QueryTaskResponse>>>>,
    watch: Arc<Mutex<Option<mpsc::UnboundedReceiver<Answer<pb::WatchTaskResponse>>>>>,
}

#[derive(Clone, Debug, Default)]
struct Asked {
    query: Option<pb::QueryTaskRequest>,
    watch: Option<pb::WatchTaskRequest>,
    timeout: Option<String>,
}

#[tonic::async_trait]
impl FederationTasks for Script {
    async fn query_task(
        &self,
        request: Request<pb::QueryTaskRequest>,
    ) -> Answer<Response<pb::QueryTaskResponse>> {
        {
            let mut asked = self.asked.lock().unwrap();
            asked.timeout =
                request.metadata().get("grpc-timeout").map(|value| value.to_str().unwrap().to_owned());
            asked.query = Some(request.into_inner());
        }
        let answer = self.query.lock().unwrap().take();
        match answer {
            Some(answer) => answer.map(Response::new),
            None => std::future::pending().await,
        }
    }

    type WatchTaskStream = BoxStream<'static, Answer<pb::WatchTaskResponse>>;

    async fn watch_task(
        &self,
        request: Request<pb::WatchTaskRequest>,
    ) -> Answer<Response<Self::WatchTaskStream>> {
        self.asked.lock().unwrap().watch = Some(request.into_inner());
        let messages = self.watch.lock().unwrap().take().ok_or_else(|| Status::internal("no script"))?;
        let stream = futures_util::stream::unfold(messages, async |mut messages| {
            messages.recv().await.map(|message| (message, messages))
        });
        Ok(Response::new(stream.boxed()))
    }
}

/// A server on a free port, gone when it is dropped.
struct Gateway {
    script: Script,
    address: String,
    health: tonic_health::server::HealthReporter,
    _tasks: JoinSet<()>,
}

impl Gateway {
    async fn start() -> Self {
        let script = Script::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let (health, health_service) = tonic_health::server::health_reporter();
        let server = Server::builder()
            .add_service(FederationTasksServer::new(script.clone()))
            .add_service(health_service)
            .serve_with_incoming(TcpIncoming::from(listener));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { server.await.unwrap() });
        Self { script, address, health, _tasks: tasks }
    }

    fn answers(&self, answer: Answer<pb::QueryTaskResponse>) {
        *self.script.query.lock().unwrap() = Some(answer);
    }

    fn watched(&self) -> mpsc::UnboundedSender<Answer<pb::WatchTaskResponse>> {
        let (sender, receiver) = mpsc::unbounded_channel();
        *self.script.watch.lock().unwrap() = Some(receiver);
        sender
    }

    fn asked(&self) -> Asked {
        self.script.asked.lock().unwrap().clone()
    }

    fn command(&self, line: &[&str]) -> Command {
        let mut command = binary(line);
        command.env("FEDERATION_ADDR", &self.address);
        command
    }

    async fn run(&self, line: &[&str]) -> Output {
        output(self.command(line)).await
    }
}

/// The binary with nothing of the tests' environment that could concern it.
fn binary(line: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_federation-gateway"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("FEDERATION_"))
    {
        command.env_remove(name);
    }
    command.args(line).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

async fn output(mut command: Command) -> Output {
    tokio::time::timeout(PATIENCE, command.output()).await.expect("the command ends").unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// The exit code and both outputs, to be compared at once.
fn parts(output: &Output) -> (Option<i32>, &str, &str) {
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn task(status: pb::TaskStatus) -> pb::Task {
    pb::Task {
        task_id: "17".to_owned(),
        status: status.into(),
        raw_status: "raw".to_owned(),
        observed_at: Some(prost_types::Timestamp { seconds: 1_700_000_000, nanos: 0 }),
        ..Default::default()
    }
}

fn done() -> pb::Task {
    let failure = |reason: pb::FailReason, account: &str| pb::FailData {
        federation_user: Some(pb::FederationUser { user_account: account.to_owned(), ..Default::default() }),
        fail_reason: reason.into(),
        ..Default::default()
    };
    pb::Task {
        fail_data: vec![
            failure(pb::FailReason::UserNotFound, "anna"),
            failure(pb::FailReason::RoleNotFound, "bob\u{202e}"),
        ],
        ..task(pb::TaskStatus::Done)
    }
}

fn message(reason: pb::WatchReason, task: pb::Task) -> Answer<pb::WatchTaskResponse> {
    Ok(pb::WatchTaskResponse { task: Some(task), reason: reason.into() })
}

fn refusal(code: Code, reason: &str) -> Status {
    Status::with_error_details(
        code,
        "said",
        ErrorDetails::with_error_info(reason, "federation.v1", HashMap::new()),
    )
}

#[tokio::test]
async fn query_prints_an_answer_and_passes_its_flags_on() {
    let gateway = Gateway::start().await;
    gateway
        .answers(Ok(pb::QueryTaskResponse { task: Some(done()), result_message: "ok\u{1b}[2J".to_owned() }));
    let output = gateway.run(&["query", "17", "--max-age", "0s", "--timeout", "20s"]).await;
    let (code, out, err) = parts(&output);
    assert_eq!((code, err), (Some(0), ""));
    for part in [
        "status       DONE\n",
        "2023-11-14T22:13:20Z",
        "anna",
        "user not found",
        r"bob\u{202e}",
        r"ok\u{1b}[2J",
    ] {
        assert!(out.contains(part), "{part}: {out}");
    }
    assert!(out.lines().all(|line| line.chars().count() <= 100), "{out}");
    assert!(!out.contains('\u{1b}'), "{out}");
    let asked = gateway.asked();
    let max_age = Some(prost_types::Duration { seconds: 0, nanos: 0 });
    assert_eq!(asked.query.unwrap(), pb::QueryTaskRequest { task_id: "17".to_owned(), max_age });
    let micros: u64 = asked.timeout.unwrap().strip_suffix('u').unwrap().parse().unwrap();
    assert!((1..=20_000_000).contains(&micros), "{micros}");
}

#[tokio::test]
async fn query_prints_json() {
    let gateway = Gateway::start().await;
    gateway
        .answers(Ok(pb::QueryTaskResponse { task: Some(task(pb::TaskStatus::Todo)), ..Default::default() }));
    let output = gateway.run(&["query", "--json", "17"]).await;
    let object = concat!(
        r#"{"task":{"taskId":"17","status":"TASK_STATUS_TODO","rawStatus":"raw","#,
        r#""observedAt":"2023-11-14T22:13:20Z"}}"#,
        "\n"
    );
    assert_eq!(parts(&output), (Some(0), object, ""));
    assert_eq!(gateway.asked().query.unwrap().max_age, None);
    assert_eq!(gateway.asked().timeout, None);
}

#[tokio::test]
async fn a_refusal_is_told_in_words() {
    let gateway = Gateway::start().await;
    for (code, reason, actor) in [
        (Code::InvalidArgument, "INVALID_FIELD", "the caller"),
        (Code::FailedPrecondition, "CREDENTIALS_REJECTED", "the gateway's operator"),
        (Code::Unavailable, "UPSTREAM_UNREACHABLE", "nobody: it passes by itself"),
    ] {
        for line in [&["query", "17"][..], &["query", "17", "--json"]] {
            gateway.answers(Err(refusal(code, reason)));
            let output = gateway.run(line).await;
            let (code, out, err) = parts(&output);
            assert_eq!((code, out), (Some(1), ""));
            assert!(err.contains(reason) && err.contains(actor) && err.contains("said"), "{err}");
        }
    }
}

#[tokio::test]
async fn the_deadline_ends_a_query_and_a_watch() {
    let gateway = Gateway::start().await;
    let messages = gateway.watched();
    messages.send(message(pb::WatchReason::Initial, task(pb::TaskStatus::Doing))).unwrap();
    for line in [["query", "17", "--timeout", "300ms"], ["watch", "17", "--timeout", "2s"]] {
        let output = gateway.run(&line).await;
        let (code, _, err) = parts(&output);
        assert_eq!(code, Some(1));
        assert!(err.contains("DEADLINE (DEADLINE_EXCEEDED)") && err.contains("--timeout"), "{err}");
    }
}

#[tokio::test]
async fn no_gateway_is_told_with_its_address() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    for command in [&["query", "17"][..], &["watch", "17"], &["health"]] {
        let output = output({
            let mut command = binary(command);
            command.args(["--addr", &address]);
            command
        })
        .await;
        let (code, out, err) = parts(&output);
        assert_eq!((code, out), (Some(1), ""));
        assert!(err.contains(&address) && err.to_lowercase().contains("connection refused"), "{err}");
    }
}

#[tokio::test]
async fn a_proxy_variable_concerns_nobody() {
    let gateway = Gateway::start().await;
    let mut command = gateway.command(&["health"]);
    for name in ["http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy", "HTTPS_PROXY"] {
        command.env(name, "http://127.0.0.1:1");
    }
    assert_eq!(parts(&output(command).await), (Some(0), "SERVING\n", ""));
}

#[tokio::test]
async fn watch_prints_a_line_a_message_as_it_comes() {
    let gateway = Gateway::start().await;
    let messages = gateway.watched();
    let mut child = gateway
        .command(&["watch", "17", "--poll-interval", "1500ms", "--heartbeat-interval", "2s"])
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    // Each line is read before the next message is sent: nothing waits in a buffer.
    for (reason, status, shown) in [
        (pb::WatchReason::Initial, pb::TaskStatus::Todo, " INITIAL   TODO, 0 failed, observed "),
        (pb::WatchReason::Changed, pb::TaskStatus::Doing, " CHANGED   DOING, 0 failed, observed "),
        (pb::WatchReason::Heartbeat, pb::TaskStatus::Doing, " HEARTBEAT DOING, 0 failed, observed "),
    ] {
        messages.send(message(reason, task(status))).unwrap();
        let line = tokio::time::timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap().unwrap();
        assert!(line.contains(shown), "{line}");
    }
    messages.send(message(pb::WatchReason::Changed, done())).unwrap();
    drop(messages);
    let mut rest = String::new();
    lines.into_inner().read_to_string(&mut rest).await.unwrap();
    assert!(
        rest.contains("CHANGED   DONE, 2 failed") && rest.contains("anna") && rest.contains(r"bob\u{202e}"),
        "{rest}"
    );
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await.unwrap().unwrap();
    assert_eq!(parts(&output), (Some(0), "", ""));
    assert_eq!(
        gateway.asked().watch.unwrap(),
        pb::WatchTaskRequest {
            task_id: "17".to_owned(),
            poll_interval: Some(prost_types::Duration { seconds: 1, nanos: 500_000_000 }),
            heartbeat_interval: Some(prost_types::Duration { seconds: 2, nanos: 0 }),
        }
    );
}

#[tokio::test]
async fn watch_prints_json_and_ends_at_done() {
    let gateway = Gateway::start().await;
    let messages = gateway.watched();
    messages.send(message(pb::WatchReason::Initial, task(pb::TaskStatus::Doing))).unwrap();
    messages.send(message(pb::WatchReason::Changed, task(pb::TaskStatus::Done))).unwrap();
    // The sender is kept: a gateway that would not end the stream after DONE holds nobody up.
    let output = gateway.run(&["watch", "17", "--json"]).await;
    let (code, out, err) = parts(&output);
    assert_eq!((code, err), (Some(0), ""));
    let objects: Vec<serde_json::Value> =
        out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(objects.len(), 2);
    assert_eq!(objects[0]["reason"], "WATCH_REASON_INITIAL");
    assert_eq!(objects[1]["task"]["status"], "TASK_STATUS_DONE");
    assert_eq!(gateway.asked().watch.unwrap().heartbeat_interval, None);
    drop(messages);
}

#[tokio::test]
async fn a_watch_that_fails_later_exits_1_after_what_it_showed() {
    let gateway = Gateway::start().await;
    for (last, words) in [
        (Some(refusal(Code::Unavailable, "SHUTTING_DOWN")), "the gateway is shutting down"),
        (None, "ended the watch before the task was DONE"),
    ] {
        let messages = gateway.watched();
        messages.send(message(pb::WatchReason::Initial, task(pb::TaskStatus::Doing))).unwrap();
        if let Some(status) = last {
            messages.send(Err(status)).unwrap();
        }
        drop(messages);
        let output = gateway.run(&["watch", "17"]).await;
        let (code, out, err) = parts(&output);
        assert_eq!(code, Some(1));
        assert!(out.contains("INITIAL") && err.contains(words), "{out}{err}");
    }
}

#[tokio::test]
async fn a_gateway_that_goes_away_in_mid_watch_is_told() {
    // A relay in between is cut: the server itself would end its streams in order.
    let gateway = Gateway::start().await;
    let messages = gateway.watched();
    messages.send(message(pb::WatchReason::Initial, task(pb::TaskStatus::Doing))).unwrap();
    let relay = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", relay.local_addr().unwrap());
    let upstream = gateway.address.trim_start_matches("http://").to_owned();
    let (cut, is_cut) = oneshot::channel::<()>();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let (mut near, _) = relay.accept().await.unwrap();
        let mut far = tokio::net::TcpStream::connect(upstream).await.unwrap();
        tokio::select! {
            _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
            _ = is_cut => {}
        }
    });
    let mut child = binary(&["watch", "17", "--addr", &address]).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    lines.next_line().await.unwrap().unwrap();
    cut.send(()).unwrap();
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await.unwrap().unwrap();
    let (code, _, err) = parts(&output);
    assert_eq!(code, Some(1));
    assert!(
        err.contains("the exchange with the gateway broke off") && err.contains("passes by itself"),
        "{err}"
    );
}

#[tokio::test]
async fn a_reader_that_leaves_ends_a_watch_quietly() {
    let gateway = Gateway::start().await;
    for line in [&["watch", "17"][..], &["watch", "17", "--json"]] {
        let messages = gateway.watched();
        messages.send(message(pb::WatchReason::Initial, task(pb::TaskStatus::Doing))).unwrap();
        let mut child = gateway.command(line).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        lines.next_line().await.unwrap().unwrap();
        // No further message comes: the command sees by itself that nobody reads any more.
        drop(lines);
        let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await.unwrap().unwrap();
        assert_eq!(parts(&output), (Some(0), "", ""));
        tokio::time::timeout(PATIENCE, messages.closed()).await.expect("the stream was called off");
    }
}

#[tokio::test]
async fn a_query_for_nobody_ends_quietly() {
    let gateway = Gateway::start().await;
    gateway.answers(Ok(pb::QueryTaskResponse { task: Some(done()), ..Default::default() }));
    let mut child = gateway.command(&["query", "17"]).spawn().unwrap();
    drop(child.stdout.take());
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await.unwrap().unwrap();
    assert_eq!(parts(&output), (Some(0), "", ""));
}

#[tokio::test]
async fn ctrl_c_ends_a_watch_with_130() {
    let gateway = Gateway::start().await;
    let messages = gateway.watched();
    messages.send(message(pb::WatchReason::Initial, task(pb::TaskStatus::Doing))).unwrap();
    let mut child = gateway.command(&["watch", "17"]).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    lines.next_line().await.unwrap().unwrap();
    let pid = child.id().unwrap().to_string();
    // The shell's own `kill`: a small machine has no program of that name.
    let kill = std::process::Command::new("sh").args(["-c", "kill -INT \"$0\"", &pid]).status().unwrap();
    assert!(kill.success());
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await.unwrap().unwrap();
    assert_eq!(parts(&output), (Some(130), "", ""));
}

#[tokio::test]
async fn health_tells_in_one_line() {
    let gateway = Gateway::start().await;
    assert_eq!(parts(&gateway.run(&["health"]).await), (Some(0), "SERVING\n", ""));
    let name = "federation.v1.FederationTasks";
    let of_tasks = ["health", "--service", name];
    assert_eq!(parts(&gateway.run(&of_tasks).await), (Some(1), "", "unknown service\n"));
    gateway.health.set_service_status(name, tonic_health::ServingStatus::NotServing).await;
    assert_eq!(parts(&gateway.run(&of_tasks).await), (Some(1), "", "NOT_SERVING\n"));
    gateway.health.set_service_status(name, tonic_health::ServingStatus::Serving).await;
    assert_eq!(parts(&gateway.run(&of_tasks).await), (Some(0), "SERVING\n", ""));
}

#[tokio::test]
async fn health_waits_for_three_seconds_at_most() {
    // It takes connections and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", silent.local_addr().unwrap());
    let began = tokio::time::Instant::now();
    let output = output(binary(&["health", "--addr", &address])).await;
    assert_eq!(parts(&output), (Some(1), "", "no answer within 3s\n"));
    assert!(began.elapsed() >= Duration::from_secs(3));
}

#[tokio::test]
async fn bad_usage_exits_2_and_names_the_flag() {
    for (line, words) in [
        (&["query"][..], "TASK_ID"),
        (&["query", "17", "--max-age", "soon"], "--max-age"),
        (&["query", "17", "--timeout", "-1s"], "--timeout"),
        (&["query", "17", "--addr", "nowhere"], "--addr: "),
        (&["query", "17", "--addr", "https://a"], "--addr: https:// is not supported by this version"),
        (&["query", "17", "--addr", "unix:/s"], "--addr: unix: is not supported by this version"),
        (&["query", "17", "--ca-file", "f"], "--ca-file: not supported by this version"),
        (&["watch", "1", "2"], "TASK_ID: several ids are not supported by this version"),
        (&["watch", "17", "--poll-interval", "x"], "--poll-interval"),
        (&["watch", "17", "--heartbeat-interval", "x"], "--heartbeat-interval"),
        (&["watch", "17", "--token-file", "f"], "--token-file: not supported by this version"),
        (&["health", "--cert", "f"], "--cert: not supported by this version"),
    ] {
        let output = output(binary(line)).await;
        let (code, out, err) = parts(&output);
        assert_eq!((code, out), (Some(2), ""), "{line:?}: {err}");
        assert!(err.contains(words), "{line:?}: {err}");
    }
    let mut command = binary(&["health"]);
    command.env("FEDERATION_KEY", "f");
    assert_eq!(parts(&output(command).await), (Some(2), "", "error: --key: not supported by this version\n"));
}
