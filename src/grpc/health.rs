//! `grpc.health.v1.Health` over the process's standing. tonic-health's own service is not used, only its messages
//! and its server: there, Watch streams never end by themselves, which would hold a drain open, and an unknown
//! service ends a Watch that the health protocol wants kept open.

use std::pin::Pin;

use futures_util::{Stream, stream};
use tokio::sync::watch;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::Health as HealthRpc;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::health::{Health, Standing};
use crate::pb::federation_tasks_server::SERVICE_NAME;

/// The service.
#[derive(Clone, Debug)]
pub struct HealthService {
    health: Health,
}

impl HealthService {
    /// The service over the process's standing.
    #[must_use]
    pub fn new(health: Health) -> Self {
        Self { health }
    }
}

/// What can be asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Process,
    Tasks,
    Unknown,
}

impl Asked {
    fn from_name(name: &str) -> Self {
        match name {
            "" => Self::Process,
            SERVICE_NAME => Self::Tasks,
            _ => Self::Unknown,
        }
    }

    fn status(self, standing: Standing) -> ServingStatus {
        let is_serving = match self {
            Self::Process => standing.is_up(),
            Self::Tasks => standing.is_serving(),
            Self::Unknown => return ServingStatus::ServiceUnknown,
        };
        if is_serving { ServingStatus::Serving } else { ServingStatus::NotServing }
    }
}

#[tonic::async_trait]
impl HealthRpc for HealthService {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        match Asked::from_name(&request.get_ref().service).status(self.health.standing()) {
            // The health protocol's own words for it; not a failure of the contract's table.
            ServingStatus::ServiceUnknown => Err(Status::not_found("unknown service")),
            status => Ok(Response::new(HealthCheckResponse { status: status.into() })),
        }
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let asked = Asked::from_name(&request.get_ref().service);
        let statuses =
            stream::unfold((self.health.subscribe(), None), move |(mut standing, mut last)| async move {
                let status = next(&mut standing, &mut last, asked).await?;
                Some((Ok(HealthCheckResponse { status: status.into() }), (standing, last)))
            });
        Ok(Response::new(Box::pin(statuses)))
    }
}

/// The next status that differs from the last one told; `None` once the drain has been told.
async fn next(
    standing: &mut watch::Receiver<Standing>,
    last: &mut Option<ServingStatus>,
    asked: Asked,
) -> Option<ServingStatus> {
    loop {
        let now = *standing.borrow_and_update();
        let status = asked.status(now);
        match last {
            // In a drain no status changes any more.
            Some(told) if *told == status && now.draining => return None,
            Some(told) if *told == status => {}
            _ => {
                *last = Some(status);
                return Some(status);
            }
        }
        standing.changed().await.ok()?;
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt as _, StreamExt as _};

    use super::*;

    async fn watch(service: &HealthService, name: &str) -> <HealthService as HealthRpc>::WatchStream {
        let request = Request::new(HealthCheckRequest { service: name.into() });
        service.watch(request).await.unwrap().into_inner()
    }

    async fn told(stream: &mut <HealthService as HealthRpc>::WatchStream) -> Option<ServingStatus> {
        let next = stream.next().now_or_never().expect("a status or the end is there at once");
        next.map(|response| response.unwrap().status())
    }

    #[tokio::test]
    async fn watches_tell_changes_and_end_with_the_drain() {
        let health = Health::new();
        let service = HealthService::new(health.clone());
        let (mut process, mut tasks, mut unknown) =
            (watch(&service, "").await, watch(&service, SERVICE_NAME).await, watch(&service, "x").await);
        assert_eq!(told(&mut process).await, Some(ServingStatus::Serving));
        assert_eq!(told(&mut tasks).await, Some(ServingStatus::NotServing));
        assert_eq!(told(&mut unknown).await, Some(ServingStatus::ServiceUnknown));
        health.set_token(true, true);
        assert_eq!(told(&mut tasks).await, Some(ServingStatus::Serving));
        assert!(process.next().now_or_never().is_none());
        health.set_token(true, true);
        assert!(tasks.next().now_or_never().is_none());
        health.set_draining();
        for stream in [&mut process, &mut tasks] {
            assert_eq!(told(stream).await, Some(ServingStatus::NotServing));
            assert_eq!(told(stream).await, None);
        }
        assert_eq!(told(&mut unknown).await, None);
    }

    #[tokio::test]
    async fn an_unknown_service_is_not_found() {
        let service = HealthService::new(Health::new());
        let check = |name: &str| service.check(Request::new(HealthCheckRequest { service: name.into() }));
        assert_eq!(check("x").await.unwrap_err().code(), tonic::Code::NotFound);
        assert_eq!(check("").await.unwrap().get_ref().status(), ServingStatus::Serving);
        assert_eq!(check(SERVICE_NAME).await.unwrap().get_ref().status(), ServingStatus::NotServing);
    }
}
