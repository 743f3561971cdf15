//! One connection's life: a preface within its time, HTTP/2 with pings that find dead callers, a drain by GOAWAY,
//! and an end, also where its caller takes nothing any longer.

use std::convert::Infallible;
use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::Config;
use super::preface::{self, Heard};
use crate::shutdown::Shutdown;

/// Streams that a caller resets before they are looked at, at once, before that counts as an attack. h2's own
/// limit of 20 is reached by honest cancels on a connection that many share.
const PENDING_RESETS: usize = 1000;
/// The largest header list that is taken, in bytes: what gRPC servers take by default.
const MAX_HEADERS: u32 = 16 * 1024;
/// How long a peer without calls may be silent in a drain before its connection is closed.
const GOAWAY_PATIENCE: Duration = Duration::from_secs(5);
/// How much longer than a ping and its answer may take a silent peer's connection lasts. hyper closes it by then,
/// but not before it has written its GOAWAY, and a peer that reads nothing may never let it.
const FAREWELL: Duration = Duration::from_secs(1);
/// After the time is up: for the answers that say so to be written.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Serves one connection until it ends or the drain does.
pub(super) async fn serve<I, S, B>(
    stream: I,
    peer: Option<SocketAddr>,
    config: Config,
    service: S,
    shutdown: Shutdown,
) where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + 'static,
    B: Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
{
    let begun = tokio::select! {
        biased;
        begun = tokio::time::timeout(config.handshake, preface::read(stream)) => begun,
        () = shutdown.draining() => return,
    };
    let begun = match begun {
        Ok(Ok(begun)) => begun,
        Ok(Err(error)) => return tracing::debug!(?peer, %error, "a connection did not begin to speak HTTP/2"),
        Err(_) => return tracing::debug!(?peer, "a connection did not begin to speak HTTP/2 in time"),
    };
    let (streams, heard) = (TaskTracker::new(), begun.heard());
    let connection = http2::Builder::new(Tracked(streams.clone()))
        .timer(TokioTimer::new())
        .keep_alive_interval(config.ping_every)
        .keep_alive_timeout(config.ping_timeout)
        // Long watches would use up any number; the limits on calls are the gateway's own.
        .max_concurrent_streams(None)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_header_list_size(MAX_HEADERS)
        // gRPC has no use for it, and it would cost each call more than its own status does.
        .auto_date_header(false)
        .serve_connection(TokioIo::new(begun), service);
    {
        tokio::pin!(connection);
        let gone = gone(&heard, config.ping_every + config.ping_timeout + FAREWELL);
        tokio::pin!(gone);
        let ended = tokio::select! {
            ended = &mut connection => ended,
            () = &mut gone => Ok(()),
            () = shutdown.draining() => {
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    ended = &mut connection => ended,
                    () = &mut gone => Ok(()),
                    () = idle(&streams, &heard) => Ok(()),
                    () = last_words(&shutdown) => Ok(()),
                }
            }
        };
        if let Err(error) = ended {
            tracing::debug!(?peer, %error, "a connection broke");
        }
    }
    // With their connection gone, its streams come to their ends.
    streams.close();
    streams.wait().await;
}

/// Waits until a peer was silent for longer than any that lives can be, as it is pinged.
async fn gone(heard: &Heard, patience: Duration) {
    loop {
        let due = heard.last() + patience;
        if due <= Instant::now() {
            return;
        }
        tokio::time::sleep_until(due).await;
    }
}

/// Waits until none of a peer's calls is left and it has been silent for a while: one that vanished never answers the
/// GOAWAY, and its connection has nothing to finish. One that still reads, however slowly, is heard of.
async fn idle(streams: &TaskTracker, heard: &Heard) {
    streams.close();
    loop {
        tokio::time::sleep_until(heard.last() + GOAWAY_PATIENCE).await;
        streams.wait().await;
        if heard.last() + GOAWAY_PATIENCE <= Instant::now() {
            return;
        }
    }
}

async fn last_words(shutdown: &Shutdown) {
    shutdown.ended().await;
    tokio::time::sleep(LAST_WORDS).await;
}

/// Gives every stream's task an owner that awaits its end.
#[derive(Clone, Debug)]
struct Tracked(TaskTracker);

impl<F> Executor<F> for Tracked
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, task: F) {
        self.0.spawn(task);
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::pin::Pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::task::{Context, Poll};

    use bytes::Bytes;
    use futures_util::stream;
    use http_body::Frame;
    use http_body_util::{Empty, StreamBody};
    use hyper::client::conn::http2 as client;
    use hyper::service::service_fn;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, ReadBuf};
    use tokio::task::JoinSet;

    use super::*;

    const CONTRACT: Config = Config {
        handshake: Duration::from_secs(10),
        ping_every: Duration::from_secs(30),
        ping_timeout: Duration::from_secs(20),
    };

    #[test]
    fn the_times_are_the_contracts() {
        assert_eq!(Config::default(), CONTRACT);
    }

    /// A caller's end of a connection: once it is frozen, it neither reads nor writes, as if its machine were gone.
    struct Frozen {
        stream: DuplexStream,
        is_frozen: Arc<AtomicBool>,
    }

    impl AsyncRead for Frozen {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            if self.is_frozen.load(Ordering::SeqCst) {
                return Poll::Pending;
            }
            Pin::new(&mut self.stream).poll_read(cx, buf)
        }
    }

    impl AsyncWrite for Frozen {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.stream).poll_write(cx, bytes)
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.stream).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.stream).poll_shutdown(cx)
        }
    }

    /// The tasks of hyper's client.
    #[derive(Clone)]
    struct Client(TaskTracker);

    impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Client {
        fn execute(&self, task: F) {
            self.0.spawn(task);
        }
    }

    /// A connection with one call that is answered with `chunk` bytes a second, or with silence if that is 0, for
    /// ever; when it ended and when its stream did, counted from the start.
    struct Call {
        is_frozen: Arc<AtomicBool>,
        connection: JoinSet<Duration>,
        stream: tokio::sync::oneshot::Receiver<Duration>,
        _answer: Response<Incoming>,
        _requests: client::SendRequest<Empty<Bytes>>,
    }

    struct Held(Option<tokio::sync::oneshot::Sender<Duration>>, Instant);

    impl Drop for Held {
        fn drop(&mut self) {
            if let Some(told) = self.0.take() {
                let _ = told.send(self.1.elapsed());
            }
        }
    }

    async fn call(chunk: usize) -> Call {
        let start = Instant::now();
        let (ours, theirs) = tokio::io::duplex(4096);
        let (told, stream) = tokio::sync::oneshot::channel();
        let held = Arc::new(std::sync::Mutex::new(Some(Held(Some(told), start))));
        let service = service_fn(move |_: Request<Incoming>| {
            let held = held.lock().unwrap().take().unwrap();
            let chunks = stream::unfold(held, move |held| async move {
                match chunk {
                    0 => std::future::pending().await,
                    _ => tokio::time::sleep(Duration::from_secs(1)).await,
                }
                Some((Ok::<_, Infallible>(Frame::data(Bytes::from(vec![0; chunk]))), held))
            });
            let answer = Response::new(StreamBody::new(Box::pin(chunks)));
            async move { Ok::<_, Infallible>(answer) }
        });
        let mut connection = JoinSet::new();
        connection.spawn(async move {
            serve(ours, None, CONTRACT, service, Shutdown::new()).await;
            start.elapsed()
        });
        let is_frozen = Arc::new(AtomicBool::new(false));
        let end = Frozen { stream: theirs, is_frozen: Arc::clone(&is_frozen) };
        let tasks = TaskTracker::new();
        let (mut requests, driver) = client::Builder::new(Client(tasks.clone()))
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(1 << 20)
            .handshake(TokioIo::new(end))
            .await
            .unwrap();
        tasks.spawn(driver);
        let request = Request::get("http://localhost/").body(Empty::new()).unwrap();
        let answer = requests.send_request(request).await.unwrap();
        Call { is_frozen, connection, stream, _answer: answer, _requests: requests }
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_answers_pings_is_kept_however_long_it_says_nothing_else() {
        let mut call = call(0).await;
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert!(call.connection.try_join_next().is_none());
        assert!(call.stream.try_recv().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_answers_no_ping_is_let_go_after_its_time() {
        // The second takes nothing either, so that the GOAWAY that hyper would say can't be written.
        for (chunk, latest) in [(0, 50), (100_000, 51)] {
            let mut call = call(chunk).await;
            call.is_frozen.store(true, Ordering::SeqCst);
            let ended = tokio::time::timeout(Duration::from_secs(3600), call.connection.join_next()).await;
            let ended = ended.expect("it ends").unwrap().unwrap();
            let bounds = Duration::from_secs(50)..=Duration::from_secs(latest) + Duration::from_millis(10);
            assert!(bounds.contains(&ended), "{chunk}: {ended:?}");
            let stream = call.stream.await.unwrap();
            assert!(bounds.contains(&stream) && stream <= ended, "{chunk}: {stream:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_begins_too_late_is_let_go_and_one_in_time_is_not() {
        let begin = async |parts: &[&[u8]], pause: Duration| {
            let (ours, mut theirs) = tokio::io::duplex(4096);
            let start = Instant::now();
            let service = service_fn(async |_: Request<Incoming>| {
                Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
            });
            let mut connection = JoinSet::new();
            connection.spawn(serve(ours, None, CONTRACT, service, Shutdown::new()));
            for part in parts {
                theirs.write_all(part).await.unwrap();
                tokio::time::sleep(pause).await;
            }
            let mut answered = Vec::new();
            let _ = theirs.read_to_end(&mut answered).await;
            (start.elapsed(), !answered.is_empty())
        };
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        let secs = Duration::from_secs_f64;
        assert_eq!(begin(&[b""], secs(0.0)).await, (secs(10.0), false));
        // A byte now and then is no excuse.
        let bytes: Vec<&[u8]> = preface.chunks(1).collect();
        let (ended, is_answered) = begin(&bytes[..10], secs(0.9)).await;
        assert_eq!((ended, is_answered), (secs(10.0), false));
        let (ended, is_answered) = begin(&[&preface[..23], &preface[23..]], secs(9.9)).await;
        assert!(is_answered && ended > secs(50.0), "{ended:?}");
    }
}
