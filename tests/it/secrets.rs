//! Secrets and people's data: in no log at any level, no error, no metric.

use serde_json::json;

use crate::support::{Answer, Caller, Process, SECRET, Vendor, eventually, http_get, query, told, watch};

#[tokio::test]
async fn nothing_planted_is_logged_told_or_measured() {
    let vendor = Vendor::start().await;
    vendor.on_login(|_, number| Answer::token(&format!("planted-token-{number}"), &json!("3600")));
    let person = json!({
        "resultCode": "0", "resultMessage": "planted-result",
        "taskInfo": {"status": "DOING", "remark": "planted-remark"},
        "failDataList": [{
            "federationUser": {"action": "CREATE", "userName": "planted-name", "email": "planted@example.org"},
            "failCode": "7", "failMessage": "planted-message",
        }],
    });
    let good = Answer::json(&person);
    vendor.first([
        good.clone(),
        Answer::status(401),
        good.clone(),
        Answer::result("7", "planted-result"),
        Answer::new(500, r#"{"resultCode":"7","resultMessage":"planted-result"}"#),
        Answer::new(200, r#"{"resultCode":"0","planted-key":"#),
        good.clone().cut_off(),
    ]);
    vendor.on_query(move |_, _| good.clone());
    let mut process = Process::start(&vendor, &["--log=trace"]).await;
    let admin = process.admin.clone();
    eventually("it is ready", async || http_get(&admin, "/readyz").await.0 == 200).await;
    let caller = Caller::connect(&process.address).await;
    let mut errors = String::new();
    for _ in 0..6 {
        if let Err(status) = caller.query(query("7")).await {
            errors.push_str(&told(&status).text);
            errors.push_str(status.message());
        }
    }
    let mut messages = caller.watch(watch("7", None)).await.unwrap();
    messages.next().await;
    assert_eq!(vendor.logins(), 2);
    let metrics = http_get(&process.admin, "/metrics").await.1;
    process.signal("-TERM").await;
    assert_eq!(process.ended().await, Some(0));
    let log = process.log.join("\n");
    assert!(log.contains("TRACE") && log.contains("task.id"), "calls are logged at trace");
    for (place, text) in [("the log", &log), ("an error", &errors), ("a metric", &metrics)] {
        let secrets = [SECRET, "planted-token", "Bearer"];
        let found = secrets.iter().find(|secret| text.contains(**secret));
        assert_eq!(found, None, "in {place}");
    }
    for (place, text) in [("the log", &log), ("a metric", &metrics)] {
        let personal = ["planted-name", "planted@", "planted-remark", "planted-message", "planted-result"];
        let found = personal.iter().find(|text_of| text.contains(**text_of));
        assert_eq!(found, None, "in {place}");
    }
}
