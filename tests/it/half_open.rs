//! Callers that hold a connection and do not do their part: they answer no pings, read nothing, or never begin.

use std::time::Duration;

use federation_gateway::pb::WatchReason;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::support::frames::{BEGINNING, DATA, GOAWAY, PING, SETTINGS, WINDOW_UPDATE, call, frame, read};
use crate::support::{
    Answer, Gateway, IMPATIENT, LONG, Vendor, alive_tasks, eventually, query, soon, told, watch,
};

const POLL_MIN: Option<Duration> = Some(Duration::from_millis(50));

async fn gateway(vendor: &Vendor, flags: &[&str]) -> Gateway {
    let gateway = Gateway::start_impatient(vendor, flags).await;
    eventually("it has a token", async || gateway.get("/readyz").await.0 == 200).await;
    gateway
}

#[tokio::test]
async fn a_watcher_that_answers_no_ping_is_let_go_and_the_living_one_beside_it_is_not() {
    let vendor = Vendor::start().await;
    vendor.on_query(|_, number| Answer::doing(&number.to_string()));
    let gateway = gateway(&vendor, &["--poll-min=50ms", "--max-watches=3"]).await;
    let living = gateway.caller().await;
    let mut messages = living.watch(watch("shared", POLL_MIN)).await.unwrap();
    let mut dead = TcpStream::connect(gateway.address()).await.unwrap();
    let calls = [call("WatchTask", 1, "shared"), call("WatchTask", 3, "alone")].concat();
    dead.write_all(&[BEGINNING, &calls].concat()).await.unwrap();
    let start = Instant::now();
    // It reads all that comes, so that nothing but its pings tells that it is gone.
    let (mut is_pinged, mut is_told) = (false, false);
    while let Ok((kind, flags, ..)) = soon("a frame, or the end", read(&mut dead)).await {
        is_pinged |= kind == PING && flags == 0;
        is_told |= kind == GOAWAY;
        if kind == DATA {
            assert!(start.elapsed() < LONG, "it is served for ever");
        }
    }
    assert!(is_pinged && is_told);
    assert!(start.elapsed() >= IMPATIENT.ping_timeout, "{:?}", start.elapsed());
    eventually("one watcher is left", async || gateway.metric("federation_watchers").await == 1.0).await;
    eventually("one poller is left", async || gateway.metric("federation_pollers").await == 1.0).await;
    assert_eq!(gateway.handled("WatchTask", "Canceled").await, 2.0);
    for _ in 0..3 {
        assert_ne!(messages.next().await.0, WatchReason::Heartbeat);
    }
    // Its places are free.
    let (_one, _other) = (
        living.watch(watch("1", POLL_MIN)).await.unwrap(),
        living.watch(watch("2", POLL_MIN)).await.unwrap(),
    );
    gateway.stop().await;
}

#[tokio::test]
async fn a_watcher_that_reads_nothing_is_let_go_though_nothing_more_can_be_written_to_it() {
    let vendor = Vendor::start().await;
    vendor.on_query(|_, number| Answer::doing(&format!("{number} {}", "x".repeat(900_000))));
    let gateway = gateway(&vendor, &["--poll-min=50ms"]).await;
    let caller = gateway.caller().await;
    caller.query(query("7")).await.unwrap();
    let before = alive_tasks();
    let mut dead = TcpStream::connect(gateway.address()).await.unwrap();
    // It takes as much as there is: more than the sockets' own buffers hold.
    let window = 0x7fff_ffff_u32;
    let settings = [&[0, 4][..], &window.to_be_bytes()].concat();
    let more = (window - 65_535).to_be_bytes();
    let begin = [
        &BEGINNING[..24],
        &frame(SETTINGS, 0, 0, &settings),
        &frame(WINDOW_UPDATE, 0, 0, &more),
        &call("WatchTask", 1, "7"),
    ];
    dead.write_all(&begin.concat()).await.unwrap();
    eventually("it is served", async || gateway.metric("federation_pollers").await == 1.0).await;
    eventually("it is let go", async || gateway.handled("WatchTask", "Canceled").await == 1.0).await;
    gateway.idle().await;
    eventually("its connection's task is gone", async || alive_tasks() <= before).await;
    // Only now is it read from: what was on its way, and the end.
    let mut rest = Vec::new();
    let _ = soon("the connection's end", dead.read_to_end(&mut rest)).await;
    assert!(rest.len() > 900_000, "{}", rest.len());
    caller.query(query("7")).await.unwrap();
    gateway.stop().await;
}

#[tokio::test]
async fn a_connection_that_does_not_begin_in_time_is_closed() {
    let vendor = Vendor::start().await;
    let gateway = gateway(&vendor, &[]).await;
    let begin = async |bytes: &'static [u8]| {
        let start = Instant::now();
        let mut stream = TcpStream::connect(gateway.address()).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        // Bytes that were never read make a reset of the end.
        let _ = soon("the end", stream.read_to_end(&mut answer)).await;
        (start.elapsed(), answer.len())
    };
    let ends = tokio::join!(begin(b""), begin(&BEGINNING[..1]), begin(&BEGINNING[..23]), begin(b"GET / "));
    for (after, answered) in [ends.0, ends.1, ends.2] {
        assert!(after >= IMPATIENT.handshake && answered == 0, "{after:?} {answered}");
    }
    // What is no HTTP/2 is not waited for.
    assert_eq!(ends.3.1, 0);
    // And whoever comes is served all the while.
    let refused = gateway.caller().await.watch(watch("", None)).await.unwrap_err();
    assert_eq!(told(&refused).reason, "INVALID_FIELD");
    gateway.stop().await;
}
