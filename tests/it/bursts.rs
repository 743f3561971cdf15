//! Bursts on a connection that many share: thousands who cancel, before and after their calls have begun, and pings.
//! Nobody else on it is harmed; and one that goes beyond every limit loses its own connection and no other.

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use crate::support::frames::{
    BEGINNING, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, call, frame, headers, message, read,
    reset,
};
use crate::support::{Answer, Gate, Gateway, Vendor, eventually, query, soon, watch};

/// A shared connection by hand, with one call under way that is to be answered whatever the others do.
struct Shared {
    reader: OwnedReadHalf,
    writer: OwnedWriteHalf,
    next: u32,
    pings: u64,
}

impl Shared {
    async fn connect(gateway: &Gateway) -> Self {
        let stream = TcpStream::connect(gateway.address()).await.expect("it listens");
        stream.set_nodelay(true).expect("it is a TCP stream");
        let (reader, writer) = stream.into_split();
        let mut shared = Self { reader, writer, next: 3, pings: 0 };
        shared.write(&[BEGINNING, &call("QueryTask", 1, "held")].concat()).await;
        shared
    }

    async fn write(&mut self, bytes: &[u8]) {
        soon("a write", self.writer.write_all(bytes)).await.expect("the connection lasts");
    }

    /// Numbers for so many more calls.
    fn streams(&mut self, count: u32) -> impl Iterator<Item = u32> + use<> {
        let first = self.next;
        self.next += 2 * count;
        (first..self.next).step_by(2)
    }

    /// The next frame that comes.
    async fn read(&mut self) -> (u8, u8, u32, Vec<u8>) {
        let read = soon("a frame", read(&mut self.reader)).await.expect("the connection lasts");
        assert_ne!(read.0, GOAWAY, "closed for all who share it: {:?}", String::from_utf8_lossy(&read.3));
        read
    }

    /// Waits until the gateway has read all that was written to it so far; how many calls have ended meanwhile.
    async fn settled(&mut self) -> usize {
        self.pings += 1;
        let own = self.pings.to_be_bytes();
        self.write(&frame(PING, 0, 0, &own)).await;
        let mut ended = 0;
        loop {
            let (kind, flags, _, payload) = self.read().await;
            ended += usize::from(kind == HEADERS && flags & END_STREAM != 0);
            if kind == PING && flags == 1 && payload == own {
                return ended;
            }
        }
    }

    /// The answer to the call that was there first.
    async fn answer(&mut self) {
        let mut has_message = false;
        loop {
            let (kind, flags, stream, payload) = self.read().await;
            has_message |= stream == 1 && kind == DATA && !payload.is_empty();
            if stream == 1 && kind == HEADERS && flags & END_STREAM != 0 {
                assert!(has_message, "it is answered well");
                return;
            }
        }
    }
}

/// A vendor that holds what it says of the task `held`, until the gate is opened.
async fn scene(flags: &[&str]) -> (Vendor, Gateway, Gate) {
    let (vendor, gate) = (Vendor::start().await, Gate::shut());
    let held = gate.clone();
    vendor.on_query(move |seen, _| {
        let answer = Answer::doing("");
        if seen.task() == "held" { answer.held(&held) } else { answer }
    });
    let gateway = Gateway::start(&vendor, flags).await;
    (vendor, gateway, gate)
}

async fn ends_well(mut shared: Shared, vendor: &Vendor, gateway: Gateway, gate: &Gate) {
    assert_eq!(vendor.under_way(), 1);
    gate.open();
    shared.answer().await;
    drop(shared);
    gateway.idle().await;
    gateway.stop().await;
}

#[tokio::test]
async fn thousands_of_calls_cancelled_after_they_began() {
    const BATCHES: u32 = 30;
    const BATCH: u32 = 100;
    let (vendor, gateway, gate) = scene(&["--max-in-flight=101", "--max-watches=100"]).await;
    let mut shared = Shared::connect(&gateway).await;
    eventually("it is under way", async || vendor.under_way() == 1).await;
    for batch in 1..=BATCHES {
        let method = if batch % 2 == 0 { "WatchTask" } else { "QueryTask" };
        let streams: Vec<_> = shared.streams(BATCH).collect();
        let calls: Vec<_> = streams.iter().map(|stream| call(method, *stream, "held")).collect();
        shared.write(&calls.concat()).await;
        let begun = f64::from(BATCH * batch.div_ceil(2)) + f64::from(u8::from(method == "QueryTask"));
        let begun = if method == "QueryTask" { begun } else { f64::from(BATCH * (batch / 2)) };
        eventually("all have begun", async || gateway.started(method).await == begun).await;
        let resets: Vec<_> = streams.iter().map(|stream| reset(*stream)).collect();
        shared.write(&resets.concat()).await;
        // Each gives its place up: the next batch has none otherwise.
        let ended = begun - f64::from(u8::from(method == "QueryTask"));
        eventually("all have left", async || gateway.handled(method, "Canceled").await == ended).await;
    }
    for method in ["QueryTask", "WatchTask"] {
        assert_eq!(gateway.handled(method, "ResourceExhausted").await, 0.0);
        assert_eq!(gateway.handled(method, "Canceled").await, f64::from(BATCHES / 2 * BATCH));
    }
    assert_eq!(vendor.queries(), 1);
    ends_well(shared, &vendor, gateway, &gate).await;
}

#[tokio::test]
async fn thousands_of_calls_cancelled_before_they_began() {
    const BATCHES: u32 = 10;
    // Far more than h2 allows by itself, and fewer than the gateway does.
    const BATCH: u32 = 400;
    let (vendor, gateway, gate) = scene(&[]).await;
    let mut shared = Shared::connect(&gateway).await;
    eventually("it is under way", async || vendor.under_way() == 1).await;
    for batch in 0..BATCHES {
        let method = if batch % 2 == 0 { "WatchTask" } else { "QueryTask" };
        let streams = shared.streams(BATCH);
        let calls: Vec<_> =
            streams.map(|stream| [call(method, stream, "left"), reset(stream)].concat()).collect();
        shared.write(&calls.concat()).await;
        shared.settled().await;
    }
    eventually("all are counted", async || {
        let canceled = async |method| gateway.handled(method, "Canceled").await;
        canceled("QueryTask").await + canceled("WatchTask").await == f64::from(BATCHES * BATCH)
    })
    .await;
    // Nobody has waited for an answer, and so none was asked for.
    assert_eq!(vendor.asked_for(), ["held"]);
    ends_well(shared, &vendor, gateway, &gate).await;
}

#[tokio::test]
async fn thousands_of_calls_that_are_refused_before_their_request_has_come() {
    const BATCHES: usize = 80;
    // So few that the gateway has not waited in vain for the first one's request when it has read the last one's head.
    const BATCH: u32 = 25;
    let (vendor, gateway, gate) = scene(&[]).await;
    let mut shared = Shared::connect(&gateway).await;
    eventually("it is under way", async || vendor.under_way() == 1).await;
    let refused = [
        // A deadline that is over, one that can't be read, a compression that is not taken, a method that is not there:
        // each often enough alone.
        ("", "grpc-timeout", "1n"),
        ("", "grpc-timeout", "soon"),
        ("", "grpc-encoding", "gzip"),
        ("s", "grpc-timeout", "1S"),
    ];
    for batch in 0..refused.len() * BATCHES {
        let (plural, name, value) = refused[batch / BATCHES];
        let method = if batch % 2 == 0 { "WatchTask" } else { "QueryTask" };
        let streams: Vec<_> = shared.streams(BATCH).collect();
        let head = headers(&format!("{method}{plural}"), Some((name, value)));
        let heads: Vec<_> =
            streams.iter().map(|stream| frame(HEADERS, END_HEADERS, *stream, &head)).collect();
        shared.write(&heads.concat()).await;
        // What makes them two pieces.
        let mut answered = shared.settled().await;
        let requests: Vec<_> =
            streams.iter().map(|stream| frame(DATA, END_STREAM, *stream, &message("7"))).collect();
        shared.write(&requests.concat()).await;
        while answered < streams.len() {
            let (kind, flags, ..) = shared.read().await;
            answered += usize::from(kind == HEADERS && flags & END_STREAM != 0);
        }
    }
    assert_eq!(vendor.asked_for(), ["held"]);
    ends_well(shared, &vendor, gateway, &gate).await;
}

#[tokio::test]
async fn callers_may_ping_as_often_as_they_like() {
    const PINGS: u64 = 20_000;
    let (vendor, gateway, gate) = scene(&[]).await;
    let mut shared = Shared::connect(&gateway).await;
    eventually("it is under way", async || vendor.under_way() == 1).await;
    let mut answered = 0;
    for batch in 0..PINGS / 1000 {
        let pings: Vec<_> =
            (0..1000).map(|number| frame(PING, 0, 0, &(batch * 1000 + number).to_be_bytes())).collect();
        shared.write(&pings.concat()).await;
        while answered < (batch + 1) * 1000 {
            let (kind, flags, _, payload) = shared.read().await;
            if kind == PING && flags == 1 {
                assert_eq!(payload, answered.to_be_bytes(), "each is answered, in its turn");
                answered += 1;
            }
        }
    }
    ends_well(shared, &vendor, gateway, &gate).await;
}

#[tokio::test]
async fn a_burst_beyond_every_limit_costs_its_own_connection_and_no_other() {
    const ENHANCE_YOUR_CALM: u8 = 11;
    // POST, http and "/" by their numbers (RFC 7541, appendix A): so short that far more calls than are allowed lie in the
    // socket's buffers when the gateway comes to read them, whatever they hold.
    const HEAD: [u8; 3] = [0x83, 0x86, 0x84];
    let (vendor, gateway, gate) = scene(&[]).await;
    let caller = gateway.caller().await;
    let mut messages = caller.watch(watch("7", None)).await.unwrap();
    messages.next().await;
    let shared = Shared::connect(&gateway).await;
    eventually("it is under way", async || vendor.under_way() == 1).await;
    let mut burst = TcpStream::connect(gateway.address()).await.unwrap();
    burst.write_all(BEGINNING).await.unwrap();
    let (mut reader, mut writer) = burst.split();
    let write = async {
        for batch in 0_u32..50 {
            let streams = (0..2000).map(|number| 2 * (batch * 2000 + number) + 1);
            let begun = |stream| frame(HEADERS, END_HEADERS | END_STREAM, stream, &HEAD);
            let calls: Vec<_> = streams.map(|stream| [begun(stream), reset(stream)].concat()).collect();
            // It is closed in the middle of it.
            if writer.write_all(&calls.concat()).await.is_err() {
                break;
            }
        }
        std::future::pending::<()>().await;
    };
    let told = async {
        let mut last = None;
        while let Ok((kind, _, _, payload)) = read(&mut reader).await {
            if kind == GOAWAY {
                last = Some(payload[7]);
            }
        }
        last
    };
    let told = soon("the connection's end", async {
        tokio::select! {
            () = write => unreachable!("it waits for the end"),
            told = told => told,
        }
    })
    .await;
    // The end may be a reset, which takes with it what was said before.
    assert!(matches!(told, Some(ENHANCE_YOUR_CALM) | None), "{told:?}");
    assert_eq!(vendor.under_way(), 1);
    vendor.on_query(|_, _| Answer::doing("changed"));
    assert_eq!(soon("a change", messages.next()).await.2, "changed");
    caller.query(query("7")).await.unwrap();
    drop(messages);
    ends_well(shared, &vendor, gateway, &gate).await;
}
