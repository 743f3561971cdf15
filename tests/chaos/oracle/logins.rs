//! Logins: one at a time, spaced, and none without need (contract 3). Each process by itself.

use std::time::Duration;

use super::View;
use crate::plan::answers::{Grant, What};
use crate::record::Login;

/// The first back-off after a failed login, less its jitter.
const BACK_OFF: f64 = 0.9;
/// What is asked for where the answer does not say how long the token lives.
const ASKED: u64 = 60;

pub(super) fn judge(view: &mut View<'_>) {
    for process in 0..=view.records.lives.len() {
        let logins: Vec<_> = view.records.logins.iter().filter(|login| login.process == process).collect();
        let mut failed = 0;
        for (at, pair) in logins.windows(2).enumerate() {
            let [one, two] = pair else { continue };
            let is_token = one.told.is_some() && matches!(one.script.grant, Grant::Token { .. });
            failed = if is_token { 0 } else { failed + 1 };
            // What was asked before this round is not known any more.
            if one.arrived.at < view.began.at {
                continue;
            }
            let before = at.checked_sub(1).map(|before| logins[before]);
            if let Err(what) = next(view, before, one, two, failed) {
                view.findings.push(format!(
                    "process {process}, logins at {} and {}: {what}\n      {one:?}",
                    view.at(one.arrived.at),
                    view.at(two.arrived.at),
                ));
            }
        }
    }
}

/// Whether the second login may follow the first, after so many that failed.
fn next(
    view: &View<'_>,
    before: Option<&Login>,
    one: &Login,
    two: &Login,
    failed: i32,
) -> Result<(), String> {
    let arrived = two.arrived.at;
    let gap = arrived - one.arrived.at;
    // Who is cut off by the vendor may not have got what it was told, nor who was told late.
    let is_unclear =
        one.told.is_some() && matches!(one.script.grant, Grant::Token { .. }) && !view.is_granted(one);
    if is_unclear || view.was_away(one.arrived.at, arrived) {
        return Ok(());
    }
    if one.ended.is_none_or(|ended| ended.at > arrived + view.blur)
        || one.told.is_some_and(|told| told.at > arrived)
    {
        return Err("two at once".into());
    }
    if failed > 0 {
        let after = match one.script.grant {
            Grant::Status(_, Some(after)) => Duration::from_secs(after),
            _ => Duration::ZERO,
        };
        let back_off = Duration::from_secs_f64(BACK_OFF * 2_f64.powi(failed - 1)).max(after);
        // What was told was told before it failed; when the others failed the vendor sees less exactly.
        let least = one.told.map_or(one.arrived.at + back_off - view.blur, |told| told.at + back_off);
        return if arrived < least { Err(format!("not {back_off:?} after one that failed")) } else { Ok(()) };
    }
    let at = view.records.logins.iter().position(|login| std::ptr::eq(login, one));
    let told = one.told.map_or(one.arrived.at, |told| told.at);
    let is_refused = view.records.exchanges.iter().any(|exchange| {
        let is_401 = matches!(exchange.what, What::Status(401, _));
        is_401 && exchange.token == at && exchange.told.is_some_and(|told| told.at <= arrived)
    });
    // A renewal under way serves as the login that a 401 asks for, of the token before: so the next one may follow soon
    // where the token is new.
    let is_soon = gap + view.blur < Duration::from_secs(1);
    if is_soon && !is_refused {
        return Err("within a second, and no 401 on the token".into());
    }
    let before_gap =
        before.filter(|before| view.is_granted(before)).map(|before| one.arrived.at - before.arrived.at);
    if is_soon && before_gap.is_some_and(|gap| gap + view.blur < Duration::from_secs(1)) {
        return Err("the third within two seconds: logins that 401s cause are a second apart".into());
    }
    let life = Duration::from_secs(one.script.expires.unwrap_or(ASKED));
    if !is_refused && gap + view.blur < life / 2 {
        let told = view.at(told);
        return Err(format!(
            "no need: the token was told at {told} to live for {life:?}, and was not refused"
        ));
    }
    Ok(())
}
