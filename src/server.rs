//! The gRPC server: its listeners, and a loop of its own over hyper. Not tonic's `Server`, which would answer
//! deadlines without details, wait for ever for half a handshake, and retry failed accepts in a hot spin; only its
//! `Routes` are served. Knows no settings and no hub.

mod connection;
mod linger;
mod preface;

use std::convert::Infallible;
use std::error::Error;
use std::io;
use std::time::Duration;

use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::service::Service;
use tokio::task::{JoinError, JoinSet};

use crate::net::Listener;
use crate::shutdown::Shutdown;

/// For how long a caller may keep a connection without doing its part. These are the contract's own, and no settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// A connection that has not begun to speak HTTP/2 by then is closed.
    pub handshake: Duration,
    /// How often a caller is pinged from whom nothing else comes.
    pub ping_every: Duration,
    /// How long it may take to answer.
    pub ping_timeout: Duration,
}

impl Default for Config {
    /// Contract 4, "Connections".
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { handshake: seconds(10), ping_every: seconds(30), ping_timeout: seconds(20) }
    }
}

/// An address that can't be had.
#[derive(Debug, thiserror::Error)]
#[error("{address} can't be listened on: {source}")]
pub struct BindError {
    /// The address as it was given.
    pub address: String,
    /// Why.
    pub source: io::Error,
}

/// A loop that takes connections ended before it was told to: its address is one that nobody answers on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a loop that takes connections ended before its time")]
pub struct LoopEnded;

/// A gRPC server that listens, and does not answer yet.
#[derive(Debug)]
pub struct Server {
    listeners: Vec<Listener>,
    config: Config,
}

impl Server {
    /// Binds every address.
    ///
    /// # Errors
    /// The first that can't be had.
    pub async fn bind(addresses: &[String], config: Config) -> Result<Self, BindError> {
        let mut listeners = Vec::with_capacity(addresses.len());
        for address in addresses {
            let bound = Listener::bind(address).await;
            listeners.push(bound.map_err(|source| BindError { address: address.clone(), source })?);
        }
        Ok(Self { listeners, config })
    }

    /// Where it listens, with the ports that were picked.
    pub fn addresses(&self) -> impl Iterator<Item = &str> {
        self.listeners.iter().map(Listener::local_addr)
    }

    /// Serves until the drain is over: takes nothing new from its beginning on, and returns when the last
    /// connection is gone. Connections that outlast [`Shutdown::ended`] are cut.
    ///
    /// # Errors
    /// If a listener's loop died; then the drain is begun, so that the calls of the others come to their ends.
    pub async fn run<S, B>(self, service: S, shutdown: Shutdown) -> Result<(), LoopEnded>
    where
        S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible, Future: Send>
            + Clone
            + Send
            + 'static,
        B: Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
    {
        let mut loops = JoinSet::new();
        for listener in self.listeners {
            tracing::info!(addr = %listener.local_addr(), server = "grpc", "listening");
            loops.spawn(take_connections(listener, self.config, service.clone(), shutdown.clone()));
        }
        let mut outcome = Ok(());
        while let Some(ended) = loops.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "a loop that takes connections ended");
                shutdown.drain();
                outcome = Err(LoopEnded);
            }
        }
        outcome
    }
}

async fn take_connections<S, B>(mut listener: Listener, config: Config, service: S, shutdown: Shutdown)
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + 'static,
    B: Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = shutdown.draining() => break,
            Some(ended) = connections.join_next() => report(&ended),
            stream = listener.accept() => {
                let peer = stream.peer_addr();
                connections.spawn(connection::serve(stream, peer, config, service.clone(), shutdown.clone()));
            }
        }
    }
    drop(listener);
    while let Some(ended) = connections.join_next().await {
        report(&ended);
    }
}

fn report(ended: &Result<(), JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a connection's task died");
    }
}

#[cfg(test)]
mod tests {
    use std::future::{Ready, ready};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use tokio::net::TcpStream;

    use super::*;

    /// A service that can't be had for one more connection, once it is told so.
    #[derive(Default)]
    struct Brittle(Arc<AtomicBool>);

    impl Clone for Brittle {
        fn clone(&self) -> Self {
            assert!(!self.0.load(Ordering::SeqCst), "broken on purpose");
            Self(Arc::clone(&self.0))
        }
    }

    impl Service<Request<Incoming>> for Brittle {
        type Response = Response<tonic::body::Body>;
        type Error = Infallible;
        type Future = Ready<Result<Self::Response, Infallible>>;

        fn call(&self, _: Request<Incoming>) -> Self::Future {
            ready(Ok(Response::new(tonic::body::Body::empty())))
        }
    }

    #[tokio::test]
    async fn the_end_of_one_loop_drains_all_and_is_told() {
        let server = Server::bind(&["127.0.0.1:0".to_owned(), "127.0.0.1:0".to_owned()], Config::default())
            .await
            .unwrap();
        let addresses: Vec<_> = server.addresses().map(str::to_owned).collect();
        let (service, shutdown) = (Brittle::default(), Shutdown::new());
        let is_broken = Arc::clone(&service.0);
        let mut running = JoinSet::new();
        running.spawn(server.run(service, shutdown.clone()));
        // On one thread: both loops have begun when this goes on.
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
        is_broken.store(true, Ordering::SeqCst);
        let _last = TcpStream::connect(&addresses[0]).await.unwrap();
        let ended = tokio::time::timeout(Duration::from_secs(20), running.join_next()).await;
        assert_eq!(ended.unwrap().unwrap().unwrap(), Err(LoopEnded));
        assert!(shutdown.is_draining());
        assert!(TcpStream::connect(&addresses[1]).await.is_err());
    }
}
