//! The real binary, for what only a process has: signals, exit codes, log lines.

use std::path::Path;
use std::process::Stdio;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::gateway::{SECRET, patient};
use super::soon;
use super::vendor::Vendor;

/// A running `serve`; killed when dropped.
pub(crate) struct Process {
    child: Child,
    lines: mpsc::UnboundedReceiver<String>,
    _reader: JoinSet<()>,
    /// Every line that it has logged so far, as far as they were read.
    pub(crate) log: Vec<String>,
    pub(crate) address: String,
    pub(crate) admin: String,
}

impl Process {
    pub(crate) async fn start(vendor: &Vendor, flags: &[&str]) -> Self {
        Self::start_with(vendor, flags, "FEDERATION_APP_SECRET", SECRET).await
    }

    /// One whose secret stands in a file.
    pub(crate) async fn start_with_secret_file(vendor: &Vendor, path: &Path) -> Self {
        let path = path.to_str().expect("a test's paths are text");
        Self::start_with(vendor, &[], "FEDERATION_APP_SECRET_FILE", path).await
    }

    async fn start_with(vendor: &Vendor, flags: &[&str], variable: &str, value: &str) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_federation-gateway"))
            .args(["serve", "--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0", "--log-format=json"])
            .arg(format!("--base-url={}", vendor.url()))
            .args(patient(flags))
            .env_clear()
            .envs([("FEDERATION_APP_KEY", "planted-key"), (variable, value)])
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the binary can be run");
        let stderr = child.stderr.take().expect("it is piped");
        let (sender, lines) = mpsc::unbounded_channel();
        let mut reader = JoinSet::new();
        // At once and always: a full pipe would hold up the gateway.
        reader.spawn(async move {
            let mut lines = BufReader::new(stderr).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                // A test that ended reads no more.
                let _ = sender.send(line);
            }
        });
        let (address, admin) = (String::new(), String::new());
        let mut process = Self { child, lines, _reader: reader, log: Vec::new(), address, admin };
        while process.address.is_empty() || process.admin.is_empty() {
            let line = soon("a log line", process.line()).await.expect("it goes on");
            let Ok(line) = serde_json::from_str::<Value>(&line) else { continue };
            let field = |name: &str| {
                let found = line.get(name).or_else(|| line.get("fields")?.get(name));
                found.and_then(Value::as_str).unwrap_or_default().to_owned()
            };
            match &*field("server") {
                "grpc" => process.address = field("addr"),
                "admin" => process.admin = field("addr"),
                _ => {}
            }
        }
        process
    }

    async fn line(&mut self) -> Option<String> {
        let line = self.lines.recv().await?;
        self.log.push(line.clone());
        Some(line)
    }

    /// How many descriptors it has open.
    pub(crate) fn open_files(&self) -> usize {
        let pid = self.child.id().expect("it runs");
        std::fs::read_dir(format!("/proc/{pid}/fd")).expect("a process may be looked at").count()
    }

    pub(crate) async fn signal(&self, signal: &str) {
        let pid = self.child.id().expect("it runs").to_string();
        // The shell's own kill: a bare machine has no program of that name.
        let command = format!("kill {signal} {pid}");
        let sent = Command::new("sh").args(["-c", &command]).status().await.expect("sh can be run");
        assert!(sent.success());
    }

    /// Waits for its end; the exit code.
    pub(crate) async fn ended(&mut self) -> Option<i32> {
        while soon("the end of the log", self.line()).await.is_some() {}
        soon("the process's end", self.child.wait()).await.expect("it can be waited for").code()
    }
}
