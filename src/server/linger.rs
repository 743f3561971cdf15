//! A connection's last moment. Whoever closes a socket while the other side still writes has the system answer with a
//! reset, and a caller whose write fails by it may drop what it has not read yet: its answer, or why there is none
//! (RFC 9112, 9.6, says the same of HTTP/1.1). So what still comes is taken in until the other side closes too.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::Sleep;

/// How long the other side may take to close: it has only to read what was written before, and has the whole of a
/// drain for that until then.
const PATIENCE: Duration = Duration::from_secs(1);

/// The wait for the other side to close a stream whose own end is shut.
#[derive(Debug)]
pub(super) struct Linger(Pin<Box<Sleep>>);

impl Linger {
    /// One that begins now.
    pub(super) fn new() -> Self {
        Self(Box::pin(tokio::time::sleep(PATIENCE)))
    }

    /// Ready when the other side has closed, or its time is up.
    pub(super) fn poll(&mut self, stream: &mut (impl AsyncRead + Unpin), cx: &mut Context<'_>) -> Poll<()> {
        let mut unwanted = [0; 1024];
        loop {
            if self.0.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            let mut read = ReadBuf::new(&mut unwanted);
            match Pin::new(&mut *stream).poll_read(cx, &mut read) {
                Poll::Ready(Ok(())) if !read.filled().is_empty() => {}
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}
