//! The settings as flags of a command. Owns no meaning: what a flag holds is judged with the other sources.

use std::ffi::OsString;

use clap::builder::ValueParser;
use clap::{Arg, ArgAction};

use super::table::{Kind, SETTINGS, Setting, Support};

/// The id of the flag that names the file.
pub const CONFIG: &str = "config";
/// The id of the flag, of `serve` alone, that brings the simulated vendor.
pub const SANDBOX: &str = "sandbox";

/// Every setting's flag, and `--config`.
#[must_use]
pub fn all() -> Vec<Arg> {
    let config = Arg::new(CONFIG)
        .long(CONFIG)
        .value_name("FILE")
        .value_parser(ValueParser::os_string())
        .help("Read settings from this TOML file [env: FEDERATION_CONFIG]");
    let settings = SETTINGS.iter().filter(|setting| setting.has_flag()).map(flag);
    std::iter::once(config).chain(settings).collect()
}

/// The `--sandbox` flag.
#[must_use]
pub fn sandbox() -> Arg {
    Arg::new(SANDBOX)
        .long(SANDBOX)
        .action(ArgAction::SetTrue)
        .help("Serve a simulated vendor on a loopback port; takes no credentials")
}

fn flag(setting: &'static Setting) -> Arg {
    // No default here: a flag that nobody gave must be told from one that was. No parsing either, so that a bad
    // value is named beside all others, not text at all included.
    let flag = Arg::new(setting.name)
        .long(setting.name)
        .help_heading(setting.group)
        .value_name(value_name(setting.kind))
        .value_parser(ValueParser::os_string())
        .allow_negative_numbers(true)
        .help(help(setting));
    match setting.kind {
        Kind::Addresses => flag.action(ArgAction::Append),
        Kind::Switch => flag.num_args(0..=1).require_equals(true).default_missing_value("true"),
        _ => flag,
    }
}

fn help(setting: &Setting) -> String {
    let default = setting.default.map(|default| format!(" [default: {default}]")).unwrap_or_default();
    let support = match setting.support {
        Support::Full => "",
        Support::NoUnixSocket => " (unix: is not supported by this version)",
        Support::None => " (not supported by this version)",
    };
    format!("{}{support}{default}", setting.help)
}

fn value_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Addresses | Kind::Address => "ADDRESS",
        Kind::Url | Kind::Store => "URL",
        Kind::Text | Kind::Secret => "TEXT",
        Kind::Path => "FILE",
        Kind::Duration { .. } => "DURATION",
        Kind::Count { .. } => "NUMBER",
        Kind::Switch => "BOOL",
        Kind::Filter => "FILTER",
        Kind::LogFormat => "FORMAT",
    }
}

/// What the flag of that id was given, if the command has it at all.
pub(super) fn values(matches: &clap::ArgMatches, id: &str) -> Vec<OsString> {
    matches
        .try_get_many::<OsString>(id)
        .ok()
        .flatten()
        .map(|values| values.cloned().collect())
        .unwrap_or_default()
}

/// Whether `--sandbox` was given, if the command has it at all.
pub(super) fn is_sandboxed(matches: &clap::ArgMatches) -> bool {
    matches.try_get_one::<bool>(SANDBOX).ok().flatten().copied().unwrap_or(false)
}
