//! The end of the process, with the real binary: what callers get, and the exit code.

use std::error::Error as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use std::os::unix::fs::OpenOptionsExt as _;

use futures_util::StreamExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;

use crate::support::frames::{
    BEGINNING, DATA, END_HEADERS, END_STREAM, HEADERS, PING, WINDOW_UPDATE, call, frame, query_headers, read,
};
use crate::support::{Answer, Caller, Gate, Process, Vendor, eventually, query, soon, told, watch};

/// Linux's own number for it, on every architecture that this runs on.
const O_NONBLOCK: i32 = 0o4000;

#[tokio::test]
async fn every_call_is_answered_and_nothing_holds_the_drain_up() {
    let vendor = Vendor::start().await;
    let gate = Gate::shut();
    let held = gate.clone();
    vendor.on_query(move |seen, _| {
        let answer = Answer::doing("");
        if seen.task().starts_with("held") { answer.held(&held) } else { answer }
    });
    // Far longer than the test has patience.
    let mut process = Process::start(&vendor, &["--drain-timeout=120s"]).await;
    let caller = Caller::connect(&process.address).await;
    let mut messages = caller.watch(watch("watched", None)).await.unwrap();
    messages.next().await;
    let mut health = HealthClient::with_origin(caller.connection(), caller.origin());
    let mut health = health.watch(HealthCheckRequest { service: String::new() }).await.unwrap().into_inner();
    assert_eq!(health.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    let mut unfinished = JoinSet::new();
    for number in 0..20 {
        let caller = caller.clone();
        unfinished.spawn(async move { caller.query(query(&format!("held-{number}"))).await });
    }
    eventually("they are under way", async || vendor.under_way() == 20).await;
    let mut load = JoinSet::new();
    let answered = Arc::new(AtomicUsize::new(0));
    for number in 0..10 {
        let (caller, answered) = (Caller::connect(&process.address).await, Arc::clone(&answered));
        load.spawn(async move {
            loop {
                match caller.query(query(&number.to_string())).await {
                    Ok(_) => answered.fetch_add(1, Ordering::SeqCst),
                    Err(status) => return status,
                };
            }
        });
    }
    eventually("there is load", async || answered.load(Ordering::SeqCst) > 100).await;

    // By itself, so that its time is not that of those who are looked at before it.
    let (mut silent, mut silence) = (TcpStream::connect(&process.address).await.unwrap(), JoinSet::new());
    let start = Instant::now();
    silence.spawn(async move { (silent.read(&mut [0]).await.unwrap_or(0), start.elapsed()) });
    process.signal("-TERM").await;
    let failure = messages.failure().await;
    assert_eq!((failure.code, &*failure.reason), (Code::Unavailable, "SHUTTING_DOWN"));
    let last = soon("health's last word", health.message()).await.unwrap().unwrap();
    assert_eq!(last.status(), ServingStatus::NotServing);
    assert!(soon("health's end", health.message()).await.unwrap().is_none());
    let (read, after) = soon("the silent one's end", silence.join_next()).await.unwrap().unwrap();
    assert_eq!(read, 0);
    assert!(after < Duration::from_secs(10), "the drain ended it, not the bound on handshakes");
    while let Some(status) = soon("the load's end", load.join_next()).await {
        let status = status.unwrap();
        let told = told(&status);
        // Either the gateway says so, or the caller's own HTTP/2 has seen the GOAWAY and sends nothing.
        let error = status.source().and_then(|source| source.downcast_ref::<hyper::Error>());
        let is_unsent = status.message().starts_with("Service was not ready")
            || error.is_some_and(|error| error.is_canceled() || error.is_closed() || is_go_away(error));
        assert!(told.reason == "SHUTTING_DOWN" || is_unsent, "{}", told.text);
    }
    assert_eq!(vendor.under_way(), 20);
    gate.open();
    while let Some(call) = soon("the calls under way", unfinished.join_next()).await {
        call.unwrap().expect("it was sent before the drain");
    }
    assert_eq!(process.ended().await, Some(0));
}

/// Whether it is the other side's polite "no new streams".
fn is_go_away(error: &hyper::Error) -> bool {
    let text = format!("{error:?}");
    text.contains("GoAway") && text.contains("NO_ERROR")
}

#[tokio::test]
async fn what_is_unfinished_at_the_end_is_told_so() {
    let vendor = Vendor::start().await;
    let gate = Gate::shut();
    vendor.first([Answer::doing("").held(&gate)]);
    let mut process = Process::start(&vendor, &["--drain-timeout=1s"]).await;
    let caller = Caller::connect(&process.address).await;
    let mut calls = JoinSet::new();
    calls.spawn(async move { caller.refused(query("7")).await });
    eventually("it is under way", async || vendor.under_way() == 1).await;
    process.signal("-INT").await;
    let told = soon("the answer", calls.join_next()).await.unwrap().unwrap();
    assert_eq!((told.code, &*told.reason), (Code::Unavailable, "SHUTTING_DOWN"), "{}", told.text);
    assert!(told.retry.is_some());
    assert_eq!(process.ended().await, Some(0));
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let vendor = Vendor::start().await;
    let gate = Gate::shut();
    vendor.first([Answer::doing("").held(&gate)]);
    let mut process = Process::start(&vendor, &["--drain-timeout=120s"]).await;
    let caller = Caller::connect(&process.address).await;
    let mut calls = JoinSet::new();
    let own = caller.clone();
    calls.spawn(async move { own.query(query("7")).await });
    eventually("it is under way", async || vendor.under_way() == 1).await;
    process.signal("-TERM").await;
    eventually("it drains", async || TcpStream::connect(&process.address).await.is_err()).await;
    process.signal("-TERM").await;
    assert_eq!(process.ended().await, Some(130));
    gate.open();
}

#[tokio::test]
async fn an_idle_gateway_always_ends_well() {
    let vendor = Vendor::start().await;
    for _ in 0..20 {
        let mut process = Process::start(&vendor, &["--drain-timeout=60s"]).await;
        process.signal("-TERM").await;
        assert_eq!(process.ended().await, Some(0));
    }
}

#[tokio::test]
async fn a_peer_that_vanished_and_an_open_reflection_hold_nothing_up() {
    let vendor = Vendor::start().await;
    let mut process = Process::start(&vendor, &["--drain-timeout=120s"]).await;
    // A peer that begins to speak HTTP/2, and then never answers the GOAWAY's ping.
    let mut vanished = TcpStream::connect(&process.address).await.unwrap();
    vanished.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    vanished.read_u8().await.unwrap();
    let caller = Caller::connect(&process.address).await;
    let mut reflection = ServerReflectionClient::with_origin(caller.connection(), caller.origin());
    let list = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let requests = futures_util::stream::iter([list]).chain(futures_util::stream::pending());
    let mut answers = reflection.server_reflection_info(requests).await.unwrap().into_inner();
    answers.message().await.unwrap().unwrap();
    process.signal("-TERM").await;
    let end = soon("the reflection's end", answers.message()).await.unwrap_err();
    assert_eq!(&*told(&end).reason, "SHUTTING_DOWN");
    assert_eq!(process.ended().await, Some(0));
}

#[tokio::test]
async fn a_read_that_hangs_does_not_keep_the_process() {
    let vendor = Vendor::start().await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("secret");
    std::fs::write(&path, "secret").unwrap();
    let mut process = Process::start_with_secret_file(&vendor, &path).await;
    std::fs::remove_file(&path).unwrap();
    let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
    assert!(made.success());
    // A pipe can be opened for writing, without waiting, only once somebody reads it: then the read hangs.
    let mut writer = None;
    eventually("the file is read again", async || {
        let mut options = std::fs::OpenOptions::new();
        writer = options.write(true).custom_flags(O_NONBLOCK).open(&path).ok();
        writer.is_some()
    })
    .await;
    process.signal("-TERM").await;
    assert_eq!(process.ended().await, Some(0));
    drop(writer);
}

#[tokio::test]
async fn a_slow_reader_has_its_whole_answer() {
    const BYTES: usize = 400_000;
    const STEP: u32 = 50_000;
    let vendor = Vendor::start().await;
    vendor.first([Answer::doing(&"r".repeat(BYTES))]);
    let mut process = Process::start(&vendor, &["--drain-timeout=120s"]).await;
    // HTTP/2 by hand: no client reads as slowly as this one.
    let mut reader = TcpStream::connect(&process.address).await.unwrap();
    let request = [
        BEGINNING.to_vec(),
        frame(HEADERS, END_HEADERS, 1, &query_headers()),
        // A message of three bytes: task_id is "7".
        frame(DATA, END_STREAM, 1, &[0, 0, 0, 0, 3, 0x0a, 1, b'7']),
    ];
    reader.write_all(&request.concat()).await.unwrap();
    let (mut taken, mut is_told) = (0, false);
    loop {
        let (kind, flags, stream, payload) =
            soon("a frame", read(&mut reader)).await.expect("the connection lasts to the answer's end");
        match kind {
            DATA => taken += payload.len(),
            PING if flags == 0 => reader.write_all(&frame(PING, 1, 0, &payload)).await.unwrap(),
            // The trailers.
            HEADERS if stream == 1 && flags & END_STREAM != 0 => break,
            _ => {}
        }
        // Whenever its window is full: the first time it is 65,535 bytes.
        let filled = taken.saturating_sub(65_535);
        if taken >= 65_535 && filled % STEP as usize == 0 && kind == DATA {
            if !std::mem::replace(&mut is_told, true) {
                process.signal("-TERM").await;
            }
            // What makes it slow: nothing is waited for here.
            tokio::time::sleep(Duration::from_millis(700)).await;
            for stream in [0, 1] {
                reader.write_all(&frame(WINDOW_UPDATE, 0, stream, &STEP.to_be_bytes())).await.unwrap();
            }
        }
    }
    assert!(taken > BYTES);
    drop(reader);
    assert_eq!(process.ended().await, Some(0));
}

#[tokio::test]
async fn what_a_caller_writes_after_the_last_word_breaks_nothing() {
    let vendor = Vendor::start().await;
    let mut process = Process::start(&vendor, &[]).await;
    // HTTP/2 by hand: a client whose write is answered with a reset drops what it has not read.
    let mut caller = TcpStream::connect(&process.address).await.unwrap();
    caller.write_all(&[BEGINNING, &call("WatchTask", 1, "7")].concat()).await.unwrap();
    let mut is_told = false;
    while let Ok((kind, flags, stream, payload)) = soon("a frame", read(&mut caller)).await {
        match kind {
            DATA => process.signal("-TERM").await,
            PING if flags == 0 => caller.write_all(&frame(PING, 1, 0, &payload)).await.unwrap(),
            HEADERS if stream == 1 && flags & END_STREAM != 0 => is_told = true,
            _ => {}
        }
    }
    assert!(is_told);
    for _ in 0..10 {
        caller.write_all(&frame(PING, 0, 0, b"too late")).await.unwrap();
    }
    drop(caller);
    assert_eq!(process.ended().await, Some(0));
}
