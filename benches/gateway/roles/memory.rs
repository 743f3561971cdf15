//! `memory`: a plain tonic server that answers from memory. What a hit in the gateway's memory is compared with.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use clap::{ArgMatches, Command};
use federation_gateway::clock;
use federation_gateway::pb::federation_tasks_server::FederationTasks;
use federation_gateway::pb::{
    QueryTaskRequest, QueryTaskResponse, Task, TaskStatus, WatchTaskRequest, WatchTaskResponse,
};
use futures_util::stream::Empty;
use tonic::{Request, Response, Status};

use super::{listen_argument, option, text, tonic_server, value};
use crate::fault::Fault;

/// The role's name.
pub(crate) const NAME: &str = "memory";

/// The role's options.
pub(crate) fn command() -> Command {
    Command::new(NAME)
        .about("Answer QueryTask from memory")
        .arg(listen_argument())
        .arg(option("ids", "64", "How many tasks it knows"))
        .arg(option("prefix", "task-", "What their ids begin with; a number follows"))
        .arg(option("status", "DONE", "Their status"))
}

/// Serves until SIGTERM.
pub(crate) fn run(matches: &ArgMatches) -> Result<(), Fault> {
    let (prefix, raw_status) = (text(matches, "prefix"), text(matches, "status"));
    let status = TaskStatus::from_str_name(&format!("TASK_STATUS_{raw_status}")).unwrap_or_default();
    let task = |number: usize| {
        let task_id = format!("{prefix}{number}");
        let task = Task {
            task_id: task_id.clone(),
            status: status.into(),
            raw_status: raw_status.to_owned(),
            remark: task_id.clone(),
            fail_data: Vec::new(),
            observed_at: Some(clock::wall_now().into()),
        };
        (task_id, task)
    };
    let tasks = (0..value(matches, "ids")?).map(task).collect();
    tonic_server::serve(matches, Memory { tasks: RwLock::new(tasks) })
}

struct Memory {
    tasks: RwLock<HashMap<String, Task>>,
}

#[tonic::async_trait]
impl FederationTasks for Memory {
    async fn query_task(
        &self,
        request: Request<QueryTaskRequest>,
    ) -> Result<Response<QueryTaskResponse>, Status> {
        let task_id = request.into_inner().task_id;
        let task = self.tasks.read().unwrap_or_else(PoisonError::into_inner).get(&task_id).cloned();
        let task = task.ok_or_else(|| Status::not_found("no such task"))?;
        let result_message = "The query is successful.".to_owned();
        Ok(Response::new(QueryTaskResponse { task: Some(task), result_message }))
    }

    type WatchTaskStream = Empty<Result<WatchTaskResponse, Status>>;

    async fn watch_task(
        &self,
        _: Request<WatchTaskRequest>,
    ) -> Result<Response<Self::WatchTaskStream>, Status> {
        Err(Status::unimplemented("the bench does not watch here"))
    }
}
