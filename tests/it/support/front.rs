//! A host in front of the vendor that fails below HTTP: it relays, until a test says otherwise.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What it does with connections.
#[derive(Clone, Debug)]
pub(crate) enum Mode {
    /// Passes all bytes on, both ways.
    Relay(SocketAddr),
    /// Takes none: nobody listens any more.
    Refuse,
    /// Resets each as soon as it is there.
    Reset,
    /// Takes each, and never says a word.
    Silent,
    /// Takes none, and its queue is full.
    Full,
    /// Says this, whatever it hears first, and goes.
    Say(Vec<u8>),
}

/// The running host; ends when dropped.
pub(crate) struct Front {
    addr: SocketAddr,
    mode: watch::Sender<Mode>,
    tasks: JoinSet<()>,
    /// While nobody listens.
    is_deaf: bool,
    /// Never listens: so that nobody else gets the port while nobody does.
    _anchor: TcpSocket,
}

impl Front {
    /// One that relays to there.
    pub(crate) fn start(to: SocketAddr) -> Self {
        let anchor = bound(([127, 0, 0, 1], 0).into());
        let addr = anchor.local_addr().expect("it is bound");
        let mode = watch::Sender::new(Mode::Relay(to));
        let mut front = Self { addr, mode, tasks: JoinSet::new(), is_deaf: false, _anchor: anchor };
        front.listen();
        front
    }

    fn listen(&mut self) {
        // The shortest queue there is, so that few connections fill it.
        let listener = bound(self.addr).listen(1).expect("nobody else listens there");
        self.tasks.spawn(run(listener, self.mode.subscribe()));
    }

    pub(crate) fn port(&self) -> u16 {
        self.addr.port()
    }

    /// What it does from now on; connections that stand are cut.
    pub(crate) async fn turn(&mut self, mode: Mode) {
        let (is_full, is_deaf) = (matches!(mode, Mode::Full), matches!(mode, Mode::Refuse));
        self.mode.send_replace(mode);
        if is_deaf {
            self.tasks.shutdown().await;
        } else if self.is_deaf {
            self.listen();
        }
        self.is_deaf = is_deaf;
        if is_full {
            let mut waiting = Vec::new();
            // Two fit into a queue of one. A third that nobody answers shows that it is full.
            while let Ok(Ok(stream)) =
                tokio::time::timeout(Duration::from_millis(500), TcpStream::connect(self.addr)).await
            {
                waiting.push(stream);
            }
            self.tasks.spawn(async move {
                let _waiting = waiting;
                std::future::pending().await
            });
        }
    }
}

fn bound(addr: SocketAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().expect("there are sockets");
    socket.set_reuseaddr(true).expect("it is a TCP socket");
    // What listens has the port beside the anchor.
    socket.set_reuseport(true).expect("it is a TCP socket");
    socket.bind(addr).expect("the port is free");
    socket
}

async fn run(listener: TcpListener, mut mode: watch::Receiver<Mode>) {
    let mut connections = JoinSet::new();
    loop {
        let now = mode.borrow_and_update().clone();
        let is_full = matches!(now, Mode::Full);
        tokio::select! {
            // Whatever stands when the mode changes is cut; and nothing is taken any more as it was taken before.
            biased;
            Ok(()) = mode.changed() => connections.shutdown().await,
            Ok((stream, _)) = listener.accept(), if !is_full => {
                connections.spawn(serve(stream, now));
            }
        }
    }
}

async fn serve(mut stream: TcpStream, mode: Mode) {
    match mode {
        Mode::Relay(to) => {
            let mut vendor = TcpStream::connect(to).await.expect("the vendor listens");
            stream.set_nodelay(true).expect("it is a TCP stream");
            vendor.set_nodelay(true).expect("it is a TCP stream");
            // How it ends is for the two ends to see.
            let _ = copy_bidirectional(&mut stream, &mut vendor).await;
        }
        Mode::Reset => stream.set_zero_linger().expect("it is a TCP stream"),
        Mode::Silent => std::future::pending().await,
        Mode::Say(bytes) => {
            // Unread bytes would make a reset of its end.
            let mut heard = [0; 4096];
            if stream.read(&mut heard).await.is_ok_and(|read| read > 0)
                && stream.write_all(&bytes).await.is_ok()
            {
                let _ = stream.shutdown().await;
                while stream.read(&mut heard).await.is_ok_and(|read| read > 0) {}
            }
        }
        Mode::Refuse | Mode::Full => unreachable!("nothing is taken"),
    }
}
