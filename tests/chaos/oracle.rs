//! The oracle: holds what was written down against what was true and against the contract. It knows no more of the
//! gateway than a caller, a vendor and an operator see. Every bound that it takes from a clock is either exact, as it
//! follows from an order of events whatever the machine does in between, or says how much it allows for a busy machine.

mod answers;
mod failures;
mod logins;
mod upstream;
mod watches;

use std::time::{Duration, SystemTime};

use crate::plan::Plan;
use crate::plan::answers::Grant;
use crate::record::{Call, Exchange, Login, Message, Moment, Records};

/// Clock readings of the same moment, by two processes, differ by no more.
const READING: Duration = Duration::from_millis(5);
/// How long a process may stand still between two things that it does one right after the other; beside the longest
/// that this one was seen to stand still.
const LAG: Duration = Duration::from_secs(2);
/// How far the vendor's view of the beginning of a request lags behind the gateway's, where only a spacing of requests
/// is at stake; beside the same.
const BLUR: Duration = Duration::from_millis(500);
/// So many findings are told.
const FINDINGS: usize = 25;

/// What the oracle looks at.
struct View<'a> {
    plan: &'a Plan,
    /// When the truth began.
    began: Moment,
    records: &'a Records,
    lag: Duration,
    blur: Duration,
    /// The exchanges of each task, in the order of their arrival.
    of_task: Vec<Vec<&'a Exchange>>,
    findings: Vec<String>,
}

/// What is wrong with what was written down in one run, in words.
pub(crate) fn judge(plan: &Plan, began: Moment, records: &Records) -> Vec<String> {
    let mut of_task = vec![Vec::new(); plan.tasks.len()];
    for exchange in &records.exchanges {
        of_task[exchange.task].push(exchange);
    }
    let (lag, blur) = (LAG + records.stall, BLUR + records.stall);
    let mut view = View { plan, began, records, lag, blur, of_task, findings: records.oddities.clone() };
    answers::judge(&mut view);
    watches::judge(&mut view);
    failures::judge(&mut view);
    logins::judge(&mut view);
    upstream::judge(&mut view);
    let more = view.findings.len().saturating_sub(FINDINGS);
    view.findings.truncate(FINDINGS);
    if more > 0 {
        view.findings.push(format!("… and {more} more"));
    }
    view.findings
}

impl View<'_> {
    fn find(&mut self, call: &Call, what: impl std::fmt::Display) {
        let told = self.tell(call);
        self.findings.push(format!("{what}\n      {told}"));
    }

    /// A moment, in seconds since the beginning.
    fn at(&self, moment: tokio::time::Instant) -> String {
        match moment.checked_duration_since(self.began.at) {
            Some(since) => format!("{:.4}", since.as_secs_f64()),
            None => format!("-{:.4}", (self.began.at - moment).as_secs_f64()),
        }
    }

    fn wall(&self, moment: SystemTime) -> String {
        match moment.duration_since(self.began.wall) {
            Ok(since) => format!("{:.4}", since.as_secs_f64()),
            Err(error) => format!("-{:.4}", error.duration().as_secs_f64()),
        }
    }

    fn tell(&self, call: &Call) -> String {
        let task = call.task.map_or("a bad request", |task| &*self.plan.tasks[task].id);
        let (began, ended) = (self.at(call.began.at), self.at(call.ended.at));
        let Call { asked, deadline, outcome, messages, .. } = call;
        format!(
            "caller {}, {task}, {asked:?}, deadline {deadline:?}, from {began} to {ended} s, {} messages, {outcome:?}",
            call.caller,
            messages.len(),
        )
    }

    fn tell_exchange(&self, exchange: &Exchange) -> String {
        let Exchange { number, what, version, arrived, told, ended, token, process, .. } = exchange;
        let moment = |moment: &Option<Moment>| moment.map_or("never".into(), |moment| self.at(moment.at));
        format!(
            "exchange {number} of process {process} for {}: {what:?}, version {version:?}, token {token:?}, arrived {}, told {}, ended {}",
            self.plan.tasks[exchange.task].id,
            self.at(arrived.at),
            moment(told),
            moment(ended),
        )
    }

    fn tell_message(&self, message: &Message) -> String {
        let Message { reason, content, observed, exchange, at, .. } = message;
        format!(
            "a message (reason {reason}) at {} with the content {content:?}, observed {}, exchange {exchange:?}",
            self.at(at.at),
            self.wall(*observed),
        )
    }

    /// Whether a login was answered with a token, and in time, also if this process stood still between reading and
    /// writing and was late with both.
    fn is_granted(&self, login: &Login) -> bool {
        let is_token = matches!(login.script.grant, Grant::Token { .. });
        let in_time = self.plan.settings.attempt_timeout.mul_f64(0.8);
        is_token
            && login.told.is_some_and(|told| told.at - login.arrived.at + 2 * self.records.stall < in_time)
    }

    /// Whether the vendor was away at some time in between.
    fn was_away(&self, from: tokio::time::Instant, until: tokio::time::Instant) -> bool {
        let away = |outage: &crate::record::Outage| {
            outage.from <= until && outage.until.is_none_or(|end| end + self.lag >= from)
        };
        self.records.outages.iter().any(away)
    }
}
