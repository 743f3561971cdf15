//! The table of failures: code, reason, what stands beside them, and how often the gateway tries by itself. Its rows are
//! in `errors/`, as what goes wrong and what is told; each happens in each form in which a failure reaches a caller.

mod complete;
mod exchanges;
mod forms;
mod hosts;
mod logins;
mod odd;
mod own;
mod row;
mod rows;

use std::collections::HashSet;
use std::time::Duration;

use federation_gateway::clock;
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::row::Row;
use crate::support::{Answer, Gateway, Vendor, query, told};

/// Everything that happens here.
fn table() -> Vec<Row> {
    let parts = [
        rows::of_the_contract(),
        rows::of_bodies(),
        rows::of_retry_after(),
        exchanges::cut_off(),
        exchanges::endless(),
        exchanges::flood(),
        exchanges::no_http(),
        exchanges::over_tls(),
        hosts::hosts(),
        logins::logins(),
    ];
    parts.concat()
}

#[test]
fn every_reason_and_every_line_of_readme_is_in_the_table() {
    complete::check(&table());
}

#[tokio::test]
async fn each_row_of_the_contract() {
    forms::happen(rows::of_the_contract()).await;
}

#[tokio::test]
async fn bodies_that_change_what_a_status_says() {
    forms::happen(rows::of_bodies()).await;
}

#[tokio::test]
async fn each_retry_after() {
    forms::happen(rows::of_retry_after()).await;
}

#[tokio::test]
async fn exchanges_that_are_cut_off() {
    forms::happen(exchanges::cut_off()).await;
}

#[tokio::test]
async fn exchanges_without_end() {
    forms::happen(exchanges::endless()).await;
}

#[tokio::test]
async fn a_flood_of_interim_answers() {
    forms::happen_in_turn(exchanges::flood()).await;
}

#[tokio::test]
async fn exchanges_that_are_no_http() {
    forms::happen(exchanges::no_http()).await;
}

#[tokio::test]
async fn exchanges_that_break_below_tls() {
    forms::happen(exchanges::over_tls()).await;
}

#[tokio::test]
async fn hosts_that_fail() {
    forms::happen(hosts::hosts()).await;
}

#[tokio::test]
async fn logins_that_bring_no_token() {
    forms::happen(logins::logins()).await;
}

#[tokio::test]
async fn a_401_is_tried_again_with_a_new_token() {
    let vendor = Vendor::start().await;
    vendor.on_query(|_, _| Answer::status(401));
    let gateway = Gateway::start(&vendor, &["--max-attempts=1"]).await;
    let told = gateway.caller().await.refused(query("7")).await;
    assert_eq!(told.reason, "UPSTREAM_UNAUTHORIZED");
    assert_eq!((vendor.queries(), vendor.logins()), (2, 2));
    let tokens: Vec<_> = vendor.seen().iter().map(|seen| seen.header("authorization").to_owned()).collect();
    assert_eq!(tokens[1..], ["Bearer token-1", "", "Bearer token-2"]);
    gateway.stop().await;
}

#[tokio::test]
async fn an_outage_is_not_amplified() {
    const CALLS: usize = 600;
    let vendor = Vendor::start().await;
    vendor.on_query(|_, _| Answer::status(503));
    let gateway = Gateway::start(&vendor, &[]).await;
    let mut calls = JoinSet::new();
    for connection in 0..4 {
        let caller = gateway.caller().await;
        for number in 0..CALLS / 4 {
            let caller = caller.clone();
            let id = format!("{connection}-{number}");
            calls.spawn(async move { caller.refused(query(&id)).await });
        }
    }
    while let Some(told) = calls.join_next().await {
        let told = told.unwrap();
        assert_eq!((&*told.reason, told.retry.is_some()), ("UPSTREAM_UNAVAILABLE", true), "{}", told.text);
    }
    let mut known = HashSet::new();
    let seen = vendor.asked_for().into_iter().zip(vendor.query_times());
    let retries: Vec<_> =
        seen.filter(|(task, _)| !known.insert(task.clone())).map(|(_, time)| time).collect();
    assert_eq!(known.len(), CALLS);
    // Those that were allowed were made.
    assert!(retries.len() >= 100, "{}", retries.len());
    let allowed = 100 + CALLS / 5;
    for begin in &retries {
        // Half of the budget's window, as they came later than they were made.
        let within = |time: &&Instant| **time >= *begin && (**time - *begin).as_secs() < 5;
        let count = retries.iter().filter(within).count();
        assert!(count <= allowed, "{count} retries in five seconds, of {} in all", retries.len());
    }
    // And the next call is none the worse.
    vendor.on_query(|_, _| Answer::doing(""));
    gateway.caller().await.query(query("next")).await.unwrap();
    gateway.stop().await;
}

#[tokio::test]
async fn what_looks_odd_and_is_an_answer() {
    let vendor = Vendor::start().await;
    let gateway = Gateway::start(&vendor, &["--max-attempts=1"]).await;
    let caller = gateway.caller().await;
    for (what, answer, is_clean) in odd::odd_but_good() {
        vendor.first([answer]);
        let answer = caller.query(query("7")).await.unwrap_or_else(|status| panic!("{what}: {status:?}"));
        assert_eq!(answer.task.unwrap().remark, "good", "{what}");
        let odd = vendor.seen().last().unwrap().connection;
        vendor.first([Answer::doing("of 8")]);
        assert_eq!(caller.query(query("8")).await.unwrap().task.unwrap().remark, "of 8", "after {what}");
        assert!(is_clean || vendor.seen().last().unwrap().connection != odd, "after {what}");
    }
    gateway.stop().await;
}

#[tokio::test]
async fn retry_after_is_kept_in_both_its_forms() {
    let vendor = Vendor::start().await;
    let gateway = Gateway::start(&vendor, &["--max-attempts=2"]).await;
    let caller = gateway.caller().await;
    let now = clock::wall_now();
    let date = httpdate::fmt_http_date(now + Duration::from_secs(2));
    let of_vendor = httpdate::fmt_http_date(now);
    for (refusal, wait) in [
        (Answer::status(429).header("Retry-After", "1"), 1),
        (Answer::status(503).header("Date", &of_vendor).header("Retry-After", &date), 2),
    ] {
        let before = vendor.queries();
        vendor.first([refusal, Answer::doing("")]);
        caller.query(query("7")).await.unwrap();
        let times = &vendor.query_times()[before..];
        assert_eq!(times.len(), 2);
        assert!(times[1] - times[0] >= Duration::from_secs(wait));
    }
    gateway.stop().await;
}

#[tokio::test]
async fn long_texts_of_the_vendors_are_cut() {
    let vendor = Vendor::start().await;
    vendor.on_query(|_, _| Answer::result("7", &"\u{4e2d}".repeat(4000)));
    let gateway = Gateway::start(&vendor, &[]).await;
    let status = gateway.caller().await.query(query("7")).await.unwrap_err();
    assert_eq!(told(&status).metadata["result_message"], "\u{4e2d}".repeat(170));
    assert!(!status.message().contains('\u{4e2d}'));
    let trailers = status.into_http::<()>();
    let bytes: usize =
        trailers.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
    assert!(bytes < 4096, "{bytes}");
    gateway.stop().await;
}
