//! Makes a row happen in one of its forms, sees what is told and how often the vendor was asked, and that the next call
//! is none the worse for it.

use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;
use tonic::{Code, Status};

use super::hosts::{Hosted, identity};
use super::own;
use super::row::{Cause, Form, Row};
use crate::support::{Answer, Caller, Gateway, Messages, Told, Vendor, eventually, query, told, watch};

/// So many rows happen at once: each has a gateway of its own, most of them wait, and all share the machine.
const AT_ONCE: usize = 16;

/// What a watch asks for that is polled as often as can be.
pub(super) const POLL_MIN: Option<Duration> = Some(Duration::ZERO);
/// A watch ends at its first failed poll.
const FLAGS: [&str; 2] = ["--poll-min=50ms", "--watch-give-up=0s"];

const UNREACHABLE: &str =
    r#"federation_upstream_requests_total{endpoint="queryTask",outcome="upstream_unreachable"}"#;

/// Makes each row happen in each of its forms.
pub(super) async fn happen(rows: Vec<Row>) {
    let cases = rows.iter().flat_map(|row| row.forms.iter().map(move |form| (row, *form)));
    stream::iter(cases).map(|(row, form)| one(row, form)).buffer_unordered(AT_ONCE).collect::<()>().await;
}

/// The same one by one: for what keeps the machine so busy that others would starve.
pub(super) async fn happen_in_turn(rows: Vec<Row>) {
    for row in &rows {
        for form in row.forms {
            one(row, *form).await;
        }
    }
}

async fn one(row: &Row, form: Form) {
    match &row.cause {
        Cause::Answer(answer) => answered(row, form, answer, Vendor::start().await, &[]).await,
        Cause::OverTls(answer) => {
            let (acceptor, pem) = identity(None);
            let roots = tempfile::NamedTempFile::new().expect("a file can be made");
            std::fs::write(roots.path(), pem).expect("it can be written");
            let flag = format!("--upstream-ca-file={}", roots.path().display());
            answered(row, form, answer, Vendor::start_tls(acceptor).await, &[&flag]).await;
        }
        Cause::Login(answer) => logged_in(row, form, answer).await,
        Cause::Host(fault) => hosted(row, form, Hosted::start(fault).await).await,
        Cause::Field => own::field(row, form).await,
        Cause::Deadline => own::deadline(row, form).await,
        Cause::Limit => own::limit(row, form).await,
        Cause::Drain => own::drain(row, form).await,
    }
}

pub(super) async fn gateway(vendor: &Vendor, row: &Row, flags: &[&str]) -> Gateway {
    Gateway::start(vendor, &[&FLAGS, row.flags, flags].concat()).await
}

/// A watch that has its first answer, and is polled again only when somebody comes who wants to know more; `None` for
/// the other forms.
pub(super) async fn running(caller: &Caller, form: Form) -> Option<Messages> {
    if form != Form::EndOfWatch {
        return None;
    }
    let hour = Some(Duration::from_secs(3600));
    let mut begun = None;
    eventually("its first answer is good", async || {
        begun = in_time(caller.watch(watch("7", hour)).await, "a watch");
        begun.is_some()
    })
    .await;
    let mut messages = begun?;
    messages.next().await;
    Some(messages)
}

/// What the caller is told who asks now, or whose watch runs.
pub(super) async fn failure(caller: &Caller, form: Form, running: Option<Messages>) -> Told {
    match (form, running) {
        (Form::Query, _) => caller.refused(query("7")).await,
        // An error of the call itself came as trailers alone.
        (Form::FirstOfWatch, _) => {
            told(&caller.watch(watch("7", POLL_MIN)).await.expect_err("no answer comes"))
        }
        (Form::EndOfWatch, running) => {
            let hasty = caller.watch(watch("7", POLL_MIN)).await;
            let hasty = hasty.expect("the poller's last answer does").failure().await;
            let told = running.expect("it runs").failure().await;
            assert_eq!((hasty.code, hasty.reason), (told.code, told.reason.clone()));
            told
        }
    }
}

/// Asks the vendor for another task, and sees that its answer is that task's.
async fn assert_unharmed(vendor: &Vendor, caller: &Caller, row: &Row) {
    vendor.on_query(|seen, _| Answer::doing(&format!("of {}", seen.task())));
    eventually("the next call is answered", async || {
        let answer = in_time(caller.query(query("next")).await, &row.what);
        let remark = answer.map(|answer| answer.task.expect("there is one").remark);
        assert!(remark.as_ref().is_none_or(|remark| remark == "of next"), "{}: {remark:?}", row.what);
        remark.is_some()
    })
    .await;
}

/// A good answer; none where only the row's own bounds on time let it not come, as they may on a busy machine.
fn in_time<T>(answer: Result<T, Status>, what: &str) -> Option<T> {
    let is_late = |told: &Told| told.reason == "UPSTREAM_UNREACHABLE" && told.text.contains("within");
    match answer {
        Ok(answer) => Some(answer),
        Err(status) => {
            assert!(is_late(&told(&status)), "{what}: {status:?}");
            None
        }
    }
}

async fn answered(row: &Row, form: Form, answer: &Answer, vendor: Vendor, flags: &[&str]) {
    let gateway = gateway(&vendor, row, flags).await;
    let caller = gateway.caller().await;
    let running = running(&caller, form).await;
    let asked = vendor.queries();
    let always = answer.clone();
    vendor.on_query(move |_, _| always.clone());
    row.check(&failure(&caller, form, running).await, form);
    assert_eq!(vendor.queries() - asked, row.tries, "{form:?}, {}", row.what);
    let last = vendor.seen().last().expect("it was asked").connection;
    assert_unharmed(&vendor, &caller, row).await;
    let next = vendor.seen().last().expect("it was asked").connection;
    assert!(row.is_clean || next != last, "{form:?}, {}: the same connection", row.what);
    gateway.stop().await;
}

async fn logged_in(row: &Row, form: Form, answer: &Answer) {
    let vendor = Vendor::start().await;
    let gateway = gateway(&vendor, row, &[]).await;
    let caller = gateway.caller().await;
    let running = running(&caller, form).await;
    let (asked, logins) = (vendor.queries(), vendor.logins());
    let always = answer.clone();
    vendor.on_login(move |_, _| always.clone());
    vendor.on_query(|seen, _| match seen.header("authorization") {
        "Bearer token-mended" => Answer::doing(&format!("of {}", seen.task())),
        _ => Answer::status(401),
    });
    row.check(&failure(&caller, form, running).await, form);
    assert_eq!(vendor.queries() - asked, row.tries, "{form:?}, {}", row.what);
    assert!(vendor.logins() > logins, "{form:?}, {}", row.what);
    vendor.on_login(|_, _| Answer::token("token-mended", &serde_json::json!("600")));
    // Not before a Retry-After.
    if !format!("{answer:?}").contains("Retry-After") {
        eventually("the next login helps", async || caller.query(query("next")).await.is_ok()).await;
        let seen = vendor.seen();
        assert_eq!(seen.last().expect("it was asked").header("authorization"), "Bearer token-mended");
    }
    gateway.stop().await;
}

async fn hosted(row: &Row, form: Form, mut hosted: Hosted) {
    let flags = hosted.flags();
    let flags: Vec<_> = flags.iter().map(String::as_str).collect();
    let gateway = gateway(&hosted.vendor, row, &flags).await;
    let caller = gateway.caller().await;
    let running = running(&caller, form).await;
    let (asked, failed) = (hosted.vendor.queries(), gateway.metric(UNREACHABLE).await);
    hosted.fail().await;
    row.check(&failure(&caller, form, running).await, form);
    let tries = gateway.metric(UNREACHABLE).await - failed;
    assert_eq!(tries, row.tries as f64, "{form:?}, {}", row.what);
    assert_eq!(hosted.vendor.queries(), asked, "{form:?}, {}", row.what);
    assert_eq!(row.code, Code::Unavailable);
    if hosted.mend().await {
        assert_unharmed(&hosted.vendor, &caller, row).await;
    }
    gateway.stop().await;
}
