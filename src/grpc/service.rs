//! `FederationTasks`: checks requests, asks the hub, and hands failures to their callers.

use std::time::Duration;

use tonic::Status;

use super::arrival::Arrival;
use super::body::Messages;
use super::message::Message;
use super::{convert, watch};
use crate::pb::{QueryTaskRequest, WatchTaskRequest};
use crate::shutdown::Shutdown;
use crate::task::failure::Failure;
use crate::tasks::{Caller, Freshness, Hub, WatchDemand};

/// A heartbeat is sent at most once in this time (contract 1).
const HEARTBEAT_AT_LEAST: Duration = Duration::from_secs(1);

/// The service. Not the one that is generated: its answers are encoded once for all who get them.
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

    pub(super) async fn query_task(
        &self,
        request: QueryTaskRequest,
        arrival: &mut Arrival,
    ) -> Result<Message, Status> {
        let id = convert::task_id(&request.task_id)?;
        let freshness = match convert::duration("max_age", request.max_age)? {
            None => Freshness::Shared,
            Some(Duration::ZERO) => Freshness::New,
            Some(age) => Freshness::Within(age),
        };
        arrival.concerns(&id);
        let deadline = arrival.query_deadline(self.request_timeout);
        let caller = Caller { arrived: arrival.at, deadline, is_own_deadline: arrival.deadline.is_some() };
        let answered = self.hub.query(&id, freshness, caller).await;
        let answered = answered.map_err(|failure| arrival.refuse(&failure))?;
        tracing::debug!(source = answered.source.label(), "answered");
        Ok(Message::query(&convert::form(&id, &answered.observation)))
    }

    pub(super) async fn watch_task(
        &self,
        request: WatchTaskRequest,
        arrival: &mut Arrival,
    ) -> Result<Messages, Status> {
        let id = convert::task_id(&request.task_id)?;
        let interval = convert::duration("poll_interval", request.poll_interval)?;
        let heartbeat = convert::duration("heartbeat_interval", request.heartbeat_interval)?
            .map(|interval| interval.max(HEARTBEAT_AT_LEAST));
        arrival.concerns(&id);
        if self.shutdown.is_draining() {
            return Err(arrival.refuse(&Failure::shutting_down()));
        }
        let deadline = arrival.watch_deadline(self.request_timeout);
        let caller =
            Caller { arrived: arrival.at, deadline, is_own_deadline: arrival.deadline == Some(deadline) };
        let demand = WatchDemand { interval, deadline: arrival.deadline };
        let watch = tokio::select! {
            biased;
            watch = self.hub.watch(&id, demand, caller) => watch,
            () = self.shutdown.draining() => Err(Failure::shutting_down()),
        };
        let watch = watch.map_err(|failure| arrival.refuse(&failure))?;
        let messages = watch::Messages::new(id, watch, heartbeat, arrival.clone(), self.shutdown.clone());
        Ok(Box::pin(messages.into_stream()))
    }
}
