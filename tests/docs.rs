//! What README says of settings, errors, commands and flags is what the code says.

use std::collections::BTreeSet;

use federation_gateway::settings::table::{SETTINGS, Setting};
use federation_gateway::{commands, grpc, settings};

const README: &str = include_str!("../README.md");

/// The flag that every command has without saying so.
const HELP: &str = "help";
/// Variables that are no setting's: they are the commands' own.
const OF_COMMANDS: &[&str] = &["FEDERATION_CONFIG", "FEDERATION_ADDR"];

/// README's text between a pair of markers.
fn between_markers(name: &str) -> &'static str {
    let (begin, end) = (format!("<!-- {name}:begin -->\n"), format!("<!-- {name}:end -->"));
    let (_, rest) = README.split_once(&begin).unwrap_or_else(|| panic!("README has no {begin}"));
    rest.split_once(&end).unwrap_or_else(|| panic!("README has no {end}")).0.trim()
}

/// Compares, and says how to mend README.
fn assert_same(name: &str, code: &str) {
    let code = code.trim();
    assert!(between_markers(name) == code, "between README's markers `{name}` must stand:\n\n{code}\n");
}

#[test]
fn the_table_of_settings_is_the_codes() {
    assert_same("settings", &settings::markdown());
}

#[test]
fn the_table_of_errors_is_the_codes() {
    assert_same("errors", &grpc::errors_markdown());
}

/// The words after the gateway's name, of each line in a code block that has it.
fn commands_in_readme() -> Vec<Vec<String>> {
    let mut is_code = false;
    let mut found = Vec::new();
    for line in README.replace("\\\n", " ").lines() {
        if line.starts_with("```") {
            is_code = !is_code;
        } else if is_code {
            let is_gateway =
                |word: &&str| *word == "federation-gateway" || word.ends_with("/federation-gateway");
            let mut words = line.split_whitespace().skip_while(|word| !is_gateway(word));
            if words.next().is_some() {
                let ends = ["&", "&&", "||", "|", ";", "#"];
                found.push(words.take_while(|word| !ends.contains(word)).map(str::to_owned).collect());
            }
        }
    }
    found
}

#[test]
fn every_command_that_is_shown_is_there_with_its_flags() {
    let whole = commands::command();
    let mut shown = BTreeSet::new();
    for words in commands_in_readme() {
        let Some((name, rest)) = words.split_first() else { continue };
        let command = whole.find_subcommand(name).unwrap_or_else(|| panic!("no such command: {words:?}"));
        shown.insert(name.clone());
        let flags: BTreeSet<_> = command.get_arguments().filter_map(clap::Arg::get_long).collect();
        for word in rest.iter().filter_map(|word| word.strip_prefix("--")) {
            let flag = word.split('=').next().unwrap_or_default();
            assert!(flags.contains(flag), "{name} has no --{flag}: {words:?}");
        }
    }
    let all: BTreeSet<_> = whole.get_subcommands().map(|command| command.get_name().to_owned()).collect();
    assert_eq!(shown, all, "each command is shown once at least");
}

#[test]
fn every_flag_and_variable_that_is_named_is_there() {
    let whole = commands::command();
    let flags: BTreeSet<_> = whole
        .get_subcommands()
        .flat_map(|command| command.get_arguments().filter_map(clap::Arg::get_long))
        .chain([HELP])
        .collect();
    let variables: BTreeSet<_> = SETTINGS.iter().map(Setting::variable).collect();
    let is_end = |letter: char| !letter.is_ascii_alphanumeric() && letter != '-' && letter != '_';
    for word in README.split(is_end) {
        if word.starts_with("FEDERATION_") && word != "FEDERATION_" && !OF_COMMANDS.contains(&word) {
            assert!(variables.contains(word), "no variable {word}");
        }
    }
    // In code spans alone: other programs' command lines are checked by running them.
    let prose = README.split("```").step_by(2);
    for span in prose.flat_map(|text| text.split('`').skip(1).step_by(2)) {
        for flag in span.split(is_end).filter_map(|word| word.strip_prefix("--")) {
            assert!(flags.contains(flag), "no flag --{flag}");
        }
    }
}
