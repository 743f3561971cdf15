//! The settings' file: TOML in, texts with their places out. Knows the settings' names and kinds, judges no text.
//!
//! No problem found here shows a value: the parser's own messages print whole lines, so only their place is taken.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};
use zeroize::Zeroizing;

use super::given::{Given, Item};
use super::problem::{Origin, Problem, one_line};
use super::table::{self, Kind, Setting};
use crate::token::secret::read_bounded;

/// Larger than any settings' file, smaller than a device that never ends.
const MAX_FILE_BYTES: usize = 1024 * 1024;

/// What a file gives.
#[derive(Default)]
pub(super) struct Contents {
    /// The settings that it gives.
    pub(super) given: BTreeMap<&'static str, Given>,
    /// Those it gives in a way that is already among the problems.
    pub(super) broken: BTreeSet<&'static str>,
    /// Whether parts of it could not be made out, so that what seems absent may stand there.
    pub(super) is_unreadable: bool,
    /// What is wrong with it.
    pub(super) problems: Vec<Problem>,
}

impl Contents {
    /// Reads a file; `origin` says who named it.
    pub(super) fn read(path: &Path, origin: Origin) -> Self {
        let shown = one_line(&path.display().to_string());
        let unreadable = |what: String, remedy: &str| Self {
            is_unreadable: true,
            problems: vec![Problem {
                setting: "config".to_owned(),
                what,
                origin: Some(origin.clone()),
                remedy: remedy.to_owned(),
            }],
            ..Self::default()
        };
        let bytes = match read_bounded(path, MAX_FILE_BYTES) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return unreadable(format!("{shown} holds more than 1 MiB"), "name a settings file"),
            Err(error) => {
                return unreadable(format!("{shown} can't be read: {error}"), "name a file that can be read");
            }
        };
        match std::str::from_utf8(&bytes) {
            Ok(text) => Self::parse(text, &path.display().to_string()),
            Err(error) => {
                let readable = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
                let (line, column) = position(&readable, readable.len());
                unreadable(format!("{shown}:{line}:{column} is not UTF-8 text"), "save the file as UTF-8")
            }
        }
    }

    /// Reads a file's text; `path` is only shown.
    pub(super) fn parse(text: &str, path: &str) -> Self {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let path: Arc<str> = path.into();
        let place = |offset: usize| {
            let (line, column) = position(text, offset);
            Origin::File { path: Arc::clone(&path), line, column }
        };
        let mut contents = Self::default();
        let (document, errors) = DeTable::parse_recoverable(text);
        // One slip can upset the parser several times over; the first complaint on a line says where to look.
        let mut bad_lines = BTreeSet::new();
        for error in errors {
            let offset = error.span().map_or(0, |span| span.start);
            contents.is_unreadable = true;
            if bad_lines.insert(position(text, offset).0) {
                let (what, remedy) = explain(error.message());
                contents.problems.push(Problem {
                    setting: "config".to_owned(),
                    what: what.to_owned(),
                    origin: Some(place(offset)),
                    remedy: remedy.to_owned(),
                });
            }
        }
        let mut entries: Vec<_> = document.into_inner().into_iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        for (key, value) in entries {
            let first = position(text, key.span().start).0;
            let last = position(text, value.span().end.max(key.span().end)).0;
            let is_guess = bad_lines.range(first..=last).next().is_some();
            match table::find(key.get_ref()) {
                // What the parser guessed after an error is nothing to judge: a key may be half of a value.
                Some(setting) if is_guess => drop(contents.broken.insert(setting.name)),
                None if is_guess => {}
                None => contents.problems.push(unknown(key.get_ref(), place(key.span().start))),
                Some(setting) => match given(setting, value, &place) {
                    Ok(given) => drop(contents.given.insert(setting.name, given)),
                    Err(problem) => {
                        contents.broken.insert(setting.name);
                        contents.problems.push(problem);
                    }
                },
            }
        }
        // The parser complains in an order of its own; people read from the top.
        contents.problems.sort_by_key(|problem| match problem.origin {
            Some(Origin::File { line, column, .. }) => (line, column),
            _ => (0, 0),
        });
        contents
    }
}

/// One setting's value as the texts it stands for.
fn given(
    setting: &'static Setting,
    value: Spanned<DeValue<'_>>,
    place: &impl Fn(usize) -> Origin,
) -> Result<Given, Problem> {
    let origin = place(value.span().start);
    let wrong_type = |what: &str, origin: Origin| Problem {
        setting: setting.name.to_owned(),
        what: format!("the value is {what}"),
        origin: Some(origin),
        remedy: format!("give {}", wanted(setting.kind)),
    };
    let item = |text: String| Item { text: Zeroizing::new(text), origin: origin.clone() };
    match value.into_inner() {
        DeValue::String(text) if setting.kind == Kind::Addresses => Ok(Given::list(&item(text.into_owned()))),
        DeValue::String(text) => Ok(Given { items: vec![item(text.into_owned())] }),
        DeValue::Boolean(value) if setting.kind == Kind::Switch => {
            Ok(Given { items: vec![item(value.to_string())] })
        }
        DeValue::Integer(value) if matches!(setting.kind, Kind::Count { .. }) => {
            let number = i128::from_str_radix(value.as_str(), value.radix())
                .map_err(|_| wrong_type("an integer out of every range", origin.clone()))?;
            Ok(Given { items: vec![item(number.to_string())] })
        }
        DeValue::Array(values) if setting.kind == Kind::Addresses => {
            let items = values.into_iter().map(|value| {
                let origin = place(value.span().start);
                match value.into_inner() {
                    DeValue::String(text) => Ok(Item { text: Zeroizing::new(text.into_owned()), origin }),
                    other => Err(wrong_type(&format!("a list that holds {}", type_name(&other)), origin)),
                }
            });
            let items = items.collect::<Result<Vec<_>, _>>()?;
            if items.is_empty() { Err(wrong_type("an empty list", origin)) } else { Ok(Given { items }) }
        }
        other => Err(wrong_type(type_name(&other), origin)),
    }
}

fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

fn wanted(kind: Kind) -> &'static str {
    match kind {
        Kind::Addresses => "a list of strings like [\"127.0.0.1:50051\"]",
        Kind::Duration { .. } => "a string like \"500ms\", \"30s\" or \"5m\"",
        Kind::Count { .. } => "an integer",
        Kind::Switch => "true or false",
        _ => "a string in quotes",
    }
}

fn unknown(key: &str, origin: Origin) -> Problem {
    let likely = key.replace('_', "-").to_ascii_lowercase();
    let likely = table::find(&likely).map(|setting| setting.name);
    // A key is quoted text at most; a long one would drown the line.
    let name: String = key.chars().take(64).collect();
    Problem {
        setting: one_line(&name),
        what: "unknown key".to_owned(),
        origin: Some(origin),
        remedy: match likely {
            Some(name) => format!("write {name}"),
            None => "remove it, or see `federation-gateway serve --help` for the names".to_owned(),
        },
    }
}

/// The parser's message in our own words: only the texts known to hold nothing of the file are told apart.
fn explain(message: &str) -> (&'static str, &'static str) {
    match message {
        "duplicate key" => ("the key stands here a second time", "keep one of them"),
        _ if message.starts_with("string values must be quoted") => {
            ("not valid TOML: a text without quotes", "put it in quotes")
        }
        _ => ("not valid TOML", "write lines like name = \"value\""),
    }
}

/// Line and character of a byte offset, counted from 1.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let mut offset = offset.min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    let before = &text[..offset];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<String> {
        Contents::parse(text, "f.toml").problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_type_a_key_may_have() {
        let contents = Contents::parse(
            "max-attempts = 0x10\nplaintext = true\nlisten = [\"[::1]:1\",\n  '127.0.0.1:2']\npoll-min = \"1s\"\n\
             cache-capacity = \"12\"\nallow-plaintext-upstream = \"false\"",
            "f.toml",
        );
        assert!(contents.problems.is_empty());
        let text = |name: &str| contents.given[name].items[0].text.to_string();
        assert_eq!(text("max-attempts"), "16");
        assert_eq!(text("plaintext"), "true");
        assert_eq!(text("poll-min"), "1s");
        assert_eq!(text("cache-capacity"), "12");
        let second = &contents.given["listen"].items[1];
        assert_eq!(second.text.as_str(), "127.0.0.1:2");
        assert_eq!(second.origin, Origin::File { path: "f.toml".into(), line: 4, column: 3 });
    }

    #[test]
    fn a_list_may_be_one_text_with_commas() {
        let contents = Contents::parse("listen = \"a:1, b:2\"", "f.toml");
        let items: Vec<_> = contents.given["listen"].items.iter().map(|item| item.text.as_str()).collect();
        assert_eq!(items, ["a:1", "b:2"]);
    }

    #[test]
    fn wrong_types_and_unknown_keys_are_named_with_their_places() {
        let found = problems(
            "poll-min = 5\nmax-attempts = 1.5\n  nonsense = 1\npoll_max = \"1s\"\nlisten = [\"a:1\", 7]\n\
             log = { a = 1 }\nstore = 1979-05-27\n[sub]\nx = 1\n",
        );
        assert_eq!(
            found,
            [
                "poll-min: the value is an integer (f.toml:1:12); give a string like \"500ms\", \"30s\" or \"5m\"",
                "max-attempts: the value is a float (f.toml:2:16); give an integer",
                "nonsense: unknown key (f.toml:3:3); remove it, or see `federation-gateway serve --help` for the names",
                "poll_max: unknown key (f.toml:4:1); write poll-max",
                "listen: the value is a list that holds an integer (f.toml:5:18); give a list of strings like [\"127.0.0.1:50051\"]",
                "log: the value is a table (f.toml:6:7); give a string in quotes",
                "store: the value is a date or time (f.toml:7:9); give a string in quotes",
                "sub: unknown key (f.toml:8:2); remove it, or see `federation-gateway serve --help` for the names",
            ]
        );
        assert_eq!(problems("listen = []").len(), 1);
        assert_eq!(problems("max-attempts = 99999999999999999999999999999999999999999999").len(), 1);
    }

    #[test]
    fn a_slip_names_its_place_and_shows_nothing() {
        for (text, place) in [
            ("log = \"info\"\napp-secret = hunter2\n", "f.toml:2:14"),
            ("app-secret = \"hunter2\n", "f.toml:1:"),
            ("app-secret \"hunter2\"\n", "f.toml:1:"),
            ("app-secret = \"hunter2\" hunter2\n", "f.toml:1:"),
            ("app-secret = \"\\qhunter2\"\n", "f.toml:1:"),
            ("app-secret = '''hunter2\nhunter2", "f.toml:"),
            ("app-secret = [\"hunter2\"", "f.toml:1:"),
            ("app-secret = 12hunter2", "f.toml:1:"),
            ("app-secret = \"hunter2\"\napp-secret = \"hunter2\"", "f.toml:2:1"),
            ("hunter2", "f.toml:1:"),
            ("app-secret = 7hunter2\nunknown = 1\n", "f.toml:1:"),
        ] {
            let contents = Contents::parse(text, "f.toml");
            assert!(contents.is_unreadable, "{text}");
            let found = problems(text);
            assert!(found[0].starts_with("config: ") && found[0].contains(place), "{text}: {found:?}");
            assert!(found.iter().all(|line| !line.contains("hunter2")), "{text}: {found:?}");
            let is_twice = text.matches("app-secret").count() == 2;
            assert!(is_twice || !contents.given.contains_key("app-secret"), "{text}");
        }
        // Nothing else is hidden by it, and all stands in the file's order.
        let found = problems("odd = 1\napp-secret = 7hunter2\nunknown = 1\n=\n");
        let names: Vec<_> = found.iter().map(|line| line.split(':').next().unwrap()).collect();
        assert_eq!(names, ["odd", "config", "unknown", "config"]);
    }

    #[test]
    fn marks_and_endings_of_other_systems() {
        let contents = Contents::parse("\u{feff}log = \"info\"\r\nbad = 1\r\n", "f.toml");
        assert_eq!(contents.given["log"].items[0].text.as_str(), "info");
        assert!(contents.problems[0].to_string().contains("f.toml:2:1"));
    }

    #[test]
    fn files_that_are_none() {
        let read = |path: &Path| Contents::read(path, Origin::Flag("config"));
        assert!(
            read(Path::new("/no/such")).problems[0].to_string().starts_with("config: /no/such can't be read")
        );
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(read(directory.path()).problems.len(), 1);
        let file = directory.path().join("f.toml");
        std::fs::write(&file, b"log = \"info\"\nx = \"\xff\"").unwrap();
        assert!(read(&file).problems[0].to_string().contains("f.toml:2:6 is not UTF-8 text"));
        std::fs::write(&file, vec![b'#'; MAX_FILE_BYTES + 1]).unwrap();
        assert!(read(&file).problems[0].to_string().contains("1 MiB"));
    }
}
