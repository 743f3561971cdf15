//! Was what a message says true, and fresh enough?

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::{READING, View};
use crate::plan::truth::Use;
use crate::record::{Asked, Call, Exchange, Message};

pub(super) fn judge(view: &mut View<'_>) {
    let records = view.records;
    // An answer is observed once, whoever is told it.
    let mut observed_at: HashMap<usize, SystemTime> = HashMap::new();
    for call in &records.calls {
        for message in &call.messages {
            let verdict = match call.asked {
                Asked::Query { .. } => query(view, call, message, &mut observed_at),
                Asked::Watch { .. } => watch(view, call, message),
            };
            if let Err(what) = verdict {
                let message = view.tell_message(message);
                view.find(call, format_args!("{what}\n      {message}"));
            }
        }
    }
}

fn query(
    view: &View<'_>,
    call: &Call,
    message: &Message,
    observed_at: &mut HashMap<usize, SystemTime>,
) -> Result<(), String> {
    let content = message.content.clone()?;
    let task = call.task.ok_or("a bad request was answered")?;
    let first = view.records.exchanges.first().map_or(0, |exchange| exchange.number);
    let number = message.exchange.ok_or("the answer has no resultMessage of the vendor's")?;
    let exchange = number.checked_sub(first).and_then(|at| view.records.exchanges.get(at));
    let exchange = exchange.ok_or("the answer is of an exchange that never was: a stray one?")?;
    if exchange.task != task {
        return Err("the answer is of another task's exchange".into());
    }
    brought(view, exchange, content, message)?;
    let observed = observed_at.entry(number).or_insert(message.observed);
    if *observed != message.observed {
        return Err("the same exchange was told with another observed_at".into());
    }
    fresh(view, call, message, exchange)
}

/// Whether an exchange can have brought a message: it told that state, which was true at some moment between its
/// beginning and `observed_at`, and `observed_at` is when the gateway can have received it.
fn brought(view: &View<'_>, exchange: &Exchange, content: usize, message: &Message) -> Result<(), String> {
    let error = |what: &str| Err(format!("{what}\n      {}", view.tell_exchange(exchange)));
    let task = &view.plan.tasks[exchange.task];
    let (Some(version), Some(told)) = (exchange.version, exchange.told) else {
        return error("the exchange told no state");
    };
    if task.versions[version].1 != content {
        return error("the exchange told another state");
    }
    let since = exchange.arrived.at.saturating_duration_since(view.began.at);
    if task.until(version) < since {
        return error("the state was no longer true when the exchange began");
    }
    let observed = message.observed.duration_since(view.began.wall).unwrap_or_default();
    if task.versions[version].0 > observed + READING {
        return error("the state was not yet true at observed_at");
    }
    if told.wall > message.observed + READING {
        return error("observed_at is before the answer was sent");
    }
    if message.observed > told.wall + view.lag {
        return error("observed_at is long after the answer was sent");
    }
    if message.observed > message.at.wall + READING {
        return error("observed_at is in the future");
    }
    Ok(())
}

/// Whether an answer to a query is as fresh as was asked. That the vendor sees a request after the gateway has begun
/// it, and the gateway a call after its caller, makes the bounds on ages exact.
fn fresh(view: &View<'_>, call: &Call, message: &Message, exchange: &Exchange) -> Result<(), String> {
    let Asked::Query { max_age } = call.asked else { return Ok(()) };
    let within = |age: Duration| is_within(age, exchange.arrived.at, call.began.at);
    let is_fresh = match max_age {
        Some(age) => within(age),
        None => {
            let ttl = view.plan.settings.done_cache_ttl;
            overlaps(view, call, message) || (message.is_done && !ttl.is_zero() && within(ttl))
        }
    };
    if is_fresh {
        Ok(())
    } else {
        Err(format!("older than promised\n      {}", view.tell_exchange(exchange)))
    }
}

fn is_within(age: Duration, began: Instant, as_of: Instant) -> bool {
    began + age >= as_of
}

/// Whether the call can have waited for what brought the message. Between reading an answer and handing it out the
/// gateway may be made to pause.
fn overlaps(view: &View<'_>, call: &Call, message: &Message) -> bool {
    message.observed + view.lag / 2 >= call.began.wall
}

/// A watch's messages don't tell which exchange brought them, so one must be found that can have.
fn watch(view: &View<'_>, call: &Call, message: &Message) -> Result<(), String> {
    let content = message.content.clone()?;
    let task = call.task.ok_or("a bad request was answered")?;
    let exchanges = &view.of_task[task];
    // Of the last that can have: those before are no better.
    let after = exchanges.partition_point(|exchange| exchange.arrived.wall <= message.observed + READING);
    let mut last = Err("no exchange of the task can have brought it".to_owned());
    for at in (0..after).rev() {
        let exchange = exchanges[at];
        let verdict =
            brought(view, exchange, content, message).and_then(|()| in_turn(view, task, at, message));
        match verdict {
            Ok(()) => return initial(view, call, message, exchange),
            Err(what) if last.is_err() && exchange.version.is_some() => {
                last = Err(format!("no exchange can have brought it; of the last one: {what}"));
            }
            Err(_) => {}
        }
        if exchange.arrived.wall + Duration::from_secs(60) < message.observed {
            break;
        }
    }
    last
}

/// Where watchers alone use a task, its polls come one after the other: what one brought was observed before the next
/// one began.
fn in_turn(view: &View<'_>, task: usize, at: usize, message: &Message) -> Result<(), String> {
    let exchanges = &view.of_task[task];
    // Of those that are not read late.
    let next = exchanges[at + 1..].iter().find(|next| next.is_followed);
    let Some(next) = next.filter(|next| next.process == exchanges[at].process) else { return Ok(()) };
    let is_polled = matches!(view.plan.tasks[task].used_by, Use::Watchers | Use::Watcher);
    if is_polled && message.observed > next.arrived.wall + READING {
        return Err(format!("observed_at is after the next poll began\n      {}", view.tell_exchange(next)));
    }
    Ok(())
}

/// A watch's first message is a poller's last answer, what the watch has waited for, or a DONE state from memory.
fn initial(view: &View<'_>, call: &Call, message: &Message, exchange: &Exchange) -> Result<(), String> {
    let is_first = call.messages.first().is_some_and(|first| std::ptr::eq(first, message));
    let ttl = view.plan.settings.done_cache_ttl;
    let is_remembered =
        message.is_done && !ttl.is_zero() && is_within(ttl, exchange.arrived.at, call.began.at);
    if !is_first || overlaps(view, call, message) || is_remembered {
        return Ok(());
    }
    let others =
        view.records.calls.iter().filter(|other| !std::ptr::eq(*other, call) && other.task == call.task);
    let mut watches = others.filter(|other| !other.is_query());
    let is_polled =
        watches.any(|other| other.began.at <= message.at.at && other.ended.at + view.lag >= call.began.at);
    if is_polled {
        Ok(())
    } else {
        Err(format!(
            "the first message is old, and nobody else watched\n      {}",
            view.tell_exchange(exchange)
        ))
    }
}
