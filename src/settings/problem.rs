//! What is wrong with a setting, in one line that begins with its name, and where a value came from.

use std::fmt;
use std::sync::Arc;

/// Where a setting's value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody gave one.
    Default,
    /// The flag of that name.
    Flag(&'static str),
    /// An environment variable.
    Variable(String),
    /// A place in the file, counted from 1.
    File {
        /// The file's path as it was given.
        path: Arc<str>,
        /// The line.
        line: usize,
        /// The character in the line.
        column: usize,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Flag(name) => write!(f, "flag --{name}"),
            Self::Variable(name) => write!(f, "variable {name}"),
            Self::File { path, line, column } => write!(f, "{}:{line}:{column}", one_line(path)),
        }
    }
}

/// One thing that is wrong: shown as `name: what (where it came from); what to do`, on one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The setting's name; for an unknown key, the key; `config` for the file as a whole.
    pub setting: String,
    /// What is wrong.
    pub what: String,
    /// Where the value came from; `None` if nobody gave one.
    pub origin: Option<Origin>,
    /// What to do.
    pub remedy: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.setting, self.what)?;
        if let Some(origin) = &self.origin {
            write!(f, " ({origin})")?;
        }
        if !self.remedy.is_empty() {
            write!(f, "; {}", self.remedy)?;
        }
        Ok(())
    }
}

/// What is wrong with a text by itself, whoever gave it: a predicate ("is below 50ms"), and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) predicate: String,
    pub(super) remedy: String,
}

impl Fault {
    pub(super) fn new(predicate: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { predicate: predicate.into(), remedy: remedy.into() }
    }
}

/// The text with whatever would break the line or fool a terminal escaped.
pub(super) fn one_line(text: &str) -> String {
    // `escape_debug` also escapes quotes and backslashes, which harm nobody.
    text.chars()
        .flat_map(|c| {
            let plain = matches!(c, '"' | '\'' | '\\');
            plain.then_some(c).into_iter().chain((!plain).then(|| c.escape_debug()).into_iter().flatten())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_one_line() {
        let problem = Problem {
            setting: "poll-min".to_owned(),
            what: "is odd".to_owned(),
            origin: Some(Origin::File { path: "/tmp/a\nb".into(), line: 3, column: 9 }),
            remedy: "mend it".to_owned(),
        };
        assert_eq!(problem.to_string(), "poll-min: is odd (/tmp/a\\nb:3:9); mend it");
        assert_eq!(one_line("a\u{202e}\"\\'é\t"), "a\\u{202e}\"\\'é\\t");
    }
}
