//! The first 24 bytes of an HTTP/2 connection, read before hyper sees it: hyper's handshake has no time limit, and
//! a drain would wait for it.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::linger::Linger;

/// What every HTTP/2 client sends first (RFC 9113, 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Whoever was silent for so long has nothing under way that a reset could break; it may well be gone.
const LATELY: Duration = Duration::from_secs(5);

/// Reads the preface; gives the stream as if nothing had been read.
///
/// # Errors
/// If the stream ends or breaks before, or begins with something else: at the first byte that differs.
pub(super) async fn read<S: AsyncRead + Unpin>(mut stream: S) -> io::Result<Begun<S>> {
    let mut read = [0; PREFACE.len()];
    let mut filled = 0;
    while filled < PREFACE.len() {
        let more = stream.read(&mut read[filled..]).await?;
        filled += more;
        if more == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if read[..filled] != PREFACE[..filled] {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not HTTP/2"));
        }
    }
    let heard = Heard(Arc::new(Mutex::new(Instant::now())));
    Ok(Begun { unread: PREFACE, stream, heard, linger: None })
}

/// When a peer was last heard of.
#[derive(Clone, Debug)]
// Held for a copy, never across an await, and by nobody but one connection.
pub(super) struct Heard(Arc<Mutex<Instant>>);

impl Heard {
    pub(super) fn last(&self) -> Instant {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }
}

/// A stream whose preface was read and is given once more, and which is left to the other side to close.
#[derive(Debug)]
pub(super) struct Begun<S> {
    unread: &'static [u8],
    stream: S,
    heard: Heard,
    /// Once our end is shut.
    linger: Option<Linger>,
}

impl<S> Begun<S> {
    /// When the other end was last heard of, also once this is given away.
    pub(super) fn heard(&self) -> Heard {
        self.heard.clone()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Begun<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.unread.is_empty() {
            let before = buf.filled().len();
            let read = Pin::new(&mut self.stream).poll_read(cx, buf);
            if buf.filled().len() > before {
                self.heard.now();
            }
            return read;
        }
        let (now, later) = self.unread.split_at(self.unread.len().min(buf.remaining()));
        buf.put_slice(now);
        self.unread = later;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Begun<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { stream, linger, heard, .. } = &mut *self;
        if linger.is_none() {
            ready!(Pin::new(&mut *stream).poll_shutdown(cx))?;
            if heard.last() + LATELY <= Instant::now() {
                return Poll::Ready(Ok(()));
            }
        }
        linger.get_or_insert_with(Linger::new).poll(stream, cx).map(Ok)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;
    use tokio::task::JoinSet;

    use super::*;

    #[tokio::test]
    async fn the_preface_is_given_once_more_and_nothing_else_is_taken() {
        let bytes: Vec<u8> = [&PREFACE[..], b"frames"].concat();
        let mut begun = read(&bytes[..]).await.unwrap();
        let mut all = Vec::new();
        begun.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, bytes);
    }

    #[tokio::test(start_paused = true)]
    async fn the_other_side_is_the_first_to_close_if_it_does_so_in_its_time() {
        for closes in [true, false] {
            let (mut client, server) = tokio::io::duplex(64);
            client.write_all(PREFACE).await.unwrap();
            let mut begun = read(server).await.unwrap();
            begun.write_all(b"last words").await.unwrap();
            let start = Instant::now();
            let mut ending = JoinSet::new();
            ending.spawn(async move { begun.shutdown().await.map(|()| start.elapsed()) });
            let mut heard = Vec::new();
            client.read_to_end(&mut heard).await.unwrap();
            assert_eq!(heard, b"last words");
            // More than the stream holds: what comes late is read, and breaks nothing.
            client.write_all(&[0; 1000]).await.unwrap();
            tokio::time::sleep(Duration::from_millis(400)).await;
            assert!(ending.try_join_next().is_none());
            let _client = (!closes).then_some(client);
            let took = ending.join_next().await.unwrap().unwrap().unwrap();
            assert_eq!(took.as_millis() / 100, if closes { 4 } else { 10 });
        }
    }

    #[tokio::test]
    async fn what_is_not_http2_is_refused_at_the_first_byte_that_differs() {
        assert_eq!(read(&b"PRI * H"[..]).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        // It would wait for ever for the rest if it did not look.
        let (mut client, server) = tokio::io::duplex(64);
        client.write_all(b"GET /").await.unwrap();
        assert_eq!(read(server).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
