//! `bare`: the handler that one would write in an afternoon: tonic, reqwest, a token in a mutex, serde, one REST call a
//! call, and nothing else. What the gateway's own cost is compared with, so it is written to be good at what it does.

use std::time::Duration;

use clap::{ArgMatches, Command};
use federation_gateway::clock;
use federation_gateway::pb::federation_tasks_server::FederationTasks;
use federation_gateway::pb::{
    FailData, FailReason, FederationUser, QueryTaskRequest, QueryTaskResponse, Task, TaskStatus, UserAction,
    WatchTaskRequest, WatchTaskResponse,
};
use futures_util::stream::Empty;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tonic::{Request, Response, Status};

use super::{listen_argument, option, text, tonic_server};
use crate::fault::Fault;

/// The role's name.
pub(crate) const NAME: &str = "bare";

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const TIMEOUT: Duration = Duration::from_secs(10);

/// The role's options.
pub(crate) fn command() -> Command {
    Command::new(NAME).about("Answer QueryTask by one call to the vendor").arg(listen_argument()).arg(option(
        "vendor",
        "http://127.0.0.1:8080",
        "The vendor's address",
    ))
}

/// Serves until SIGTERM.
pub(crate) fn run(matches: &ArgMatches) -> Result<(), Fault> {
    // The crypto provider has to be named where more than one could be built in; another one is there already only
    // if this ran twice.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let vendor = text(matches, "vendor");
    let client =
        reqwest::Client::builder().no_proxy().connect_timeout(CONNECT_TIMEOUT).timeout(TIMEOUT).build();
    tonic_server::serve(
        matches,
        Bare {
            client: client.map_err(Fault::of("no HTTP client"))?,
            token_url: format!("{vendor}/apigovernance/api/oauth/tokenByAkSk"),
            query_url: format!("{vendor}/apiaccess/rest/cc-management/v1/federationUserMgmt/queryTask"),
            app_key: "bench-key".to_owned(),
            app_secret: "bench-secret".to_owned(),
            token: Mutex::new(None),
        },
    )
}

struct Bare {
    client: reqwest::Client,
    token_url: String,
    query_url: String,
    app_key: String,
    app_secret: String,
    token: Mutex<Option<String>>,
}

#[derive(Serialize)]
struct LoginRequest<'a> {
    app_key: &'a str,
    app_secret: &'a str,
}

#[derive(Deserialize)]
struct LoginAnswer {
    #[serde(rename = "AccessToken")]
    access_token: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct QueryRequest<'a> {
    task_id: &'a str,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct QueryAnswer {
    result_code: String,
    #[serde(default)]
    result_message: String,
    #[serde(default)]
    task_info: TaskInfo,
    #[serde(default)]
    fail_data_list: Vec<Failed>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct TaskInfo {
    status: String,
    remark: String,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Failed {
    federation_user: Option<User>,
    fail_code: String,
    fail_message: String,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct User {
    action: String,
    user_name: String,
    user_account: String,
    email: String,
    role_ids: Vec<String>,
}

impl Bare {
    async fn token(&self) -> Result<String, reqwest::Error> {
        let mut token = self.token.lock().await;
        if let Some(token) = &*token {
            return Ok(token.clone());
        }
        let login = LoginRequest { app_key: &self.app_key, app_secret: &self.app_secret };
        let request = self.client.post(&self.token_url).header("X-Token-Expire", "3600").json(&login);
        let answer: LoginAnswer = request.send().await?.error_for_status()?.json().await?;
        Ok(token.insert(answer.access_token).clone())
    }

    async fn ask(&self, task_id: &str) -> Result<QueryAnswer, reqwest::Error> {
        let token = self.token().await?;
        let request = self.client.post(&self.query_url).header("X-APP-Key", &self.app_key);
        let request = request.bearer_auth(token).json(&QueryRequest { task_id });
        request.send().await?.error_for_status()?.json().await
    }
}

#[tonic::async_trait]
impl FederationTasks for Bare {
    async fn query_task(
        &self,
        request: Request<QueryTaskRequest>,
    ) -> Result<Response<QueryTaskResponse>, Status> {
        let task_id = request.into_inner().task_id;
        let answer = self.ask(&task_id).await.map_err(|error| Status::unavailable(error.to_string()))?;
        if answer.result_code != "0" {
            return Err(Status::unknown(answer.result_message));
        }
        let status = match &*answer.task_info.status {
            "TODO" => TaskStatus::Todo,
            "DOING" => TaskStatus::Doing,
            "DONE" => TaskStatus::Done,
            _ => TaskStatus::Unspecified,
        };
        let task = Task {
            task_id,
            status: status.into(),
            raw_status: answer.task_info.status,
            remark: answer.task_info.remark,
            fail_data: answer.fail_data_list.into_iter().map(fail_data).collect(),
            observed_at: Some(clock::wall_now().into()),
        };
        Ok(Response::new(QueryTaskResponse { task: Some(task), result_message: answer.result_message }))
    }

    type WatchTaskStream = Empty<Result<WatchTaskResponse, Status>>;

    async fn watch_task(
        &self,
        _: Request<WatchTaskRequest>,
    ) -> Result<Response<Self::WatchTaskStream>, Status> {
        Err(Status::unimplemented("the bench does not watch here"))
    }
}

fn fail_data(failed: Failed) -> FailData {
    FailData {
        federation_user: failed.federation_user.map(user),
        // One of the fifteen stands for all: no answer in a bench has any.
        fail_reason: match &*failed.fail_code {
            "60101040050" => FailReason::InvalidParameter,
            _ => FailReason::Unspecified,
        }
        .into(),
        fail_code: failed.fail_code,
        fail_message: failed.fail_message,
    }
}

fn user(user: User) -> FederationUser {
    let action = match &*user.action {
        "CREATE" => UserAction::Create,
        "MODIFY" => UserAction::Modify,
        "DISABLE" => UserAction::Disable,
        _ => UserAction::Unspecified,
    };
    FederationUser {
        action: action.into(),
        raw_action: user.action,
        user_name: user.user_name,
        user_account: user.user_account,
        email: user.email,
        role_ids: user.role_ids,
    }
}
