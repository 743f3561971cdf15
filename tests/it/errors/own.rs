//! The rows that the vendor has no part in: the caller's mistake, the caller's time, the gateway's limits and its end.

use std::time::Duration;

use federation_gateway::pb::QueryTaskRequest;
use tokio::task::JoinSet;
use tonic::Request;

use super::forms::{POLL_MIN, failure, gateway, running};
use super::row::{Form, Row};
use crate::support::{Answer, Caller, Gate, LONG, Vendor, eventually, query, told, watch};

/// A query that the vendor does not answer until the gate opens.
async fn held(vendor: &Vendor, caller: &Caller, gate: &Gate) -> JoinSet<()> {
    let held = gate.clone();
    vendor.on_query(move |_, _| Answer::doing("").held(&held));
    let (caller, mut calls) = (caller.clone(), JoinSet::new());
    let mut request: Request<QueryTaskRequest> = Request::new(query("held"));
    request.set_timeout(LONG);
    calls.spawn(async move {
        caller.query(request).await.expect("it is answered once the gate is open");
    });
    eventually("it is under way", async || vendor.under_way() == 1).await;
    calls
}

async fn end(mut calls: JoinSet<()>) {
    while let Some(call) = calls.join_next().await {
        call.expect("it does not panic");
    }
}

pub(super) async fn field(row: &Row, form: Form) {
    let vendor = Vendor::start().await;
    let gateway = gateway(&vendor, row, &[]).await;
    let caller = gateway.caller().await;
    let told = match form {
        Form::Query => caller.refused(query("")).await,
        Form::FirstOfWatch => told(&caller.watch(watch("", None)).await.expect_err("it is refused")),
        Form::EndOfWatch => unreachable!("a watch that runs has been asked for with good fields"),
    };
    row.check(&told, form);
    assert_eq!(told.fields, ["task_id"]);
    assert_eq!(vendor.queries(), row.tries);
    caller.query(query("7")).await.expect("the next call is unharmed");
    gateway.stop().await;
}

pub(super) async fn deadline(row: &Row, form: Form) {
    let vendor = Vendor::start().await;
    let gateway = gateway(&vendor, row, &[]).await;
    let caller = gateway.caller().await;
    let gate = Gate::shut();
    let held = gate.clone();
    vendor.on_query(move |_, _| Answer::doing("").held(&held));
    // Long enough for a try to begin on a busy machine.
    let time = Duration::from_secs(10);
    let told = match form {
        Form::Query => {
            let mut request = Request::new(query("7"));
            request.set_timeout(time);
            caller.refused(request).await
        }
        Form::FirstOfWatch | Form::EndOfWatch => {
            if form == Form::EndOfWatch {
                vendor.first([Answer::doing("")]);
            }
            let mut request = Request::new(watch("7", POLL_MIN));
            request.set_timeout(time);
            match caller.watch(request).await {
                Ok(mut messages) => messages.failure().await,
                Err(status) => told(&status),
            }
        }
    };
    row.check(&told, form);
    assert_eq!(vendor.queries(), row.tries + usize::from(form == Form::EndOfWatch), "{form:?}");
    // Nobody waits any more: what was asked for is given up, with its connection.
    eventually("it is given up", async || vendor.under_way() == 0).await;
    gate.open();
    caller.query(query("7")).await.expect("the next call is unharmed");
    gateway.stop().await;
}

pub(super) async fn limit(row: &Row, form: Form) {
    let vendor = Vendor::start().await;
    let flags: &[&str] = match form {
        Form::Query => &["--max-in-flight=1"],
        Form::FirstOfWatch => &["--max-watches=1"],
        // Its first answer must come within that time.
        Form::EndOfWatch => &["--upstream-concurrency=1", "--request-timeout=4s"],
    };
    let gateway = gateway(&vendor, row, flags).await;
    let caller = gateway.caller().await;
    let gate = Gate::shut();
    let told = match form {
        Form::Query => {
            let calls = held(&vendor, &caller, &gate).await;
            let told = failure(&caller, form, None).await;
            gate.open();
            end(calls).await;
            told
        }
        Form::FirstOfWatch => {
            let hour = Some(Duration::from_secs(3600));
            let _first = caller.watch(watch("first", hour)).await.expect("there is room for one");
            failure(&caller, form, None).await
        }
        Form::EndOfWatch => {
            let running = running(&caller, form).await;
            // The one place is taken when the next poll is due.
            let calls = held(&vendor, &caller, &gate).await;
            let told = failure(&caller, form, running).await;
            gate.open();
            end(calls).await;
            told
        }
    };
    row.check(&told, form);
    assert!(
        vendor.asked_for().iter().filter(|task| *task == "7").count()
            <= usize::from(form == Form::EndOfWatch)
    );
    vendor.on_query(|_, _| Answer::doing(""));
    caller.query(query("7")).await.expect("the next call is unharmed");
    gateway.stop().await;
}

pub(super) async fn drain(row: &Row, form: Form) {
    let vendor = Vendor::start().await;
    let gateway = gateway(&vendor, row, &["--drain-timeout=1s"]).await;
    let caller = gateway.caller().await;
    let gate = Gate::shut();
    let running = running(&caller, form).await;
    let asked = vendor.queries();
    vendor.on_query(move |_, _| Answer::doing("").held(&gate));
    let (asking, mut calls) = (caller.clone(), JoinSet::new());
    calls.spawn(async move { failure(&asking, form, running).await });
    eventually("it is under way", async || vendor.under_way() == 1).await;
    gateway.drain();
    let told = calls.join_next().await.expect("one was spawned").expect("it does not panic");
    row.check(&told, form);
    assert_eq!(vendor.queries() - asked, row.tries);
    gateway.stop().await;
}
