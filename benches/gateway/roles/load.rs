//! `load`: calls QueryTask, checks every answer and keeps every latency. Says `ready` once warm, begins when it reads a
//! line (or the end) of standard input, and tells the outcome as one line of JSON.
//!
//! Closed (`--in-flight`): so many callers, each asking again once it has its answer. Open (`--rate`): so many calls a
//! second whatever becomes of them, their latency counted from when they were due.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::{ArgMatches, Command};
use federation_gateway::pb::{QueryTaskRequest, QueryTaskResponse};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::Status;
use tonic_types::StatusExt as _;

use super::{one_thread, option, say, text, value};
use crate::client::{Connection, Method};
use crate::fault::Fault;
use crate::statistics::percentile;

/// The role's name.
pub(crate) const NAME: &str = "load";

const QUERY: &str = "/federation.v1.FederationTasks/QueryTask";

/// The role's options.
pub(crate) fn command() -> Command {
    Command::new(NAME)
        .about("Call QueryTask, check every answer, keep every latency")
        .arg(option("target", "127.0.0.1:50051", "Whom to call"))
        .arg(option("connections", "4", "Over how many connections"))
        .arg(option("in-flight", "128", "Callers, each of which asks again once it has its answer"))
        .arg(option("rate", "0", "Calls a second, whatever becomes of them, in place of --in-flight"))
        .arg(option("timeout-ms", "0", "Each call's deadline; 0 for none"))
        .arg(option("seconds", "5", "For how long"))
        .arg(option("calls", "0", "How many calls at most; 0 for no limit"))
        .arg(option("warm-up", "2000", "Calls that are made before and not counted"))
        .arg(option("ids", "100000", "How many tasks to ask for, in turn"))
        .arg(option("prefix", "task-", "What their ids begin with; a number follows"))
        .arg(option("max-age", "none", "max_age in seconds, or none"))
        .arg(option("expect", "DOING", "The status that every answer must have"))
}

/// What became of the calls.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Outcome {
    pub(crate) calls: u64,
    pub(crate) ok: u64,
    /// Failed calls, by the reason the server gave.
    pub(crate) refused: BTreeMap<String, u64>,
    /// Answers that were another task's or otherwise not what was asked for.
    pub(crate) wrong: u64,
    /// The first of those, or of the failures without a reason.
    pub(crate) example: String,
    pub(crate) seconds: f64,
    pub(crate) p50_us: u32,
    pub(crate) p90_us: u32,
    pub(crate) p99_us: u32,
    pub(crate) max_us: u32,
}

impl Outcome {
    pub(crate) fn calls_a_second(&self) -> f64 {
        self.ok as f64 / self.seconds
    }
}

/// Runs until all calls have come to their ends.
pub(crate) fn run(matches: &ArgMatches) -> Result<(), Fault> {
    let timeout = match value(matches, "timeout-ms")? {
        0 => None,
        timeout => Some(Duration::from_millis(timeout)),
    };
    let max_age = match text(matches, "max-age") {
        "none" => None,
        _ => Some(prost_types::Duration { seconds: value(matches, "max-age")?, nanos: 0 }),
    };
    let plan = Plan {
        question: Question {
            prefix: text(matches, "prefix").to_owned(),
            ids: value(matches, "ids")?,
            max_age,
            status: text(matches, "expect").to_owned(),
        },
        in_flight: value(matches, "in-flight")?,
        rate: value(matches, "rate")?,
    };
    let (target, connections): (SocketAddr, usize) =
        (value(matches, "target")?, value(matches, "connections")?);
    let calls = Some(value(matches, "calls")?).filter(|calls| *calls > 0);
    let (warm_up, seconds) = (value(matches, "warm-up")?, value(matches, "seconds")?);
    super::raise_open_files()?;
    one_thread()?.block_on(async {
        let connections = Connection::open_many(target, connections).await?;
        let methods: Vec<_> =
            connections.iter().map(|to| to.method(QUERY, timeout)).collect::<Result<_, Fault>>()?;
        if warm_up > 0 {
            let counted = plan.closed(&methods, Bounds::new(Some(warm_up), None)).await.outcome();
            if counted.ok != counted.calls {
                return Err(Fault::new(format!("warming up failed: {counted:?}")));
            }
        }
        say("ready")?;
        let mut line = String::new();
        // Nothing else is to be done meanwhile.
        std::io::stdin().read_line(&mut line).map_err(Fault::of("standard input"))?;
        let bounds = Bounds::new(calls, Some(Duration::from_secs_f64(seconds)));
        let counts = if plan.rate > 0.0 {
            plan.open(&methods, bounds).await
        } else {
            plan.closed(&methods, bounds).await
        };
        say(&serde_json::to_string(&counts.outcome()).map_err(Fault::of("the outcome"))?)
    })
}

struct Plan {
    question: Question,
    in_flight: usize,
    rate: f64,
}

/// When to end.
#[derive(Clone, Copy)]
struct Bounds {
    calls: u64,
    until: Option<Instant>,
}

impl Bounds {
    fn new(calls: Option<u64>, time: Option<Duration>) -> Self {
        Self { calls: calls.unwrap_or(u64::MAX), until: time.map(|time| Instant::now() + time) }
    }

    fn are_reached(&self, calls: u64) -> bool {
        calls >= self.calls || self.until.is_some_and(|until| until <= Instant::now())
    }
}

impl Plan {
    async fn closed(&self, methods: &[Method], bounds: Bounds) -> Counts {
        let (begun, next) = (Instant::now(), Arc::new(AtomicU64::new(0)));
        let mut callers = JoinSet::new();
        for (_, method) in (0..self.in_flight).zip(methods.iter().cycle()) {
            let (mut method, question, next) = (method.clone(), self.question.clone(), Arc::clone(&next));
            callers.spawn(async move {
                let mut counts = Counts::default();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if bounds.are_reached(number) {
                        return counts;
                    }
                    let asked = Instant::now();
                    let asking = question.ask(&mut method, number).await;
                    counts.add(asked.elapsed(), asking);
                }
            });
        }
        let mut counts = Counts::default();
        while let Some(caller) = callers.join_next().await {
            counts.merge(caller);
        }
        counts.seconds = begun.elapsed().as_secs_f64();
        counts
    }

    async fn open(&self, methods: &[Method], bounds: Bounds) -> Counts {
        let (begun, mut counts, mut calls) = (Instant::now(), Counts::default(), JoinSet::new());
        let mut methods = methods.iter().cycle();
        let mut number = 0;
        while !bounds.are_reached(number) {
            let due = begun + Duration::from_secs_f64(number as f64 / self.rate);
            if due > Instant::now() {
                tokio::time::sleep_until(due).await;
            }
            let Some(method) = methods.next() else { break };
            let (mut method, question) = (method.clone(), self.question.clone());
            calls.spawn(async move {
                let asking = question.ask(&mut method, number).await;
                (due.elapsed(), asking)
            });
            number += 1;
            while let Some(call) = calls.try_join_next() {
                counts.add_joined(call);
            }
        }
        // The rate is that of the time in which calls were made; those still under way had theirs.
        counts.seconds = begun.elapsed().as_secs_f64();
        while let Some(call) = calls.join_next().await {
            counts.add_joined(call);
        }
        counts
    }
}

/// What is asked, and what must be the answer.
#[derive(Clone)]
struct Question {
    prefix: String,
    ids: u64,
    max_age: Option<prost_types::Duration>,
    status: String,
}

enum Asking {
    Answered,
    Refused(Status),
    Wrong(String),
}

impl Question {
    async fn ask(&self, method: &mut Method, number: u64) -> Asking {
        let task_id = format!("{}{}", self.prefix, number.checked_rem(self.ids).unwrap_or_default());
        let request = QueryTaskRequest { task_id, max_age: self.max_age };
        let answer: QueryTaskResponse = match method.call(&request).await {
            Ok(answer) => answer,
            Err(status) => return Asking::Refused(status),
        };
        let is_right = answer.task.as_ref().is_some_and(|task| {
            task.task_id == request.task_id
                && task.remark == request.task_id
                && task.raw_status == self.status
                && task.status().as_str_name().strip_prefix("TASK_STATUS_") == Some(&*self.status)
                && task.observed_at.is_some()
        });
        if is_right {
            Asking::Answered
        } else {
            Asking::Wrong(format!("{} was answered by {answer:?}", request.task_id))
        }
    }
}

#[derive(Default)]
struct Counts {
    outcome: Outcome,
    seconds: f64,
    latencies_us: Vec<u32>,
}

impl Counts {
    fn add(&mut self, took: Duration, asking: Asking) {
        self.outcome.calls += 1;
        match asking {
            Asking::Answered => {
                self.outcome.ok += 1;
                self.latencies_us.push(u32::try_from(took.as_micros()).unwrap_or(u32::MAX));
            }
            Asking::Refused(status) => {
                let details = status.get_error_details();
                // What names no reason was not decided by the server: it is what one wants to see.
                let reason = details.error_info().map(|info| info.reason.clone()).unwrap_or_else(|| {
                    self.example(|| format!("{status:?}"));
                    format!("{:?}", status.code())
                });
                *self.outcome.refused.entry(reason).or_default() += 1;
            }
            Asking::Wrong(how) => {
                self.outcome.wrong += 1;
                self.example(|| how);
            }
        }
    }

    fn example(&mut self, example: impl FnOnce() -> String) {
        if self.outcome.example.is_empty() {
            self.outcome.example = example();
        }
    }

    fn add_joined(&mut self, call: Result<(Duration, Asking), tokio::task::JoinError>) {
        match call {
            Ok((took, asking)) => self.add(took, asking),
            Err(error) => self.add(Duration::ZERO, Asking::Wrong(error.to_string())),
        }
    }

    fn merge(&mut self, other: Result<Self, tokio::task::JoinError>) {
        match other {
            Ok(Self { outcome, latencies_us, .. }) => {
                self.outcome.calls += outcome.calls;
                self.outcome.ok += outcome.ok;
                self.outcome.wrong += outcome.wrong;
                for (reason, count) in outcome.refused {
                    *self.outcome.refused.entry(reason).or_default() += count;
                }
                self.example(|| outcome.example);
                self.latencies_us.extend(latencies_us);
            }
            Err(error) => self.add(Duration::ZERO, Asking::Wrong(error.to_string())),
        }
    }

    fn outcome(mut self) -> Outcome {
        self.latencies_us.sort_unstable();
        let at = |percent| percentile(&self.latencies_us, percent);
        let (p50_us, p90_us, p99_us, max_us) = (at(50.0), at(90.0), at(99.0), at(100.0));
        Outcome { seconds: self.seconds, p50_us, p90_us, p99_us, max_us, ..self.outcome }
    }
}
