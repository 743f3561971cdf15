//! The body of a call's answer: its messages and trailers, and the count of the call when it has come to its end.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::LazyLock;
use std::task::{Context, Poll, ready};

use futures_util::Stream;
use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderName, HeaderValue, Response, header};
use http_body::Frame;
use tonic::Status;
use tonic::body::Body;
use tracing::Span;

use super::message::Message;
use super::status;
use crate::limits::Place;
use crate::metrics::Call;
use crate::task::failure::Failure;

pub(super) const GRPC_STATUS: &str = "grpc-status";
/// What stands before the messages of every good answer, and after them: copied, as to make them anew costs more.
static HEAD: LazyLock<HeaderMap> = LazyLock::new(|| one(header::CONTENT_TYPE, "application/grpc"));
static OK: LazyLock<HeaderMap> = LazyLock::new(|| one(HeaderName::from_static(GRPC_STATUS), "0"));

fn one(name: HeaderName, value: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
}

/// The messages of a stream, and the failure that it may end with.
pub(super) type Messages = Pin<Box<dyn Stream<Item = Result<Message, Status>> + Send>>;

/// What a call is answered with.
pub(super) enum Answer {
    /// One message.
    Message(Message),
    /// One after another.
    Messages(Messages),
    /// What another service made of it.
    Made(Response<Body>),
}

/// A call's body; tells how the call ended.
pub struct CallBody {
    content: Content,
    /// `None` if it was told before.
    end: Option<End>,
}

enum Content {
    /// Nothing, or nothing more.
    None,
    Message(Message),
    Messages(Messages),
    /// Only a status.
    Trailers(HeaderMap),
    Made {
        body: Body,
        /// Ends the stream for its caller, and says why.
        cut: Option<BoxFuture<'static, Status>>,
    },
}

impl CallBody {
    /// Nothing, for a call whose end was told before.
    pub(super) fn none() -> Self {
        Self { content: Content::None, end: None }
    }

    /// Answers a call; `cut` ends a stream that another service made.
    pub(super) fn answer(
        answer: Result<Answer, Status>,
        mut end: End,
        cut: Option<BoxFuture<'static, Status>>,
    ) -> Response<Self> {
        let content = match answer {
            Ok(Answer::Message(message)) => Content::Message(message),
            Ok(Answer::Messages(messages)) => Content::Messages(messages),
            Ok(Answer::Made(response)) => {
                // A response without a body has its status among its headers.
                if let Some(code) = response.headers().get(GRPC_STATUS) {
                    end.reached(code_of(code));
                }
                return response.map(|body| Self { content: Content::Made { body, cut }, end: Some(end) });
            }
            Err(status) => {
                end.reached(status.code().into());
                return status.into_http::<()>().map(|()| Self::none());
            }
        };
        let mut response = Response::new(Self { content, end: Some(end) });
        response.headers_mut().clone_from(&HEAD);
        response
    }
}

impl http_body::Body for CallBody {
    type Data = Message;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Message>, Status>>> {
        let Self { content, end } = &mut *self;
        let frame = match content {
            Content::None => None,
            Content::Message(_) => {
                let Content::Message(message) = std::mem::replace(content, Content::Trailers(ok())) else {
                    unreachable!("just matched")
                };
                Some(Ok(Frame::data(message)))
            }
            Content::Trailers(_) => {
                let Content::Trailers(trailers) = std::mem::replace(content, Content::None) else {
                    unreachable!("just matched")
                };
                Some(Ok(Frame::trailers(trailers)))
            }
            Content::Messages(messages) => match ready!(caught(|| messages.as_mut().poll_next(cx))) {
                Some(Ok(message)) => Some(Ok(Frame::data(message))),
                ended => {
                    *content = Content::None;
                    Some(Ok(Frame::trailers(ended.and_then(Result::err).map_or_else(ok, trailers))))
                }
            },
            Content::Made { body, cut } => {
                if let Some(Poll::Ready(status)) = cut.as_mut().map(|cut| cut.as_mut().poll(cx)) {
                    *content = Content::None;
                    Some(Ok(Frame::trailers(trailers(status))))
                } else {
                    match ready!(caught(|| Pin::new(body).poll_frame(cx))) {
                        Some(Err(status)) => {
                            *content = Content::None;
                            Some(Ok(Frame::trailers(trailers(status))))
                        }
                        frame => frame.map(|frame| frame.map(|frame| frame.map_data(Message::from))),
                    }
                }
            }
        };
        let Some(end) = end else { return Poll::Ready(frame) };
        match &frame {
            Some(Ok(frame)) => {
                if let Some(trailers) = frame.trailers_ref() {
                    end.reached(trailers.get(GRPC_STATUS).map_or(tonic::Code::Unknown.into(), code_of));
                }
            }
            Some(Err(status)) => end.reached(status.code().into()),
            None => end.reached(tonic::Code::Unknown.into()),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::None => true,
            Content::Made { body, .. } => body.is_end_stream(),
            _ => false,
        }
    }
}

/// What a stream has next. Its panic is its caller's last word, as a failure is.
fn caught<T>(poll: impl FnOnce() -> Poll<Option<Result<T, Status>>>) -> Poll<Option<Result<T, Status>>> {
    catch_unwind(AssertUnwindSafe(poll))
        .unwrap_or_else(|_| Poll::Ready(Some(Err(status::of(&Failure::defect())))))
}

fn ok() -> HeaderMap {
    OK.clone()
}

fn trailers(status: Status) -> HeaderMap {
    let mut trailers = status.into_http::<()>().into_parts().0.headers;
    // Said before the first message.
    trailers.remove(header::CONTENT_TYPE);
    trailers
}

fn code_of(value: &HeaderValue) -> i32 {
    let code = value.to_str().ok().and_then(|text| text.parse().ok());
    code.unwrap_or(tonic::Code::Unknown.into())
}

/// A call's end: counted as canceled if it is never reached.
#[derive(Debug)]
pub(super) struct End {
    meter: Option<Call>,
    /// The call's place among those that may be under way, free again at the end.
    place: Option<Place>,
    span: Span,
}

impl End {
    pub(super) fn new(meter: Call, place: Option<Place>, span: Span) -> Self {
        Self { meter: Some(meter), place, span }
    }

    fn reached(&mut self, code: i32) {
        if let Some(meter) = self.meter.take() {
            let span = &self.span;
            if !span.is_disabled() {
                let seconds = meter.began().elapsed().as_secs_f64();
                span.record("outcome", tracing::field::debug(tonic::Code::from_i32(code)));
                span.in_scope(|| tracing::debug!(rpc.grpc.status_code = code, seconds, "call ended"));
            }
            meter.finish(code);
        }
        // Before the caller can see the end, and come again.
        self.place = None;
    }
}

impl Drop for End {
    fn drop(&mut self) {
        if self.meter.is_some() && !std::thread::panicking() {
            self.span.record("outcome", tracing::field::debug(tonic::Code::Cancelled));
            self.span.in_scope(|| tracing::debug!("caller left"));
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_util::stream;
    use http_body::Body as _;
    use http_body_util::{BodyExt as _, StreamBody};

    use super::*;
    use crate::limits::Room;
    use crate::metrics::{Method, Metrics};
    use crate::telemetry::page;

    fn end(metrics: &Metrics) -> End {
        End::new(
            metrics.call(Method::QueryTask),
            None,
            tracing::debug_span!("call", outcome = tracing::field::Empty),
        )
    }

    #[tokio::test]
    async fn a_call_that_was_refused_is_counted_by_its_status_and_has_no_body() {
        for (status, code) in
            [("12", "Unimplemented"), ("5", "NotFound"), ("x", "Unknown"), ("99", "Unknown")]
        {
            let metrics = Metrics::new();
            let mut refused = Response::new(Body::empty());
            refused.headers_mut().insert(GRPC_STATUS, HeaderValue::from_static(status));
            let response = CallBody::answer(Ok(Answer::Made(refused)), end(&metrics), None);
            assert_eq!(response.headers()[GRPC_STATUS], status);
            // Whoever sends it can say so in the head already.
            assert!(response.body().is_end_stream());
            let ended = format!("grpc_code=\"{code}\",grpc_method=\"QueryTask\"");
            assert!(
                metrics.render().lines().any(|line| line.contains(&ended) && line.ends_with(" 1")),
                "{code}"
            );
        }
        let refused = Err(Status::not_found("nothing there"));
        let response = CallBody::answer(refused, end(&Metrics::new()), None);
        assert_eq!(response.headers()[GRPC_STATUS], "5");
        assert!(response.body().is_end_stream());
        let streamed = Response::new(Body::new(http_body_util::Full::from("x")));
        let response = CallBody::answer(Ok(Answer::Made(streamed)), end(&Metrics::new()), None);
        assert!(!response.body().is_end_stream());
    }

    #[test]
    fn whoever_debugs_sees_how_each_call_ended() {
        for filter in ["debug", "info"] {
            let lines = page::json(filter, || {
                let metrics = Metrics::new();
                let mut reached = end(&metrics);
                reached.reached(5);
                reached.reached(0);
                drop((reached, end(&metrics)));
            });
            if filter == "info" {
                assert!(lines.is_empty(), "{lines:?}");
                continue;
            }
            let [ended, left] = &lines[..] else { panic!("{lines:?}") };
            assert_eq!(
                (&ended["message"], &ended["span"]["outcome"]),
                (&"call ended".into(), &"NotFound".into())
            );
            assert_eq!(ended["rpc.grpc.status_code"], 5);
            assert!(ended["seconds"].is_number());
            assert_eq!(
                (&left["message"], &left["span"]["outcome"]),
                (&"caller left".into(), &"Cancelled".into())
            );
        }
    }

    /// A call's answer to its end: the code that its caller gets, and what the call was counted as.
    async fn end_of(answer: Answer) -> (String, String) {
        let metrics = Metrics::new();
        let end = End::new(metrics.call(Method::WatchTask), None, Span::none());
        let body = CallBody::answer(Ok(answer), end, None).into_body();
        let trailers = body.collect().await.unwrap().trailers().cloned().unwrap();
        let counted = metrics.render();
        let counted = counted.lines().filter(|line| line.starts_with("grpc_server_handled_total"));
        let counted = counted.filter(|line| line.ends_with(" 1")).collect();
        (trailers[GRPC_STATUS].to_str().unwrap().to_owned(), counted)
    }

    #[tokio::test]
    async fn a_panic_in_a_stream_is_its_callers_internal() {
        let messages = stream::poll_fn(|_| -> Poll<Option<Result<Message, Status>>> { panic!("on purpose") });
        let made = StreamBody::new(stream::poll_fn(|_| -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            panic!("on purpose")
        }));
        for answer in [Answer::Messages(Box::pin(messages)), Answer::Made(Response::new(Body::new(made)))] {
            let (code, counted) = end_of(answer).await;
            assert_eq!(code, "13");
            assert!(counted.contains(r#"grpc_code="Internal""#), "{counted}");
        }
    }

    #[tokio::test]
    async fn there_is_room_again_before_a_caller_sees_the_end() {
        let room = Room::new(1);
        let meter = Metrics::new().call(Method::QueryTask);
        let mut end = End::new(meter, room.enter(), Span::none());
        assert!(room.enter().is_none());
        end.reached(0);
        assert!(room.enter().is_some());
    }
}
