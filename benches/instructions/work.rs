//! What is counted, and what is set up for it.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use federation_gateway::grpc::{self, CallBody, Message};
use federation_gateway::task::{self, Form, Observation, TaskId};
use federation_gateway::tasks::{Answered, Freshness};
use federation_gateway::vendor::wire;
use futures_util::FutureExt as _;
use futures_util::future::join_all;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::world::{World, caller, id, query, watch};

/// A minute old at most.
const MAX_AGE: Freshness = Freshness::Within(Duration::from_secs(60));

/// The vendor's answer that names 100 failed users: as many as a createTask may carry.
pub(crate) fn failed_users() -> Vec<u8> {
    let user = |number: usize| {
        format!(
            r#"{{"federationUser":{{"action":"CREATE","userName":"User {number:03}","userAccount":"user{number:03}","email":"user{number:03}@example.com","roleIds":["10100{number:03}","10200{number:03}"]}},"failCode":"60101000108","failMessage":"The user already exists."}}"#
        )
    };
    let users: Vec<String> = (0..100).map(user).collect();
    let body = format!(
        r#"{{"resultCode":"0","resultMessage":"The query is successful.","taskInfo":{{"status":"DONE","remark":"100 users failed"}},"failDataList":[{}]}}"#,
        users.join(",")
    );
    // Once before it counts: what the first use of anything costs is no part of the work.
    assert_eq!(parsed(&body.clone().into_bytes()).state.fail_data.len(), 100);
    body.into_bytes()
}

fn parsed(body: &[u8]) -> wire::Answer {
    wire::answer(body).expect("the documented JSON")
}

/// Reading a body of 100 failed users.
pub(crate) fn parse(body: Vec<u8>) -> (wire::Answer, Vec<u8>) {
    (parsed(black_box(&body)), body)
}

pub(crate) fn observed() -> (TaskId, Observation) {
    let make = || {
        let wire::Answer { state, result_message, .. } = parsed(&failed_users());
        let answer = task::Answer::new(state, result_message, SystemTime::UNIX_EPOCH);
        Observation { answer: Arc::new(answer), began: Instant::now() }
    };
    drop(grpc::form(&id(0), &make()));
    (id(0), make())
}

/// Making the message that callers get of it.
pub(crate) fn convert((id, observation): (TaskId, Observation)) -> (Form, Observation) {
    (grpc::form(&id, black_box(&observation)), observation)
}

pub(crate) fn remembered() -> (World, TaskId) {
    let world = World::new();
    // The first answer comes from the vendor, the second from memory, as those that are counted.
    for _ in 0..2 {
        let answered = world.runtime.block_on(async { world.hub.query(&id(0), MAX_AGE, caller()).await });
        answered.expect("the vendor answers");
    }
    drop(world.call(query(0)));
    (world, id(0))
}

/// A hundred queries that the hub answers from memory.
pub(crate) fn hit((world, id): (World, TaskId)) -> (World, Vec<Answered>) {
    let mut all = Vec::with_capacity(100);
    {
        let _entered = world.runtime.enter();
        let hit = || world.hub.query(black_box(&id), MAX_AGE, caller()).now_or_never();
        all.extend((0..100).map(|_| hit().expect("known").expect("no failure")));
    }
    assert_eq!(world.vendor.calls(), 1);
    (world, all)
}

pub(crate) fn asked() -> (World, Requests) {
    let (world, _) = remembered();
    (world, (0..100).map(|_| query(0)).collect())
}

/// A hundred QueryTask calls that are answered from memory: from the request's frame to the answer's.
pub(crate) fn call((world, requests): (World, Requests)) -> (World, Vec<(Message, CallBody)>) {
    let mut all = Vec::with_capacity(100);
    all.extend(requests.into_iter().map(|request| world.call(request)));
    assert_eq!(world.vendor.calls(), 1);
    (world, all)
}

/// A hundred queries that share one upstream call: each joins it, and gets its answer.
pub(crate) fn joined((world, id): (World, TaskId)) -> (World, Vec<Answered>) {
    let before = world.vendor.calls();
    let all = world.runtime.block_on(async {
        let queries = (0..100).map(|_| world.hub.query(black_box(&id), Freshness::Shared, caller()));
        join_all(queries).await.into_iter().map(|answered| answered.expect("no failure")).collect()
    });
    assert_eq!(world.vendor.calls(), before + 1);
    (world, all)
}

pub(crate) type Requests = Vec<Request<Full<Bytes>>>;
pub(crate) type Watchers = JoinSet<(Message, CallBody)>;

pub(crate) fn watched() -> (World, Watchers) {
    let world = World::new();
    let mut watchers = JoinSet::new();
    let read = |mut body: CallBody| async move {
        let frame = body.frame().await.expect("a message").expect("no failure");
        (frame.into_data().expect("a message"), body)
    };
    for _ in 0..100 {
        let (_, body) = world.call(watch(0));
        watchers.spawn_on(read(body), world.runtime.handle());
    }
    world.settle();
    assert_eq!((world.vendor.calls(), watchers.len()), (1, 100));
    (world, watchers)
}

/// One poll that finds a change, until each of a hundred watchers has its message.
pub(crate) fn fan_out((world, mut watchers): (World, Watchers)) -> (World, Vec<(Message, CallBody)>) {
    let mut all = Vec::with_capacity(100);
    // Nothing is left to do but to wait for the poll, so the paused clock jumps to it.
    world.runtime.block_on(async {
        while let Some(read) = watchers.join_next().await {
            all.push(read.expect("no panic"));
        }
    });
    assert_eq!((world.vendor.calls(), all.len()), (2, 100));
    (world, all)
}
