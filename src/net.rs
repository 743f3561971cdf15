//! Listening sockets: where they are bound, how connections are taken from them, and what happens when that fails.
//!
//! Owns no protocol but the small HTTP/1.1 loop of [`serve_http1`], which the side doors share; TLS and HTTP/2 are
//! for those who serve them.

mod http1;
mod patience;

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

#[cfg(test)]
pub(crate) use http1::client;
pub use http1::{Http1Limits, serve_http1};
use patience::{Accept, Patience};

/// A bound socket that connections are taken from.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    addr: String,
    patience: Patience,
}

impl Listener {
    /// Binds `address`, a `host:port` whose host is a name, an IPv4 address or an IPv6 one in brackets; port 0
    /// picks a free one. Of a name's addresses the first that can be had is taken, IPv4 before IPv6.
    ///
    /// # Errors
    /// When the address can't be read, resolved or had.
    pub async fn bind(address: &str) -> io::Result<Self> {
        let mut candidates: Vec<SocketAddr> = tokio::net::lookup_host(address).await?.collect();
        // `localhost` stands for both families: who writes 127.0.0.1 elsewhere should find us there.
        candidates.sort_by_key(SocketAddr::is_ipv6);
        let socket = TcpListener::bind(candidates.as_slice()).await?;
        let addr = socket.local_addr()?.to_string();
        Ok(Self { socket: Socket::Tcp(socket), addr, patience: Patience::default() })
    }

    /// Where it listens, in the form that [`Listener::bind`] takes, with the port that was picked.
    #[must_use]
    pub fn local_addr(&self) -> &str {
        &self.addr
    }

    /// The next connection. It waits out whatever passes by itself, so there is nothing to fail: faults of one
    /// connection are skipped, and while files are short it pauses, and says so once.
    ///
    /// May be dropped and called again at any time: no connection is lost, and a pause goes on where it was.
    pub async fn accept(&mut self) -> Stream {
        self.patience.accept(&self.socket, &self.addr).await
    }
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
}

impl Accept for Socket {
    type Connection = Stream;

    async fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                // This fails for a peer that is gone already, and the first read says so too.
                let _ = stream.set_nodelay(true);
                Ok(Stream { kind: StreamKind::Tcp(stream) })
            }
        }
    }
}

/// A connection that was taken; TCP ones have Nagle's algorithm off.
#[derive(Debug)]
pub struct Stream {
    kind: StreamKind,
}

#[derive(Debug)]
enum StreamKind {
    Tcp(TcpStream),
}

impl Stream {
    /// The other end's address, where it has one.
    #[must_use]
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        match &self.kind {
            StreamKind::Tcp(stream) => stream.peer_addr().ok(),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().kind {
            StreamKind::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().kind {
            StreamKind::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().kind {
            StreamKind::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.kind {
            StreamKind::Tcp(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().kind {
            StreamKind::Tcp(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().kind {
            StreamKind::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn the_address_said_is_one_that_can_be_connected_to_and_bound() {
        for address in ["127.0.0.1:0", "localhost:0"] {
            let mut listener = Listener::bind(address).await.unwrap();
            let addr = listener.local_addr().to_owned();
            assert!(addr.starts_with("127.0.0.1:") && !addr.ends_with(":0"), "{addr}");
            let mut client = TcpStream::connect(&addr).await.unwrap();
            let mut server = listener.accept().await;
            assert_eq!(server.peer_addr(), Some(client.local_addr().unwrap()));
            client.write_all(b"in").await.unwrap();
            let mut got = [0; 2];
            server.read_exact(&mut got).await.unwrap();
            server.write_all(b"out").await.unwrap();
            server.shutdown().await.unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            assert_eq!((&got, answer.as_str()), (b"in", "out"));
            // The closed connection lingers, and a process that starts again must have its address at once.
            drop((listener, server, client));
            assert_eq!(Listener::bind(&addr).await.unwrap().local_addr(), addr);
        }
    }

    #[tokio::test]
    async fn an_ipv6_address_stands_in_brackets() {
        match Listener::bind("[::1]:0").await {
            Ok(listener) => assert!(listener.local_addr().starts_with("[::1]:")),
            // Some machines have no IPv6; that the text was understood can be told all the same.
            Err(error) => assert_ne!(error.kind(), io::ErrorKind::InvalidInput),
        }
    }

    #[tokio::test]
    async fn a_taken_or_unreadable_address_is_an_error() {
        let listener = Listener::bind("127.0.0.1:0").await.unwrap();
        let taken = Listener::bind(listener.local_addr()).await.unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
        for address in ["127.0.0.1", "127.0.0.1:", "127.0.0.1:65536", "::1", ""] {
            assert!(Listener::bind(address).await.is_err(), "{address:?}");
        }
    }

    #[tokio::test]
    async fn small_writes_are_not_held_back() {
        let mut listener = Listener::bind("127.0.0.1:0").await.unwrap();
        let _client = TcpStream::connect(listener.local_addr()).await.unwrap();
        let stream = listener.accept().await;
        let StreamKind::Tcp(stream) = &stream.kind;
        assert!(stream.nodelay().unwrap());
    }
}
