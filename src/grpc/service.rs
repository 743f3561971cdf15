//! `FederationTasks`: checks requests, asks the hub, and hands failures to their callers.

use std::pin::Pin;
use std::time::Duration;

use futures_util::Stream;
use tonic::{Request, Response, Status};
use tracing::Span;

use super::call::Arrival;
use super::{convert, status, watch};
use crate::pb::federation_tasks_server::FederationTasks;
use crate::pb::{QueryTaskRequest, QueryTaskResponse, WatchTaskRequest, WatchTaskResponse};
use crate::shutdown::Shutdown;
use crate::task::failure::{Failure, Reason};
use crate::tasks::{Caller, Freshness, Hub, WatchDemand};

/// A heartbeat is sent at most once in this time (contract 1).
const HEARTBEAT_AT_LEAST: Duration = Duration::from_secs(1);

/// The service.
#[derive(Clone, Debug)]
pub struct TasksService {
    hub: Hub,
    /// What bounds a call without a deadline, and every watch's first answer.
    request_timeout: Duration,
    shutdown: Shutdown,
}

impl TasksService {
    /// The service over a hub.
    #[must_use]
    pub fn new(hub: Hub, request_timeout: Duration, shutdown: Shutdown) -> Self {
        Self { hub, request_timeout, shutdown }
    }
}

#[tonic::async_trait]
impl FederationTasks for TasksService {
    async fn query_task(
        &self,
        request: Request<QueryTaskRequest>,
    ) -> Result<Response<QueryTaskResponse>, Status> {
        let arrival = Arrival::of(&request)?;
        let request = request.into_inner();
        let id = convert::task_id(&request.task_id)?;
        let freshness = match convert::duration("max_age", request.max_age)? {
            None => Freshness::Shared,
            Some(Duration::ZERO) => Freshness::New,
            Some(age) => Freshness::Within(age),
        };
        Span::current().record("task.id", id.as_str());
        let deadline = arrival.deadline.unwrap_or(arrival.at + self.request_timeout);
        let caller = Caller { arrived: arrival.at, deadline, is_own_deadline: arrival.deadline.is_some() };
        let answered = self.hub.query(&id, freshness, caller).await.map_err(|failure| refuse(&failure))?;
        tracing::debug!(source = answered.source.label(), "answered");
        let observation = answered.observation;
        Ok(Response::new(QueryTaskResponse {
            task: Some(convert::task(&id, &observation)),
            result_message: observation.answer.result_message.clone(),
        }))
    }

    type WatchTaskStream = Pin<Box<dyn Stream<Item = Result<WatchTaskResponse, Status>> + Send>>;

    async fn watch_task(
        &self,
        request: Request<WatchTaskRequest>,
    ) -> Result<Response<Self::WatchTaskStream>, Status> {
        let arrival = Arrival::of(&request)?;
        let request = request.into_inner();
        let id = convert::task_id(&request.task_id)?;
        let interval = convert::duration("poll_interval", request.poll_interval)?;
        let heartbeat = convert::duration("heartbeat_interval", request.heartbeat_interval)?
            .map(|interval| interval.max(HEARTBEAT_AT_LEAST));
        Span::current().record("task.id", id.as_str());
        if self.shutdown.is_draining() {
            return Err(refuse(&Failure::shutting_down()));
        }
        let bound = arrival.at + self.request_timeout;
        let deadline = arrival.deadline.map_or(bound, |own| own.min(bound));
        let caller =
            Caller { arrived: arrival.at, deadline, is_own_deadline: arrival.deadline == Some(deadline) };
        let demand = WatchDemand { interval, deadline: arrival.deadline };
        let watch = tokio::select! {
            biased;
            watch = self.hub.watch(&id, demand, caller) => watch,
            () = self.shutdown.draining() => Err(Failure::shutting_down()),
        };
        let watch = watch.map_err(|failure| refuse(&failure))?;
        let stream = watch::Messages::new(id, watch, heartbeat, arrival.deadline, self.shutdown.clone());
        Ok(Response::new(Box::pin(stream.into_stream())))
    }
}

/// Logs a failure where it is handed to its caller, and makes the status.
pub(super) fn refuse(failure: &Failure) -> Status {
    let (reason, detail, http_status) = (failure.reason, &failure.detail, failure.http_status);
    match reason {
        // The operator's to mend, or a defect: worth being woken for.
        Reason::CredentialsRejected
        | Reason::UpstreamUnauthorized
        | Reason::UpstreamForbidden
        | Reason::UpstreamPathNotFound
        | Reason::UpstreamRedirect
        | Reason::UpstreamMalformed
        | Reason::GatewayDefect => {
            tracing::warn!(%reason, %detail, http.status = http_status, "call failed");
        }
        Reason::ShuttingDown | Reason::Deadline => tracing::debug!(%reason, %detail, "call failed"),
        _ => tracing::info!(%reason, %detail, http.status = http_status, "call failed"),
    }
    status::of(failure)
}
