//! How a scripted vendor's answers go over a connection, honestly or by hand.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::answer::{Answer, Shape, Step};

/// A record of application data in TLS 1.2 and 1.3: its type, version, length, and what no key has sealed.
const NO_RECORD: [u8; 5 + 64] = {
    let mut record = [0x55; 5 + 64];
    [record[0], record[1], record[2], record[3], record[4]] = [23, 3, 3, 0, 64];
    record
};

/// What a vendor speaks over.
pub(super) trait Wire: AsyncRead + AsyncWrite + Unpin {
    /// What is below any TLS.
    fn tcp(&mut self) -> &mut TcpStream;
}

impl Wire for TcpStream {
    fn tcp(&mut self) -> &mut TcpStream {
        self
    }
}

impl Wire for TlsStream<TcpStream> {
    fn tcp(&mut self) -> &mut TcpStream {
        self.get_mut().0
    }
}

/// Waits for the other side to leave.
pub(super) async fn closed(stream: &mut (impl AsyncRead + Unpin), unread: &mut Vec<u8>) {
    while stream.read_buf(unread).await.is_ok_and(|read| read > 0) {}
}

/// Sends an answer; whether the connection can be used again.
pub(super) async fn send(stream: &mut impl Wire, unread: &mut Vec<u8>, answer: &Answer) -> bool {
    match &answer.shape {
        Shape::Whole => all(stream, &answer.bytes()).await,
        Shape::Followed(second) => all(stream, &[answer.bytes(), second.bytes()].concat()).await,
        Shape::CutOff => {
            let half = &answer.body()[..answer.body().len() / 2];
            all(stream, &[&answer.head(), half].concat()).await;
            false
        }
        Shape::Trickle => {
            all(stream, &answer.head()).await;
            take(stream, unread, &Step::Trickle(answer.body().to_vec())).await
        }
        Shape::Raw(steps) => {
            for step in steps {
                if !take(stream, unread, step).await {
                    return false;
                }
            }
            true
        }
    }
}

/// Takes one step; whether the connection lasts.
async fn take(stream: &mut impl Wire, unread: &mut Vec<u8>, step: &Step) -> bool {
    match step {
        Step::Send(bytes) => all(stream, bytes).await,
        Step::Endless(bytes) => {
            while all(stream, bytes).await {}
            false
        }
        Step::Trickle(bytes) => {
            for byte in bytes.chunks(1).cycle() {
                tokio::time::sleep(Duration::from_millis(20)).await;
                if !all(stream, byte).await {
                    break;
                }
            }
            false
        }
        Step::Wait(gate) => {
            gate.opened().await;
            true
        }
        Step::Hang => {
            closed(stream, unread).await;
            false
        }
        Step::Close => false,
        Step::Reset => {
            stream.tcp().set_zero_linger().expect("it is a TCP stream");
            false
        }
        Step::Corrupt => stream.tcp().write_all(&NO_RECORD).await.is_ok(),
    }
}

/// Whether the other side was there to take all of it.
async fn all(stream: &mut impl Wire, bytes: &[u8]) -> bool {
    // A TLS stream sends what it was given when it is flushed.
    stream.write_all(bytes).await.is_ok() && stream.flush().await.is_ok()
}
