//! The metrics that dashboards and alerts are built on.

use std::time::Duration;

use crate::support::{Answer, Gateway, Vendor, eventually, query, watch};

#[tokio::test]
async fn names_labels_and_values_after_some_calls() {
    let vendor = Vendor::start().await;
    let gateway = Gateway::start(&vendor, &["--max-attempts=1"]).await;
    let caller = gateway.caller().await;
    // No poll comes within the test.
    let hour = Some(Duration::from_secs(3600));
    let mut messages = caller.watch(watch("watched", hour)).await.unwrap();
    messages.next().await;
    caller.query(query("planted-id")).await.unwrap();
    caller.query(query("planted id")).await.unwrap_err();
    vendor.first([Answer::status(503)]);
    caller.query(query("planted-id")).await.unwrap_err();
    let service = r#"grpc_service="federation.v1.FederationTasks""#;
    let unary = |code: &str| {
        format!(
            r#"grpc_server_handled_total{{grpc_code="{code}",grpc_method="QueryTask",{service},grpc_type="unary"}} 1"#
        )
    };
    let lines = [
        unary("OK"),
        unary("InvalidArgument"),
        unary("Unavailable"),
        format!(r#"grpc_server_started_total{{grpc_method="QueryTask",{service},grpc_type="unary"}} 3"#),
        format!(
            r#"grpc_server_started_total{{grpc_method="WatchTask",{service},grpc_type="server_stream"}} 1"#
        ),
        format!(
            r#"grpc_server_handling_seconds_count{{grpc_method="QueryTask",{service},grpc_type="unary"}} 3"#
        ),
        r#"federation_upstream_requests_total{endpoint="queryTask",outcome="ok"} 2"#.into(),
        r#"federation_upstream_requests_total{endpoint="queryTask",outcome="upstream_unavailable"} 1"#.into(),
        r#"federation_upstream_requests_total{endpoint="tokenByAkSk",outcome="ok"} 1"#.into(),
        r#"federation_upstream_request_seconds_count{endpoint="queryTask"} 3"#.into(),
        r#"federation_upstream_request_seconds_count{endpoint="tokenByAkSk"} 1"#.into(),
        r#"federation_answers_total{source="upstream"} 1"#.into(),
        r#"federation_answers_total{source="shared"} 0"#.into(),
        r#"federation_answers_total{source="cache"} 0"#.into(),
        r#"federation_token_refreshes_total{outcome="ok"} 1"#.into(),
        "federation_watchers 1".into(),
        "federation_pollers 1".into(),
        "federation_upstream_in_flight 0".into(),
    ];
    // A call is counted once its last byte is on its way, which may be after the caller has it.
    eventually("all are counted", async || {
        let text = gateway.metrics().await;
        lines.iter().all(|line| text.lines().any(|shown| shown == line))
    })
    .await;
    let text = gateway.metrics().await;
    for name in ["federation_token_remaining_seconds ", "federation_build_info{", "process_open_fds "] {
        assert!(text.lines().any(|line| line.starts_with(name)), "{name}");
    }
    assert!(!text.contains("planted"), "no label takes a value from a caller");
    // A watch whose caller left counts as canceled.
    drop(messages);
    let canceled = format!(
        r#"grpc_server_handled_total{{grpc_code="Canceled",grpc_method="WatchTask",{service},grpc_type="server_stream"}}"#
    );
    eventually("it has left", async || gateway.metric(&canceled).await == 1.0).await;
    eventually("nobody watches", async || gateway.metric("federation_watchers").await == 0.0).await;
    gateway.stop().await;
}
