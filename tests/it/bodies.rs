//! How much of an answer is read, and what becomes of an answer whose body is not to be had.

use serde_json::json;
use tonic::Code;

use crate::support::{Answer, Gateway, Vendor, query};

/// The largest body of a good answer.
const MIB: usize = 1024 * 1024;

/// An answer to be had, with spaces behind it up to so many bytes.
fn padded(length: usize) -> Answer {
    let mut body = json!({"resultCode": "0", "taskInfo": {"status": "DOING"}}).to_string().into_bytes();
    body.resize(length, b' ');
    Answer::new(200, body)
}

#[tokio::test]
async fn a_good_answer_may_take_a_mebibyte_and_no_byte_more() {
    let vendor = Vendor::start().await;
    let gateway = Gateway::start(&vendor, &[]).await;
    let caller = gateway.caller().await;
    vendor.on_query(|_, _| padded(MIB));
    let task = caller.query(query("7")).await.unwrap().task.unwrap();
    assert_eq!(task.raw_status, "DOING");
    vendor.on_query(|_, _| padded(MIB + 1));
    let told = caller.refused(query("7")).await;
    assert_eq!((told.code, &*told.reason), (Code::Internal, "UPSTREAM_MALFORMED"));
}

#[tokio::test]
async fn an_error_answer_means_what_its_status_says_however_long_its_body_is_or_if_it_breaks() {
    let vendor = Vendor::start().await;
    let gateway = Gateway::start(&vendor, &["--max-attempts=1"]).await;
    let caller = gateway.caller().await;
    let long = || vec![b'x'; MIB];
    for (status, code, reason, reason_if_it_breaks) in [
        (403, Code::FailedPrecondition, "UPSTREAM_FORBIDDEN", "UPSTREAM_FORBIDDEN"),
        (503, Code::Unavailable, "UPSTREAM_UNAVAILABLE", "UPSTREAM_UNAVAILABLE"),
        (418, Code::Unknown, "UPSTREAM_HTTP_STATUS", "UPSTREAM_HTTP_STATUS"),
        // What this one means stands in its body.
        (500, Code::Internal, "UPSTREAM_FAILURE", "UPSTREAM_UNREACHABLE"),
    ] {
        vendor.first([Answer::new(status, long())]);
        let told = caller.refused(query("7")).await;
        assert_eq!((told.code, &*told.reason), (code, reason), "{status}, a long body");
        vendor.first([Answer::new(status, "what is cut off").cut_off()]);
        let told = caller.refused(query("7")).await;
        assert_eq!(told.reason, reason_if_it_breaks, "{status}, cut off");
    }
}

#[tokio::test]
async fn an_error_answer_of_up_to_64_kibibytes_does_not_cost_its_connection() {
    let vendor = Vendor::start().await;
    let gateway = Gateway::start(&vendor, &["--max-attempts=1"]).await;
    let caller = gateway.caller().await;
    let ask = async |length: usize| {
        vendor.first((0..3).map(|_| Answer::new(418, vec![b'x'; length])));
        for _ in 0..3 {
            assert_eq!(caller.refused(query("7")).await.reason, "UPSTREAM_HTTP_STATUS");
        }
        vendor.connections()
    };
    let before = ask(0).await;
    assert_eq!(ask(64 * 1024).await, before);
    // What is left of a longer one is not waited for.
    assert!(ask(MIB).await > before);
}
