//! What the gateway asks of the vendor: within its limits, as often as it may, and for somebody who waits.

use std::time::Duration;

use tokio::time::Instant;

use super::View;
use crate::plan::answers::What;
use crate::plan::truth::Use;
use crate::record::{Call, Exchange};

/// How long after the last who waits has left the vendor may still see that somebody did.
const LEAVING: Duration = Duration::from_secs(1);

pub(super) fn judge(view: &mut View<'_>) {
    for process in 0..=view.records.lives.len() {
        let exchanges: Vec<_> =
            view.records.exchanges.iter().filter(|exchange| exchange.process == process).collect();
        let most = view.plan.settings.upstream_concurrency as usize;
        if let Some(at) = exceeds(view, &exchanges, most) {
            let at = view.at(at);
            view.findings.push(format!("process {process}: more than {most} tries under way at {at}"));
        }
        if let Some(exchange) = outruns(view, &exchanges, view.plan.settings.upstream_rate) {
            let exchange = view.tell_exchange(exchange);
            view.findings.push(format!("process {process}: upstream-rate is exceeded\n      {exchange}"));
        }
    }
    for task in 0..view.plan.tasks.len() {
        let calls: Vec<_> = view.records.calls.iter().filter(|call| call.task == Some(task)).collect();
        unwanted(view, task, &calls);
        match view.plan.tasks[task].used_by {
            Use::All => {}
            Use::Watchers | Use::Watcher => watched(view, task, &calls),
            Use::Loner => alone(view, task, &calls),
        }
    }
}

/// Until when an exchange was certainly under way, for the gateway. That a gateway has left is seen a while after.
fn certainly_until(view: &View<'_>, exchange: &Exchange) -> Instant {
    let arrived = exchange.arrived.at;
    match exchange.ended {
        Some(ended) if exchange.is_followed => ended.at,
        Some(ended) => ended.at.checked_sub(view.blur).unwrap_or(arrived).max(arrived),
        None => arrived,
    }
}

/// When more were under way than `most`, if ever.
fn exceeds(view: &View<'_>, exchanges: &[&Exchange], most: usize) -> Option<Instant> {
    let mut changes: Vec<(Instant, bool)> = Vec::with_capacity(2 * exchanges.len());
    for exchange in exchanges {
        let (arrived, until) = (exchange.arrived.at, certainly_until(view, exchange));
        if until > arrived {
            changes.extend([(arrived, true), (until, false)]);
        }
    }
    // Ends before beginnings.
    changes.sort_unstable();
    let mut under_way = 0_usize;
    for (at, begins) in changes {
        under_way = if begins { under_way + 1 } else { under_way - 1 };
        if under_way > most {
            return Some(at);
        }
    }
    None
}

/// The first exchange that came sooner than a burst of one second's worth and so many a second allow. The vendor may
/// see requests at once that began one after the other, so the burst is allowed to be larger by that.
fn outruns<'a>(view: &View<'_>, exchanges: &[&'a Exchange], rate: u32) -> Option<&'a Exchange> {
    let rate = f64::from(rate);
    let burst = rate * (1.0 + view.blur.as_secs_f64()) + 1.0;
    let (mut left, mut last) = (burst, exchanges.first()?.arrived.at);
    if rate == 0.0 {
        return None;
    }
    exchanges.iter().copied().find(|exchange| {
        left = (left + rate * (exchange.arrived.at - last).as_secs_f64()).min(burst) - 1.0;
        last = exchange.arrived.at;
        left < 0.0
    })
}

/// No request for a task that nobody wants to know of, and none that goes on when the last who waited has left.
fn unwanted(view: &mut View<'_>, task: usize, calls: &[&Call]) {
    let late = LEAVING + 2 * view.records.stall;
    for exchange in view.of_task[task].clone() {
        let is_wanted =
            |at: Instant| calls.iter().any(|call| call.began.at <= at && call.ended.at + late >= at);
        let goes_on = |ended: Instant| exchange.told.is_none() && !is_wanted(ended);
        let what = if !is_wanted(exchange.arrived.at) && !exchange.is_ghost() {
            "asked of the vendor, and nobody waits for it"
        } else if exchange.ended.is_some_and(|ended| goes_on(ended.at)) {
            "it goes on, and nobody waits for it any more"
        } else {
            continue;
        };
        let exchange = view.tell_exchange(exchange);
        view.findings.push(format!("{what}\n      {exchange}"));
    }
}

/// What an exchange that was followed by another one in the same call or by the same poller says of their distance.
fn spacing(view: &View<'_>, one: &Exchange, two: &Exchange, poll_min: Duration) -> Result<(), String> {
    // Who timed out, or was cut off, was not told; and what is read late was sent before.
    let Some(told) = one.told.filter(|_| one.is_followed && two.is_followed) else { return Ok(()) };
    let least = match one.what {
        What::Good | What::Trickle(_) => poll_min,
        What::Status(429 | 502 | 503 | 504 | 408, Some(after)) => Duration::from_secs(after),
        _ => return Ok(()),
    };
    if two.arrived.at < told.at + least {
        let (one, two) = (view.tell_exchange(one), view.tell_exchange(two));
        return Err(format!("asked again before {least:?} had passed\n      {one}\n      {two}"));
    }
    Ok(())
}

/// Where watchers alone use a task: one poll at a time, `poll-min` apart, and not before a Retry-After.
fn watched(view: &mut View<'_>, task: usize, calls: &[&Call]) {
    let exchanges = view.of_task[task].clone();
    for pair in exchanges.windows(2) {
        let [one, two] = pair else { continue };
        if one.process != two.process {
            continue;
        }
        let mut verdict = Ok(());
        if certainly_until(view, one) > two.arrived.at && two.is_followed {
            verdict = Err("two polls at once".to_owned());
        }
        // Whoever comes may hurry the poller, or have a call begin.
        let comes = calls
            .iter()
            .any(|call| call.began.at <= two.arrived.at && call.began.at + view.blur >= one.arrived.at);
        if verdict.is_ok() && !comes {
            verdict = spacing(view, one, two, view.plan.settings.poll_min);
        }
        if let Err(what) = verdict {
            let two = view.tell_exchange(two);
            view.findings.push(format!("{what}\n      {two}"));
        }
    }
}

/// Where one caller uses a task, the tries of each call are known: so many, and not before a Retry-After.
fn alone(view: &mut View<'_>, task: usize, calls: &[&Call]) {
    let most = view.plan.settings.max_attempts;
    for (at, call) in calls.iter().enumerate() {
        let until = calls.get(at + 1).map(|next| next.began.at);
        let tries: Vec<_> = view.of_task[task]
            .iter()
            .copied()
            .filter(|exchange| {
                let arrived = exchange.arrived.at;
                arrived >= call.began.at && until.is_none_or(|until| arrived < until)
            })
            .collect();
        // One that was killed may be read of when the next has begun.
        let process = tries.last().map(|exchange| exchange.process);
        let is_real = |exchange: &&Exchange| Some(exchange.process) == process && !exchange.is_ghost();
        let tries: Vec<_> = tries.into_iter().filter(is_real).collect();
        let refused = tries.iter().any(|exchange| matches!(exchange.what, What::Status(401, _)));
        if tries.len() > most + usize::from(refused) {
            view.find(call, format_args!("{} tries, where {most} are the most", tries.len()));
        }
        for pair in tries.windows(2) {
            let [one, two] = pair else { continue };
            if let Err(what) = spacing(view, one, two, Duration::ZERO) {
                view.find(call, what);
            }
        }
    }
}
