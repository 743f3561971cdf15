//! What flags, environment and file give, with flag before environment before file. Judges no text.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::PathBuf;

use clap::ArgMatches;
use zeroize::Zeroizing;

use super::environment::Environment;
use super::file::Contents;
use super::flags;
use super::problem::{Origin, Problem};
use super::table::{Kind, SETTINGS, Setting};

/// The variable that names the file.
const CONFIG_VARIABLE: &str = "FEDERATION_CONFIG";

/// One text that was given, and where.
pub(super) struct Item {
    /// The text; wiped when dropped, as it may be a secret.
    pub(super) text: Zeroizing<String>,
    /// Where it came from.
    pub(super) origin: Origin,
}

/// What was given for one setting: one text, or for a list at least one.
pub(super) struct Given {
    pub(super) items: Vec<Item>,
}

impl Given {
    /// A list that stands in one text, with commas.
    pub(super) fn list(item: &Item) -> Self {
        let texts = item.text.split(',').map(|text| Zeroizing::new(text.trim().to_owned()));
        Self { items: texts.map(|text| Item { text, origin: item.origin.clone() }).collect() }
    }
}

/// Everything that was given.
pub(super) struct Sources {
    /// What counts for each setting that was given.
    pub(super) given: BTreeMap<&'static str, Given>,
    /// Settings that were given in a way that is already among the problems.
    pub(super) broken: BTreeSet<&'static str>,
    /// Whether the file could not be made out, so that what seems absent may stand there.
    pub(super) is_file_unreadable: bool,
    /// What is wrong so far.
    pub(super) problems: Vec<Problem>,
}

impl Sources {
    /// Gathers all that was given.
    pub(super) fn gather(matches: &ArgMatches, environment: &dyn Environment) -> Self {
        let mut contents = contents(matches, environment);
        let mut sources = Self {
            given: BTreeMap::new(),
            broken: BTreeSet::new(),
            is_file_unreadable: contents.is_unreadable,
            problems: std::mem::take(&mut contents.problems),
        };
        for setting in SETTINGS {
            let found = from_flag(setting, matches).or_else(|| from_variable(setting, environment));
            match found {
                Some(Ok(given)) => drop(sources.given.insert(setting.name, given)),
                Some(Err(problem)) => {
                    sources.broken.insert(setting.name);
                    sources.problems.push(problem);
                }
                None if contents.broken.contains(setting.name) => {
                    sources.broken.insert(setting.name);
                }
                None => {
                    if let Some(given) = contents.given.remove(setting.name) {
                        sources.given.insert(setting.name, given);
                    }
                }
            }
        }
        sources
    }
}

/// What the file gives, if one is named.
fn contents(matches: &ArgMatches, environment: &dyn Environment) -> Contents {
    let flag = flags::values(matches, flags::CONFIG).pop().map(|path| (path, Origin::Flag(flags::CONFIG)));
    let variable = || {
        let path = environment.variable(CONFIG_VARIABLE).filter(|path| !path.is_empty())?;
        Some((path, Origin::Variable(CONFIG_VARIABLE.to_owned())))
    };
    match flag.or_else(variable) {
        Some((path, origin)) => Contents::read(&PathBuf::from(path), origin),
        None => Contents::default(),
    }
}

fn from_flag(setting: &'static Setting, matches: &ArgMatches) -> Option<Result<Given, Problem>> {
    let values = flags::values(matches, setting.name);
    if values.is_empty() {
        return None;
    }
    let origin = Origin::Flag(setting.name);
    let mut items = Vec::new();
    for value in values {
        match given(setting, value, origin.clone()) {
            Ok(given) => items.extend(given.items),
            Err(problem) => return Some(Err(problem)),
        }
    }
    Some(Ok(Given { items }))
}

fn from_variable(setting: &'static Setting, environment: &dyn Environment) -> Option<Result<Given, Problem>> {
    let name = setting.variable();
    let value = environment.variable(&name).filter(|value| !value.is_empty())?;
    Some(given(setting, value, Origin::Variable(name)))
}

fn given(setting: &'static Setting, value: OsString, origin: Origin) -> Result<Given, Problem> {
    let text = value.into_string().map(Zeroizing::new).map_err(|value| {
        // The bytes may be a secret's.
        drop(Zeroizing::new(value.into_encoded_bytes()));
        Problem {
            setting: setting.name.to_owned(),
            what: "the value is not UTF-8 text".to_owned(),
            origin: Some(origin.clone()),
            remedy: "give it as UTF-8".to_owned(),
        }
    })?;
    let item = Item { text, origin };
    Ok(if setting.kind == Kind::Addresses { Given::list(&item) } else { Given { items: vec![item] } })
}
