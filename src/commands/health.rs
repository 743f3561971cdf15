//! `health`: asks a running gateway whether it serves, for a container's health check. Says it in one line.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Arg, ArgMatches, Command};
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::failure::Failure;
use super::{client, screen};

/// The command's name.
pub const NAME: &str = "health";

/// The whole of it, connecting included: a probe that hangs is as good as one that fails.
const BOUND: Duration = Duration::from_secs(3);

/// The command's flags and help.
#[must_use]
pub fn command() -> Command {
    client::with_connection(
        Command::new(NAME).about("Asks a running gateway whether it serves; exit code 0 if it does").arg(
            Arg::new("service")
                .long("service")
                .value_name("NAME")
                .default_value("")
                .hide_default_value(true)
                .help("Which service, such as federation.v1.FederationTasks; none: the gateway as a whole"),
        ),
    )
}

/// Runs the command: exit code 0 if the service is SERVING, 1 for anything else, 2 on bad usage.
#[must_use]
pub fn run(matches: &ArgMatches) -> ExitCode {
    match client::run(ask(matches)) {
        Ok(ServingStatus::Serving) => {
            // Whether anyone reads it changes nothing about the gateway's health.
            let _ = screen::write("SERVING\n");
            ExitCode::SUCCESS
        }
        Ok(other) => {
            screen::complain(&format!("{}\n", other.as_str_name()));
            ExitCode::FAILURE
        }
        Err(usage @ Failure::Usage(_)) => {
            screen::complain(&usage.words("health"));
            usage.exit_code()
        }
        Err(failure) => {
            screen::complain(&format!("{}\n", line(&failure)));
            ExitCode::FAILURE
        }
    }
}

async fn ask(matches: &ArgMatches) -> Result<ServingStatus, Failure> {
    let target = client::Target::new(matches, |name| std::env::var_os(name))?;
    let deadline = client::Deadline::after(BOUND);
    let request =
        HealthCheckRequest { service: matches.get_one::<String>("service").cloned().unwrap_or_default() };
    deadline
        .bound(async {
            let mut client = HealthClient::new(target.connect().await?);
            Ok(client.check(deadline.request(request)).await?.into_inner().status())
        })
        .await
}

fn line(failure: &Failure) -> String {
    match failure {
        Failure::Status(status) if status.code() == Code::NotFound => "unknown service".to_owned(),
        Failure::Deadline(_) => format!("no answer within {}", humantime::format_duration(BOUND)),
        other => other.headline(),
    }
}
