//! `query TASK_ID`: one QueryTask call, its answer for people or as JSON.

use std::process::ExitCode;

use clap::{Arg, ArgMatches, Command};

use super::failure::Failure;
use super::{client, json, render, screen};
use crate::clock::wall_now;
use crate::pb;
use crate::pb::federation_tasks_client::FederationTasksClient;

/// The command's name.
pub const NAME: &str = "query";

/// The command's flags and help.
#[must_use]
pub fn command() -> Command {
    client::with_call(
        Command::new(NAME)
            .about("Asks a running gateway for the state of a task")
            .arg(
                Arg::new("task-id")
                    .value_name("TASK_ID")
                    .required(true)
                    .help("The task's id, from createTask"),
            )
            .arg(client::duration("max-age", "How old the answer may be; 0s asks the vendor anew")),
    )
}

/// Runs the command: exit code 0, 1 if the call failed, 2 on bad usage.
#[must_use]
pub fn run(matches: &ArgMatches) -> ExitCode {
    client::run_for_people("query", query(matches))
}

async fn query(matches: &ArgMatches) -> Result<(), Failure> {
    let target = client::Target::new(matches, |name| std::env::var_os(name))?;
    let deadline = client::Deadline::new(matches);
    let message = pb::QueryTaskRequest {
        task_id: matches.get_one::<String>("task-id").cloned().unwrap_or_default(),
        max_age: client::field(matches, "max-age"),
    };
    let answer = deadline
        .bound(async {
            let mut client = FederationTasksClient::new(target.connect().await?);
            Ok(client.query_task(deadline.request(message)).await?.into_inner())
        })
        .await?;
    if matches.get_flag("json") {
        screen::write(&json::line(&answer)?)?;
    } else {
        let (width, _) = screen::size();
        screen::write(&render::answer(&answer, wall_now(), width, screen::paint()))?;
    }
    Ok(())
}
