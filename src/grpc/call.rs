//! What every call has in common: when it arrived and until when it is waited for, its span, its count, and an
//! answer also when its request never comes to an end, its handler panics, or the process's time is up.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Either, Ready, ready as at_once};
use http::{HeaderMap, Request, Response};
use http_body::{Frame, SizeHint};
use tokio::time::Instant;
use tonic::Status;
use tonic::body::Body;
use tower_layer::Layer;
use tower_service::Service;
use tracing::{Instrument as _, Span};

use super::service::refuse;
use super::status;
use crate::clock::until;
use crate::limits::{Place, Room};
use crate::metrics::{Call, Method, Metrics};
use crate::shutdown::Shutdown;
use crate::task::failure::Failure;
use crate::telemetry::TraceParent;

const GRPC_TIMEOUT: &str = "grpc-timeout";
const GRPC_STATUS: &str = "grpc-status";
/// How much later than the handler's own timer a call is cut off: time for the handler's better-informed answer.
const CUT_OFF_AFTER: Duration = Duration::from_millis(50);

/// How long after the drain's beginning a health check or a watch may still come to its answer.
const LAST_REQUESTS: Duration = Duration::from_secs(1);

/// When a call arrived, and its caller's deadline.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    pub(super) at: Instant,
    pub(super) deadline: Option<Instant>,
    is_readable: bool,
}

impl Arrival {
    fn now(headers: &HeaderMap) -> Self {
        let at = Instant::now();
        let timeout = headers.get(GRPC_TIMEOUT).map(|value| value.to_str().ok().and_then(parse_timeout));
        // A deadline beyond what the clock holds is none.
        let deadline = timeout.flatten().and_then(|timeout| at.checked_add(timeout));
        Self { at, deadline, is_readable: !matches!(timeout, Some(None)) }
    }

    /// What [`CallService`] noted of a request.
    pub(super) fn of<T>(request: &tonic::Request<T>) -> Result<Self, Status> {
        // Without the layer there is nothing to go by but now: only unit tests call the service so.
        let arrival = request.extensions().get::<Self>().copied();
        let arrival = arrival.unwrap_or_else(|| Self::now(&HeaderMap::new()));
        if arrival.is_readable {
            Ok(arrival)
        } else {
            Err(status::invalid_field(
                GRPC_TIMEOUT,
                "is not a number of at most 8 digits with a unit of HMSmun",
            ))
        }
    }
}

/// Reads a `grpc-timeout` (gRPC over HTTP/2, "Timeout").
fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

/// How many calls there may be at once.
#[derive(Clone, Debug)]
pub struct Rooms {
    /// QueryTask calls.
    pub in_flight: Room,
    /// WatchTask and Health.Watch streams, counted together.
    pub watches: Room,
}

impl Rooms {
    /// Where a call of that method takes a place. What operators look with needs none.
    fn of(&self, method: Method) -> Option<&Room> {
        match method {
            Method::QueryTask => Some(&self.in_flight),
            Method::WatchTask | Method::HealthWatch => Some(&self.watches),
            Method::HealthCheck | Method::Reflection | Method::ReflectionAlpha | Method::Unknown => None,
        }
    }
}

/// Wraps the services of a server.
#[derive(Clone, Debug)]
pub struct CallLayer {
    metrics: Metrics,
    request_timeout: Duration,
    rooms: Rooms,
    shutdown: Shutdown,
}

impl CallLayer {
    /// A layer that counts calls, refuses those beyond the limits, bounds what comes before an answer, and answers
    /// when the time is up.
    #[must_use]
    pub fn new(metrics: Metrics, request_timeout: Duration, rooms: Rooms, shutdown: Shutdown) -> Self {
        Self { metrics, request_timeout, rooms, shutdown }
    }

    /// A place for a call, if it needs one; [`Full`] if there is none left.
    fn enter(&self, method: Method) -> Result<Option<Place>, Full> {
        let Some(room) = self.rooms.of(method) else { return Ok(None) };
        let place = room.enter();
        // In a drain streams end at once, saying why, and that is the better answer.
        let ends_at_once = || method != Method::QueryTask && self.shutdown.is_draining();
        if place.is_some() || ends_at_once() {
            return Ok(place);
        }
        let (method, limit) = (method.name(), room.places());
        if room.is_news(Instant::now()) {
            tracing::warn!(
                rpc.method = method,
                limit,
                "calls are refused: the limit on their number is reached"
            );
        }
        Err(Full)
    }
}

/// There is no place left.
struct Full;

impl<S> Layer<S> for CallLayer {
    type Service = CallService<S>;

    fn layer(&self, inner: S) -> CallService<S> {
        CallService { inner, layer: self.clone() }
    }
}

/// See [`CallLayer`].
#[derive(Clone, Debug)]
pub struct CallService<S> {
    inner: S,
    layer: CallLayer,
}

type Answered = Result<Response<Body>, Infallible>;

impl<S> Service<Request<Body>> for CallService<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<Ready<Answered>, BoxFuture<'static, Answered>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let method = Method::from_path(request.uri().path());
        let meter = self.layer.metrics.call(method);
        // Before anything is made or read for the call: being refused must cost next to nothing.
        let place = match self.layer.enter(method) {
            Ok(place) => place,
            Err(Full) => {
                meter.finish(tonic::Code::ResourceExhausted.into());
                return Either::Left(at_once(Ok(status::no_room())));
            }
        };
        let arrival = Arrival::now(request.headers());
        request.extensions_mut().insert(arrival);
        let span = span(method, request.headers());
        // Made within its span, so that what the service does at once stands in it too.
        let answer = span.in_scope(|| self.inner.call(request));
        let bound = bound(method, &arrival, self.layer.request_timeout);
        let shutdown = self.layer.shutdown.clone();
        let of_call = span.clone();
        let answered = async move {
            let answer = AssertUnwindSafe(answer).catch_unwind();
            let refusal = tokio::select! {
                biased;
                answer = answer => match answer {
                    Ok(Ok(response)) => return Ok(counted(response, method, (meter, place), of_call, &shutdown)),
                    Ok(Err(infallible)) => match infallible {},
                    // The panic itself is logged by the process's hook.
                    Err(_) => Failure::defect(),
                },
                () = until(bound) => Failure::deadline(),
                () = time_is_up(method, &shutdown) => Failure::shutting_down(),
            };
            Ok(counted(refuse(&refusal).into_http(), method, (meter, place), of_call, &shutdown))
        };
        Either::Right(Box::pin(answered.instrument(span)))
    }
}

/// The caller's deadline bounds everything; without one, and for a watch's first answer, `request-timeout` does.
/// Health and reflection answer from memory, and their streams have no first answer to wait for.
fn bound(method: Method, arrival: &Arrival, request_timeout: Duration) -> Option<Instant> {
    let own = arrival.deadline;
    let gateways = arrival.at + request_timeout;
    let bound = match method {
        Method::QueryTask => Some(own.unwrap_or(gateways)),
        Method::WatchTask => Some(own.map_or(gateways, |own| own.min(gateways))),
        _ => own,
    };
    bound.map(|bound| bound + CUT_OFF_AFTER)
}

/// When a call without an answer is cut: a query may finish until the drain's end; of the others none has anything to
/// finish, so that one whose request never comes to its end does not hold up the drain.
async fn time_is_up(method: Method, shutdown: &Shutdown) {
    if method == Method::QueryTask {
        shutdown.ended().await;
    } else {
        shutdown.draining().await;
        tokio::time::sleep(LAST_REQUESTS).await;
    }
}

fn span(method: Method, headers: &HeaderMap) -> Span {
    let trace = headers.get("traceparent").and_then(|value| TraceParent::parse(value.to_str().ok()?));
    // At the level of errors: under a filter that hides calls, a warning still has its call's ids.
    let span = tracing::error_span!(
        "call",
        rpc.method = method.name(),
        task.id = tracing::field::Empty,
        outcome = tracing::field::Empty,
        trace_id = tracing::field::Empty
    );
    if let Some(trace) = trace {
        span.record("trace_id", tracing::field::display(trace.trace_id));
    }
    span
}

/// Counts a response when it has come to its end.
fn counted(
    response: Response<Body>,
    method: Method,
    (meter, place): (Call, Option<Place>),
    span: Span,
    shutdown: &Shutdown,
) -> Response<Body> {
    // A response without a body has its status among its headers.
    let code = response.headers().get(GRPC_STATUS).and_then(code_of);
    let mut end = End { meter: Some(meter), place, span };
    if let Some(code) = code {
        end.reached(code);
        return response;
    }
    // Reflection's streams end only with their callers; the other streams know of the drain themselves.
    let cut = matches!(method, Method::Reflection | Method::ReflectionAlpha).then(|| {
        let shutdown = shutdown.clone();
        Box::pin(async move { shutdown.draining().await }) as BoxFuture<'static, ()>
    });
    response.map(|body| Body::new(Counted { body, end, cut }))
}

fn code_of(value: &http::HeaderValue) -> Option<i32> {
    value.to_str().ok()?.parse().ok()
}

/// A response's body that tells how the call ended.
struct Counted {
    body: Body,
    end: End,
    /// When the stream is ended for its caller.
    cut: Option<BoxFuture<'static, ()>>,
}

impl http_body::Body for Counted {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Self { body, end, cut } = &mut *self;
        if cut.as_mut().is_some_and(|cut| cut.as_mut().poll(cx).is_ready()) {
            let status = end.span.in_scope(|| refuse(&Failure::shutting_down()));
            end.reached(status.code().into());
            (*cut, *body) = (None, Body::empty());
            let trailers = status.into_http::<()>().into_parts().0.headers;
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        let frame = end.span.in_scope(|| Pin::new(body).poll_frame(cx));
        let frame = ready!(frame);
        match &frame {
            Some(Ok(frame)) => {
                if let Some(trailers) = frame.trailers_ref() {
                    end.reached(
                        trailers.get(GRPC_STATUS).and_then(code_of).unwrap_or(tonic::Code::Unknown.into()),
                    );
                }
            }
            Some(Err(status)) => end.reached(status.code().into()),
            None => end.reached(tonic::Code::Unknown.into()),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A call's end: counted as canceled if it is never reached.
#[derive(Debug)]
struct End {
    meter: Option<Call>,
    /// The call's place among those that may be under way, free again at the end.
    place: Option<Place>,
    span: Span,
}

impl End {
    fn reached(&mut self, code: i32) {
        if let Some(meter) = self.meter.take() {
            let seconds = meter.began().elapsed().as_secs_f64();
            self.span.record("outcome", tracing::field::debug(tonic::Code::from_i32(code)));
            self.span.in_scope(|| tracing::debug!(rpc.grpc.status_code = code, seconds, "call ended"));
            meter.finish(code);
        }
        // Before the caller can see the end, and come again.
        self.place = None;
    }
}

impl Drop for End {
    fn drop(&mut self) {
        if self.meter.is_some() {
            self.span.record("outcome", tracing::field::debug(tonic::Code::Cancelled));
            self.span.in_scope(|| tracing::debug!("caller left"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_calls_that_have_a_limit_are_refused_and_a_drain_says_so_by_itself() {
        let rooms = Rooms { in_flight: Room::new(1), watches: Room::new(1) };
        let shutdown = Shutdown::new();
        let layer = CallLayer::new(Metrics::new(), Duration::from_secs(1), rooms, shutdown.clone());
        let is_refused = |method| layer.enter(method).is_err();
        let query = layer.enter(Method::QueryTask).ok().flatten();
        assert!(query.is_some() && is_refused(Method::QueryTask) && !is_refused(Method::WatchTask));
        let watch = layer.enter(Method::HealthWatch).ok().flatten();
        assert!(watch.is_some() && is_refused(Method::WatchTask) && is_refused(Method::HealthWatch));
        let free = [Method::HealthCheck, Method::Reflection, Method::ReflectionAlpha, Method::Unknown];
        assert!(!free.into_iter().any(is_refused));
        shutdown.drain();
        // Streams end at once, with SHUTTING_DOWN; queries are served to the end, as far as there is room.
        assert!(!is_refused(Method::WatchTask) && !is_refused(Method::HealthWatch));
        assert!(is_refused(Method::QueryTask));
        drop((query, watch));
        assert!(!is_refused(Method::QueryTask));
    }

    #[test]
    fn there_is_room_again_before_a_caller_sees_the_end() {
        let room = Room::new(1);
        let meter = Some(Metrics::new().call(Method::QueryTask));
        let mut end = End { meter, place: room.enter(), span: Span::none() };
        assert!(room.enter().is_none());
        end.reached(0);
        assert!(room.enter().is_some());
    }

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        let cases = [
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("30S", Some(Duration::from_secs(30))),
            ("99999999m", Some(Duration::from_millis(99_999_999))),
            ("5u", Some(Duration::from_micros(5))),
            ("0n", Some(Duration::ZERO)),
            ("", None),
            ("S", None),
            ("1", None),
            ("1s", None),
            ("-1S", None),
            ("+1S", None),
            ("1.5S", None),
            ("123456789S", None),
            ("1é", None),
        ];
        for (text, timeout) in cases {
            assert_eq!(parse_timeout(text), timeout, "{text:?}");
        }
    }
}
