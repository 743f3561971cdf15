//! `sandbox`: runs the simulated vendor alone.

use std::process::ExitCode;

use clap::{Arg, ArgMatches, Command};
use tokio::signal::unix::{SignalKind, signal};

use crate::sandbox::Sandbox;
use crate::telemetry;

/// The command's name.
pub const NAME: &str = "sandbox";

const LISTEN: &str = "listen";
const FORM: &str = "write HOST:PORT, for example 127.0.0.1:8080; port 0 picks one";
const LISTEN_DEFAULT: &str = "127.0.0.1:8080";

const EXAMPLES: &str = "\
Example, in two terminals:
  federation-gateway sandbox --listen 127.0.0.1:8080
  FEDERATION_APP_KEY=any FEDERATION_APP_SECRET=any federation-gateway serve --base-url http://127.0.0.1:8080

A task begins when it is first asked for: TODO for 2 s, DOING for 5 s, then DONE. Ids that begin with fail- end
with failed users, stuck- never end, missing- are unknown, flaky- fail every other call, slow- take 2 s a call.
GET /counters tells how often it was asked.";

/// The command's line.
#[must_use]
pub fn command() -> Command {
    Command::new(NAME)
        .about("Run the simulated vendor alone")
        .arg(
            Arg::new(LISTEN)
                .long(LISTEN)
                .value_name("HOST:PORT")
                .default_value(LISTEN_DEFAULT)
                .value_parser(host_port)
                .help("Where to listen; port 0 picks one"),
        )
        .after_help(EXAMPLES)
}

fn host_port(text: &str) -> Result<String, &'static str> {
    let (host, port) = text.rsplit_once(':').ok_or(FORM)?;
    if host.is_empty() || port.parse::<u16>().is_err() { Err(FORM) } else { Ok(text.to_owned()) }
}

/// Runs the simulated vendor until a signal.
#[must_use]
pub fn run(matches: &ArgMatches) -> ExitCode {
    let address = matches.get_one::<String>(LISTEN).map_or(LISTEN_DEFAULT, String::as_str);
    if let Err(error) = telemetry::init("info", telemetry::Format::Auto) {
        super::complain(format_args!("log: {error}"));
        return ExitCode::from(super::BAD_USAGE);
    }
    let served = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .and_then(|runtime| runtime.block_on(serve(address)));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            super::complain(format_args!("{address} can't be listened on: {error}"));
            ExitCode::from(super::FAILED)
        }
    }
}

async fn serve(address: &str) -> std::io::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let sandbox = Sandbox::bind(address).await?;
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    sandbox.run(stop).await;
    Ok(())
}
