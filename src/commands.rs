//! The commands: which there are, and what each exit code says. Owns no command's work.

pub mod check;
mod client;
mod failure;
pub mod health;
mod json;
mod live;
pub mod query;
mod render;
pub mod sandbox;
mod screen;
pub mod serve;
pub mod watch;

use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::{ArgMatches, Command};

use crate::settings::{self, ProcessEnvironment, Resolved};

/// The exit code of a command that did its work in vain.
pub const FAILED: u8 = 1;
/// The exit code for a command line or settings that can't be used.
pub const BAD_USAGE: u8 = 2;

const EXAMPLES: &str = "\
Try it, with nothing but this binary:
  federation-gateway serve --sandbox
  federation-gateway query 1659446191820726274
  federation-gateway watch fail-1

Serve the vendor's tasks:
  export FEDERATION_APP_KEY=… FEDERATION_APP_SECRET=…
  federation-gateway check
  federation-gateway serve

Exit codes: 0 all went well, 1 it failed, 2 bad usage or settings.";

/// The whole command line.
#[must_use]
pub fn command() -> Command {
    Command::new("federation-gateway")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Serves a contact centre's federated-user tasks over gRPC")
        .after_help(EXAMPLES)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommands([
            serve::command(),
            sandbox::command(),
            query::command(),
            watch::command(),
            health::command(),
            check::command(),
        ])
}

/// Runs the command that was asked for.
#[must_use]
pub fn run(matches: &ArgMatches) -> ExitCode {
    match matches.subcommand() {
        Some((serve::NAME, matches)) => match resolve(matches) {
            Ok(resolved) => serve::run(resolved.settings),
            Err(code) => code,
        },
        Some((check::NAME, matches)) => check::run(matches),
        Some((sandbox::NAME, matches)) => sandbox::run(matches),
        Some((query::NAME, matches)) => query::run(matches),
        Some((watch::NAME, matches)) => watch::run(matches),
        Some((health::NAME, matches)) => health::run(matches),
        _ => ExitCode::from(BAD_USAGE),
    }
}

/// The settings, or every problem told and the exit code for that.
fn resolve(matches: &ArgMatches) -> Result<Resolved, ExitCode> {
    settings::resolve(matches, &ProcessEnvironment).map_err(|problems| {
        for problem in &problems {
            complain(problem);
        }
        ExitCode::from(BAD_USAGE)
    })
}

/// Writes a line to standard error; if nobody reads there, there is nobody to tell.
fn complain(line: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Writes to standard output as a command's whole result. A reader that left early has what it wanted.
fn print(text: impl Display) -> ExitCode {
    let mut output = io::stdout().lock();
    match write!(output, "{text}").and_then(|()| output.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            complain(format_args!("standard output can't be written: {error}"));
            ExitCode::from(FAILED)
        }
        _ => ExitCode::SUCCESS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn every_command_is_there() {
        let command = command();
        let names: Vec<_> = command.get_subcommands().map(Command::get_name).collect();
        assert_eq!(names, ["serve", "sandbox", "query", "watch", "health", "check"]);
    }
}
