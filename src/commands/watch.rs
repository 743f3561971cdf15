//! `watch TASK_ID`: one WatchTask call until the task is DONE, as a live view on a terminal, as a line a message
//! elsewhere, or as JSON.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command};
use tokio::time::MissedTickBehavior;
use tonic::Streaming;

use super::failure::Failure;
use super::live::{Redraw, View};
use super::{client, json, render, screen};
use crate::clock::wall_now;
use crate::pb;
use crate::pb::federation_tasks_client::FederationTasksClient;

/// The command's name.
pub const NAME: &str = "watch";

/// The live view asks for heartbeats of its own, or the age of the last poll it shows would grow while polls go
/// on without news. A compromise: each carries all the failed users.
const LIVE_HEARTBEAT: Duration = Duration::from_secs(5);

/// How long the end of the stream is waited for after the DONE state, which is all that was asked.
const LAST_WORD: Duration = Duration::from_secs(1);

/// The command's flags and help.
#[must_use]
pub fn command() -> Command {
    client::with_call(
        Command::new(NAME)
            .about("Watches a task at a running gateway until it is DONE")
            .arg(
                Arg::new("task-id")
                    .value_name("TASK_ID")
                    .required(true)
                    .action(ArgAction::Append)
                    .num_args(1..)
                    .help("The task's id, from createTask"),
            )
            .arg(client::duration("poll-interval", "The time between two polls of the vendor"))
            .arg(client::duration("heartbeat-interval", "Hear from the gateway at least this often")),
    )
}

/// Runs the command: exit code 0 when the task is DONE, 1 if the call failed, 2 on bad usage, 130 on Ctrl-C.
#[must_use]
pub fn run(matches: &ArgMatches) -> ExitCode {
    client::run_for_people("watch", watch(matches))
}

async fn watch(matches: &ArgMatches) -> Result<(), Failure> {
    let mut ids = matches.get_many::<String>("task-id").into_iter().flatten();
    let task_id = ids.next().cloned().unwrap_or_default();
    if ids.next().is_some() {
        return Err(Failure::Usage("TASK_ID: several ids are not supported by this version".to_owned()));
    }
    let target = client::Target::new(matches, |name| std::env::var_os(name))?;
    let deadline = client::Deadline::new(matches);
    let asked = matches.get_one::<Duration>("heartbeat-interval").copied();
    let (mut form, heartbeat) = if matches.get_flag("json") {
        (Form::Json, asked)
    } else if screen::is_live() {
        let heartbeat = Some(asked.unwrap_or(LIVE_HEARTBEAT));
        (Form::Live(Box::new(View::new(&task_id, heartbeat)), Redraw::default()), heartbeat)
    } else {
        (Form::Lines, asked)
    };
    let request = pb::WatchTaskRequest {
        task_id,
        poll_interval: client::field(matches, "poll-interval"),
        heartbeat_interval: heartbeat.map(client::proto),
    };
    let begin = async {
        let mut client = FederationTasksClient::new(target.connect().await?);
        Ok(client.watch_task(deadline.request(request)).await?.into_inner())
    };
    deadline.bound(follow(begin, &mut form)).await
}

/// Shows what comes until the task is DONE, and lets a live view's ages grow meanwhile. Ends quietly when nobody
/// reads any more.
async fn follow(
    begin: impl Future<Output = Result<Streaming<pb::WatchTaskResponse>, Failure>>,
    form: &mut Form,
) -> Result<(), Failure> {
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let closed = screen::closed();
    tokio::pin!(begin, closed);
    let mut stream = loop {
        tokio::select! {
            stream = &mut begin => break stream?,
            () = &mut closed => return Ok(()),
            _ = ticks.tick() => form.tick()?,
        }
    };
    loop {
        tokio::select! {
            message = stream.message() => {
                let message = message?.ok_or(Failure::Ended)?;
                let is_done = message.task.as_ref().is_some_and(|task| task.status() == pb::TaskStatus::Done);
                form.show(message, is_done)?;
                if is_done {
                    // Leaving at once would look to the gateway like a caller that gave up.
                    let _ = tokio::time::timeout(LAST_WORD, stream.message()).await;
                    return Ok(());
                }
            }
            () = &mut closed => return Ok(()),
            _ = ticks.tick() => form.tick()?,
        }
    }
}

/// How the messages are shown.
enum Form {
    /// Redrawn in place on a terminal.
    Live(Box<View>, Redraw),
    /// A line a message.
    Lines,
    /// A JSON object a line.
    Json,
}

impl Form {
    /// Shows a message; the last one with all its failed users.
    fn show(&mut self, message: pb::WatchTaskResponse, is_last: bool) -> Result<(), Failure> {
        let now = wall_now();
        let failures = match self {
            Self::Json => return Ok(screen::write(&json::line(&message)?)?),
            Self::Lines => {
                screen::write(&render::watch_line(&message, now))?;
                message.task.map(|task| task.fail_data).unwrap_or_default()
            }
            Self::Live(view, _) => {
                view.take(message, now);
                let failures = view.failures().to_vec();
                self.tick()?;
                failures
            }
        };
        if is_last && !failures.is_empty() {
            let (width, _) = screen::size();
            screen::write(&render::failures(&failures, width))?;
        }
        Ok(())
    }

    /// Lets a live view's ages grow.
    fn tick(&mut self) -> Result<(), Failure> {
        if let Self::Live(view, redraw) = self {
            let (width, height) = screen::size();
            let frame = view.frame(wall_now(), width, screen::paint());
            screen::write(&redraw.over(&frame, width, height))?;
        }
        Ok(())
    }
}
