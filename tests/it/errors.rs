//! The table of failures: code, reason, what stands beside them, and how often the gateway tries by itself.

use std::time::Duration;

use federation_gateway::clock;
use serde_json::json;
use tokio::time::Instant;
use tonic::{Code, Request};

use crate::support::{Answer, Gateway, LONG, Told, Vendor, eventually, query, told, watch};

struct Row {
    answer: Answer,
    code: Code,
    reason: &'static str,
    http_status: Option<&'static str>,
    result_code: Option<&'static str>,
    tries: usize,
}

fn row(answer: Answer, code: Code, reason: &'static str, tries: usize) -> Row {
    Row { answer, code, reason, http_status: None, result_code: None, tries }
}

fn status(status: &'static str, code: Code, reason: &'static str, tries: usize) -> Row {
    let answer = Answer::status(status.parse().expect("a status is a number"));
    Row { http_status: Some(status), ..row(answer, code, reason, tries) }
}

fn result(result_code: &'static str, code: Code) -> Row {
    let answer = Answer::result(result_code, "said the vendor");
    Row {
        http_status: Some("200"),
        result_code: Some(result_code),
        ..row(answer, code, "UPSTREAM_RESULT_CODE", 1)
    }
}

fn malformed(answer: Answer) -> Row {
    Row { http_status: Some("200"), ..row(answer, Code::Internal, "UPSTREAM_MALFORMED", 1) }
}

fn table() -> Vec<Row> {
    use Code::{FailedPrecondition, Internal, InvalidArgument, ResourceExhausted, Unavailable, Unknown};
    let users = |count| {
        let users = vec![json!({"failCode": "7"}); count];
        Answer::json(&json!({"resultCode": "0", "taskInfo": {"status": "DONE"}, "failDataList": users}))
    };
    let failed = Answer::result("60101900002", "said the vendor").with_status(500);
    let failed_well = Answer::result("0", "").with_status(500);
    vec![
        status("400", InvalidArgument, "UPSTREAM_BAD_REQUEST", 1),
        result("60101040050", InvalidArgument),
        result("60101900002", Internal),
        result("60101060007", Unknown),
        status("403", FailedPrecondition, "UPSTREAM_FORBIDDEN", 1),
        status("404", FailedPrecondition, "UPSTREAM_PATH_NOT_FOUND", 1),
        status("301", FailedPrecondition, "UPSTREAM_REDIRECT", 1),
        status("429", ResourceExhausted, "UPSTREAM_RATE_LIMITED", 3),
        status("408", Unavailable, "UPSTREAM_UNAVAILABLE", 3),
        status("502", Unavailable, "UPSTREAM_UNAVAILABLE", 3),
        status("503", Unavailable, "UPSTREAM_UNAVAILABLE", 3),
        status("504", Unavailable, "UPSTREAM_UNAVAILABLE", 3),
        status("500", Internal, "UPSTREAM_FAILURE", 1),
        Row {
            http_status: Some("500"),
            result_code: Some("60101900002"),
            ..row(failed, Internal, "UPSTREAM_RESULT_CODE", 1)
        },
        Row { http_status: Some("500"), ..row(failed_well, Internal, "UPSTREAM_FAILURE", 1) },
        status("418", Unknown, "UPSTREAM_HTTP_STATUS", 1),
        status("202", Unknown, "UPSTREAM_HTTP_STATUS", 1),
        row(Answer::doing("").cut_off(), Unavailable, "UPSTREAM_UNREACHABLE", 3),
        malformed(Answer::new(200, "<html>sign in</html>")),
        malformed(Answer::json(&json!({"taskInfo": {"status": "DONE"}}))),
        malformed(Answer::new(200, vec![b' '; 1024 * 1024 + 1])),
        malformed(users(10_001)),
    ]
}

/// What holds for every failure that the gateway decides.
#[track_caller]
fn check(told: &Told, row: &Row, from: &str) {
    let what = format!("{from}, {} {}: {}", row.reason, row.http_status.unwrap_or("-"), told.text);
    assert_eq!((told.code, &*told.reason, &*told.domain), (row.code, row.reason, "federation.v1"), "{what}");
    let metadata = |key: &str| told.metadata.get(key).map(String::as_str);
    assert_eq!(metadata("http_status"), row.http_status, "{what}");
    assert_eq!(metadata("result_code").filter(|code| *code != "0"), row.result_code, "{what}");
    if row.result_code.is_some() {
        assert_eq!(metadata("result_message"), Some("said the vendor"), "{what}");
    }
    let passes = matches!(row.code, Code::Unavailable | Code::ResourceExhausted);
    assert_eq!(told.retry.is_some(), passes, "{what}");
    let retry_ms = told.retry.map(|retry| u64::try_from(retry.as_millis()).expect("it is short"));
    assert_eq!(told.pushback_ms, retry_ms, "{what}");
}

#[tokio::test]
async fn each_row_as_the_answer_of_a_query_and_as_the_first_answer_of_a_watch() {
    let vendor = Vendor::start().await;
    let gateway = Gateway::start(&vendor, &[]).await;
    let caller = gateway.caller().await;
    for row in table() {
        let answer = row.answer.clone();
        vendor.on_query(move |_, _| answer.clone());
        let before = vendor.queries();
        check(&caller.refused(query("7")).await, &row, "query");
        assert_eq!(vendor.queries() - before, row.tries, "query, {} {:?}", row.reason, row.http_status);
        let before = vendor.queries();
        // An error of the call itself came as trailers alone.
        check(&told(&caller.watch(watch("7", None)).await.unwrap_err()), &row, "watch");
        assert_eq!(vendor.queries() - before, row.tries, "watch, {} {:?}", row.reason, row.http_status);
    }
    gateway.stop().await;
}

#[tokio::test]
async fn each_row_as_the_end_of_a_watch() {
    let vendor = Vendor::start().await;
    let flags = ["--poll-min=50ms", "--watch-give-up=0s", "--max-attempts=1"];
    let gateway = Gateway::start(&vendor, &flags).await;
    let caller = gateway.caller().await;
    for row in table() {
        vendor.first([Answer::doing("")]);
        let answer = row.answer.clone();
        vendor.on_query(move |_, _| answer.clone());
        let mut messages = caller.watch(watch("7", Some(Duration::ZERO))).await.unwrap();
        check(&messages.failure().await, &row, "end of a watch");
        eventually("the poller is gone", async || gateway.metric("federation_pollers").await == 0.0).await;
    }
    gateway.stop().await;
}

#[tokio::test]
async fn a_401_is_tried_again_once_with_a_new_token() {
    let vendor = Vendor::start().await;
    vendor.on_query(|_, _| Answer::status(401));
    let gateway = Gateway::start(&vendor, &["--max-attempts=1"]).await;
    let told = gateway.caller().await.refused(query("7")).await;
    let row = status("401", Code::FailedPrecondition, "UPSTREAM_UNAUTHORIZED", 2);
    check(&told, &row, "query");
    assert_eq!((vendor.queries(), vendor.logins()), (2, 2));
    let tokens: Vec<_> = vendor.seen().iter().map(|seen| seen.header("authorization").to_owned()).collect();
    assert_eq!(tokens[1..], ["Bearer token-1", "", "Bearer token-2"]);
    gateway.stop().await;
}

#[tokio::test]
async fn no_connection_is_unreachable() {
    let vendor = Vendor::start().await;
    // A port that was free a moment ago and that nobody listens on.
    let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let url = format!("--query-url=http://{free}/");
    let gateway = Gateway::start(&vendor, &[&url]).await;
    let told = gateway.caller().await.refused(query("7")).await;
    let row = row(Answer::status(200), Code::Unavailable, "UPSTREAM_UNREACHABLE", 3);
    check(&told, &row, "query");
    let unreachable =
        r#"federation_upstream_requests_total{endpoint="queryTask",outcome="upstream_unreachable"}"#;
    assert_eq!(gateway.metric(unreachable).await, 3.0);
    gateway.stop().await;
}

#[tokio::test]
async fn an_answer_that_never_ends_is_bounded_by_attempt_timeout() {
    let vendor = Vendor::start().await;
    let long = json!({"resultCode": "0", "resultMessage": "x".repeat(100_000)});
    vendor.on_query(move |_, _| Answer::json(&long).trickled());
    let gateway = Gateway::start(&vendor, &["--attempt-timeout=300ms", "--max-attempts=2"]).await;
    let start = Instant::now();
    let told = gateway.caller().await.refused(query("7")).await;
    let row = row(Answer::status(200), Code::Unavailable, "UPSTREAM_UNREACHABLE", 2);
    check(&told, &row, "query");
    assert_eq!(vendor.queries(), 2);
    assert!(start.elapsed() >= Duration::from_millis(600));
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
async fn a_retry_after_past_the_deadline_is_the_answer_at_once() {
    let vendor = Vendor::start().await;
    vendor.on_query(|_, _| Answer::status(429).header("Retry-After", "100000"));
    let gateway = Gateway::start(&vendor, &[]).await;
    let caller = gateway.caller().await;
    let mut request = Request::new(query("7"));
    request.set_timeout(LONG * 3);
    // The caller's helper waits for less than that.
    let told = caller.refused(request).await;
    check(&told, &status("429", Code::ResourceExhausted, "UPSTREAM_RATE_LIMITED", 1), "query");
    assert_eq!(vendor.queries(), 1);
    assert_eq!(told.retry, Some(Duration::from_secs(300)), "at most 5 min, whatever the vendor says");
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
