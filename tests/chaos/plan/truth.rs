//! What is true of each task, and when. Each state is told apart by a mark of its own in its remark or among its failed
//! users, so that a message tells what it was made of.

use std::time::Duration;

use federation_gateway::pb;
use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use serde_json::{Value, json};

use super::{Part, millis, stream};

/// A mark begins so; no log line and no error text may hold one.
pub(crate) const MARK: &str = "mark-";

/// For whom a task is there, which says what can be told from its exchanges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// Whoever likes.
    All,
    /// Watchers alone.
    Watchers,
    /// One watcher alone, from the beginning to the end.
    Watcher,
    /// One caller, who asks for nothing else and for one thing at a time.
    Loner,
}

/// A task, and its states from the first to the last.
#[derive(Clone, Debug)]
pub(crate) struct Task {
    pub(crate) id: String,
    pub(crate) used_by: Use,
    /// What it says, each once.
    pub(crate) contents: Vec<Content>,
    /// From when on it says which of them.
    pub(crate) versions: Vec<(Duration, usize)>,
}

/// What a task may say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) raw_status: String,
    pub(crate) remark: String,
    /// A failed user's mark and code each.
    pub(crate) failed: Vec<(String, String)>,
}

impl Content {
    /// The vendor's answer; `style` chooses among the ways to say the same.
    pub(crate) fn json(&self, message: &str, style: u8) -> Value {
        let number = |text: &str| match text.parse::<u64>() {
            Ok(number) if style & 1 == 1 => json!(number),
            _ => json!(text),
        };
        let failed = self.failed.iter().map(|(mark, code)| {
            json!({
                "federationUser": {"action": "CREATE", "userName": "Ada Lind", "userAccount": mark, "roleIds": ["101"]},
                "failCode": number(code), "failMessage": mark,
            })
        });
        let mut answer = json!({
            "resultCode": number("0"), "resultMessage": message,
            "taskInfo": {"remark": self.remark, "status": number(&self.raw_status)},
            "failDataList": failed.collect::<Vec<_>>(),
        });
        if style & 2 == 2 && self.failed.is_empty() {
            answer["failDataList"] = Value::Null;
        }
        answer
    }

    /// What a caller must be told.
    fn expected(&self) -> (pb::TaskStatus, Vec<pb::FailData>) {
        let status = match &*self.raw_status {
            "TODO" => pb::TaskStatus::Todo,
            "DOING" => pb::TaskStatus::Doing,
            "DONE" => pb::TaskStatus::Done,
            _ => pb::TaskStatus::Unspecified,
        };
        let failed = self.failed.iter().map(|(mark, code)| pb::FailData {
            federation_user: Some(pb::FederationUser {
                action: pb::UserAction::Create.into(),
                raw_action: "CREATE".into(),
                user_name: "Ada Lind".into(),
                user_account: mark.clone(),
                email: String::new(),
                role_ids: vec!["101".into()],
            }),
            fail_reason: match &**code {
                "60101000108" => pb::FailReason::UserAlreadyExists,
                "60101060003" => pb::FailReason::MappingFailed,
                _ => pb::FailReason::Unspecified,
            }
            .into(),
            fail_code: code.clone(),
            fail_message: mark.clone(),
        });
        (status, failed.collect())
    }
}

impl Task {
    /// Which version holds so long after the beginning.
    pub(crate) fn version_at(&self, since: Duration) -> usize {
        self.versions.partition_point(|(from, _)| *from <= since).saturating_sub(1)
    }

    /// Until when a version holds.
    pub(crate) fn until(&self, version: usize) -> Duration {
        self.versions.get(version + 1).map_or(Duration::MAX, |(from, _)| *from)
    }

    pub(crate) fn content(&self, version: usize) -> &Content {
        &self.contents[self.versions[version].1]
    }

    /// Which of its contents a caller was told.
    pub(crate) fn recognise(&self, told: &pb::Task) -> Result<usize, String> {
        if told.task_id != self.id {
            return Err(format!("it is of the task {:?}", told.task_id));
        }
        let found = self.contents.iter().position(|content| {
            let (status, failed) = content.expected();
            told.status() == status
                && told.raw_status == content.raw_status
                && told.remark == content.remark
                && told.fail_data == failed
        });
        found.ok_or_else(|| format!("the task never said so: {told:?}"))
    }
}

/// The tasks of a run.
pub(super) fn draw(seed: u64, active: Duration) -> Vec<Task> {
    let uses =
        [Use::All; 5].into_iter().chain([Use::Watchers; 3]).chain([Use::Watcher; 2]).chain([Use::Loner; 3]);
    uses.enumerate().map(|(nth, used_by)| task(seed, nth, used_by, active)).collect()
}

fn task(seed: u64, nth: usize, used_by: Use, active: Duration) -> Task {
    let random = &mut stream(seed, Part::Truth, nth);
    let mut contents: Vec<Content> = Vec::new();
    let mut versions = Vec::new();
    // Some change all the time, some hardly ever.
    let pace = *[150, 500, 1500].choose(random).expect("three are there");
    let ends = random.random_bool(0.6);
    let mut from = Duration::ZERO;
    while from < active {
        let before = versions.len().checked_sub(2).map(|at: usize| versions[at]).map(|(_, content)| content);
        let content = match before {
            // Back to what was before the last change.
            Some(before) if random.random_bool(0.15) => before,
            _ => {
                let mark = format!("{MARK}{seed}-{nth}-{}", contents.len());
                contents.push(next(random, contents.last(), mark));
                contents.len() - 1
            }
        };
        versions.push((from, content));
        from += millis(random, pace / 3, pace * 2);
    }
    if ends {
        let mark = format!("{MARK}{seed}-{nth}-done");
        let failed = (0..random.random_range(0..3)).map(|at| user(random, &format!("{mark}-{at}")));
        let failed = failed.collect();
        contents.push(Content { raw_status: "DONE".into(), remark: mark, failed });
        // Before the end, so that callers meet it.
        let at = active.mul_f64(random.random_range(0.2..0.8));
        versions.retain(|(from, _)| *from < at);
        versions.push((if versions.is_empty() { Duration::ZERO } else { at }, contents.len() - 1));
    }
    Task { id: format!("task-{seed}-{nth}"), used_by, contents, versions }
}

fn user(random: &mut StdRng, mark: &str) -> (String, String) {
    let code = ["60101000108", "60101060003", "777"].choose(random).expect("three are there");
    (mark.to_owned(), (*code).to_owned())
}

/// Another state than the last one.
fn next(random: &mut StdRng, last: Option<&Content>, mark: String) -> Content {
    let statuses = ["TODO", "DOING", "DOING", "PAUSED", "7", ""];
    match last {
        // The failed users alone.
        Some(last) if random.random_bool(0.3) => {
            Content { failed: vec![user(random, &mark)], ..last.clone() }
        }
        // The remark alone.
        Some(last) if random.random_bool(0.5) => Content { remark: mark, ..last.clone() },
        _ => {
            let raw_status = (*statuses.choose(random).expect("some are there")).to_owned();
            Content { raw_status, remark: mark, failed: Vec::new() }
        }
    }
}
