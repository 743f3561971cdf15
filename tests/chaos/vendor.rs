//! The vendor: knows the truth, answers by the plan, and writes down what it was asked and what it said.

mod serve;
mod wire;

use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::RngExt as _;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::plan::answers::Grant;
use crate::plan::{Blow, Plan};
use crate::record::{Exchange, Login, Moment, Outage};

/// Each token begins so; no log line and no error text may hold one.
pub(crate) const TOKEN: &str = "chaos-token-";
/// A gateway process has this app key and its number.
pub(crate) const APP_KEY: &str = "chaos-key-";
/// The app secret; no log line and no error text may hold it.
pub(crate) const SECRET: &str = "chaos-secret-5d41402abc4b2a76";
/// What the vendor says beside its states begins so; no log line may hold it.
pub(crate) const WORDS: &str = "vendor-words-";

/// How long its address may take to be free again.
const PATIENCE: Duration = Duration::from_secs(20);

/// Whether the vendor takes connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Door {
    Open,
    Down,
    Deaf,
}

/// The running vendor; ends when dropped.
pub(crate) struct Vendor {
    shared: Arc<Shared>,
    address: SocketAddr,
    door: watch::Sender<Door>,
    _tasks: JoinSet<()>,
}

struct Shared {
    book: Mutex<Book>,
}

/// What it knows and has written down.
struct Book {
    plan: Arc<Plan>,
    began: Instant,
    is_calm: bool,
    by_id: HashMap<String, usize>,
    /// Exchanges of this round, and the number of the first of them.
    exchanges: Vec<Exchange>,
    first: usize,
    logins: Vec<Login>,
    tokens: HashMap<String, Token>,
    outages: Vec<Outage>,
    oddities: Vec<String>,
    /// Connections that stand.
    connections: usize,
}

struct Token {
    login: usize,
    process: usize,
    ends: Instant,
}

impl Shared {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    fn odd(&mut self, what: impl Into<String>) {
        self.oddities.push(what.into());
    }

    /// A request followed on the connection of the exchange of that number.
    fn followed(&mut self, number: usize) {
        let at = number.checked_sub(self.first);
        if let Some(exchange) = at.and_then(|at| self.exchanges.get_mut(at)) {
            exchange.is_followed = true;
        }
    }

    /// A new token, told to a process by its login.
    fn grant(&mut self, login: usize) -> String {
        let Login { process, script, .. } = &self.logins[login];
        let Grant::Token { life } = script.grant else { return String::new() };
        let secret: u64 = rand::rng().random();
        let text = format!("{TOKEN}{login}-{secret:016x}");
        self.tokens.insert(text.clone(), Token { login, process: *process, ends: Instant::now() + life });
        text
    }
}

/// What a vendor has written down.
pub(crate) struct Written {
    pub(crate) exchanges: Vec<Exchange>,
    pub(crate) logins: Vec<Login>,
    pub(crate) outages: Vec<Outage>,
    pub(crate) oddities: Vec<String>,
}

impl Vendor {
    /// One that answers by the plan from now on.
    pub(crate) async fn start(address: SocketAddr, plan: Arc<Plan>) -> std::io::Result<Self> {
        let book = Book {
            by_id: ids(&plan),
            plan,
            began: Instant::now(),
            is_calm: true,
            exchanges: Vec::new(),
            first: 0,
            logins: Vec::new(),
            tokens: HashMap::new(),
            outages: Vec::new(),
            oddities: Vec::new(),
            connections: 0,
        };
        let shared = Arc::new(Shared { book: Mutex::new(book) });
        let door = watch::Sender::new(Door::Open);
        // Bound once here, so that an address that can't be had is told at once.
        let listener = listen(address, Door::Open)?;
        let mut tasks = JoinSet::new();
        tasks.spawn(keep_door(listener, address, door.subscribe(), Arc::clone(&shared)));
        Ok(Self { shared, address, door, _tasks: tasks })
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The next round begins: its tasks are known from now on, and its faults happen.
    pub(crate) fn begin(&self, plan: Arc<Plan>) -> Instant {
        let mut book = self.shared.book();
        (book.by_id, book.plan) = (ids(&plan), plan);
        (book.began, book.is_calm) = (Instant::now(), false);
        book.began
    }

    /// No faults any more; and whoever was away is back.
    pub(crate) fn calm_down(&self) {
        self.shared.book().is_calm = true;
        self.door.send_replace(Door::Open);
    }

    /// Has the plan's blows fall, for as long as this is polled.
    pub(crate) async fn suffer(&self, plan: &Plan, began: Instant) {
        for (at, blow) in &plan.blows {
            tokio::time::sleep_until(began + *at).await;
            let (door, lasts) = match blow {
                Blow::Down(lasts) => (Door::Down, *lasts),
                Blow::Deaf(lasts) => (Door::Deaf, *lasts),
                Blow::Revoke => {
                    self.shared.book().tokens.values_mut().for_each(|token| token.ends = Instant::now());
                    continue;
                }
            };
            self.door.send_replace(door);
            tokio::time::sleep(lasts).await;
            self.door.send_replace(Door::Open);
        }
    }

    /// How many queryTask requests are under way, and how many connections stand.
    pub(crate) fn under_way(&self) -> (usize, usize) {
        let book = self.shared.book();
        (book.exchanges.iter().filter(|exchange| exchange.ended.is_none()).count(), book.connections)
    }

    /// How many logins there were.
    pub(crate) fn logins(&self) -> usize {
        self.shared.book().logins.len()
    }

    /// What was written down in this round; exchanges and oddities are forgotten.
    pub(crate) fn take(&self) -> Written {
        let mut book = self.shared.book();
        let exchanges = std::mem::take(&mut book.exchanges);
        book.first += exchanges.len();
        let now = Instant::now();
        // No gateway believes in a longer life, so that nobody holds one of these any more.
        book.tokens.retain(|_, token| token.ends + Duration::from_secs(3600) > now);
        Written {
            exchanges,
            logins: book.logins.clone(),
            outages: book.outages.clone(),
            oddities: std::mem::take(&mut book.oddities),
        }
    }
}

fn ids(plan: &Plan) -> HashMap<String, usize> {
    plan.tasks.iter().enumerate().map(|(at, task)| (task.id.clone(), at)).collect()
}

fn listen(address: SocketAddr, door: Door) -> std::io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    // One that nobody takes from, and that one waits in, is full.
    socket.listen(if door == Door::Deaf { 1 } else { 1024 })
}

/// Listens where a listener was just now. A child that is being started holds all files of this process until it is
/// the program that it is to be, the old listener too.
async fn listen_again(address: SocketAddr, door: Door) -> std::io::Result<TcpListener> {
    let began = Instant::now();
    loop {
        match listen(address, door) {
            Err(error) if error.kind() == ErrorKind::AddrInUse && began.elapsed() < PATIENCE => {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            listens => return listens,
        }
    }
}

/// Takes connections while the door is open; those that stand end when it closes.
async fn keep_door(
    listener: TcpListener,
    address: SocketAddr,
    mut door: watch::Receiver<Door>,
    shared: Arc<Shared>,
) {
    let mut listener = Some(listener);
    loop {
        let now = *door.borrow_and_update();
        if now == Door::Open {
            let open = match listener.take() {
                Some(first) => Ok(first),
                None => listen_again(address, now).await,
            };
            let mut connections = JoinSet::new();
            match open {
                Ok(open) => loop {
                    tokio::select! {
                        Ok((stream, _)) = open.accept() => {
                            connections.spawn(serve::connection(stream, Arc::clone(&shared)));
                        }
                        Some(_) = connections.join_next() => {}
                        changed = door.changed() => match changed {
                            Ok(()) if *door.borrow() == Door::Open => {}
                            Ok(()) => break,
                            Err(_) => return,
                        },
                    }
                },
                Err(error) => {
                    shared.book().odd(format!("the vendor's address can't be had again: {error}"));
                    return;
                }
            }
            shared.book().outages.push(Outage { from: Moment::now().at, until: None });
            drop(listener.take());
            connections.shutdown().await;
            continue;
        }
        let deaf = if now == Door::Deaf { listen_again(address, now).await.map(Some) } else { Ok(None) };
        if let Err(error) = &deaf {
            shared.book().odd(format!("the vendor can't be deaf: {error}"));
        }
        if door.changed().await.is_err() {
            return;
        }
        drop(deaf);
        if let Some(outage) = shared.book().outages.last_mut() {
            outage.until = Some(Instant::now());
        }
    }
}
