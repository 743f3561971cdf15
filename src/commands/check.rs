//! `check`: says whether the settings can be used, and what they amount to. Starts nothing, logs nothing.

use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command};

use crate::settings::flags;

/// The command's name.
pub const NAME: &str = "check";

const CONNECT: &str = "connect";

const EXAMPLES: &str = "\
Examples:
  federation-gateway check --config gateway.toml
  federation-gateway check && federation-gateway serve

Prints every setting with where it came from, secrets hidden. With bad settings it prints each problem to
standard error, on a line that begins with the setting's name, and exits with 2.";

/// The command's line.
#[must_use]
pub fn command() -> Command {
    Command::new(NAME)
        .about("Validate the settings and print them, secrets hidden")
        .arg(
            Arg::new(CONNECT)
                .long(CONNECT)
                .action(ArgAction::SetTrue)
                .help("Then log in once and say what came (not supported by this version)"),
        )
        .args(flags::all())
        .after_help(EXAMPLES)
}

/// Validates and prints.
#[must_use]
pub fn run(matches: &ArgMatches) -> ExitCode {
    let resolved = super::resolve(matches);
    if matches.get_flag(CONNECT) {
        super::complain("--connect: not supported by this version");
        return ExitCode::from(super::BAD_USAGE);
    }
    match resolved {
        Ok(resolved) => super::print(resolved.describe()),
        Err(code) => code,
    }
}
