//! Reads what was given as typed values and gathers every problem. Knows the table; no rule between settings.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use super::address::ListenAddress;
use super::given::{Item, Sources};
use super::parse;
use super::problem::{Fault, Origin, Problem, one_line};
use super::table::{self, SETTINGS, Setting, Support};

/// Takes one setting after the other; a bad one becomes a problem and is read as its default, so that the
/// others are judged too.
pub(super) struct Reader {
    sources: Sources,
    problems: Vec<Problem>,
    faulty: BTreeSet<&'static str>,
    derived: BTreeMap<&'static str, String>,
}

impl Reader {
    pub(super) fn new(mut sources: Sources) -> Self {
        let problems = std::mem::take(&mut sources.problems);
        let faulty = sources.broken.clone();
        Self { sources, problems, faulty, derived: BTreeMap::new() }
    }

    /// Whether somebody gave it, well or badly.
    pub(super) fn is_given(&self, name: &str) -> bool {
        self.sources.given.contains_key(name) || self.sources.broken.contains(name)
    }

    /// Whether nothing is wrong with it so far.
    pub(super) fn is_sound(&self, name: &str) -> bool {
        !self.faulty.contains(name)
    }

    /// Whether the absence of a setting may be the file's fault, which is told already.
    pub(super) fn may_be_hidden(&self) -> bool {
        self.sources.is_file_unreadable
    }

    /// The value, or the default's if nobody gave a good one; `None` without a default.
    pub(super) fn value<T: PartialEq>(
        &mut self,
        name: &'static str,
        parse: impl Fn(&str) -> Result<T, Fault>,
    ) -> Option<T> {
        let setting = known(name);
        let default = setting.default.and_then(|text| parse(text).ok());
        let Some(given) = self.sources.given.get(name) else { return default };
        // A single setting has one item.
        let item = given.items.first()?;
        match parse(&item.text) {
            Ok(value) if setting.support == Support::None && default.as_ref() != Some(&value) => {
                let origin = item.origin.clone();
                self.refuse(name, origin, setting.default);
                default
            }
            Ok(value) => Some(value),
            Err(fault) => {
                let problem = problem(setting, item, fault);
                self.problem_with(name, problem);
                default
            }
        }
    }

    /// The addresses to listen on.
    pub(super) fn listen(&mut self, name: &'static str) -> Vec<(ListenAddress, Origin)> {
        let setting = known(name);
        let Some(given) = self.sources.given.get(name) else {
            let default = setting.default.and_then(|text| super::address::listen(text).ok());
            return default.into_iter().map(|address| (address, Origin::Default)).collect();
        };
        let mut problems = Vec::new();
        let mut addresses = Vec::new();
        for item in &given.items {
            match super::address::listen(&item.text) {
                Ok(ListenAddress::Unix(_)) if setting.support != Support::Full => problems.push(Problem {
                    setting: name.to_owned(),
                    what: "a unix: address is not supported by this version".to_owned(),
                    origin: Some(item.origin.clone()),
                    remedy: "give a host:port".to_owned(),
                }),
                Ok(address) => addresses.push((address, item.origin.clone())),
                Err(fault) => problems.push(problem(setting, item, fault)),
            }
        }
        for problem in problems {
            self.problem_with(name, problem);
        }
        addresses
    }

    pub(super) fn duration(&mut self, name: &'static str) -> Duration {
        let kind = known(name).kind;
        self.value(name, |text| parse::duration(text, kind)).expect("every duration has a default")
    }

    pub(super) fn count(&mut self, name: &'static str) -> u32 {
        let kind = known(name).kind;
        self.value(name, |text| parse::count(text, kind)).expect("every count has a default")
    }

    pub(super) fn switch(&mut self, name: &'static str) -> bool {
        self.value(name, parse::switch).expect("every switch has a default")
    }

    pub(super) fn path(&mut self, name: &'static str) -> Option<PathBuf> {
        self.value(name, parse::path)
    }

    pub(super) fn text(&mut self, name: &'static str) -> Option<String> {
        self.value(name, parse::visible)
    }

    /// The text as it was given, for what this reader has no type for.
    pub(super) fn raw(&self, name: &str) -> Option<&str> {
        Some(self.sources.given.get(name)?.items.first()?.text.as_str())
    }

    /// Where the value came from; `None` if nobody gave one.
    pub(super) fn origin(&self, name: &str) -> Option<Origin> {
        Some(self.sources.given.get(name)?.items.first()?.origin.clone())
    }

    /// Says what is wrong with a setting beyond its text.
    pub(super) fn fail(&mut self, name: &'static str, what: impl Into<String>, remedy: impl Into<String>) {
        let problem = Problem {
            setting: name.to_owned(),
            what: what.into(),
            origin: self.origin(name),
            remedy: remedy.into(),
        };
        self.problem_with(name, problem);
    }

    /// The same, of one item of a list.
    pub(super) fn problem_with(&mut self, name: &'static str, problem: Problem) {
        self.faulty.insert(name);
        self.problems.push(problem);
    }

    /// Says what a setting that nobody gave amounts to.
    pub(super) fn derive(&mut self, name: &'static str, text: String) {
        self.derived.insert(name, text);
    }

    fn refuse(&mut self, name: &'static str, origin: Origin, default: Option<&str>) {
        let remedy = match default {
            Some(default) => format!("leave it at its default, {default}"),
            None => "leave it out".to_owned(),
        };
        let what = "not supported by this version".to_owned();
        self.problem_with(name, Problem { setting: name.to_owned(), what, origin: Some(origin), remedy });
    }

    /// Every problem, and each setting's text and origin, in the table's order.
    pub(super) fn finish(self) -> (Vec<Problem>, Vec<(&'static str, String, Origin)>) {
        let rows = SETTINGS.iter().map(|setting| {
            let given = self.sources.given.get(setting.name);
            let origin = given.and_then(|given| given.items.first()).map(|item| item.origin.clone());
            let text = match (given, self.derived.get(setting.name), setting.default) {
                (Some(_), _, _) if setting.is_secret() => "[hidden]".to_owned(),
                (Some(given), _, _) => {
                    let texts: Vec<_> = given.items.iter().map(|item| one_line(&item.text)).collect();
                    texts.join(",")
                }
                (None, Some(derived), _) => derived.clone(),
                (None, None, Some(default)) => default.to_owned(),
                (None, None, None) => "(unset)".to_owned(),
            };
            (setting.name, text, origin.unwrap_or(Origin::Default))
        });
        let rows = rows.collect();
        (self.problems, rows)
    }
}

fn known(name: &str) -> &'static Setting {
    table::find(name).expect("only settings of the table are read")
}

fn problem(setting: &Setting, item: &Item, fault: Fault) -> Problem {
    // The file's values are never shown: whoever reads a log may not be one who may read the file.
    let is_shown = setting.shows_bad_value() && !matches!(item.origin, Origin::File { .. });
    let subject = if is_shown { format!("\"{}\"", one_line(&item.text)) } else { "the value".to_owned() };
    Problem {
        setting: setting.name.to_owned(),
        what: format!("{subject} {}", fault.predicate),
        origin: Some(item.origin.clone()),
        remedy: fault.remedy,
    }
}
