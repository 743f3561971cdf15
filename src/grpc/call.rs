//! What every call has in common: it is noted, counted, given to who answers it, and answered also when its request
//! never comes to an end, its handler panics, or the process's time is up.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Either, Ready, ready as at_once};
use http::{Request, Response};
use tokio::time::Instant;
use tonic::Status;
use tonic::body::Body;
use tonic::service::Routes;
use tower_service::Service;
use tracing::Instrument as _;

use super::arrival::Arrival;
use super::body::{Answer, CallBody, End};
use super::rooms::{Full, Rooms};
use super::service::TasksService;
use super::{message, status};
use crate::clock::until;
use crate::metrics::{Method, Metrics};
use crate::shutdown::Shutdown;
use crate::task::failure::Failure;

/// How long after the drain's beginning a health check or a watch may still come to its answer.
const LAST_REQUESTS: Duration = Duration::from_secs(1);

/// Answers every call of the server; clones share it.
#[derive(Clone, Debug)]
pub struct CallService(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    tasks: TasksService,
    others: Routes,
    rooms: Rooms,
    metrics: Metrics,
    request_timeout: Duration,
    shutdown: Shutdown,
}

impl CallService {
    /// `tasks` answers its own two methods, `others` all the rest, as far as there is room in `rooms`. A request that does not come to its end is waited
    /// for as long as its answer would be.
    #[must_use]
    pub fn new(
        tasks: TasksService,
        others: Routes,
        rooms: Rooms,
        metrics: Metrics,
        request_timeout: Duration,
        shutdown: Shutdown,
    ) -> Self {
        Self(Arc::new(Inner { tasks, others, rooms, metrics, request_timeout, shutdown }))
    }
}

impl<B> Service<Request<B>> for CallService
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Response = Response<CallBody>;
    type Error = Infallible;
    type Future = Either<Ready<Answered>, BoxFuture<'static, Answered>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let inner = Arc::clone(&self.0);
        let method = Method::from_path(request.uri().path());
        let meter = inner.metrics.call(method);
        // Before anything is made or read for the call: being refused must cost next to nothing.
        let place = match inner.rooms.enter(method, inner.shutdown.is_draining()) {
            Ok(place) => place,
            Err(Full) => {
                meter.finish(tonic::Code::ResourceExhausted.into());
                return Either::Left(at_once(Ok(status::no_room().map(|()| CallBody::none()))));
            }
        };
        let arrival = Arrival::of(method, request.headers());
        let end = End::new(meter, place, arrival.clone());
        let span = arrival.span().clone();
        // Boxed one by one, so that none is as large as the largest.
        Either::Right(match method {
            Method::QueryTask => Box::pin(inner.query_task(request, arrival, end).instrument(span)),
            Method::WatchTask => Box::pin(inner.watch_task(request, arrival, end).instrument(span)),
            _ => Box::pin(inner.other(request, arrival, end).instrument(span)),
        })
    }
}

type Answered = Result<Response<CallBody>, Infallible>;

impl Inner {
    async fn query_task<B>(self: Arc<Self>, request: Request<B>, mut arrival: Arrival, end: End) -> Answered
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        // The caller's deadline bounds everything; without one `request-timeout` does.
        let deadline = arrival.deadline.unwrap_or(arrival.at + self.request_timeout);
        let answer = async {
            let request = in_time(message::read(request), deadline, &arrival).await?;
            self.tasks.query_task(request, &mut arrival).await.map(Answer::Message)
        };
        // A query may finish until the drain's end.
        let answered = guard(answer, self.shutdown.ended()).await;
        let answer = answered.unwrap_or_else(|failure| Err(arrival.refuse(&failure)));
        Ok(CallBody::answer(answer, end, None))
    }

    async fn watch_task<B>(self: Arc<Self>, request: Request<B>, mut arrival: Arrival, end: End) -> Answered
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let bound = arrival.at + self.request_timeout;
        let deadline = arrival.deadline.map_or(bound, |own| own.min(bound));
        let answer = async {
            let request = in_time(message::read(request), deadline, &arrival).await?;
            self.tasks.watch_task(request, &mut arrival).await.map(Answer::Messages)
        };
        let answered = guard(answer, self.drained()).await;
        let answer = answered.unwrap_or_else(|failure| Err(arrival.refuse(&failure)));
        Ok(CallBody::answer(answer, end, None))
    }

    /// Health and reflection answer from memory, and their streams have no first answer to wait for.
    async fn other<B>(self: Arc<Self>, request: Request<B>, arrival: Arrival, end: End) -> Answered
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let mut others = self.others.clone();
        let answer = async {
            let response = others.call(request.map(Body::new));
            tokio::select! {
                biased;
                response = response => response.map(Answer::Made).map_err(|infallible| match infallible {}),
                () = until(arrival.deadline) => Err(arrival.refuse(&Failure::deadline())),
            }
        };
        let answered = guard(answer, self.drained()).await;
        let answer = answered.unwrap_or_else(|failure| Err(arrival.refuse(&failure)));
        // Reflection's streams end only with their callers; the other streams know of the drain themselves.
        let cut = matches!(arrival.method, Method::Reflection | Method::ReflectionAlpha).then(|| {
            let shutdown = self.shutdown.clone();
            Box::pin(async move { shutdown.draining().await }) as BoxFuture<'static, ()>
        });
        Ok(CallBody::answer(answer, end, cut))
    }

    /// When a call that has nothing to finish is cut, so that one whose request never comes to its end does not hold
    /// up the drain.
    async fn drained(&self) {
        self.shutdown.draining().await;
        tokio::time::sleep(LAST_REQUESTS).await;
    }
}

/// Waits for a request's end, at most to the call's.
async fn in_time<T>(
    read: impl Future<Output = Result<T, Status>>,
    deadline: Instant,
    arrival: &Arrival,
) -> Result<T, Status> {
    arrival.check()?;
    tokio::select! {
        biased;
        request = read => request,
        () = tokio::time::sleep_until(deadline) => Err(arrival.refuse(&Failure::deadline())),
    }
}

/// Gives a failure in place of a handler that panics, or that outlives its time.
async fn guard<T>(
    answer: impl Future<Output = T>,
    time_is_up: impl Future<Output = ()>,
) -> Result<T, Failure> {
    tokio::select! {
        biased;
        // The panic itself is logged by the process's hook.
        answer = AssertUnwindSafe(answer).catch_unwind() => answer.map_err(|_| Failure::defect()),
        () = time_is_up => Err(Failure::shutting_down()),
    }
}
