//! The callers: each does what its script says, and writes down what it was told and when.

mod links;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use federation_gateway::pb::federation_tasks_client::FederationTasksClient;
use federation_gateway::pb::{self, QueryTaskRequest, WatchTaskRequest};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Status};

use self::links::{Link, Links};
use crate::connection::Connection;
use crate::plan::Plan;
use crate::plan::callers::{Act, Manner, Script};
use crate::plan::settings::Settings;
use crate::record::{Asked, Call, Message, Moment, Outcome};
use crate::told::told;

/// How long after its bound a call may end. The bounds are of some seconds; where the machine is so busy that a
/// process stands still for longer than this, nothing can be told from times at all.
pub(crate) const SLACK: Duration = Duration::from_secs(15);
/// A watch that ended is begun again so much later.
const AGAIN: Duration = Duration::from_millis(50);
/// What an HTTP/2 client begins with.
const BEGINNING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// What all callers of a run share.
pub(crate) struct Callers {
    plan: Arc<Plan>,
    links: Links,
    calls: Mutex<Vec<Call>>,
    /// For each script that watches to the end: the state that it was told last, and whether it goes on.
    last: Mutex<Vec<Seen>>,
    /// Nothing new is called any more.
    pub(crate) enough: CancellationToken,
    /// Whoever still watches leaves.
    pub(crate) leave: CancellationToken,
}

/// What one who watches to the end has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    Nothing,
    Content(usize),
    /// DONE: nothing more comes.
    Done,
}

impl Callers {
    pub(crate) fn new(plan: Arc<Plan>, address: String) -> Self {
        Self {
            last: Mutex::new(vec![Seen::Nothing; plan.scripts.len()]),
            plan,
            links: Links::new(address),
            calls: Mutex::default(),
            enough: CancellationToken::new(),
            leave: CancellationToken::new(),
        }
    }

    /// What was written down.
    pub(crate) fn take(&self) -> Vec<Call> {
        std::mem::take(&mut self.calls.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Who watches to the end: the task, and what was seen last.
    pub(crate) fn watched(&self) -> Vec<(usize, Seen)> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let scripts = self.plan.scripts.iter().zip(&*last);
        let watched = scripts.filter_map(|(script, seen)| match script {
            Script::Watches { act, .. } => Some((act.task?, *seen)),
            _ => None,
        });
        watched.collect()
    }

    /// One caller's life.
    pub(crate) async fn live(&self, caller: usize) {
        match &self.plan.scripts[caller] {
            Script::Calls { connection, acts } => {
                for act in acts {
                    tokio::select! {
                        () = tokio::time::sleep(act.pause) => {}
                        () = self.enough.cancelled() => return,
                    }
                    self.act(caller, *connection, act).await;
                }
            }
            Script::Watches { connection, act } => {
                while act.task.is_some() && !self.leave.is_cancelled() {
                    self.act(caller, *connection, act).await;
                    let last = self.last.lock().unwrap_or_else(PoisonError::into_inner)[caller];
                    if last == Seen::Done {
                        return;
                    }
                    tokio::time::sleep(AGAIN).await;
                }
            }
            Script::Mumbles(all) => {
                for (pause, bytes, stay) in all {
                    tokio::select! {
                        () = tokio::time::sleep(*pause) => {}
                        () = self.enough.cancelled() => return,
                    }
                    let Ok(mut stream) = TcpStream::connect(self.links.address()).await else { continue };
                    let begins = BEGINNING.iter().chain(b"what follows makes no sense").copied();
                    let begins: Vec<u8> = begins.take(*bytes).collect();
                    // What the gateway makes of it is the gateway's.
                    let _ = stream.write_all(&begins).await;
                    tokio::time::sleep(*stay).await;
                }
            }
        }
    }

    async fn act(&self, caller: usize, connection: usize, act: &Act) {
        let link = match act.manner {
            Manner::Vanishes { is_reset, .. } => self.links.own(is_reset, &self.leave).await,
            _ => self.links.shared(connection, &self.leave).await,
        };
        // Nobody answers any more, and all is over.
        let Some(link) = link else { return };
        self.call(caller, &link, act).await;
    }

    /// One query that must find the truth, for when nothing goes wrong any more.
    pub(crate) async fn ask(&self, task: usize) -> bool {
        let asked = Asked::Query { max_age: Some(Duration::ZERO) };
        let act = Act {
            pause: Duration::ZERO,
            task: Some(task),
            asked,
            deadline: Some(Duration::from_secs(2)),
            manner: Manner::Stays,
        };
        let Some(link) = self.links.shared(0, &self.leave).await else { return false };
        self.call(usize::MAX, &link, &act).await
    }

    /// Makes one call and writes it down; whether it ended with OK.
    async fn call(&self, caller: usize, link: &Link, act: &Act) -> bool {
        let mut call = Call {
            caller,
            task: act.task,
            asked: act.asked,
            deadline: act.deadline,
            connected: link.connected,
            began: Moment::now(),
            ended: Moment::now(),
            messages: Vec::new(),
            outcome: Outcome::Stuck,
        };
        let bound = bound(act, &self.plan.settings);
        let until_left = async {
            match act.manner {
                Manner::Cancels(after) | Manner::Vanishes { after, .. } => tokio::time::sleep(after).await,
                // A query is waited for.
                _ if call.is_query() => std::future::pending().await,
                _ => self.leave.cancelled().await,
            }
        };
        let mut messages = Vec::new();
        let outcome = tokio::select! {
            outcome = self.converse(caller, &link.connection, act, &mut messages) => match outcome {
                Ok(()) => Outcome::Ok,
                Err(status) => Outcome::Failed(Box::new(told(&status))),
            },
            () = until_left => Outcome::Left,
            () = tokio::time::sleep(bound) => Outcome::Stuck,
        };
        if matches!(act.manner, Manner::Vanishes { .. }) {
            link.connection.cut();
        }
        let is_ok = matches!(outcome, Outcome::Ok);
        (call.messages, call.outcome, call.ended) = (messages, outcome, Moment::now());
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).push(call);
        is_ok
    }

    async fn converse(
        &self,
        caller: usize,
        connection: &Connection,
        act: &Act,
        messages: &mut Vec<Message>,
    ) -> Result<(), Status> {
        let client = || FederationTasksClient::with_origin(connection.clone(), self.links.origin());
        let (task_id, is_bad) = match act.task {
            Some(task) => (self.plan.tasks[task].id.clone(), false),
            // One of the two fields at a time.
            None if act.deadline.is_some() => ("no spaces, please".to_owned(), false),
            None => (self.plan.tasks[0].id.clone(), true),
        };
        let negative = prost_types::Duration { seconds: -1, nanos: 0 };
        let field = |value: Option<Duration>| match value {
            _ if is_bad => Some(negative),
            value => value.map(|value| value.try_into().expect("a plan's durations are small")),
        };
        match act.asked {
            Asked::Query { max_age } => {
                let request = timed(QueryTaskRequest { task_id, max_age: field(max_age) }, act.deadline);
                let answer = client().query_task(request).await?.into_inner();
                let exchange = answer.result_message.parse().ok();
                messages.push(self.message(act.task, answer.task, 0, exchange));
            }
            Asked::Watch { interval, heartbeat } => {
                let (poll_interval, heartbeat_interval) =
                    (field(interval), heartbeat.and_then(|value| field(Some(value))));
                let request = WatchTaskRequest { task_id, poll_interval, heartbeat_interval };
                let mut stream = client().watch_task(timed(request, act.deadline)).await?.into_inner();
                loop {
                    if let Manner::Stalls(pause) = act.manner {
                        tokio::time::sleep(pause).await;
                    }
                    let Some(next) = stream.message().await? else { break };
                    let message = self.message(act.task, next.task, next.reason, None);
                    if let (Some(last), Ok(content)) = (
                        self.last.lock().unwrap_or_else(PoisonError::into_inner).get_mut(caller),
                        &message.content,
                    ) {
                        *last = if message.is_done { Seen::Done } else { Seen::Content(*content) };
                    }
                    messages.push(message);
                }
            }
        }
        Ok(())
    }

    fn message(
        &self,
        task: Option<usize>,
        told: Option<pb::Task>,
        reason: i32,
        exchange: Option<usize>,
    ) -> Message {
        let at = Moment::now();
        let told = told.unwrap_or_default();
        let observed = told.observed_at.and_then(|at| at.try_into().ok());
        let content = match task {
            None => Err("the request was bad, and was answered all the same".to_owned()),
            Some(_) if observed.is_none() => Err("it has no observed_at".to_owned()),
            Some(task) => self.plan.tasks[task].recognise(&told),
        };
        let is_done = told.status() == pb::TaskStatus::Done;
        Message { reason, content, is_done, observed: observed.unwrap_or(at.wall), exchange, at }
    }
}

/// How long a call may take at most.
fn bound(act: &Act, settings: &Settings) -> Duration {
    match (act.asked, act.deadline) {
        (_, Some(deadline)) => deadline + SLACK,
        (Asked::Query { .. }, None) => settings.request_timeout + SLACK,
        // A watch without a deadline has no bound; that its first answer has one is for the oracle to see.
        (Asked::Watch { .. }, None) => Duration::from_secs(24 * 3600),
    }
}

fn timed<T>(message: T, deadline: Option<Duration>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(deadline) = deadline {
        request.set_timeout(deadline);
    }
    request
}
