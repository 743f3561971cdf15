//! `serve`: runs the gateway. Owns the process's surroundings (logs, signals, open files); what the gateway is made
//! of is `app`'s to know.

use std::io;
use std::process::ExitCode;

use clap::Command;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::app::{App, Proxy, StartError};
use crate::metrics;
use crate::settings::{LogFormat, Settings, flags};
use crate::shutdown::Shutdown;
use crate::telemetry;

/// The command's name.
pub const NAME: &str = "serve";

/// The exit code after a second signal: as a shell says of a command that SIGINT ended.
const INTERRUPTED: i32 = 130;

const EXAMPLES: &str = "\
Examples:
  federation-gateway serve --sandbox
  federation-gateway serve --config gateway.toml --log info,federation_gateway=debug
  FEDERATION_APP_KEY=… FEDERATION_APP_SECRET=… federation-gateway serve --listen 127.0.0.1:50051

Each flag is a variable (--poll-min 1s is FEDERATION_POLL_MIN=1s) and a key of the file that --config names
(poll-min = \"1s\") too; a flag beats the environment, which beats the file. The app secret has no flag: give
FEDERATION_APP_SECRET, app-secret in the file, or --app-secret-file.";

/// The command's line.
#[must_use]
pub fn command() -> Command {
    Command::new(NAME).about("Run the gateway").arg(flags::sandbox()).args(flags::all()).after_help(EXAMPLES)
}

/// Runs the gateway until it is told to stop.
#[must_use]
pub fn run(settings: Settings) -> ExitCode {
    let format = match settings.log_format {
        LogFormat::Auto => telemetry::Format::Auto,
        LogFormat::Text => telemetry::Format::Text,
        LogFormat::Json => telemetry::Format::Json,
    };
    if let Err(error) = telemetry::init(&settings.log, format) {
        super::complain(format_args!("log: {error}"));
        return ExitCode::from(super::BAD_USAGE);
    }
    telemetry::log_panics(metrics::count_panic);
    raise_open_files();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&format!("no runtime: {error}")),
    };
    let code = runtime.block_on(serve(settings));
    // Not waiting for threads that a hung disk or a dead name server still holds: all that mattered has ended.
    runtime.shutdown_background();
    code
}

async fn serve(settings: Settings) -> ExitCode {
    let shutdown = Shutdown::new();
    // Before anything listens, so that no signal finds the process unprepared.
    let (terminate, interrupt) = match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(terminate), Ok(interrupt)) => (terminate, interrupt),
        (Err(error), _) | (_, Err(error)) => return failed(&format!("signals can't be caught: {error}")),
    };
    let proxy = Proxy::from_env(|name| std::env::var(name).ok());
    let app = match App::start(settings, proxy, shutdown.clone()).await {
        Ok(app) => app,
        Err(error @ StartError::Bind(_)) => return failed(&error.to_string()),
        Err(error) => {
            tracing::error!(%error, "can't start");
            return ExitCode::from(super::BAD_USAGE);
        }
    };
    tokio::select! {
        ended = app.run() => ended.map_or(ExitCode::from(super::FAILED), |()| ExitCode::SUCCESS),
        () = obey(terminate, interrupt, shutdown) => std::process::exit(INTERRUPTED),
    }
}

/// The first signal begins the drain; returns at the second.
async fn obey(mut terminate: Signal, mut interrupt: Signal, shutdown: Shutdown) {
    for is_second in [false, true] {
        tokio::select! {
            Some(()) = terminate.recv() => {}
            Some(()) = interrupt.recv() => {}
        }
        if is_second {
            tracing::warn!("a second signal: leaving at once");
        }
        shutdown.drain();
    }
}

fn failed(why: &str) -> ExitCode {
    tracing::error!(reason = why, "can't start");
    ExitCode::from(super::FAILED)
}

/// Each caller and each try upstream is a file: as many as the system lets this process have.
fn raise_open_files() {
    let raised = rlimit::getrlimit(rlimit::Resource::NOFILE).and_then(|(soft, hard)| {
        if soft < hard { rlimit::setrlimit(rlimit::Resource::NOFILE, hard, hard) } else { io::Result::Ok(()) }
    });
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}
