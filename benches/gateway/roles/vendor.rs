//! `vendor`: stands in for the vendor, as cheap as can be: HTTP/1.1 read and written by hand on one thread, so that it
//! bounds nothing that is measured. An answer's remark is the task's id, so that a mixed-up answer is seen.
//!
//! `GET /counters` says how often it was asked. `POST /status/DONE` changes the status of all tasks, and
//! `GET /changes` then says when each task was first answered with the new one, in microseconds since the epoch.

use std::collections::BTreeMap;
use std::str;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clap::{ArgMatches, Command};
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::{listen, listen_argument, one_thread, option, text, value};
use crate::fault::Fault;
use crate::statistics::wall_us;

/// The role's name.
pub(crate) const NAME: &str = "vendor";

/// The token that every login gets and every query must bring.
const BEARER: &str = "Bearer bench-access-token";
const LOGIN: &str = r#"{"AccessToken":"bench-access-token","ApplyType":"Bearer","CreateTime":"1545650171","Expires":"3600","Scope":"bench","AppKey":"bench","UserID":"Anonymous"}"#;

/// The role's options.
pub(crate) fn command() -> Command {
    Command::new(NAME)
        .about("Stand in for the vendor")
        .arg(listen_argument())
        .arg(option("status", "DOING", "The status of all tasks"))
        .arg(option("latency-ms", "0", "How long an answer takes"))
        .arg(option("capacity", "0", "Answers under way at once; 0 for no limit"))
}

/// Runs until it is killed.
pub(crate) fn run(matches: &ArgMatches) -> Result<(), Fault> {
    let capacity: usize = value(matches, "capacity")?;
    let vendor = Arc::new(Vendor {
        status: Mutex::new(text(matches, "status").into()),
        latency: Duration::from_millis(value(matches, "latency-ms")?),
        capacity: (capacity > 0).then(|| Semaphore::new(capacity)),
        tokens: AtomicU64::new(0),
        queries: AtomicU64::new(0),
        has_changed: AtomicBool::new(false),
        changes: Mutex::default(),
    });
    super::raise_open_files()?;
    one_thread()?.block_on(async {
        let listener = listen(matches).await?;
        let mut connections = JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
            let (stream, _) = listener.accept().await.map_err(Fault::of("can't accept"))?;
            connections.spawn(serve(stream, Arc::clone(&vendor)));
        }
    })
}

struct Vendor {
    status: Mutex<Arc<str>>,
    latency: Duration,
    capacity: Option<Semaphore>,
    tokens: AtomicU64,
    queries: AtomicU64,
    has_changed: AtomicBool,
    /// When each task was first answered with the new status.
    changes: Mutex<BTreeMap<String, u64>>,
}

/// A request's bounds in the buffer.
struct Head {
    body: usize,
    end: usize,
    is_authorized: bool,
}

#[derive(Deserialize)]
struct Query<'a> {
    #[serde(rename = "taskId")]
    task_id: &'a str,
}

async fn serve(mut stream: TcpStream, vendor: Arc<Vendor>) {
    // Any failure is the peer leaving, which it may.
    let _ = stream.set_nodelay(true);
    let (mut heard, mut said) = (Vec::with_capacity(4096), Vec::with_capacity(1024));
    loop {
        let head = loop {
            match head(&heard) {
                Some(head) if head.end <= heard.len() => break head,
                _ => {}
            }
            match stream.read_buf(&mut heard).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        };
        said.clear();
        vendor.answer(&heard, &head, &mut said).await;
        heard.drain(..head.end);
        if stream.write_all(&said).await.is_err() {
            return;
        }
    }
}

fn head(heard: &[u8]) -> Option<Head> {
    let body = heard.windows(4).position(|bytes| bytes == b"\r\n\r\n")? + 4;
    let (mut length, mut is_authorized) = (0, false);
    for line in heard.get(..body)?.split(|byte| *byte == b'\n') {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, value) = line.split_at(colon);
        if name.eq_ignore_ascii_case(b"content-length") {
            length = str::from_utf8(value.get(1..)?).ok()?.trim().parse().ok()?;
        } else if name.eq_ignore_ascii_case(b"authorization") {
            is_authorized = value.get(1..)?.trim_ascii() == BEARER.as_bytes();
        }
    }
    Some(Head { body, end: body + length, is_authorized })
}

impl Vendor {
    async fn answer(&self, heard: &[u8], head: &Head, said: &mut Vec<u8>) {
        let line = heard.split(|byte| *byte == b'\r').next().unwrap_or_default();
        let mut words = line.split(|byte| *byte == b' ').skip(1);
        let path = words.next().and_then(|path| str::from_utf8(path).ok()).unwrap_or_default();
        if path.ends_with("/queryTask") {
            let body = heard.get(head.body..head.end).unwrap_or_default();
            match serde_json::from_slice::<Query<'_>>(body) {
                Ok(_) if !head.is_authorized => write(said, "401 Unauthorized", &["{}"]),
                Ok(query) => self.query(query.task_id, said).await,
                Err(_) => write(said, "400 Bad Request", &["{}"]),
            }
        } else if path.ends_with("/tokenByAkSk") {
            self.tokens.fetch_add(1, Ordering::Relaxed);
            write(said, "200 OK", &[LOGIN]);
        } else if path == "/counters" {
            let (tokens, queries) = (&self.tokens, &self.queries);
            let (tokens, queries) = (tokens.load(Ordering::Relaxed), queries.load(Ordering::Relaxed));
            write(said, "200 OK", &[&format!(r#"{{"tokens":{tokens},"queries":{queries}}}"#)]);
        } else if path == "/changes" {
            let changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
            write(said, "200 OK", &[&serde_json::json!(*changes).to_string()]);
        } else if let Some(status) = path.strip_prefix("/status/") {
            *self.status.lock().unwrap_or_else(PoisonError::into_inner) = status.into();
            self.changes.lock().unwrap_or_else(PoisonError::into_inner).clear();
            self.has_changed.store(true, Ordering::Relaxed);
            write(said, "200 OK", &["{}"]);
        } else {
            write(said, "404 Not Found", &["{}"]);
        }
    }

    async fn query(&self, task_id: &str, said: &mut Vec<u8>) {
        self.queries.fetch_add(1, Ordering::Relaxed);
        if self.latency > Duration::ZERO || self.capacity.is_some() {
            let permit = match &self.capacity {
                Some(capacity) => Some(capacity.acquire().await),
                None => None,
            };
            tokio::time::sleep(self.latency).await;
            drop(permit);
        }
        let status = Arc::clone(&self.status.lock().unwrap_or_else(PoisonError::into_inner));
        if self.has_changed.load(Ordering::Relaxed) {
            let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
            changes.entry(task_id.to_owned()).or_insert_with(wall_us);
        }
        // Ids are printable ASCII, and those of a bench hold nothing that JSON escapes.
        let begin = r#"{"failDataList":[],"resultCode":"0","taskInfo":{"remark":""#;
        let end = r#""},"resultMessage":"The query is successful."}"#;
        write(said, "200 OK", &[begin, task_id, r#"","status":""#, &status, end]);
    }
}

fn write(said: &mut Vec<u8>, status: &str, body: &[&str]) {
    let length: usize = body.iter().map(|part| part.len()).sum();
    let length = length.to_string();
    let head =
        ["HTTP/1.1 ", status, "\r\ncontent-type: application/json\r\ncontent-length: ", &length, "\r\n\r\n"];
    for part in head.iter().chain(body) {
        said.extend_from_slice(part.as_bytes());
    }
}
