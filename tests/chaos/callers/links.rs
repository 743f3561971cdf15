//! The callers' connections: a few that they share, made anew when the gateway has closed them, and own ones for those
//! who cut theirs.

use std::future::poll_fn;
use std::time::Duration;

use futures_util::FutureExt as _;
use http::Uri;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tower_service::Service as _;

use crate::connection::Connection;
use crate::plan::callers::SHARED;

/// A gateway that is not there is tried again so much later.
const AGAIN: Duration = Duration::from_millis(20);

/// A connection, and since when it stands.
#[derive(Clone, Debug)]
pub(super) struct Link {
    pub(super) connection: Connection,
    pub(super) connected: Instant,
}

impl Link {
    fn is_closed(&self) -> bool {
        let mut connection = self.connection.clone();
        poll_fn(|cx| connection.poll_ready(cx)).now_or_never().is_some_and(|ready| ready.is_err())
    }
}

pub(super) struct Links {
    address: String,
    shared: [Mutex<Option<Link>>; SHARED],
}

impl Links {
    pub(super) fn new(address: String) -> Self {
        Self { address, shared: Default::default() }
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    pub(super) fn origin(&self) -> Uri {
        format!("http://{}", self.address).parse().expect("an address is one")
    }

    /// One of the shared connections; `None` if none can be had before all leave.
    pub(super) async fn shared(&self, at: usize, leave: &CancellationToken) -> Option<Link> {
        let mut link = self.shared[at].lock().await;
        if link.as_ref().is_none_or(Link::is_closed) {
            *link = self.own(false, leave).await;
        }
        link.clone()
    }

    /// A connection of the caller's own, which ends with a reset if so.
    pub(super) async fn own(&self, is_reset: bool, leave: &CancellationToken) -> Option<Link> {
        let connect = async {
            loop {
                if let Ok(stream) = TcpStream::connect(&self.address).await {
                    let connected = Instant::now();
                    // Both fail only for a connection that is gone already.
                    let _ = stream.set_nodelay(true);
                    if is_reset {
                        let _ = stream.set_zero_linger();
                    }
                    if let Ok(connection) = Connection::over(stream).await {
                        return Link { connection, connected };
                    }
                }
                tokio::time::sleep(AGAIN).await;
            }
        };
        tokio::select! {
            link = connect => Some(link),
            () = leave.cancelled() => None,
        }
    }
}
