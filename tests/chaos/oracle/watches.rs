//! Are a watch's messages in order, and does each come for the reason that it gives?

use federation_gateway::pb::WatchReason;

use super::View;
use crate::record::{Call, Outcome};

pub(super) fn judge(view: &mut View<'_>) {
    let records = view.records;
    for call in records.calls.iter().filter(|call| !call.is_query()) {
        if let Err(what) = order(view, call) {
            view.find(call, what);
        }
    }
}

fn order(view: &View<'_>, call: &Call) -> Result<(), String> {
    let Some(task) = call.task.map(|task| &view.plan.tasks[task]) else { return Ok(()) };
    let mut version = 0;
    for (at, message) in call.messages.iter().enumerate() {
        let error = |what: &str| Err(format!("{what}\n      {}", view.tell_message(message)));
        let before = at.checked_sub(1).map(|before| &call.messages[before]);
        let is_same = before.is_some_and(|before| before.content == message.content);
        match (WatchReason::try_from(message.reason), before) {
            (Ok(WatchReason::Initial), None) => {}
            (Ok(WatchReason::Initial), Some(_)) => return error("INITIAL, and not the first"),
            (_, None) => return error("the first is not INITIAL"),
            (Ok(WatchReason::Changed), _) if is_same => return error("CHANGED without a change"),
            (Ok(WatchReason::Heartbeat), _) if !is_same => return error("a change that came as HEARTBEAT"),
            (Ok(WatchReason::Changed | WatchReason::Heartbeat), _) => {}
            _ => return error("no reason"),
        }
        if before.is_some_and(|before| before.observed > message.observed) {
            return error("observed_at went back");
        }
        if before.is_some_and(|before| before.is_done) {
            return error("something after DONE");
        }
        // The first version from the last one on that says so: a task may go back to what it said before.
        let Ok(content) = message.content else { continue };
        match task.versions[version..].iter().position(|(_, of)| *of == content) {
            Some(further) => version += further,
            None => return error("the states went back"),
        }
    }
    let is_done = call.messages.last().is_some_and(|last| last.is_done);
    match &call.outcome {
        Outcome::Ok if !is_done => Err("ended with OK, and not with DONE".into()),
        Outcome::Failed(told) if is_done && !told.reason.is_empty() => {
            Err("DONE, and ended with a failure".into())
        }
        _ => Ok(()),
    }
}
