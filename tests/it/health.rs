//! Health over gRPC and HTTP, and reflection.

use futures_util::stream;
use serde_json::json;
use tokio::task::JoinSet;
use tonic::{Code, Streaming};
use tonic_health::pb::health_check_response::ServingStatus::{self, NotServing, Serving};
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tonic_reflection::pb::{v1, v1alpha};

use crate::support::{Answer, Caller, Gate, Gateway, Vendor, eventually, query, soon};

const TASKS: &str = "federation.v1.FederationTasks";

async fn check(caller: &Caller, service: &str) -> Result<ServingStatus, Code> {
    let request = HealthCheckRequest { service: service.into() };
    let mut client = HealthClient::with_origin(caller.connection(), caller.origin());
    let answer = soon("a check", client.check(request)).await;
    answer.map(|answer| answer.get_ref().status()).map_err(|status| status.code())
}

async fn watch(caller: &Caller, service: &str) -> Streaming<HealthCheckResponse> {
    let request = HealthCheckRequest { service: service.into() };
    let mut client = HealthClient::with_origin(caller.connection(), caller.origin());
    soon("a watch", client.watch(request)).await.expect("it is answered").into_inner()
}

async fn told(stream: &mut Streaming<HealthCheckResponse>) -> Option<ServingStatus> {
    let message = soon("a status", stream.message()).await.expect("it ends with OK, if at all");
    message.map(|message| message.status())
}

#[tokio::test]
async fn from_before_the_first_token_to_the_end_of_the_drain() {
    let vendor = Vendor::start().await;
    let gate = Gate::shut();
    let held = gate.clone();
    vendor.on_login(move |_, _| Answer::token("token", &json!("3600")).held(&held));
    let gateway = Gateway::start_cold(&vendor, &[]).await;
    let caller = gateway.caller().await;
    assert_eq!(check(&caller, "").await, Ok(Serving));
    assert_eq!(check(&caller, TASKS).await, Ok(NotServing));
    assert_eq!(check(&caller, "unknown").await, Err(Code::NotFound));
    assert_eq!((gateway.get("/livez").await.0, gateway.get("/readyz").await.0), (200, 503));
    let (mut process, mut tasks) = (watch(&caller, "").await, watch(&caller, TASKS).await);
    assert_eq!((told(&mut process).await, told(&mut tasks).await), (Some(Serving), Some(NotServing)));
    gate.open();
    assert_eq!(told(&mut tasks).await, Some(Serving));
    assert_eq!((check(&caller, "").await, check(&caller, TASKS).await), (Ok(Serving), Ok(Serving)));
    eventually("it is ready", async || gateway.get("/readyz").await.0 == 200).await;

    // A call under way holds the drain open.
    let gate = Gate::shut();
    vendor.first([Answer::doing("").held(&gate)]);
    let mut calls = JoinSet::new();
    calls.spawn(async move { caller.query(query("7")).await });
    eventually("it is under way", async || vendor.under_way() == 1).await;
    gateway.drain();
    for stream in [&mut process, &mut tasks] {
        assert_eq!(told(stream).await, Some(NotServing));
        assert_eq!(told(stream).await, None);
    }
    assert_eq!((gateway.get("/livez").await.0, gateway.get("/readyz").await.0), (200, 503));
    gate.open();
    calls.join_next().await.unwrap().unwrap().unwrap();
    gateway.stop().await;
}

#[tokio::test]
async fn without_a_living_token_and_with_a_failed_login_tasks_are_not_served() {
    let vendor = Vendor::start().await;
    vendor.on_login(|_, number| match number {
        // Long enough to be seen on a busy machine.
        1 => Answer::token("token", &json!("6")),
        _ => Answer::status(503),
    });
    let gateway = Gateway::start(&vendor, &[]).await;
    let caller = gateway.caller().await;
    assert_eq!(check(&caller, TASKS).await, Ok(Serving));
    eventually("it is told", async || check(&caller, TASKS).await == Ok(NotServing)).await;
    // One vendor's outage must not take every replica out of its service.
    assert_eq!((check(&caller, "").await, gateway.get("/readyz").await.0), (Ok(Serving), 200));
    vendor.on_login(|_, _| Answer::token("token", &json!("3600")));
    eventually("it serves again", async || check(&caller, TASKS).await == Ok(Serving)).await;
    gateway.stop().await;
}

#[tokio::test]
async fn reflection_lists_the_services_in_both_versions() {
    let vendor = Vendor::start().await;
    let gateway = Gateway::start(&vendor, &[]).await;
    let caller = gateway.caller().await;
    let mut names = Vec::new();
    {
        use v1::server_reflection_client::ServerReflectionClient;
        use v1::server_reflection_request::MessageRequest;
        use v1::server_reflection_response::MessageResponse::ListServicesResponse;
        let ask = v1::ServerReflectionRequest {
            host: String::new(),
            message_request: Some(MessageRequest::ListServices(String::new())),
        };
        let mut client = ServerReflectionClient::with_origin(caller.connection(), caller.origin());
        let mut answers = client.server_reflection_info(stream::iter([ask])).await.unwrap().into_inner();
        let answer = soon("a list", answers.message()).await.unwrap().unwrap().message_response.unwrap();
        let ListServicesResponse(list) = answer else { panic!("{answer:?}") };
        names.push(list.service.into_iter().map(|service| service.name).collect::<Vec<_>>());
    }
    {
        use v1alpha::server_reflection_client::ServerReflectionClient;
        use v1alpha::server_reflection_request::MessageRequest;
        use v1alpha::server_reflection_response::MessageResponse::ListServicesResponse;
        let ask = v1alpha::ServerReflectionRequest {
            host: String::new(),
            message_request: Some(MessageRequest::ListServices(String::new())),
        };
        let mut client = ServerReflectionClient::with_origin(caller.connection(), caller.origin());
        let mut answers = client.server_reflection_info(stream::iter([ask])).await.unwrap().into_inner();
        let answer = soon("a list", answers.message()).await.unwrap().unwrap().message_response.unwrap();
        let ListServicesResponse(list) = answer else { panic!("{answer:?}") };
        names.push(list.service.into_iter().map(|service| service.name).collect());
    }
    for names in names {
        for name in [TASKS, "grpc.health.v1.Health"] {
            assert!(names.iter().any(|listed| listed == name), "{names:?}");
        }
    }
    gateway.stop().await;
}
