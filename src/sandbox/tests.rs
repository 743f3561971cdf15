//! The whole vendor: on paused time without a socket, and once over a real one.

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::net::client;

async fn call(
    vendor: &Vendor,
    request: http::request::Builder,
    body: &str,
) -> (StatusCode, serde_json::Value) {
    let answer = vendor.answer(request.body(Full::<Bytes>::from(body.to_owned())).unwrap()).await;
    assert_eq!(answer.headers()["content-type"], "application/json");
    let status = answer.status();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap())
}

async fn token(vendor: &Vendor, lifetime: &str) -> String {
    let request = Request::post(TOKEN_PATH).header("X-Token-Expire", lifetime);
    let (status, body) = call(vendor, request, r#"{"app_key":"k","app_secret":"s"}"#).await;
    assert_eq!(status, 200);
    body["AccessToken"].as_str().unwrap().to_owned()
}

async fn query(vendor: &Vendor, token: &str, id: &str) -> (StatusCode, serde_json::Value) {
    let request = Request::post(QUERY_PATH).header("authorization", format!("Bearer {token}"));
    call(vendor, request, &format!(r#"{{"taskId":"{id}"}}"#)).await
}

#[tokio::test]
async fn a_login_is_answered_in_strings() {
    let vendor = Vendor::default();
    let request = Request::post(TOKEN_PATH).header("X-Token-Expire", "600");
    let (status, body) = call(&vendor, request, r#"{"app_key":"key","app_secret":""}"#).await;
    assert_eq!(status, 200);
    let body = body.as_object().unwrap();
    let mut names: Vec<&str> = body.keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["AccessToken", "AppKey", "ApplyType", "CreateTime", "Expires", "Scope", "UserID"]);
    assert!(body.values().all(serde_json::Value::is_string));
    assert_eq!(
        (&body["Expires"], &body["AppKey"], &body["ApplyType"]),
        (&"600".into(), &"key".into(), &"Bearer".into())
    );
    assert!(body["CreateTime"].as_str().unwrap().parse::<u64>().unwrap() > 1_600_000_000);
}

#[tokio::test]
async fn a_malformed_request_is_400_and_another_method_405() {
    let vendor = Vendor::default();
    for body in ["", "{}", "[]", "null", r#"{"app_key":"k"}"#, r#"{"app_key":1,"app_secret":"s"}"#] {
        assert_eq!(call(&vendor, Request::post(TOKEN_PATH), body).await.0, 400, "{body}");
    }
    let too_long = Request::post(TOKEN_PATH).header("x-token-expire", "3601");
    assert_eq!(call(&vendor, too_long, r#"{"app_key":"k","app_secret":"s"}"#).await.0, 400);
    let token = token(&vendor, "60").await;
    let large = format!(r#"{{"taskId":"1","filler":"{}"}}"#, "x".repeat(BODY_BYTES));
    let long = format!(r#"{{"taskId":"{}"}}"#, "1".repeat(257));
    for body in ["", "{", r#"{"taskId":1}"#, r#"{"taskId":""}"#, r#"["taskId"]"#, &large, &long] {
        let request = Request::post(QUERY_PATH).header("authorization", format!("Bearer {token}"));
        assert_eq!(call(&vendor, request, body).await.0, 400, "{body:.80}");
    }
    for path in [TOKEN_PATH, QUERY_PATH] {
        assert_eq!(call(&vendor, Request::get(path), "").await.0, 405);
    }
    assert_eq!(call(&vendor, Request::get("/"), "").await.0, 404);
    assert_eq!(call(&vendor, Request::post("/counters"), "").await.0, 404);
}

#[tokio::test(start_paused = true)]
async fn only_a_living_token_opens_the_door() {
    let vendor = Vendor::default();
    let token = token(&vendor, "60").await;
    assert_eq!(query(&vendor, &token, "1").await.0, 200);
    assert_eq!(query(&vendor, "made up", "1").await.0, 401);
    for header in ["", "Bearer", "Bearer ", &format!("Basic {token}"), &token] {
        let request = Request::post(QUERY_PATH).header("authorization", header);
        assert_eq!(call(&vendor, request, r#"{"taskId":"1"}"#).await.0, 401, "{header}");
    }
    assert_eq!(call(&vendor, Request::post(QUERY_PATH), "not even JSON").await.0, 401);
    tokio::time::advance(Duration::from_secs(60)).await;
    assert_eq!(query(&vendor, &token, "1").await.0, 401);
}

#[tokio::test(start_paused = true)]
async fn a_task_is_answered_as_the_reference_does() {
    let vendor = Vendor::default();
    let token = token(&vendor, "3600").await;
    assert_eq!(query(&vendor, &token, "1").await.1["taskInfo"]["status"], "TODO");
    tokio::time::advance(Duration::from_secs(2)).await;
    assert_eq!(query(&vendor, &token, "1").await.1["taskInfo"]["status"], "DOING");
    tokio::time::advance(Duration::from_secs(5)).await;
    let reference = serde_json::json!({
        "failDataList": [],
        "resultCode": "0",
        "taskInfo": { "remark": "", "status": "DONE" },
        "resultMessage": "The query is successful.",
    });
    assert_eq!(query(&vendor, &token, "1").await, (StatusCode::OK, reference));
    let (status, missing) = query(&vendor, &token, "missing-1").await;
    assert_eq!((status, &missing["resultCode"]), (StatusCode::OK, &"60101060007".into()));
    assert_eq!(query(&vendor, &token, "flaky-1").await.0, 503);
    assert_eq!(query(&vendor, &token, "flaky-1").await.0, 200);
}

#[tokio::test(start_paused = true)]
async fn a_failing_task_ends_with_one_user_for_each_code() {
    const CODES: [&str; 15] = [
        "60101040050",
        "60101060003",
        "60101020076",
        "60101020085",
        "60101060007",
        "60101030013",
        "60101900002",
        "60101000100",
        "60101000101",
        "60101000102",
        "60101000103",
        "60101000104",
        "60101000105",
        "60101000108",
        "60101000109",
    ];
    let vendor = Vendor::default();
    let token = token(&vendor, "3600").await;
    let (_, todo) = query(&vendor, &token, "fail-1").await;
    assert_eq!(todo["failDataList"], serde_json::json!([]));
    tokio::time::advance(Duration::from_secs(7)).await;
    let (_, done) = query(&vendor, &token, "fail-1").await;
    assert_eq!((&done["resultCode"], &done["taskInfo"]["status"]), (&"0".into(), &"DONE".into()));
    let failures = done["failDataList"].as_array().unwrap();
    let codes: Vec<&str> = failures.iter().map(|failure| failure["failCode"].as_str().unwrap()).collect();
    assert_eq!(codes, CODES);
    for failure in failures {
        let user = &failure["federationUser"];
        assert!(matches!(user["action"].as_str().unwrap(), "CREATE" | "MODIFY" | "DISABLE"));
        for text in [&user["userName"], &user["userAccount"], &user["email"], &failure["failMessage"]] {
            assert!(!text.as_str().unwrap().is_empty(), "{failure}");
        }
        assert!(user["roleIds"].as_array().unwrap().iter().all(serde_json::Value::is_string));
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_answer_takes_two_seconds_and_is_as_old() {
    let vendor = Vendor::default();
    let token = token(&vendor, "3600").await;
    let start = Instant::now();
    assert_eq!(query(&vendor, &token, "slow-1").await.1["taskInfo"]["status"], "TODO");
    assert_eq!(start.elapsed().as_secs(), 2);
    assert_eq!(query(&vendor, &token, "slow-1").await.1["taskInfo"]["status"], "DOING");
    assert_eq!(start.elapsed().as_secs(), 4);
    query(&vendor, &token, "1").await;
    assert_eq!(start.elapsed().as_secs(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_is_given_up() {
    struct Never;
    impl Body for Never {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
            std::task::Poll::Pending
        }
    }
    let answer = Vendor::default().answer(Request::post(TOKEN_PATH).body(Never).unwrap()).await;
    assert_eq!(answer.status(), 408);
}

#[tokio::test]
async fn over_a_real_socket_every_request_counts() {
    let sandbox = Sandbox::bind("127.0.0.1:0").await.unwrap();
    let (addr, stop) = (sandbox.addr().to_owned(), CancellationToken::new());
    let mut running = JoinSet::new();
    running.spawn(sandbox.run(stop.clone().cancelled_owned()));
    let post = |path: &str, headers: &str, body: &str| {
        let length = body.len();
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: {addr}\r\nconnection: close\r\n{headers}content-length: {length}\r\n\r\n{body}"
        );
        let addr = addr.clone();
        async move {
            let answer = client::exchange(&addr, &request).await;
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            (head[9..12].to_owned(), serde_json::from_str::<serde_json::Value>(body).unwrap())
        }
    };
    let (status, login) = post(TOKEN_PATH, "", r#"{"app_key":"k","app_secret":"s"}"#).await;
    assert_eq!((status.as_str(), &login["Expires"]), ("200", &"3600".into()));
    let bearer = format!("Authorization: Bearer {}\r\n", login["AccessToken"].as_str().unwrap());
    let (status, task) = post(QUERY_PATH, &bearer, r#"{"taskId":"1659446191820726274"}"#).await;
    assert_eq!((status.as_str(), &task["resultCode"]), ("200", &"0".into()));
    assert_eq!(post(QUERY_PATH, "", r#"{"taskId":"1"}"#).await.0, "401");
    assert_eq!(post(QUERY_PATH, &bearer, "").await.0, "400");
    assert!(client::ask(&addr, "GET", TOKEN_PATH).await.starts_with("HTTP/1.1 405 "));
    let counters = client::ask(&addr, "GET", "/counters").await;
    let counters: serde_json::Value =
        serde_json::from_str(counters.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!(counters, serde_json::json!({ "tokens": 2, "queries": 3 }));
    stop.cancel();
    running.join_next().await.unwrap().unwrap();
}
