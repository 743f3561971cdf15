//! After storms of callers who leave in every way, everything is as it was before: places, waiters, pollers, tries,
//! tasks and open files.

use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::support::frames::{BEGINNING, call, reset};
use crate::support::{
    Answer, Caller, Gate, Gateway, Process, Vendor, alive_tasks, bounded, eventually, http_get, query, soon,
    told, watch,
};

const ROUNDS: usize = 2;
/// Callers of each kind in a round.
const EACH: usize = 20;

/// A vendor that answers for the tasks `w…` and holds what it says of all others, for ever.
async fn vendor() -> Vendor {
    let vendor = Vendor::start().await;
    let never = Gate::shut();
    vendor.on_query(move |seen, number| {
        let answer = Answer::doing(&number.to_string());
        if seen.task().starts_with('w') { answer } else { answer.held(&never) }
    });
    vendor
}

/// Callers who come at once and leave in every way; those who are given back are half-open: they say nothing more.
async fn storm(address: &str, vendor: &Vendor, round: usize) -> Vec<TcpStream> {
    let (mut leaving, mut half_open, mut cut) = (JoinSet::new(), Vec::new(), Vec::new());
    let shared = Caller::connect(address).await;
    for number in 0..EACH {
        // Some share what they wait for, and some are alone with it.
        let held = format!("{}-{round}", if number % 2 == 0 { number } else { 1 });
        let watched = format!("w{held}");
        let own = Caller::connect(address).await;
        for caller in [shared.clone(), own.clone()] {
            let (held, watched) = (held.clone(), watched.clone());
            let (other, third) = (caller.clone(), caller.clone());
            let (id, watched_id) = (held.clone(), watched.clone());
            // At their deadlines.
            leaving.spawn(async move {
                caller
                    .query(bounded(query(&held), Duration::from_secs(2)))
                    .await
                    .expect_err("nobody answers it");
            });
            leaving.spawn(async move {
                let ended = match other.watch(bounded(watch(&watched, None), Duration::from_secs(3))).await {
                    Ok(mut messages) => messages.failure().await,
                    // On a busy machine its time may be over before its first answer is there.
                    Err(status) => told(&status),
                };
                assert_eq!(ended.reason, "DEADLINE", "there is room for all");
            });
            // In the midst of it: at once, after the first message, never having begun to read.
            leaving.spawn(async move {
                let _ = tokio::time::timeout(Duration::from_millis(300), third.query(query(&id))).await;
                let mut messages =
                    third.watch(watch(&watched_id, None)).await.expect("there is room for all");
                messages.next().await;
                let _ = tokio::time::timeout(Duration::from_millis(200), third.watch(watch(&id, None))).await;
            });
        }
        let mut doomed = JoinSet::new();
        let (of_query, of_watch) = (own.clone(), own.clone());
        let (id, watched_id) = (format!("cut-{held}"), watched.clone());
        doomed.spawn(async move { drop(of_query.query(query(&id)).await) });
        doomed.spawn(async move {
            if let Ok(mut messages) = of_watch.watch(watch(&watched_id, None)).await {
                while let Ok(Some(_)) = messages.message().await {}
            }
        });
        cut.push((own, doomed));
        let mut by_hand = TcpStream::connect(address).await.expect("there is room for all");
        let calls = [
            BEGINNING.to_vec(),
            call("QueryTask", 1, &held),
            call("WatchTask", 3, &watched),
            call("QueryTask", 5, &held),
            reset(5),
            call("WatchTask", 7, &watched),
            reset(7),
        ];
        by_hand.write_all(&calls.concat()).await.expect("there is room for all");
        half_open.push(by_hand);
    }
    while let Some(ended) = soon("a caller's end", leaving.join_next()).await {
        ended.expect("each of them is served as it should be");
    }
    // Those that are cut are under way by now.
    eventually("those to be cut are under way", async || {
        let asked = vendor.asked_for();
        let cut = |task: &&String| task.starts_with("cut-") && task.ends_with(&format!("-{round}"));
        // The odd ones share theirs.
        asked.iter().filter(cut).count() == EACH / 2 + 1
    })
    .await;
    for (caller, _doomed) in cut {
        caller.cut();
    }
    half_open
}

#[tokio::test]
async fn a_gateway_is_after_storms_what_it_was_before() {
    let vendor = vendor().await;
    // What is left of a storm, if anything is, leaves no room for the next.
    let flags = ["--poll-min=50ms", "--poll-max=100ms", "--max-in-flight=140", "--max-watches=180"];
    let gateway = Gateway::start_impatient(&vendor, &flags).await;
    let caller = gateway.caller().await;
    eventually("it answers", async || caller.query(query("w")).await.is_ok()).await;
    let before = alive_tasks();
    for round in 0..ROUNDS {
        let half_open = storm(gateway.address(), &vendor, round).await;
        gateway.idle().await;
        eventually("nothing is under way at the vendor", async || vendor.under_way() == 0).await;
        for method in ["QueryTask", "WatchTask"] {
            assert_eq!(gateway.handled(method, "ResourceExhausted").await, 0.0, "{method}");
            let begun = gateway.started(method).await;
            eventually("every call has its end", async || {
                let codes = ["OK", "Canceled", "DeadlineExceeded"];
                let mut ended = 0.0;
                for code in codes {
                    ended += gateway.handled(method, code).await;
                }
                ended == begun
            })
            .await;
        }
        drop(half_open);
        caller.query(query("w")).await.unwrap();
        // The vendor's connections that are kept for the next call have tasks at both ends.
        eventually("every task has its end", async || {
            alive_tasks() <= before + 2 * (vendor.open_connections() - 1)
        })
        .await;
    }
    gateway.stop().await;
}

#[tokio::test]
async fn a_process_has_no_more_files_open_after_storms_than_before() {
    let vendor = vendor().await;
    let process = Process::start(&vendor, &["--poll-min=50ms", "--poll-max=100ms"]).await;
    let caller = Caller::connect(&process.address).await;
    eventually("it answers", async || caller.query(query("w")).await.is_ok()).await;
    let (files, kept) = (process.open_files(), vendor.open_connections());
    for round in 0..ROUNDS {
        // These go before their time is up, as this gateway has the contract's patience with them.
        drop(storm(&process.address, &vendor, round).await);
        eventually("nothing is under way", async || {
            let (_, metrics) = http_get(&process.admin, "/metrics").await;
            ["federation_watchers 0", "federation_pollers 0", "federation_upstream_in_flight 0"]
                .iter()
                .all(|name| metrics.lines().any(|line| line == *name))
        })
        .await;
        eventually("all else is closed", async || {
            process.open_files() <= files + vendor.open_connections().saturating_sub(kept)
        })
        .await;
    }
}
