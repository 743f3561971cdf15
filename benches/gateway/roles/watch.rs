//! `watch`: opens many watches and checks what each is sent: INITIAL once, CHANGED once, with the right states. Says
//! `ready` once all have their INITIAL; tells the outcome as one line of JSON once all have seen the change.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clap::{ArgMatches, Command};
use federation_gateway::pb::{WatchReason, WatchTaskRequest, WatchTaskResponse};
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;

use super::{one_thread, option, say, text, value};
use crate::client::{Answers, Connection, Method};
use crate::fault::Fault;
use crate::statistics::wall_us;

/// The role's name.
pub(crate) const NAME: &str = "watch";

const WATCH: &str = "/federation.v1.FederationTasks/WatchTask";
/// Watches that wait for their INITIAL at once: many come together, yet none waits long behind the others.
const OPENING: usize = 500;

/// The role's options.
pub(crate) fn command() -> Command {
    Command::new(NAME)
        .about("Watch tasks and check what comes")
        .arg(option("target", "127.0.0.1:50051", "Whom to call"))
        .arg(option("connections", "8", "Over how many connections"))
        .arg(option("watchers", "10000", "How many watches"))
        .arg(option("tasks", "100", "On how many tasks"))
        .arg(option("poll-interval-ms", "1000", "The poll_interval that all ask for"))
        .arg(option("prefix", "task-", "What the tasks' ids begin with; a number follows"))
        .arg(option("initial", "DOING", "The status in every INITIAL"))
        .arg(option("change-to", "TODO", "The status in every CHANGED"))
        .arg(option("linger-ms", "2000", "How long to look for messages too many, after the last CHANGED"))
}

/// What the watchers saw.
#[derive(Debug, Default, Deserialize, Serialize)]
pub(crate) struct Seen {
    pub(crate) initial: usize,
    pub(crate) changed: usize,
    pub(crate) wrong: usize,
    /// The first that was wrong.
    pub(crate) example: String,
    /// When the last watcher of each task had its CHANGED, in microseconds since the epoch.
    pub(crate) last_changed_us: BTreeMap<String, u64>,
}

/// Runs until the change has reached all, or one watch has gone wrong.
pub(crate) fn run(matches: &ArgMatches) -> Result<(), Fault> {
    let (watchers, tasks): (usize, usize) = (value(matches, "watchers")?, value(matches, "tasks")?);
    let (target, connections): (SocketAddr, usize) =
        (value(matches, "target")?, value(matches, "connections")?);
    let interval: Duration = Duration::from_millis(value(matches, "poll-interval-ms")?);
    let poll_interval = Some(interval.try_into().map_err(Fault::of("poll-interval-ms"))?);
    let linger = Duration::from_millis(value(matches, "linger-ms")?);
    let task = |number| Task {
        id: format!("{}{number}", text(matches, "prefix")),
        last_changed_us: AtomicU64::new(0),
    };
    let all = Arc::new(All {
        tasks: (0..tasks).map(task).collect(),
        states: [text(matches, "initial").to_owned(), text(matches, "change-to").to_owned()],
        initial: AtomicUsize::new(0),
        changed: AtomicUsize::new(0),
        wrong: Mutex::default(),
        progress: Notify::new(),
    });
    super::raise_open_files()?;
    one_thread()?.block_on(async {
        let mut methods = Vec::with_capacity(connections);
        for connection in Connection::open_many(target, connections).await? {
            methods.push(connection.method(WATCH, None)?);
        }
        let (opening, mut running) = (Arc::new(Semaphore::new(OPENING)), JoinSet::new());
        for (number, method) in (0..watchers).zip(methods.iter().cycle()) {
            let (all, method, opening) = (Arc::clone(&all), method.clone(), Arc::clone(&opening));
            running.spawn(async move {
                let Some(index) = number.checked_rem(all.tasks.len()) else { return };
                let request = WatchTaskRequest {
                    task_id: all.tasks.get(index).map(|task| task.id.clone()).unwrap_or_default(),
                    poll_interval,
                    heartbeat_interval: None,
                };
                if let Err(why) = all.watch(index, request, method, opening).await {
                    all.went_wrong(why);
                }
            });
        }
        all.reached(&all.initial, watchers).await;
        say("ready")?;
        all.reached(&all.changed, watchers).await;
        tokio::time::sleep(linger).await;
        say(&serde_json::to_string(&all.seen()).map_err(Fault::of("the outcome"))?)
    })
}

struct Task {
    id: String,
    last_changed_us: AtomicU64,
}

/// What all watchers share.
struct All {
    tasks: Vec<Task>,
    /// The status of the INITIAL and of the CHANGED.
    states: [String; 2],
    initial: AtomicUsize,
    changed: AtomicUsize,
    wrong: Mutex<Vec<String>>,
    progress: Notify,
}

impl All {
    async fn watch(
        &self,
        index: usize,
        request: WatchTaskRequest,
        mut method: Method,
        opening: Arc<Semaphore>,
    ) -> Result<(), String> {
        let Some(task) = self.tasks.get(index) else { return Ok(()) };
        let [initial, changed] = &self.states;
        let permit = opening.acquire().await.map_err(|error| error.to_string())?;
        let mut answers = method.begin(&request).await.map_err(|status| format!("{status:?}"))?;
        message(&mut answers, task, WatchReason::Initial, initial).await?;
        drop(permit);
        self.one_more(&self.initial);
        message(&mut answers, task, WatchReason::Changed, changed).await?;
        task.last_changed_us.fetch_max(wall_us(), Ordering::Relaxed);
        self.one_more(&self.changed);
        match answers.next::<WatchTaskResponse>().await {
            Ok(Some(more)) => Err(format!("one too many: {more:?}")),
            Ok(None) => Err(format!("the watch of {} ended", task.id)),
            Err(status) => Err(format!("{status:?}")),
        }
    }

    fn one_more(&self, count: &AtomicUsize) {
        count.fetch_add(1, Ordering::Relaxed);
        self.progress.notify_one();
    }

    fn went_wrong(&self, why: String) {
        self.wrong.lock().unwrap_or_else(PoisonError::into_inner).push(why);
        self.progress.notify_one();
    }

    /// Waits until so many are there, or something went wrong.
    async fn reached(&self, count: &AtomicUsize, wanted: usize) {
        while count.load(Ordering::Relaxed) < wanted
            && self.wrong.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
        {
            self.progress.notified().await;
        }
    }

    fn seen(&self) -> Seen {
        let wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        let last = |task: &Task| (task.id.clone(), task.last_changed_us.load(Ordering::Relaxed));
        Seen {
            initial: self.initial.load(Ordering::Relaxed),
            changed: self.changed.load(Ordering::Relaxed),
            wrong: wrong.len(),
            example: wrong.first().cloned().unwrap_or_default(),
            last_changed_us: self.tasks.iter().map(last).collect(),
        }
    }
}

/// Waits for the next message, which must be this one.
async fn message(
    answers: &mut Answers,
    task: &Task,
    reason: WatchReason,
    status: &str,
) -> Result<(), String> {
    let message = answers.next::<WatchTaskResponse>().await.map_err(|status| format!("{status:?}"))?;
    let message = message.ok_or_else(|| format!("the watch of {} ended", task.id))?;
    let is_right = message.reason() == reason
        && message.task.as_ref().is_some_and(|state| {
            state.task_id == task.id && state.remark == task.id && state.raw_status == status
        });
    if is_right { Ok(()) } else { Err(format!("not {reason:?} {status} of {}: {message:?}", task.id)) }
}
