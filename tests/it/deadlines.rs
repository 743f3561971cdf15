//! Whatever a call waits for, it ends at its deadline, and when its caller is gone: cancelled, cut off, or half-open.
//! Then its place, its waiter and, as nobody else waits, its exchange with the vendor are gone too.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::support::frames::{BEGINNING, DATA, END_HEADERS, HEADERS, call, frame, headers, message};
use crate::support::{
    Answer, Caller, Gate, Gateway, LONG, Messages, Told, Vendor, bounded, done, eventually, query, soon,
    told, watch,
};

/// Long enough for a call to come to its wait on a busy machine.
const DEADLINE: Duration = Duration::from_secs(8);
/// How many wait for the rate before the call does: more than come to their turn within a test.
const IN_LINE: usize = 100;

/// What a call waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    Login,
    NextLogin,
    LoginAfter401,
    Turn,
    Rate,
    Answer,
    RestOfAnswer,
    BackOff,
    RetryAfter,
}

/// How its wait ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Deadline,
    Cancel,
    Cut,
    HalfOpen,
}

/// A gateway at which a call is about to wait.
struct Scene {
    vendor: Vendor,
    gateway: Gateway,
    gate: Gate,
    /// Those who make it wait, if that is somebody.
    others: JoinSet<()>,
    /// How many of them are under way at the vendor.
    held: usize,
}

impl Wait {
    async fn scene(self) -> Scene {
        let (vendor, gate) = (Vendor::start().await, Gate::shut());
        let held = gate.clone();
        let login = move |from: usize, first: Answer| {
            move |_: &_, number| {
                let token = Answer::token(&format!("token-{number}"), &json!("3600"));
                match number {
                    1 if from > 1 => first.clone(),
                    _ => token.held(&held),
                }
            }
        };
        let token = Answer::token("token-1", &json!("3600"));
        let held = gate.clone();
        let mut flags = vec!["--max-watches=1"];
        let mut in_flight = 1;
        match self {
            Self::Login => vendor.on_login(login(1, token)),
            Self::NextLogin => vendor.on_login(login(2, Answer::status(503))),
            Self::LoginAfter401 => {
                vendor.on_login(login(2, token));
                vendor.first([Answer::status(401)]);
            }
            Self::Turn => {
                vendor.first([done().held(&held)]);
                flags.push("--upstream-concurrency=1");
                in_flight = 2;
            }
            Self::Rate => {
                flags.push("--upstream-rate=1");
                in_flight = IN_LINE + 1;
            }
            Self::Answer => vendor.first([done().held(&held)]),
            Self::RestOfAnswer => vendor.first([Answer::doing(&"r".repeat(10_000)).trickled()]),
            Self::BackOff => {
                vendor.on_query(|_, _| Answer::status(503));
                flags.push("--max-attempts=100");
            }
            Self::RetryAfter => vendor.first([Answer::status(503).header("Retry-After", "15")]),
        }
        let in_flight = format!("--max-in-flight={in_flight}");
        flags.push(&in_flight);
        let gateway = Gateway::start_impatient(&vendor, &flags).await;
        match self {
            Self::Login => eventually("it logs in", async || vendor.logins() == 1).await,
            Self::NextLogin => {
                let failed = r#"federation_token_refreshes_total{outcome="token_unavailable"}"#;
                eventually("a login failed", async || gateway.metric(failed).await == 1.0).await;
            }
            _ => eventually("it has a token", async || gateway.get("/readyz").await.0 == 200).await,
        }
        let mut others = JoinSet::new();
        let before = match self {
            Self::Turn => 1,
            Self::Rate => IN_LINE,
            _ => 0,
        };
        let caller = gateway.caller().await;
        for number in 0..before {
            let caller = caller.clone();
            others.spawn(async move {
                // How it ends does not matter: it is there to be waited for.
                let _ = caller.query(bounded(query(&format!("other-{number}")), LONG * 10)).await;
            });
        }
        let started = before as f64;
        eventually("the others have begun", async || gateway.started("QueryTask").await == started).await;
        let held = usize::from(self == Self::Turn);
        eventually("one of them is under way", async || vendor.under_way() == held).await;
        Scene { vendor, gateway, gate, others, held }
    }

    /// Whether the call has come so far that it waits for this.
    async fn is_on(self, scene: &Scene, method: &str) -> bool {
        let started = if method == "QueryTask" && self == Self::Turn {
            2.0
        } else if method == "QueryTask" && self == Self::Rate {
            1.0 + IN_LINE as f64
        } else {
            1.0
        };
        let vendor = &scene.vendor;
        scene.gateway.started(method).await == started
            && match self {
                Self::Login | Self::NextLogin | Self::Turn | Self::Rate => true,
                Self::LoginAfter401 => vendor.logins() == 2,
                Self::Answer | Self::RestOfAnswer => vendor.queries() == 1,
                Self::BackOff => vendor.queries() >= 2,
                Self::RetryAfter => scene.gateway.exchanges("upstream_unavailable").await == 1.0,
            }
    }
}

/// A call on a connection of its own, as far as it needs one of the generated client's.
struct Waiting {
    caller: Caller,
    call: JoinSet<Result<Option<Messages>, Told>>,
    _by_hand: Option<TcpStream>,
}

async fn begin(scene: &Scene, method: &str, end: End) -> Waiting {
    let (caller, mut call_of) = (scene.gateway.caller().await, JoinSet::new());
    let mut by_hand = None;
    if end == End::HalfOpen {
        // It is never read from again, and so no ping is ever answered.
        let mut stream = TcpStream::connect(scene.gateway.address()).await.expect("it listens");
        stream.write_all(&[BEGINNING, &call(method, 1, "7")].concat()).await.expect("it reads");
        by_hand = Some(stream);
    } else {
        let timeout = if end == End::Deadline { DEADLINE } else { LONG };
        let (own, is_query) = (caller.clone(), method == "QueryTask");
        call_of.spawn(async move {
            let ended = if is_query {
                own.query(bounded(query("7"), timeout)).await.map(|_| None)
            } else {
                own.watch(bounded(watch("7", None), timeout)).await.map(Some)
            };
            ended.map_err(|status| told(&status))
        });
    }
    Waiting { caller, call: call_of, _by_hand: by_hand }
}

async fn check(wait: Wait, method: &'static str, end: End) {
    let mut scene = wait.scene().await;
    let mut waiting = begin(&scene, method, end).await;
    eventually("it waits", async || wait.is_on(&scene, method).await).await;
    let what = format!("{wait:?} {method} {end:?}");
    // A try that could not begin before the deadline is not waited for: the last failure is the answer at once.
    let is_told_early = matches!(wait, Wait::BackOff | Wait::RetryAfter);
    let mut code = "Canceled";
    match end {
        End::Deadline => {
            let ended = soon("the deadline", waiting.call.join_next())
                .await
                .expect("it was spawned")
                .expect("it does not panic");
            let reason = ended.expect_err(&what).reason;
            // Between tries it may have been in the midst of one.
            let in_a_try = wait == Wait::BackOff && reason == "DEADLINE";
            let expected = if is_told_early && !in_a_try { "UPSTREAM_UNAVAILABLE" } else { "DEADLINE" };
            assert_eq!(reason, expected, "{what}");
            code = if expected == "DEADLINE" { "DeadlineExceeded" } else { "Unavailable" };
        }
        End::Cancel => waiting.call.abort_all(),
        End::Cut => waiting.caller.cut(),
        // Its time comes by itself.
        End::HalfOpen => {}
    }
    let Scene { vendor, gateway, .. } = &scene;
    eventually(&what, async || gateway.handled(method, code).await == 1.0).await;
    eventually(&what, async || vendor.under_way() == scene.held).await;
    for (name, value) in [("watchers", 0), ("pollers", 0), ("upstream_in_flight", scene.held)] {
        let name = format!("federation_{name}");
        eventually(&what, async || gateway.metric(&name).await == value as f64).await;
    }
    // Between tries it may have been in the midst of one.
    if wait != Wait::BackOff {
        let canceled = matches!(wait, Wait::Answer | Wait::RestOfAnswer);
        assert_eq!(gateway.exchanges("canceled").await, f64::from(u8::from(canceled)), "{what}");
    }
    // Its place is free: whatever else is wrong with a request is seen first if there is none.
    let other = gateway.caller().await;
    assert_eq!(other.refused(query("")).await.reason, "INVALID_FIELD", "{what}");
    let watched = other.watch(watch("", None)).await.expect_err(&what);
    assert_eq!(told(&watched).reason, "INVALID_FIELD", "{what}");
    // And nothing is done in its name: the next one's try is its own.
    let tries = |vendor: &Vendor| vendor.asked_for().iter().filter(|task| *task == "7").count();
    let before = tries(vendor);
    scene.others.shutdown().await;
    scene.gate.open();
    scene.vendor.on_query(|_, _| done());
    other.query(query("7")).await.expect(&what);
    assert_eq!(tries(&scene.vendor), before + 1, "{what}");
    scene.gateway.idle().await;
    scene.gateway.stop().await;
}

/// All at once, as they do little but wait.
async fn check_all(waits: &[Wait]) {
    let ends = [End::Deadline, End::Cancel, End::Cut, End::HalfOpen];
    let methods = ["QueryTask", "WatchTask"];
    let cases = waits.iter().flat_map(|wait| ends.map(|end| (*wait, end)));
    let cases = cases.flat_map(|(wait, end)| methods.map(|method| check(wait, method, end)));
    join_all(cases).await;
}

#[tokio::test]
async fn who_is_gone_before_its_request_is_whole() {
    let vendor = Vendor::start().await;
    let gateway = Gateway::start(&vendor, &[]).await;
    for method in ["QueryTask", "WatchTask"] {
        // Without a message, with a part of one, and with all of one that may be followed by another.
        let whole = message("7");
        for (calls, part) in [(1.0, &whole[..0]), (2.0, &whole[..3]), (3.0, &whole[..])] {
            let mut stream = TcpStream::connect(gateway.address()).await.unwrap();
            let head = frame(HEADERS, END_HEADERS, 1, &headers(method, None));
            stream.write_all(&[BEGINNING, &head, &frame(DATA, 0, 1, part)].concat()).await.unwrap();
            eventually("it has begun", async || gateway.started(method).await == calls).await;
            drop(stream);
            eventually("it is gone", async || gateway.handled(method, "Canceled").await == calls).await;
        }
    }
    assert_eq!(vendor.queries(), 0);
    gateway.stop().await;
}

#[tokio::test]
async fn who_waits_for_a_login() {
    check_all(&[Wait::Login, Wait::NextLogin, Wait::LoginAfter401]).await;
}

#[tokio::test]
async fn who_waits_for_a_turn() {
    check_all(&[Wait::Turn, Wait::Rate]).await;
}

#[tokio::test]
async fn who_waits_for_an_answer() {
    check_all(&[Wait::Answer, Wait::RestOfAnswer]).await;
}

#[tokio::test]
async fn who_waits_between_tries() {
    check_all(&[Wait::BackOff, Wait::RetryAfter]).await;
}
