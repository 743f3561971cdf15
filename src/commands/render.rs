//! What people read: escaping, times, and a task as text or as a table. Owns no stream, asks no clock: every
//! function is given what it shows.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use comfy_table::{ContentArrangement, Table, presets};
use prost_types::Timestamp;

use crate::pb;

/// How much of a person's eye a text may ask for: colours and weights, or none.
#[derive(Clone, Copy, Debug)]
pub(super) struct Paint {
    /// Whether escape sequences are written at all.
    pub(super) has_colours: bool,
}

impl Paint {
    /// The label of a value.
    pub(super) fn label(self, text: &str) -> String {
        self.wrap("2", text)
    }

    /// A status, by how far it has come.
    pub(super) fn status(self, task: &pb::Task, text: &str) -> String {
        match task.status() {
            pb::TaskStatus::Done if task.fail_data.is_empty() => self.wrap("1;32", text),
            pb::TaskStatus::Done => self.wrap("1;31", text),
            pb::TaskStatus::Doing => self.wrap("1;36", text),
            pb::TaskStatus::Todo | pb::TaskStatus::Unspecified => self.wrap("1", text),
        }
    }

    fn wrap(self, code: &str, text: &str) -> String {
        if self.has_colours { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

/// Whether a character could move a terminal's cursor or change the order in which others are read: C0 and C1
/// controls, bidirectional marks and embeddings, line and paragraph separators, the byte-order mark.
pub(super) fn is_hidden(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// A text from elsewhere, with every hidden character written out.
pub(super) fn escape(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_hidden) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        match character {
            '\n' | '\r' | '\t' => shown.extend(character.escape_default()),
            hidden if is_hidden(hidden) => shown.extend(hidden.escape_unicode()),
            plain => shown.push(plain),
        }
    }
    Cow::Owned(shown)
}

/// A status by its own name, or by the vendor's where this version knows none.
pub(super) fn status(task: &pb::Task) -> String {
    match (task.status(), task.raw_status.as_str()) {
        (pb::TaskStatus::Unspecified, "") => "no status given".to_owned(),
        (pb::TaskStatus::Unspecified, raw) => format!("{} (not known to this version)", escape(raw)),
        (known, _) => bare(known.as_str_name(), "TASK_STATUS_").to_owned(),
    }
}

/// A cause in words: the enum's name without its prefix, in lower case.
pub(super) fn cause(failure: &pb::FailData) -> String {
    match failure.fail_reason() {
        pb::FailReason::Unspecified => String::new(),
        known => bare(known.as_str_name(), "FAIL_REASON_").to_ascii_lowercase().replace('_', " "),
    }
}

/// Why a message of a watch came.
pub(super) fn watch_reason(reason: pb::WatchReason) -> &'static str {
    bare(reason.as_str_name(), "WATCH_REASON_")
}

/// How a user is called in one line: the account, else the name, else the e-mail address.
pub(super) fn user(failure: &pb::FailData) -> Cow<'_, str> {
    let Some(user) = &failure.federation_user else { return Cow::Borrowed("an unnamed user") };
    let named = [&user.user_account, &user.user_name, &user.email].into_iter().find(|text| !text.is_empty());
    named.map_or(Cow::Borrowed("an unnamed user"), |text| escape(text))
}

/// A point in time as people and logs write it, in UTC.
pub(super) fn time(at: SystemTime) -> String {
    // humantime fails outside the years 1970 to 9999, and a failing Display panics in to_string.
    const YEAR_10000: Duration = Duration::from_secs(253_402_300_800);
    match at.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) if since < YEAR_10000 => humantime::format_rfc3339_seconds(at).to_string(),
        _ => "an unreadable time".to_owned(),
    }
}

/// A length of time in whole seconds, or in milliseconds below one.
pub(super) fn duration(length: Duration) -> String {
    let whole = if length < Duration::from_secs(1) {
        Duration::from_millis(u64::try_from(length.as_millis()).unwrap_or(u64::MAX))
    } else {
        Duration::from_secs(length.as_secs())
    };
    humantime::format_duration(whole).to_string()
}

/// How long ago something was. The two clocks may differ, so that it may lie ahead.
pub(super) fn ago(at: SystemTime, now: SystemTime) -> String {
    match now.duration_since(at) {
        // Whole seconds: a view that ticks once a second has no use for more.
        Ok(age) => format!("{} ago", humantime::format_duration(Duration::from_secs(age.as_secs()))),
        Err(ahead) if ahead.duration() < Duration::from_secs(1) => "0s ago".to_owned(),
        Err(ahead) => format!("{} ahead of this machine's clock", duration(ahead.duration())),
    }
}

/// When a state was observed, if that was said and can be read.
pub(super) fn observed(task: &pb::Task) -> Option<SystemTime> {
    task.observed_at.and_then(|at: Timestamp| SystemTime::try_from(at).ok())
}

/// When a state was observed and how long ago, in words.
pub(super) fn observation(task: &pb::Task, now: SystemTime) -> String {
    observed(task).map_or_else(|| "not said".to_owned(), |at| format!("{} ({})", time(at), ago(at, now)))
}

/// The answer to a query: the task's state, then its failed users as a table `width` columns wide.
pub(super) fn answer(answer: &pb::QueryTaskResponse, now: SystemTime, width: usize, paint: Paint) -> String {
    let unnamed = pb::Task::default();
    let task = answer.task.as_ref().unwrap_or(&unnamed);
    let mut text = String::new();
    let mut row = |label: &str, value: &str| {
        let _ = writeln!(text, "{} {value}", paint.label(&format!("{label:<12}")));
    };
    row("task", &escape(&task.task_id));
    row("status", &paint.status(task, &status(task)));
    for (label, value) in [("remark", &task.remark), ("message", &answer.result_message)] {
        if !value.is_empty() {
            row(label, &escape(value));
        }
    }
    row("observed at", &observation(task, now));
    row("failed users", &task.fail_data.len().to_string());
    if !task.fail_data.is_empty() {
        text.push_str(&failures(&task.fail_data, width));
    }
    text
}

/// One message of a watch as one line: when it came, why, and the state it carries; free text comes last.
pub(super) fn watch_line(message: &pb::WatchTaskResponse, now: SystemTime) -> String {
    let unnamed = pb::Task::default();
    let task = message.task.as_ref().unwrap_or(&unnamed);
    let mut line = format!("{} {:<9} {}", time(now), watch_reason(message.reason()), status(task));
    let _ = write!(line, ", {} failed", task.fail_data.len());
    if let Some(at) = observed(task) {
        let _ = write!(line, ", observed {}", ago(at, now));
    }
    if !task.remark.is_empty() {
        let _ = write!(line, ", remark: {}", escape(&task.remark));
    }
    line.push('\n');
    line
}

/// The failed users as a table of at most `width` columns; what no user has is no column of it.
pub(super) fn failures(failures: &[pb::FailData], width: usize) -> String {
    const HEADS: [&str; 8] = ["account", "name", "e-mail", "roles", "action", "cause", "code", "message"];
    let rows: Vec<[String; 8]> = failures.iter().map(cells).collect();
    let kept: Vec<usize> =
        (0..HEADS.len()).filter(|&column| rows.iter().any(|row| !row[column].is_empty())).collect();
    let mut table = Table::new();
    // Colours and widths are decided by the caller, never by what the table finds out about the terminal.
    table.force_no_tty().load_style(presets::UTF8_FULL_CONDENSED);
    table
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(u16::try_from(width).unwrap_or(u16::MAX));
    if kept.is_empty() {
        return format!("{} failed, with nothing said of them\n", failures.len());
    }
    table.set_header(kept.iter().map(|&column| HEADS[column]).collect::<Vec<_>>());
    table.add_rows(rows.into_iter().map(|row| kept.iter().map(|&at| row[at].clone()).collect::<Vec<_>>()));
    let mut text = table.to_string();
    text.push('\n');
    text
}

fn cells(failure: &pb::FailData) -> [String; 8] {
    let unnamed = pb::FederationUser::default();
    let user = failure.federation_user.as_ref().unwrap_or(&unnamed);
    let action = match user.action() {
        pb::UserAction::Unspecified => escape(&user.raw_action).into_owned(),
        known => bare(known.as_str_name(), "USER_ACTION_").to_ascii_lowercase(),
    };
    let roles = user.role_ids.join(", ");
    let own = |text: &str| escape(text).into_owned();
    [
        own(&user.user_account),
        own(&user.user_name),
        own(&user.email),
        own(&roles),
        action,
        cause(failure),
        own(&failure.fail_code),
        own(&failure.fail_message),
    ]
}

fn bare<'a>(name: &'a str, prefix: &str) -> &'a str {
    name.strip_prefix(prefix).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Paint = Paint { has_colours: false };

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn task() -> pb::Task {
        pb::Task {
            task_id: "17".to_owned(),
            status: pb::TaskStatus::Done.into(),
            raw_status: "DONE".to_owned(),
            remark: "two\nlines\u{202e}".to_owned(),
            fail_data: vec![
                pb::FailData {
                    federation_user: Some(pb::FederationUser {
                        action: pb::UserAction::Create.into(),
                        user_account: "anna\u{1b}[2J".to_owned(),
                        role_ids: vec!["1".to_owned(), "2".to_owned()],
                        ..Default::default()
                    }),
                    fail_reason: pb::FailReason::UserAlreadyExists.into(),
                    fail_code: "60101000108".to_owned(),
                    fail_message: "the user exists 用户已存在".to_owned(),
                },
                pb::FailData { fail_code: "9".to_owned(), ..Default::default() },
            ],
            observed_at: Some(Timestamp { seconds: 1_000, nanos: 0 }),
        }
    }

    #[test]
    fn hidden_characters_are_written_out() {
        for (text, shown) in [
            ("plain 用户 é \u{1f600}", "plain 用户 é \u{1f600}"),
            ("\u{1b}[31m", r"\u{1b}[31m"),
            ("a\nb\r\tc\0", r"a\nb\r\tc\u{0}"),
            ("\u{7f}\u{80}\u{9b}", r"\u{7f}\u{80}\u{9b}"),
            ("\u{61c}\u{200e}\u{200f}", r"\u{61c}\u{200e}\u{200f}"),
            ("\u{2066}\u{2069}\u{feff}\u{2028}\u{2029}", r"\u{2066}\u{2069}\u{feff}\u{2028}\u{2029}"),
        ] {
            assert_eq!(escape(text), shown);
        }
        for character in ('\u{202a}'..='\u{202e}').chain('\u{2066}'..='\u{2069}') {
            assert_eq!(escape(&character.to_string()), character.escape_unicode().to_string());
        }
    }

    #[test]
    fn an_answer_is_read_from_top_to_bottom() {
        let response = pb::QueryTaskResponse { task: Some(task()), result_message: "fine\u{9b}".to_owned() };
        let text = answer(&response, at(1_065), 100, PLAIN);
        assert_eq!(
            text,
            r"task         17
status       DONE
remark       two\nlines\u{202e}
message      fine\u{9b}
observed at  1970-01-01T00:16:40Z (1m 5s ago)
failed users 2
┌───────────────┬───────┬────────┬─────────────────────┬─────────────┬────────────────────────────┐
│ account       ┆ roles ┆ action ┆ cause               ┆ code        ┆ message                    │
╞═══════════════╪═══════╪════════╪═════════════════════╪═════════════╪════════════════════════════╡
│ anna\u{1b}[2J ┆ 1, 2  ┆ create ┆ user already exists ┆ 60101000108 ┆ the user exists 用户已存在 │
│               ┆       ┆        ┆                     ┆ 9           ┆                            │
└───────────────┴───────┴────────┴─────────────────────┴─────────────┴────────────────────────────┘
"
        );
    }

    #[test]
    fn a_table_keeps_to_its_width() {
        use unicode_width::UnicodeWidthStr;
        let failures = task().fail_data;
        for width in [60, 80, 100] {
            let text = super::failures(&failures, width);
            assert!(text.lines().all(|line| line.width() <= width), "{width}:\n{text}");
        }
        let nothing_said = [pb::FailData::default()];
        assert_eq!(super::failures(&nothing_said, 80), "1 failed, with nothing said of them\n");
    }

    #[test]
    fn an_unknown_status_keeps_its_text() {
        let task = pb::Task { raw_status: "PAUSED\u{7}".to_owned(), ..Default::default() };
        assert_eq!(status(&task), r"PAUSED\u{7} (not known to this version)");
        assert_eq!(status(&pb::Task::default()), "no status given");
    }

    #[test]
    fn a_watched_message_is_one_line() {
        let message = pb::WatchTaskResponse { task: Some(task()), reason: pb::WatchReason::Changed.into() };
        let line = watch_line(&message, at(1_003));
        let expected =
            "1970-01-01T00:16:43Z CHANGED   DONE, 2 failed, observed 3s ago, remark: two\\nlines\\u{202e}\n";
        assert_eq!(line, expected);
    }

    #[test]
    fn times_out_of_range_do_not_panic() {
        for seconds in [i64::MIN, -1, 0, 253_402_300_800, i64::MAX] {
            let task = pb::Task { observed_at: Some(Timestamp { seconds, nanos: 0 }), ..Default::default() };
            let message = pb::WatchTaskResponse { task: Some(task.clone()), reason: 0 };
            assert!(!observation(&task, at(0)).is_empty() && !watch_line(&message, at(0)).is_empty());
        }
        assert_eq!(ago(at(100), at(40)), "1m ahead of this machine's clock");
    }

    #[test]
    fn colours_are_there_only_if_wanted() {
        let response = pb::QueryTaskResponse { task: Some(task()), ..Default::default() };
        assert!(
            answer(&response, at(0), 80, Paint { has_colours: true }).contains("\u{1b}[1;31mDONE\u{1b}[0m")
        );
        assert!(!answer(&response, at(0), 80, PLAIN).contains('\u{1b}'));
    }
}
