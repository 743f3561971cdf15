//! One connection's life: a preface within its time, HTTP/2 with pings that find dead callers, a drain by GOAWAY,
//! and an end.

use std::convert::Infallible;
use std::error::Error;
use std::time::Duration;

use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::preface::{self, Heard};
use crate::net::Stream;
use crate::shutdown::Shutdown;

/// A connection that has not begun to speak HTTP/2 by then is closed (contract 4).
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How often a caller is pinged, and how long it may take to answer (contract 4).
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// Streams that a caller resets before they are looked at, at once, before that counts as an attack. h2's own
/// limit of 20 is reached by honest cancels on a connection that many share.
const PENDING_RESETS: usize = 1000;
/// The largest header list that is taken, in bytes: what gRPC servers take by default.
const MAX_HEADERS: u32 = 16 * 1024;
/// How long a peer without calls may be silent in a drain before its connection is closed.
const GOAWAY_PATIENCE: Duration = Duration::from_secs(5);
/// After the time is up: for the answers that say so to be written.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Serves one connection until it ends or the drain does.
pub(super) async fn serve<S, B>(stream: Stream, service: S, shutdown: Shutdown)
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + 'static,
    B: Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
{
    let peer = stream.peer_addr();
    let begun = tokio::select! {
        biased;
        begun = tokio::time::timeout(HANDSHAKE, preface::read(stream)) => begun,
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
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT)
        // Long watches would use up any number; the limits on calls are the gateway's own.
        .max_concurrent_streams(None)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_header_list_size(MAX_HEADERS)
        // gRPC has no use for it, and it would cost each call more than its own status does.
        .auto_date_header(false)
        .serve_connection(TokioIo::new(begun), service);
    {
        tokio::pin!(connection);
        let ended = tokio::select! {
            ended = &mut connection => ended,
            () = shutdown.draining() => {
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    ended = &mut connection => ended,
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
