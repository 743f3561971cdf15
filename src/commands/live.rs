//! The live view of a watch: what is known of the task, and how it looks at a moment on a terminal of a width.
//! Pure: the clock, the size and the writing are the caller's.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::render::{self, Paint};
use crate::pb;

/// The widest label and the blank after it.
const LABEL_WIDTH: usize = 11;

/// What is known of the watched task.
#[derive(Debug, Default)]
pub(super) struct View {
    task_id: String,
    heartbeat_interval: Option<Duration>,
    task: Option<pb::Task>,
    since: Option<Since>,
    heartbeat_at: Option<SystemTime>,
}

/// When the present status was first seen.
#[derive(Clone, Copy, Debug)]
struct Since {
    at: SystemTime,
    /// It was there when the watch began, so that it may be older.
    is_bound: bool,
}

impl View {
    /// A view of a task of which nothing is known yet.
    pub(super) fn new(task_id: &str, heartbeat_interval: Option<Duration>) -> Self {
        Self { task_id: task_id.to_owned(), heartbeat_interval, ..Self::default() }
    }

    /// Takes in a message that came at `now`.
    pub(super) fn take(&mut self, message: pb::WatchTaskResponse, now: SystemTime) {
        if message.reason() == pb::WatchReason::Heartbeat {
            self.heartbeat_at = Some(now);
        }
        let task = message.task.unwrap_or_default();
        let is_same = self
            .task
            .as_ref()
            .is_some_and(|last| last.status == task.status && last.raw_status == task.raw_status);
        if !is_same {
            let at = render::observed(&task).unwrap_or(now);
            self.since = Some(Since { at, is_bound: self.task.is_none() });
        }
        self.task = Some(task);
    }

    /// The failed users of the last state, in full.
    pub(super) fn failures(&self) -> &[pb::FailData] {
        self.task.as_ref().map_or(&[], |task| &task.fail_data)
    }

    /// How the view looks at `now`: lines that are no wider than `width`.
    pub(super) fn frame(&self, now: SystemTime, width: usize, paint: Paint) -> String {
        let mut text = String::new();
        let mut row = |label: &str, value: &str, is_status: bool| {
            let label = cut(&format!("{label:<LABEL_WIDTH$}"), width);
            let value = cut(value, width.saturating_sub(LABEL_WIDTH));
            let value = match &self.task {
                Some(task) if is_status => paint.status(task, &value),
                _ => value,
            };
            let _ = writeln!(text, "{}{value}", paint.label(&label));
        };
        row("task", &render::escape(&self.task_id), false);
        let Some(task) = &self.task else {
            row("state", "waiting for the first answer", false);
            return text;
        };
        row("state", &render::status(task), true);
        if let Some(since) = self.since {
            let length = Duration::from_secs(now.duration_since(since.at).unwrap_or_default().as_secs());
            let bound = if since.is_bound { ", or longer" } else { "" };
            let length = humantime::format_duration(length);
            row("since", &format!("{} ({length}{bound})", render::time(since.at)), false);
        }
        let polled = render::observed(task).map_or_else(|| "not said".to_owned(), |at| render::ago(at, now));
        row("last poll", &polled, false);
        row("heartbeat", &self.heartbeat(now), false);
        if !task.remark.is_empty() {
            row("remark", &render::escape(&task.remark), false);
        }
        row("failures", &first_failure(task), false);
        text
    }

    fn heartbeat(&self, now: SystemTime) -> String {
        let Some(interval) = self.heartbeat_interval else { return "none asked for".to_owned() };
        let last = self.heartbeat_at.map_or_else(|| "none yet".to_owned(), |at| render::ago(at, now));
        format!("{last} (after {} without news)", render::duration(interval))
    }
}

fn first_failure(task: &pb::Task) -> String {
    let Some(first) = task.fail_data.first() else { return "0".to_owned() };
    let cause = match (render::cause(first), first.fail_message.as_str(), first.fail_code.as_str()) {
        (words, _, _) if !words.is_empty() => words,
        (_, message, _) if !message.is_empty() => render::escape(message).into_owned(),
        (_, _, code) if !code.is_empty() => render::escape(code).into_owned(),
        _ => "no cause given".to_owned(),
    };
    format!("{}, the first: {}: {cause}", task.fail_data.len(), render::user(first))
}

/// A text cut to a number of columns; a wide character counts as two.
fn cut(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut room = width.saturating_sub(1);
    let mut shown = String::new();
    for character in text.chars() {
        let columns = character.width().unwrap_or(0);
        if columns > room {
            break;
        }
        room -= columns;
        shown.push(character);
    }
    if width > 0 {
        shown.push('…');
    }
    shown
}

/// Frames drawn over one another. Knows what the last one took on the screen, which a terminal made narrower
/// since then wraps into more rows.
#[derive(Debug, Default)]
pub(super) struct Redraw {
    drawn: Vec<usize>,
}

impl Redraw {
    /// The sequence that puts a frame in the last one's place, on a terminal of `width` by `height`.
    pub(super) fn over(&mut self, frame: &str, width: usize, height: usize) -> String {
        let rows: usize = self.drawn.iter().map(|columns| columns.div_ceil(width.max(1)).max(1)).sum();
        let mut text = String::from("\r");
        if rows > 0 {
            let _ = write!(text, "\u{1b}[{rows}A");
        }
        text.push_str("\u{1b}[J");
        self.drawn.clear();
        // The cursor rests on the row below the frame; a frame as tall as the screen would scroll at each tick.
        for line in frame.lines().take(height.saturating_sub(1).max(1)) {
            self.drawn.push(anstream::adapter::strip_str(line).to_string().width());
            text.push_str(line);
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Paint = Paint { has_colours: false };

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn message(reason: pb::WatchReason, status: pb::TaskStatus, observed: i64) -> pb::WatchTaskResponse {
        let task = pb::Task {
            task_id: "17".to_owned(),
            status: status.into(),
            observed_at: Some(prost_types::Timestamp { seconds: observed, nanos: 0 }),
            ..Default::default()
        };
        pb::WatchTaskResponse { task: Some(task), reason: reason.into() }
    }

    #[test]
    fn a_view_follows_its_task() {
        let mut view = View::new("17", Some(Duration::from_secs(5)));
        assert_eq!(view.frame(at(0), 80, PLAIN), "task       17\nstate      waiting for the first answer\n");

        view.take(message(pb::WatchReason::Initial, pb::TaskStatus::Todo, 100), at(101));
        let since = "since      1970-01-01T00:01:40Z (10s, or longer)\n";
        let frame = view.frame(at(110), 80, PLAIN);
        assert!(frame.contains("state      TODO\n") && frame.contains(since), "{frame}");

        view.take(message(pb::WatchReason::Changed, pb::TaskStatus::Doing, 120), at(121));
        view.take(message(pb::WatchReason::Heartbeat, pb::TaskStatus::Doing, 130), at(132));
        let mut done = message(pb::WatchReason::Changed, pb::TaskStatus::Doing, 130);
        let task = done.task.as_mut().unwrap();
        task.remark = "half\u{202e}".to_owned();
        task.fail_data.push(pb::FailData {
            fail_reason: pb::FailReason::UserNotFound.into(),
            federation_user: Some(pb::FederationUser {
                user_account: "a\u{1b}".to_owned(),
                ..Default::default()
            }),
            ..Default::default()
        });
        view.take(done, at(133));
        assert_eq!(
            view.frame(at(185), 80, PLAIN),
            r"task       17
state      DOING
since      1970-01-01T00:02:00Z (1m 5s)
last poll  55s ago
heartbeat  53s ago (after 5s without news)
remark     half\u{202e}
failures   1, the first: a\u{1b}: user not found
"
        );
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        let mut view = View::new(&"9".repeat(128), None);
        let mut wide = message(pb::WatchReason::Initial, pb::TaskStatus::Doing, 100);
        wide.task.as_mut().unwrap().remark = "用户已存在".repeat(50);
        view.take(wide, at(100));
        for width in [1, 2, 11, 12, 13, 40, 41, 80] {
            let coloured = view.frame(at(185), width, Paint { has_colours: true });
            let plain = anstream::adapter::strip_str(&coloured).to_string();
            assert!(plain.lines().all(|line| line.width() <= width), "{width}: {plain}");
            assert_eq!(plain, view.frame(at(185), width, PLAIN));
        }
    }

    #[test]
    fn a_frame_takes_the_place_of_the_last() {
        let mut redraw = Redraw::default();
        assert_eq!(redraw.over("one\ntwo\n", 80, 24), "\r\u{1b}[Jone\ntwo\n");
        assert_eq!(redraw.over("1234567890\n", 80, 24), "\r\u{1b}[2A\u{1b}[J1234567890\n");
        // The terminal was made narrower: the ten columns now take three rows.
        assert_eq!(redraw.over("a\nb\nc\n", 4, 24), "\r\u{1b}[3A\u{1b}[Ja\nb\nc\n");
        // A terminal of three rows has room for two and the cursor.
        assert_eq!(redraw.over("a\nb\nc\n", 4, 3), "\r\u{1b}[3A\u{1b}[Ja\nb\n");
    }
}
