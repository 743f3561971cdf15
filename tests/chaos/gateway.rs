//! The gateway: the real binary in a process of its own, always at the same address; and what is asked of the process.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::net::Ipv4Addr;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::http_get::http_get;
use crate::plan::settings::Settings;
use crate::plan::truth::MARK;
use crate::vendor::{APP_KEY, SECRET, TOKEN, WORDS};

/// How much of the log is kept to be shown.
const TAIL: usize = 60;
/// How long it may take to listen.
const PATIENCE: Duration = Duration::from_secs(30);
/// So many oddities of a log are told.
const ODDITIES: usize = 20;

/// The gateway that is tested, where it is not this build's.
pub(crate) static BINARY: OnceLock<OsString> = OnceLock::new();

/// What a log has shown so far.
#[derive(Debug, Default)]
pub(crate) struct Log {
    pub(crate) tail: VecDeque<String>,
    /// Lines that should not be.
    pub(crate) oddities: Vec<String>,
}

/// A running gateway; killed when dropped.
pub(crate) struct Gateway {
    child: Child,
    pub(crate) probe: Probe,
    log: Arc<Mutex<Log>>,
    readers: JoinSet<()>,
}

/// Where a gateway is, and what it is told: the same for each process.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    pub(crate) host: Ipv4Addr,
    pub(crate) vendor: String,
    pub(crate) settings: Settings,
}

impl Site {
    pub(crate) fn address(&self) -> String {
        format!("{}:50051", self.host)
    }

    /// Starts the process of that number, and waits until it listens.
    pub(crate) async fn start(&self, number: usize) -> Result<Gateway, String> {
        let admin = format!("{}:9464", self.host);
        let built = OsStr::new(env!("CARGO_BIN_EXE_federation-gateway"));
        let mut child = Command::new(BINARY.get().map_or(built, OsString::as_os_str))
            .args(["serve", "--log-format=json", "--token-lifetime=60s"])
            .arg(format!("--listen={}", self.address()))
            .arg(format!("--admin-listen={admin}"))
            .arg(format!("--base-url={}", self.vendor))
            .args(self.settings.flags())
            .env_clear()
            .env("FEDERATION_APP_KEY", format!("{APP_KEY}{number}"))
            .env("FEDERATION_APP_SECRET", SECRET)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("the gateway can't be run: {error}"))?;
        let log = Arc::new(Mutex::new(Log::default()));
        let (listening, mut listens) = watch::channel(0);
        let mut readers = JoinSet::new();
        // At once and always: a full pipe would hold up the gateway.
        if let Some(out) = child.stdout.take() {
            readers.spawn(read(out, Arc::clone(&log), None));
        }
        if let Some(err) = child.stderr.take() {
            readers.spawn(read(err, Arc::clone(&log), Some(listening)));
        }
        let probe = Probe { id: child.id().ok_or("the gateway ended at once")?, admin };
        let gateway = Gateway { child, probe, log, readers };
        match tokio::time::timeout(PATIENCE, listens.wait_for(|listening| *listening == 2)).await {
            Ok(Ok(_)) => Ok(gateway),
            _ => Err(format!("the gateway does not listen: {:?}", gateway.log().tail)),
        }
    }
}

impl Gateway {
    pub(crate) fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells it to drain.
    pub(crate) async fn terminate(&self) -> Result<(), String> {
        let id = self.child.id().ok_or("the gateway ended by itself")?;
        // The shell's own kill: a bare machine has no program of that name.
        let sent = Command::new("sh").args(["-c", &format!("kill {id}")]).status().await;
        let is_sent = sent.map_err(|error| format!("sh can't be run: {error}"))?.success();
        if is_sent { Ok(()) } else { Err("the gateway was gone before it was told to drain".into()) }
    }

    /// Kills it.
    pub(crate) async fn kill(mut self) -> Result<Log, String> {
        self.child.kill().await.map_err(|error| format!("the gateway can't be killed: {error}"))?;
        Ok(self.rest().await)
    }

    /// Waits for its end.
    pub(crate) async fn ended(mut self, within: Duration) -> Result<(ExitStatus, Log), String> {
        match tokio::time::timeout(within, self.child.wait()).await {
            Ok(Ok(status)) => Ok((status, self.rest().await)),
            Ok(Err(error)) => Err(format!("the gateway can't be waited for: {error}")),
            Err(_) => Err(format!("the gateway did not end within {within:?}: {:?}", self.log().tail)),
        }
    }

    async fn rest(&mut self) -> Log {
        while self.readers.join_next().await.is_some() {}
        std::mem::take(&mut *self.log())
    }
}

/// What can be asked of a process from outside.
#[derive(Clone, Debug)]
pub(crate) struct Probe {
    id: u32,
    admin: String,
}

impl Probe {
    /// Its metrics; `None` if it does not tell them.
    pub(crate) async fn metrics(&self) -> Option<Metrics> {
        let (status, text) = http_get(&self.admin, "/metrics").await;
        (status == 200).then_some(Metrics(text))
    }

    /// How many files it has open, by the system's account.
    pub(crate) fn open_files(&self) -> Option<usize> {
        Some(std::fs::read_dir(format!("/proc/{}/fd", self.id)).ok()?.count())
    }

    /// The memory it holds, in bytes, by the system's account.
    pub(crate) fn memory(&self) -> Option<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id)).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        Some(line.trim().strip_suffix(" kB")?.parse::<f64>().ok()? * 1024.0)
    }
}

/// A text of metrics.
#[derive(Debug)]
pub(crate) struct Metrics(String);

impl Metrics {
    /// The sum over all series of a name.
    pub(crate) fn sum(&self, name: &str) -> f64 {
        let of_name = self.0.lines().filter_map(|line| line.strip_prefix(name)?.rsplit_once(' '));
        let series = of_name.filter(|(labels, _)| labels.is_empty() || labels.starts_with('{'));
        series.filter_map(|(_, value)| value.parse::<f64>().ok()).sum()
    }
}

async fn read(from: impl AsyncRead + Unpin, log: Arc<Mutex<Log>>, listening: Option<watch::Sender<u32>>) {
    let mut lines = BufReader::new(from).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(odd) = odd(&line)
            && log.oddities.len() < ODDITIES
        {
            log.oddities.push(format!("the log {odd}: {line}"));
        }
        if let Some(listening) = &listening
            && line.contains("\"listening\"")
        {
            listening.send_modify(|listening| *listening += 1);
        }
        if log.tail.len() == TAIL {
            log.tail.pop_front();
        }
        log.tail.push_back(line);
    }
}

/// What is wrong with a line of the log, if anything is.
fn odd(line: &str) -> Option<&'static str> {
    if [SECRET, TOKEN, WORDS, MARK, "Ada Lind"].iter().any(|secret| line.contains(secret)) {
        return Some("tells a secret, or what the vendor said");
    }
    // A panic's lines are no JSON.
    let Ok(line) = serde_json::from_str::<Value>(line) else { return Some("has a line that is none") };
    (line["level"] == "ERROR").then_some("has an error")
}
