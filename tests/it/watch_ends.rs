//! Whatever a task's poller waits for, a watch that has begun ends at its deadline, and when its caller is gone:
//! cancelled, cut off, or half-open. With the last one the poller goes, and what it had begun.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::deadlines::End;
use crate::support::frames::{BEGINNING, call};
use crate::support::{Answer, Gate, Gateway, LONG, Vendor, bounded, done, eventually, query, told, watch};

/// Long enough for a watch to come to its wait on a busy machine.
const DEADLINE: Duration = Duration::from_secs(8);

/// What the poller waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    Interval,
    Answer,
    Turn,
    Login,
    BackOff,
    RetryAfter,
    /// Nothing: it is the caller that reads none of what comes.
    Reader,
}

async fn check(wait: Wait, end: End) {
    let what = format!("{wait:?} {end:?}");
    let (vendor, gate) = (Vendor::start().await, Gate::shut());
    let held = gate.clone();
    vendor.on_login(move |_, number| {
        let token = Answer::token(&format!("token-{number}"), &json!("3600"));
        if number == 1 { token } else { token.held(&held) }
    });
    let (held, mut watched) = (gate.clone(), 0);
    vendor.on_query(move |seen, _| {
        if seen.task() == "holding" {
            return done().held(&held);
        }
        watched += 1;
        match wait {
            _ if watched == 1 => Answer::doing("first"),
            Wait::Interval | Wait::Turn => Answer::doing("first"),
            Wait::Answer => Answer::doing("first").held(&held),
            Wait::Login => Answer::status(401),
            Wait::BackOff => Answer::status(503),
            Wait::RetryAfter => Answer::status(429).header("Retry-After", "17"),
            Wait::Reader => Answer::doing(&format!("{watched} {}", "x".repeat(200_000))),
        }
    });
    let flags = [
        "--upstream-concurrency=1",
        "--max-attempts=1",
        "--max-watches=1",
        "--poll-min=50ms",
        "--poll-max=200ms",
    ];
    // Where the interval is waited for, it grows as far as it likes.
    let flags =
        if wait == Wait::Interval { [&flags[..4], &["--poll-max=60s"]].concat() } else { flags.to_vec() };
    let gateway = Gateway::start_impatient(&vendor, &flags).await;
    eventually("it has a token", async || gateway.get("/readyz").await.0 == 200).await;

    let (caller, other) = (gateway.caller().await, gateway.caller().await);
    let (mut messages, mut by_hand) = (None, None);
    if end == End::HalfOpen {
        let mut stream = TcpStream::connect(gateway.address()).await.expect("it listens");
        stream.write_all(&[BEGINNING, &call("WatchTask", 1, "7")].concat()).await.expect("it reads");
        by_hand = Some(stream);
    } else {
        let timeout = if end == End::Deadline { DEADLINE } else { LONG };
        messages = Some(caller.watch(bounded(watch("7", None), timeout)).await.expect(&what));
    }
    eventually("it is polled", async || gateway.metric("federation_pollers").await == 1.0).await;
    let mut holding = JoinSet::new();
    if wait == Wait::Turn {
        let holder = other.clone();
        // How it ends does not matter: it is there to be waited for.
        holding.spawn(async move { drop(holder.query(query("holding")).await) });
    }
    eventually(&what, async || match wait {
        Wait::Interval => vendor.queries() >= 4,
        Wait::Answer => vendor.queries() == 2 && vendor.under_way() == 1,
        Wait::Turn => vendor.under_way() == 1 && vendor.asked_for().last().is_some_and(|id| id == "holding"),
        Wait::Login => vendor.logins() == 2,
        Wait::BackOff | Wait::Reader => vendor.queries() >= 4,
        Wait::RetryAfter => gateway.exchanges("upstream_rate_limited").await == 1.0,
    })
    .await;
    match end {
        // Who reads nothing isn't told, and is let go all the same.
        End::Deadline if wait == Wait::Reader => {}
        End::Deadline => {
            let told = messages.as_mut().expect("it watches").failure().await;
            assert_eq!(told.reason, "DEADLINE", "{what}");
        }
        End::Cancel => drop(messages.take()),
        End::Cut => caller.cut(),
        // Its time comes by itself.
        End::HalfOpen => {}
    }
    let held = usize::from(wait == Wait::Turn);
    for (name, value) in [("watchers", 0), ("pollers", 0), ("upstream_in_flight", held)] {
        let name = format!("federation_{name}");
        eventually(&format!("{what}: {name}"), async || gateway.metric(&name).await == value as f64).await;
    }
    eventually(&what, async || vendor.under_way() == held).await;
    if (wait, end) == (Wait::Reader, End::Deadline) {
        drop(messages.take());
        eventually(&what, async || gateway.handled("WatchTask", "Canceled").await == 1.0).await;
    } else {
        let code = if end == End::Deadline { "DeadlineExceeded" } else { "Canceled" };
        eventually(&what, async || gateway.handled("WatchTask", code).await == 1.0).await;
    }
    // Its place is free: whatever else is wrong with a request is seen first if there is none.
    let refused = other.watch(watch("", None)).await.expect_err(&what);
    assert_eq!(told(&refused).reason, "INVALID_FIELD", "{what}");
    // Where polls come and go, one may have been under way.
    if !matches!(wait, Wait::Interval | Wait::BackOff | Wait::Reader) {
        assert_eq!(gateway.exchanges("canceled").await > 0.0, wait == Wait::Answer, "{what}");
    }
    // Nothing is asked for in its name any longer: the next try is somebody else's.
    vendor.on_query(|_, _| done());
    gate.open();
    holding.shutdown().await;
    other.query(query("8")).await.expect(&what);
    assert_eq!(vendor.asked_for().last().map(String::as_str), Some("8"), "{what}");
    gateway.idle().await;
    drop(by_hand);
    gateway.stop().await;
}

/// All at once, as they do little but wait.
async fn check_all(waits: &[Wait]) {
    let ends = [End::Deadline, End::Cancel, End::Cut, End::HalfOpen];
    join_all(waits.iter().flat_map(|wait| ends.map(|end| check(*wait, end)))).await;
}

#[tokio::test]
async fn while_a_poll_is_under_way_or_to_come() {
    check_all(&[Wait::Interval, Wait::Answer, Wait::Turn, Wait::Login]).await;
}

#[tokio::test]
async fn while_polls_fail_or_nothing_is_read() {
    check_all(&[Wait::BackOff, Wait::RetryAfter, Wait::Reader]).await;
}
