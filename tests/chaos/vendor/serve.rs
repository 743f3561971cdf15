//! One connection of the vendor's: each request is written down, answered by the plan, and written down again.

use std::sync::Arc;
use std::time::Duration;

use federation_gateway::settings::{QUERY_PATH, TOKEN_PATH};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::wire::{self, Request};
use super::{APP_KEY, Book, SECRET, Shared, WORDS};
use crate::plan::answers::{Grant, QueryScript, What};
use crate::record::{Exchange, Login, Moment};

/// A trickled answer comes in so many pieces.
const PIECES: usize = 12;

pub(super) async fn connection(mut stream: TcpStream, shared: Arc<Shared>) {
    // This fails for a peer that is gone already.
    let _ = stream.set_nodelay(true);
    shared.book().connections += 1;
    let _stands = Stands(&shared);
    let mut unread = Vec::new();
    let mut last = None;
    while let Some(request) = wire::request(&mut stream, &mut unread).await {
        let arrived = Moment::now();
        if let Some(last) = last.take() {
            shared.book().followed(last);
        }
        let goes_on = match &*request.path {
            QUERY_PATH => {
                let (goes_on, number) = query(&mut stream, &mut unread, &shared, &request, arrived).await;
                last = number;
                goes_on
            }
            TOKEN_PATH => login(&mut stream, &mut unread, &shared, &request, arrived).await,
            path => {
                shared.book().odd(format!("an unknown path was asked: {path}"));
                false
            }
        };
        if !goes_on {
            return;
        }
    }
}

/// A connection that stands.
struct Stands<'a>(&'a Shared);

impl Drop for Stands<'_> {
    fn drop(&mut self) {
        self.0.book().connections -= 1;
    }
}

/// A request that is under way; written down as ended however it ends.
struct UnderWay<'a> {
    shared: &'a Shared,
    at: usize,
    is_login: bool,
}

impl UnderWay<'_> {
    /// The last byte of a whole answer is written now.
    fn tells(&self) {
        let book = &mut *self.shared.book();
        let now = Some(Moment::now());
        if self.is_login {
            (book.logins[self.at].told, book.logins[self.at].ended) = (now, now);
        } else if let Some(exchange) = book.exchanges.get_mut(self.at) {
            (exchange.told, exchange.ended) = (now, now);
        }
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let book = &mut *self.shared.book();
        let ended = if self.is_login {
            book.logins.get_mut(self.at).map(|login| &mut login.ended)
        } else {
            book.exchanges.get_mut(self.at).map(|exchange| &mut exchange.ended)
        };
        // A run that failed takes the book away while this is under way.
        if let Some(ended) = ended {
            ended.get_or_insert_with(Moment::now);
        }
    }
}

/// The number of the gateway process that has this app key.
fn process(book: &mut Book, app_key: &str) -> usize {
    let number = app_key.strip_prefix(APP_KEY).and_then(|number| number.parse().ok());
    number.unwrap_or_else(|| {
        book.odd(format!("an unknown app key: {app_key}"));
        usize::MAX
    })
}

/// Whether the connection can be used again, and the exchange's number.
async fn query(
    stream: &mut TcpStream,
    unread: &mut Vec<u8>,
    shared: &Shared,
    request: &Request,
    arrived: Moment,
) -> (bool, Option<usize>) {
    let Some((asked, number)) = asked(shared, request, arrived) else { return (false, None) };
    (answered(stream, unread, shared, asked).await, Some(number))
}

/// A request that was written down, and is to be answered.
struct Asked {
    at: usize,
    task: usize,
    script: QueryScript,
    bearer: String,
}

/// Writes a request down.
fn asked(shared: &Shared, request: &Request, arrived: Moment) -> Option<(Asked, usize)> {
    let book = &mut *shared.book();
    let asked = serde_json::from_slice::<Value>(&request.body).unwrap_or_default();
    let id = asked["taskId"].as_str().unwrap_or_default();
    let Some(task) = book.by_id.get(id).copied() else {
        book.odd(format!("a task was asked for that nobody should: {id:?}"));
        return None;
    };
    let process = process(book, request.header("x-app-key"));
    let bearer = request.header("authorization").strip_prefix("Bearer ").unwrap_or_default().to_owned();
    let token = book.tokens.get(&bearer).filter(|token| token.process == process);
    let (login, is_alive) =
        (token.map(|token| token.login), token.is_some_and(|token| token.ends > arrived.at));
    if login.is_none() {
        book.odd(format!("a token that process {process} never got, for {id}"));
    }
    let at = book.exchanges.len();
    let mut script = book.plan.answers.query(at, book.plan.tasks[task].used_by, book.is_calm);
    if !is_alive {
        script.what = What::Status(401, None);
        // So that some come when there is a new token already.
        script.latency += Duration::from_millis(script.style.into());
    }
    let version = script.looks_first.then(|| book.plan.tasks[task].version_at(arrived.at - book.began));
    let number = book.first + at;
    book.exchanges.push(Exchange {
        number,
        process,
        task,
        token: login,
        arrived,
        what: script.what,
        version,
        told: None,
        ended: None,
        is_followed: false,
    });
    Some((Asked { at, task, script, bearer }, number))
}

/// Answers a request; whether the connection can be used again.
async fn answered(stream: &mut TcpStream, unread: &mut Vec<u8>, shared: &Shared, asked: Asked) -> bool {
    let Asked { at, task, script, bearer } = asked;
    let under_way = UnderWay { shared, at, is_login: false };
    tokio::select! {
        () = tokio::time::sleep(script.latency) => {}
        () = wire::left(stream, unread) => return false,
    }
    let bytes = {
        let book = &mut *shared.book();
        let tells = matches!(script.what, What::Good | What::Stray | What::Trickle(_) | What::Cut { .. });
        let now = book.plan.tasks[task].version_at(Instant::now() - book.began);
        let Some(exchange) = book.exchanges.get_mut(at) else { return false };
        exchange.version = tells.then(|| exchange.version.unwrap_or(now));
        bytes(book, at, script, &bearer)
    };
    match script.what {
        What::Good | What::Stray | What::Status(..) | What::ResultCode(..) | What::Html => {
            under_way.tells();
            stream.write_all(&bytes).await.is_ok()
        }
        What::Trickle(pause) => {
            let mut pieces = bytes.chunks(bytes.len().div_ceil(PIECES)).peekable();
            while let Some(piece) = pieces.next() {
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = wire::left(stream, unread) => return false,
                }
                if pieces.peek().is_none() {
                    under_way.tells();
                }
                if stream.write_all(piece).await.is_err() {
                    return false;
                }
            }
            true
        }
        What::Cut { is_reset } => {
            let _ = stream.write_all(&bytes[..bytes.len() * 2 / 3]).await;
            close(stream, is_reset)
        }
        What::Closed { is_reset } => close(stream, is_reset),
        What::Hang => {
            wire::left(stream, unread).await;
            false
        }
    }
}

/// The connection ends with this; by a reset if so.
fn close(stream: &TcpStream, is_reset: bool) -> bool {
    if is_reset {
        // Of a connection that has ended there is nothing left to reset.
        let _ = stream.set_zero_linger();
    }
    false
}

fn bytes(book: &Book, at: usize, script: QueryScript, bearer: &str) -> Vec<u8> {
    let QueryScript { what, style, .. } = script;
    let exchange = &book.exchanges[at];
    let state = |task: usize, version: usize, number: usize| {
        let task = &book.plan.tasks[task];
        let mut body = task.content(version).json(&number.to_string(), style).to_string();
        if style & 4 == 4 {
            body.insert(0, '\u{feff}');
        }
        wire::answer(200, &[], &body)
    };
    let retry = |after: Option<u64>| {
        after.map(|after| ("Retry-After", after.to_string())).into_iter().collect::<Vec<_>>()
    };
    match what {
        What::Status(status, after) => {
            let mut headers = retry(after);
            if status == 301 {
                headers.push(("Location", "/elsewhere".to_owned()));
            }
            let body = if status == 204 { String::new() } else { format!("<p>{WORDS}{status}</p>") };
            wire::answer(status, &headers, &body)
        }
        What::ResultCode(status, code) => {
            // Some vendors repeat what they were sent.
            let echo = if style & 4 == 4 { bearer } else { "" };
            let body = json!({"resultCode": code, "resultMessage": format!("{WORDS}{code} {echo}")});
            wire::answer(status, &[], &body.to_string())
        }
        What::Html => wire::answer(200, &[], &format!("<html>{WORDS}</html>")),
        _ => {
            let version = exchange.version.unwrap_or_default();
            let mut bytes = state(exchange.task, version, exchange.number);
            if what == What::Stray {
                let tasks = &book.plan.tasks;
                let other = (exchange.task + 1) % tasks.len();
                let version = tasks[other].version_at(Instant::now() - book.began);
                // Of a number that no exchange has.
                bytes.extend(state(other, version, usize::MAX));
            }
            bytes
        }
    }
}

/// Whether the connection can be used again.
async fn login(
    stream: &mut TcpStream,
    unread: &mut Vec<u8>,
    shared: &Shared,
    request: &Request,
    arrived: Moment,
) -> bool {
    let (at, script) = {
        let book = &mut *shared.book();
        let asked = serde_json::from_slice::<Value>(&request.body).unwrap_or_default();
        let process = process(book, asked["app_key"].as_str().unwrap_or_default());
        if asked["app_secret"] != SECRET {
            book.odd("a login with another secret");
        }
        let at = book.logins.len();
        let script = book.plan.answers.login(at, book.is_calm);
        book.logins.push(Login { process, arrived, script, told: None, ended: None });
        (at, script)
    };
    let under_way = UnderWay { shared, at, is_login: true };
    let latency = if script.grant == Grant::Hang { Duration::MAX } else { script.latency };
    tokio::select! {
        () = tokio::time::sleep(latency) => {}
        () = wire::left(stream, unread) => return false,
    }
    let words = json!({"error": format!("{WORDS}{SECRET}")}).to_string();
    let bytes = match script.grant {
        Grant::Token { .. } => {
            let mut body = json!({
                "AccessToken": shared.book().grant(at), "ApplyType": "Bearer",
                "CreateTime": script.create_time.to_string(),
            });
            if let Some(expires) = script.expires {
                body["Expires"] = if script.is_number { json!(expires) } else { json!(expires.to_string()) };
            }
            wire::answer(200, &[], &body.to_string())
        }
        Grant::Status(status, after) => {
            let after: Vec<_> = after.map(|after| ("Retry-After", after.to_string())).into_iter().collect();
            wire::answer(status, &after, &words)
        }
        Grant::Empty => wire::answer(200, &[], &words),
        Grant::Html => wire::answer(200, &[], &format!("<html>{WORDS}</html>")),
        Grant::Closed { is_reset } => return close(stream, is_reset),
        Grant::Hang => return false,
    };
    under_way.tells();
    stream.write_all(&bytes).await.is_ok()
}
