//! A vendor over real HTTP/1.1 that answers as the test says, and remembers what it was asked.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use federation_gateway::settings::{QUERY_PATH, TOKEN_PATH};
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use super::answer::{Answer, task};
use super::wire::{Wire, closed, send};

type Handler = Box<dyn FnMut(&Seen, usize) -> Answer + Send>;

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
    pub(crate) connection: usize,
    pub(crate) at: Instant,
}

impl Seen {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("the gateway sends JSON")
    }

    pub(crate) fn task(&self) -> String {
        self.json()["taskId"].as_str().unwrap_or_default().to_owned()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("the gateway sends visible ASCII"))
    }
}

/// The running vendor; ends when dropped.
pub(crate) struct Vendor {
    shared: Arc<Shared>,
    addr: SocketAddr,
    scheme: &'static str,
    _tasks: JoinSet<()>,
}

struct Shared {
    query: Mutex<Script>,
    login: Mutex<Script>,
    seen: Mutex<Vec<Seen>>,
    connections: AtomicUsize,
    open: AtomicUsize,
    under_way: AtomicUsize,
    most_under_way: AtomicUsize,
}

struct Script {
    handler: Handler,
    first: VecDeque<Answer>,
    asked: usize,
}

impl Script {
    fn new(handler: impl FnMut(&Seen, usize) -> Answer + Send + 'static) -> Mutex<Self> {
        Mutex::new(Self { handler: Box::new(handler), first: VecDeque::new(), asked: 0 })
    }

    fn answer(&mut self, seen: &Seen) -> Answer {
        self.asked += 1;
        self.first.pop_front().unwrap_or_else(|| (self.handler)(seen, self.asked))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Vendor {
    /// One that gives tokens for an hour and says DOING of every task.
    pub(crate) async fn start() -> Self {
        Self::listen(None).await
    }

    pub(crate) async fn start_tls(acceptor: TlsAcceptor) -> Self {
        Self::listen(Some(acceptor)).await
    }

    async fn listen(acceptor: Option<TlsAcceptor>) -> Self {
        // Both ends of every connection are files of this one process: more than a container's soft limit allows.
        rlimit::increase_nofile_limit(u64::MAX).expect("the soft limit may be raised to the hard one");
        let shared = Arc::new(Shared {
            query: Script::new(|_, _| task("DOING")),
            login: Script::new(|_, asked| Answer::token(&format!("token-{asked}"), &json!("3600"))),
            seen: Mutex::default(),
            connections: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            under_way: AtomicUsize::new(0),
            most_under_way: AtomicUsize::new(0),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let addr = listener.local_addr().expect("it is bound");
        let scheme = if acceptor.is_some() { "https" } else { "http" };
        let mut tasks = JoinSet::new();
        let of_loop = Arc::clone(&shared);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (shared, acceptor) = (Arc::clone(&of_loop), acceptor.clone());
                stream.set_nodelay(true).expect("it is a TCP stream");
                connections.spawn(async move {
                    match acceptor {
                        None => serve(stream, &shared).await,
                        Some(acceptor) => {
                            if let Ok(stream) = acceptor.accept(stream).await {
                                serve(stream, &shared).await;
                            }
                        }
                    }
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Self { shared, addr, scheme, _tasks: tasks }
    }

    /// Its base URL, by the name that its certificate has.
    pub(crate) fn url(&self) -> String {
        format!("{}://localhost:{}", self.scheme, self.addr.port())
    }

    /// Where it listens.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// How queryTask is answered from now on; the handler is told the number of the request, from 1.
    pub(crate) fn on_query(&self, handler: impl FnMut(&Seen, usize) -> Answer + Send + 'static) {
        lock(&self.shared.query).handler = Box::new(handler);
    }

    /// How logins are answered from now on.
    pub(crate) fn on_login(&self, handler: impl FnMut(&Seen, usize) -> Answer + Send + 'static) {
        lock(&self.shared.login).handler = Box::new(handler);
    }

    /// Answers to the next queryTask requests, before the handler is asked again.
    pub(crate) fn first(&self, answers: impl IntoIterator<Item = Answer>) {
        lock(&self.shared.query).first.extend(answers);
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        lock(&self.shared.seen).clone()
    }

    pub(crate) fn queries(&self) -> usize {
        lock(&self.shared.query).asked
    }

    pub(crate) fn logins(&self) -> usize {
        lock(&self.shared.login).asked
    }

    pub(crate) fn login_times(&self) -> Vec<Instant> {
        self.seen().iter().filter(|seen| seen.path == TOKEN_PATH).map(|seen| seen.at).collect()
    }

    pub(crate) fn query_times(&self) -> Vec<Instant> {
        self.seen().iter().filter(|seen| seen.path == QUERY_PATH).map(|seen| seen.at).collect()
    }

    /// Connections taken since the start.
    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Connections that stand.
    pub(crate) fn open_connections(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }

    /// queryTask requests that came and were not answered yet, on connections that still stand.
    pub(crate) fn under_way(&self) -> usize {
        self.shared.under_way.load(Ordering::SeqCst)
    }

    /// The most queryTask requests that were ever under way at once.
    pub(crate) fn most_under_way(&self) -> usize {
        self.shared.most_under_way.load(Ordering::SeqCst)
    }

    /// The tasks that were asked for, in their order.
    pub(crate) fn asked_for(&self) -> Vec<String> {
        self.seen().iter().filter(|seen| seen.path == QUERY_PATH).map(Seen::task).collect()
    }
}

struct Open<'a>(&'a AtomicUsize);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

struct UnderWay<'a>(&'a AtomicUsize);

impl<'a> UnderWay<'a> {
    fn enter(shared: &'a Shared) -> Self {
        let count = &shared.under_way;
        let now = count.fetch_add(1, Ordering::SeqCst) + 1;
        shared.most_under_way.fetch_max(now, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn serve(mut stream: impl Wire, shared: &Shared) {
    let connection = shared.connections.fetch_add(1, Ordering::SeqCst);
    shared.open.fetch_add(1, Ordering::SeqCst);
    let _open = Open(&shared.open);
    let mut unread = Vec::new();
    while let Some(seen) = request(&mut stream, &mut unread, connection).await {
        let script = match &*seen.path {
            QUERY_PATH => &shared.query,
            TOKEN_PATH => &shared.login,
            _ => panic!("an unknown path was asked: {}", seen.path),
        };
        let _under_way = (seen.path == QUERY_PATH).then(|| UnderWay::enter(shared));
        lock(&shared.seen).push(seen.clone());
        let answer = lock(script).answer(&seen);
        if let Some(gate) = &answer.gate {
            tokio::select! {
                () = gate.opened() => {}
                () = closed(&mut stream, &mut unread) => return,
            }
        }
        if !send(&mut stream, &mut unread, &answer).await {
            return;
        }
    }
}

async fn request(
    stream: &mut (impl AsyncRead + Unpin),
    unread: &mut Vec<u8>,
    connection: usize,
) -> Option<Seen> {
    let head = loop {
        if let Some(at) = unread.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            break unread.drain(..at + 4).collect::<Vec<_>>();
        }
        if stream.read_buf(unread).await.ok()? == 0 {
            return None;
        }
    };
    let at = Instant::now();
    let head = String::from_utf8(head).ok()?;
    let mut lines = head.lines();
    let path = lines.next()?.strip_prefix("POST ")?.strip_suffix(" HTTP/1.1")?.to_owned();
    let mut headers = HeaderMap::new();
    for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
        headers.append(HeaderName::try_from(name).ok()?, HeaderValue::try_from(value).ok()?);
    }
    let length: usize = headers.get("content-length")?.to_str().ok()?.parse().ok()?;
    while unread.len() < length {
        if stream.read_buf(unread).await.ok()? == 0 {
            return None;
        }
    }
    let body = unread.drain(..length).collect();
    Some(Seen { path, headers, body, connection, at })
}
