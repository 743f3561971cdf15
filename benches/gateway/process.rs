//! The measured processes: started, asked for what the system says of them, and stopped.

use std::ffi::{OsStr, OsString};
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::fault::Fault;

/// The unit of CPU time in `/proc/PID/stat`: Linux tells programs 100 a second on all machines (proc(5), USER_HZ).
const TICKS_A_SECOND: f64 = 100.0;
/// How long a part may take to say that it is there. Under valgrind all is some fifty times slower.
const PATIENCE: Duration = Duration::from_secs(60);

/// The gateway that is measured, where it is not this build's.
pub(crate) static GATEWAY: OnceLock<OsString> = OnceLock::new();

/// A running part; killed when dropped.
pub(crate) struct Process {
    name: &'static str,
    child: Child,
    input: Option<ChildStdin>,
    lines: mpsc::UnboundedReceiver<String>,
    _readers: JoinSet<()>,
}

impl Process {
    /// Starts a role of this executable, through a wrapper such as valgrind if one is given.
    pub(crate) fn role(wrapper: &[&str], name: &'static str, options: &[String]) -> Result<Self, Fault> {
        let own = std::env::current_exe().map_err(Fault::of("this executable can't be found"))?;
        let mut command = wrapped(wrapper, own.as_os_str());
        command.arg(name).args(options);
        Self::spawn(name, command)
    }

    /// Starts the gateway. Variables of whoever runs the bench don't reach it.
    pub(crate) fn gateway(wrapper: &[&str], flags: &[String]) -> Result<Self, Fault> {
        let built = OsStr::new(env!("CARGO_BIN_EXE_federation-gateway"));
        let mut command = wrapped(wrapper, GATEWAY.get().map_or(built, OsString::as_os_str));
        command.args(["serve", "--listen=127.0.0.1:0", "--log-format=json"]).args(flags);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("FEDERATION_") {
                command.env_remove(name);
            }
        }
        command.envs([("FEDERATION_APP_KEY", "bench-key"), ("FEDERATION_APP_SECRET", "bench-secret")]);
        Self::spawn("gateway", command)
    }

    fn spawn(name: &'static str, mut command: Command) -> Result<Self, Fault> {
        let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child =
            pipes.kill_on_drop(true).spawn().map_err(Fault::of(&format!("{name} can't be started")))?;
        let (sender, lines) = mpsc::unbounded_channel();
        let mut readers = JoinSet::new();
        // At once and always: a full pipe would hold up what is measured.
        if let Some(out) = child.stdout.take() {
            readers.spawn(read_lines(out, sender.clone()));
        }
        if let Some(err) = child.stderr.take() {
            readers.spawn(read_lines(err, sender));
        }
        let input = child.stdin.take();
        Ok(Self { name, child, input, lines, _readers: readers })
    }

    /// The next line of it that `wanted` makes something of; the others are remembered for the fault's text.
    pub(crate) async fn line<T>(
        &mut self,
        patience: Duration,
        wanted: impl Fn(&str) -> Option<T>,
    ) -> Result<T, Fault> {
        let mut said = String::new();
        let found = tokio::time::timeout(patience, async {
            while let Some(line) = self.lines.recv().await {
                if let Some(found) = wanted(&line) {
                    return Some(found);
                }
                said.push_str(&line);
                said.push('\n');
            }
            None
        });
        match found.await {
            Ok(Some(found)) => Ok(found),
            Ok(None) => Err(Fault::new(format!("{} ended too soon: {said}", self.name))),
            Err(_) => Err(Fault::new(format!("{} took too long: {said}", self.name))),
        }
    }

    /// Where it listens, once it does.
    pub(crate) async fn address(&mut self) -> Result<SocketAddr, Fault> {
        self.line(PATIENCE, listening).await
    }

    /// Tells it to go on.
    pub(crate) async fn go_on(&mut self) -> Result<(), Fault> {
        match &mut self.input {
            Some(input) => input.write_all(b"\n").await.map_err(Fault::of(self.name)),
            None => Ok(()),
        }
    }

    /// Sends SIGTERM and reads what it still has to say.
    pub(crate) async fn stop(mut self) -> Result<Vec<String>, Fault> {
        // The shell's own kill: a bare machine has no program of that name.
        let kill = format!("kill {}", self.id()?);
        let killed = Command::new("sh").args(["-c", &kill]).status().await.map_err(Fault::of("sh"))?;
        if !killed.success() {
            return Err(Fault::new(format!("{} was gone", self.name)));
        }
        let mut said = Vec::new();
        let ending = tokio::time::timeout(PATIENCE, async {
            while let Some(line) = self.lines.recv().await {
                said.push(line);
            }
            self.child.wait().await
        });
        ending.await.map_err(Fault::of(self.name))?.map_err(Fault::of(self.name))?;
        Ok(said)
    }

    pub(crate) fn id(&self) -> Result<u32, Fault> {
        self.child.id().ok_or_else(|| Fault::new(format!("{} has ended", self.name)))
    }

    /// The CPU time that it took so far, in seconds, all threads together.
    pub(crate) fn cpu_seconds(&self) -> Result<f64, Fault> {
        let stat = self.proc_file("stat")?;
        // Its second field, a name in parentheses, may hold spaces; user and system time are the 14th and 15th.
        let fields = stat.rsplit_once(')').map(|(_, fields)| fields).unwrap_or_default();
        let ticks: Option<Vec<f64>> =
            fields.split_ascii_whitespace().skip(11).take(2).map(|ticks| ticks.parse().ok()).collect();
        let ticks = ticks.filter(|ticks| ticks.len() == 2);
        let ticks = ticks.ok_or_else(|| Fault::new("/proc/PID/stat can't be read"))?;
        Ok(ticks.iter().sum::<f64>() / TICKS_A_SECOND)
    }

    /// A line of `/proc/PID/status`, in bytes: `VmRSS` is what it holds, `VmHWM` the most that it held.
    pub(crate) fn memory(&self, name: &str) -> Result<f64, Fault> {
        let status = self.proc_file("status")?;
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<f64>().ok());
        kib.map(|kib| kib * 1024.0).ok_or_else(|| Fault::new(format!("/proc/PID/status has no {name}")))
    }

    fn proc_file(&self, name: &str) -> Result<String, Fault> {
        std::fs::read_to_string(format!("/proc/{}/{name}", self.id()?)).map_err(Fault::of(self.name))
    }
}

fn wrapped(wrapper: &[&str], program: &OsStr) -> Command {
    match wrapper.split_first() {
        None => Command::new(program),
        Some((first, rest)) => {
            let mut command = Command::new(first);
            command.args(rest).arg(program);
            command
        }
    }
}

async fn read_lines(from: impl AsyncRead + Unpin, to: mpsc::UnboundedSender<String>) {
    let mut lines = BufReader::new(from).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        // Whoever no longer listens needs no lines.
        let _ = to.send(line);
    }
}

/// The address in a role's line, or in the gateway's log line about its gRPC port.
fn listening(line: &str) -> Option<SocketAddr> {
    if let Some(address) = line.strip_prefix("listening ") {
        return address.parse().ok();
    }
    let line: Value = serde_json::from_str(line).ok()?;
    let field = |name: &str| line.get(name).or_else(|| line.get("fields")?.get(name))?.as_str();
    if field("server") == Some("grpc") { field("addr")?.parse().ok() } else { None }
}

/// One exchange with the vendor's stand-in; its answer's body.
pub(crate) async fn http(address: SocketAddr, method: &str, path: &str) -> Result<Value, Fault> {
    let failed = "the vendor's stand-in";
    let mut stream = TcpStream::connect(address).await.map_err(Fault::of(failed))?;
    let request = format!("{method} {path} HTTP/1.1\r\nhost: x\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(Fault::of(failed))?;
    let mut answer = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&answer);
        let length = text.split_once("content-length: ").and_then(|(_, rest)| rest.split_once("\r\n"));
        let length = length.and_then(|(length, _)| length.parse::<usize>().ok());
        if let (Some(length), Some((_, body))) = (length, text.split_once("\r\n\r\n"))
            && body.len() >= length
        {
            return serde_json::from_str(body).map_err(Fault::of(failed));
        }
        if stream.read_buf(&mut answer).await.map_err(Fault::of(failed))? == 0 {
            return Err(Fault::new("the vendor's stand-in hung up"));
        }
    }
}
