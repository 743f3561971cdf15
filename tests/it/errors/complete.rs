//! That the table has all there is: every reason of the code in every form, and every row of README's, whose columns
//! are held against what the rows show.

use std::collections::BTreeSet;

use federation_gateway::task::failure::Reason;

use super::row::{FORMS, Form, Row};

const README: &str = include_str!("../../../README.md");

/// Who is not here, and why.
fn is_excused(reason: Reason) -> bool {
    match reason {
        // Callers' tokens are not asked for in this version.
        Reason::CallerUnauthenticated => true,
        // Nothing that a caller or the vendor can do brings it about; the tests of `tasks` show what a panic leads to.
        Reason::GatewayDefect => true,
        _ => false,
    }
}

/// A row of README's table.
struct Said {
    happened: &'static str,
    code: &'static str,
    reason: &'static str,
    who_acts: &'static str,
    tried_again: &'static str,
}

fn readme() -> Vec<Said> {
    let (_, table) = README.split_once("<!-- errors:begin -->").expect("README has the table's beginning");
    let (table, _) = table.split_once("<!-- errors:end -->").expect("README has the table's end");
    let cell = |cell: &'static str| cell.trim().trim_matches('`');
    let rows = table.lines().filter(|line| line.starts_with('|')).skip(2).map(|line| {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(cell).collect();
        let [happened, code, reason, who_acts, tried_again] = cells[..] else {
            panic!("five columns: {line}")
        };
        Said { happened, code, reason, who_acts, tried_again }
    });
    rows.collect()
}

/// `UPPER_CASE` of a code's name.
fn name(row: &Row) -> String {
    let name = format!("{:?}", row.code);
    let words = name.char_indices().map(|(at, letter)| match letter.is_uppercase() && at > 0 {
        true => format!("_{letter}"),
        false => letter.to_uppercase().to_string(),
    });
    words.collect()
}

/// Whether a row is one of those that README's line tells of.
fn is_of(row: &Row, said: &Said) -> bool {
    if (&*name(row), row.reason.name()) != (said.code, said.reason) {
        return false;
    }
    // A resultCode that is named is meant; where none is, any other than those.
    match said.happened.split_once("resultCode ") {
        Some((_, code)) if code.chars().all(|letter| letter.is_ascii_digit()) => {
            row.result_code == Some(code)
        }
        _ => true,
    }
}

pub(super) fn check(table: &[Row]) {
    let told: BTreeSet<(&str, Form)> =
        table.iter().flat_map(|row| row.forms.iter().map(|form| (row.reason.name(), *form))).collect();
    for reason in Reason::ALL.into_iter().filter(|reason| !is_excused(*reason)) {
        for form in FORMS {
            let is_impossible = (reason, *form) == (Reason::InvalidField, Form::EndOfWatch);
            assert!(is_impossible || told.contains(&(reason.name(), *form)), "no row: {reason} as {form:?}");
        }
    }
    let readme = readme();
    assert_eq!(readme.len(), Reason::ALL.len() + 2, "three lines for one of them");
    for said in &readme {
        if Reason::ALL.iter().any(|reason| is_excused(*reason) && reason.name() == said.reason) {
            continue;
        }
        let rows: Vec<_> = table.iter().filter(|row| is_of(row, said)).collect();
        assert!(!rows.is_empty(), "no row for README's {:?} {}", said.happened, said.reason);
        check_statuses(said, &rows);
        check_who_acts(said);
        check_tries(said, &rows);
    }
    for row in table {
        assert!(readme.iter().any(|said| is_of(row, said)), "README has no line for {}", row.what);
    }
}

/// Every status that README names is there, and no other under a line that names all of them.
fn check_statuses(said: &Said, rows: &[&Row]) {
    let Some(named) = said.happened.strip_prefix("HTTP ") else { return };
    let found: BTreeSet<_> = rows.iter().filter_map(|row| row.http_status).collect();
    if named.starts_with("3xx") {
        assert!(found.iter().all(|status| (300..400).contains(status)) && found.len() > 5, "{found:?}");
        return;
    }
    let numbers = named.split(|letter: char| !letter.is_ascii_digit()).filter_map(|text| text.parse().ok());
    assert_eq!(found, numbers.collect(), "{}", said.happened);
}

/// A code says who can act (contract 2).
fn check_who_acts(said: &Said) {
    let expected = match said.code {
        "INVALID_ARGUMENT" | "DEADLINE_EXCEEDED" => "the caller",
        "FAILED_PRECONDITION" => "the gateway's operator",
        "UNAVAILABLE" | "RESOURCE_EXHAUSTED" => "nobody: it passes",
        "INTERNAL" | "UNKNOWN" => "the vendor, whom the operator can ask",
        other => panic!("a code that the table does not know: {other}"),
    };
    assert!(said.who_acts.starts_with(expected), "{}: {}", said.reason, said.who_acts);
}

/// How often the vendor is asked with a Retry-After that allows it, or without one.
fn check_tries(said: &Said, rows: &[&Row]) {
    // One with a long Retry-After is tried once whatever its row says.
    for row in rows.iter().filter(|row| *row.wait.end() < 10.0) {
        let is_login = matches!(row.cause, super::row::Cause::Login(_));
        let expected = match said.tried_again {
            "no" => row.tries <= 1,
            "once, with a new token" => row.tries == 2,
            "yes" | "yes, not before Retry-After" if !is_login => row.tries > 1,
            // Logins go on by themselves, and the calls that wait for them are told when.
            "yes" | "after a back-off, never per call" => is_login && row.tries == 1,
            other => panic!("README's last column says {other:?}"),
        };
        assert!(expected, "{}: {} tries, and README says {:?}", row.what, row.tries, said.tried_again);
    }
}
