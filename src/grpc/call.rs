//! What every call has in common: it is noted, counted, given to who answers it, and answered also when its request
//! never comes to an end, its handler panics, or the process's time is up.

use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Either, Ready, ready as at_once};
use http::{Request, Response};
use hyper::service::Service;
use tokio::time::Instant;
use tonic::Status;
use tonic::service::Routes;
use tower_service::Service as _;
use tracing::{Instrument as _, Span};

use super::arrival::Arrival;
use super::body::{Answer, CallBody, End};
use super::message::{REFUSAL_PATIENCE, RequestBody, Unread, discard, take_in};
use super::rooms::{Full, Rooms};
use super::service::TasksService;
use super::status;
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

impl<B: RequestBody> Service<Request<B>> for CallService {
    type Response = Response<CallBody>;
    type Error = Infallible;
    type Future = Answering;

    fn call(&self, request: Request<B>) -> Self::Future {
        // This runs on the connection's own task: what it panicked with would end all calls of the connection.
        catch_unwind(AssertUnwindSafe(|| self.begin(request))).unwrap_or_else(|_| {
            let defect = status::of(&Failure::defect()).into_http();
            Either::Left(at_once(Ok(defect.map(|()| CallBody::none()))))
        })
    }
}

impl CallService {
    fn begin<B: RequestBody>(&self, request: Request<B>) -> Answering {
        let inner = Arc::clone(&self.0);
        let method = Method::from_path(request.uri().path());
        let meter = inner.metrics.call(method);
        // Before anything is made for the call: being refused must cost next to nothing.
        let place = match inner.rooms.enter(method, inner.shutdown.is_draining()) {
            Ok(place) => place,
            Err(Full) => {
                meter.finish(tonic::Code::ResourceExhausted.into());
                let refused = || Ok(status::no_room().map(|()| CallBody::none()));
                let mut unread = request.into_body();
                return match discard(&mut unread).now_or_never() {
                    Some(()) => Either::Left(at_once(refused())),
                    None => Either::Right(Box::pin(async move {
                        take_in(&mut unread).await;
                        refused()
                    })),
                };
            }
        };
        let arrival = Arrival::of(method, meter.began(), request.headers());
        let span = arrival.span().clone();
        let end = End::new(meter, place, span.clone());
        // Each in a box of its own, so that none is as large as the largest.
        Either::Right(match method {
            Method::QueryTask => boxed(inner.query_task(Unread::new(request), arrival, end), span),
            Method::WatchTask => boxed(inner.watch_task(Unread::new(request), arrival, end), span),
            _ => boxed(inner.other(request, arrival, end), span),
        })
    }
}

type Answered = Result<Response<CallBody>, Infallible>;
type Answering = Either<Ready<Answered>, BoxFuture<'static, Answered>>;

fn boxed(
    answered: impl Future<Output = Answered> + Send + 'static,
    span: Span,
) -> BoxFuture<'static, Answered> {
    if span.is_disabled() { Box::pin(answered) } else { Box::pin(answered.instrument(span)) }
}

impl Inner {
    async fn query_task<B: RequestBody>(
        self: Arc<Self>,
        request: Unread<B>,
        mut arrival: Arrival,
        end: End,
    ) -> Answered {
        let deadline = arrival.query_deadline(self.request_timeout);
        let answer = async {
            let request = in_time(request.read(), deadline, &arrival, self.shutdown.ended()).await?;
            self.tasks.query_task(request, &mut arrival).await.map(Answer::Message)
        };
        // A query may finish until the drain's end, and the hub tells those who still wait then.
        let answered = AssertUnwindSafe(answer).catch_unwind().await;
        let answer = answered.unwrap_or_else(|_| Err(arrival.refuse(&Failure::defect())));
        Ok(CallBody::answer(answer, end, None))
    }

    async fn watch_task<B: RequestBody>(
        self: Arc<Self>,
        request: Unread<B>,
        mut arrival: Arrival,
        end: End,
    ) -> Answered {
        let deadline = arrival.watch_deadline(self.request_timeout);
        let answer = async {
            let request = in_time(request.read(), deadline, &arrival, self.drained()).await?;
            self.tasks.watch_task(request, &mut arrival).await.map(Answer::Messages)
        };
        let answered = AssertUnwindSafe(answer).catch_unwind().await;
        let answer = answered.unwrap_or_else(|_| Err(arrival.refuse(&Failure::defect())));
        Ok(CallBody::answer(answer, end, None))
    }

    /// Health and reflection answer from memory, and their streams have no first answer to wait for.
    async fn other<B: RequestBody>(
        self: Arc<Self>,
        request: Request<B>,
        arrival: Arrival,
        end: End,
    ) -> Answered {
        let mut others = self.others.clone();
        let answer = async {
            let (head, mut body) = request.into_parts();
            if arrival.method == Method::Unknown {
                // Nobody will read it.
                take_in(&mut body).await;
            }
            let response = others.call(Request::from_parts(head, tonic::body::Body::new(body)));
            tokio::select! {
                biased;
                response = response => response.map(Answer::Made).map_err(|infallible| match infallible {}),
                () = until(arrival.deadline) => Err(arrival.refuse(&Failure::deadline())),
                () = self.drained() => Err(arrival.refuse(&Failure::shutting_down())),
            }
        };
        let answered = AssertUnwindSafe(answer).catch_unwind().await;
        let answer = answered.unwrap_or_else(|_| Err(arrival.refuse(&Failure::defect())));
        // Reflection's streams end only with their callers; the other streams know of the drain themselves.
        let cut = matches!(arrival.method, Method::Reflection | Method::ReflectionAlpha).then(|| {
            let shutdown = self.shutdown.clone();
            Box::pin(async move {
                shutdown.draining().await;
                arrival.refuse(&Failure::shutting_down())
            }) as BoxFuture<'static, Status>
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

/// Waits for a request's end, at most to the call's or the process's.
async fn in_time<T>(
    read: impl Future<Output = Result<T, Status>>,
    deadline: Instant,
    arrival: &Arrival,
    time_is_up: impl Future<Output = ()>,
) -> Result<T, Status> {
    tokio::pin!(read);
    let refusal = match arrival.check() {
        Err(refusal) => refusal,
        Ok(()) => tokio::select! {
            biased;
            request = &mut read => return request,
            () = tokio::time::sleep_until(deadline) => arrival.refuse(&Failure::deadline()),
            // No call comes over its connection after this one, and there is no time to lose.
            () = time_is_up => return Err(arrival.refuse(&Failure::shutting_down())),
        },
    };
    // Whether it came to its end or not, the answer is the same.
    let _ = tokio::time::timeout(REFUSAL_PATIENCE, read).await;
    Err(refusal)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http_body_util::Full;
    use tracing::span::{Attributes, Id, Record};
    use tracing::{Event, Metadata, Subscriber, subscriber};

    use super::*;
    use crate::limits::Room;
    use crate::retry::terms::Terms;
    use crate::task::Observation;
    use crate::task::TaskId;
    use crate::tasks::{Config, Hub, Seams, Upstream};

    /// Nobody is asked here.
    #[derive(Debug)]
    struct Nobody;

    impl Upstream for Nobody {
        fn query_task(&self, _: TaskId, _: Terms) -> BoxFuture<'static, Result<Observation, Failure>> {
            Box::pin(at_once(Err(Failure::deadline())))
        }
        fn polls_may_start(&self) -> BoxFuture<'_, ()> {
            Box::pin(at_once(()))
        }
    }

    /// A log that breaks with the first span, which is before a call has a task of its own.
    struct Broken;

    impl Subscriber for Broken {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }
        fn new_span(&self, _: &Attributes<'_>) -> Id {
            panic!("on purpose")
        }
        fn record(&self, _: &Id, _: &Record<'_>) {}
        fn record_follows_from(&self, _: &Id, _: &Id) {}
        fn event(&self, _: &Event<'_>) {}
        fn enter(&self, _: &Id) {}
        fn exit(&self, _: &Id) {}
    }

    #[tokio::test]
    async fn a_panic_before_a_call_is_under_way_is_its_callers_internal() {
        let second = Duration::from_secs(1);
        let config = Config {
            done_cache_ttl: second,
            cache_capacity: 1,
            poll_min: second,
            poll_max: second,
            watch_give_up: second,
            request_timeout: second,
        };
        let (metrics, shutdown) = (Metrics::new(), Shutdown::new());
        let hub = Hub::new(config, Arc::new(Nobody), Seams::in_memory(), metrics.clone());
        let tasks = TasksService::new(hub, second, shutdown.clone());
        let rooms = Rooms { in_flight: Room::new(1), watches: Room::new(1) };
        let service = CallService::new(tasks, Routes::default(), rooms, metrics.clone(), second, shutdown);
        // There is one place: the second call finds it free again.
        for count in ["1", "2"] {
            let request = Request::post("/federation.v1.FederationTasks/QueryTask");
            let request = request.body(Full::<Bytes>::default()).unwrap();
            let Ok(response) = subscriber::with_default(Broken, || service.call(request)).await;
            assert_eq!(response.headers()[super::super::body::GRPC_STATUS], "13");
            let counted = metrics.render();
            let internal = r#"grpc_server_handled_total{grpc_code="Internal",grpc_method="QueryTask""#;
            let internal = counted.lines().find(|line| line.starts_with(internal)).unwrap();
            assert_eq!(internal.rsplit_once(' ').unwrap().1, count);
        }
    }
}
