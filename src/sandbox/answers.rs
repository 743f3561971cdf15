//! The vendor's JSON, as its reference documents it: what is asked, and what is answered.

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};

use super::tasks::Outcome;

/// Longer than any id that a gateway passes on; ids are remembered, so they can't be of any length.
const TASK_ID_BYTES: usize = 256;

/// A login.
#[derive(Debug)]
pub(super) struct LoginRequest {
    app_key: String,
}

impl LoginRequest {
    /// Any two strings will do.
    pub(super) fn parse(body: &[u8]) -> Option<Self> {
        let body: Value = serde_json::from_slice(body).ok()?;
        body.get("app_secret")?.as_str()?;
        Some(Self { app_key: body.get("app_key")?.as_str()?.to_owned() })
    }

    /// Every value is a string, numbers too.
    pub(super) fn answer(&self, token: &str, lifetime_secs: u64) -> Value {
        let created = crate::clock::wall_now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        json!({
            "AccessToken": token,
            "ApplyType": "Bearer",
            "CreateTime": created.as_secs().to_string(),
            "Expires": lifetime_secs.to_string(),
            "Scope": "cc-management",
            "AppKey": self.app_key,
            "UserID": "Anonymous",
        })
    }
}

/// A call for a task.
#[derive(Debug)]
pub(super) struct QueryRequest {
    pub(super) task_id: String,
}

impl QueryRequest {
    pub(super) fn parse(body: &[u8]) -> Option<Self> {
        let body: Value = serde_json::from_slice(body).ok()?;
        let task_id = body.get("taskId")?.as_str()?;
        (1..=TASK_ID_BYTES).contains(&task_id.len()).then(|| Self { task_id: task_id.to_owned() })
    }
}

/// How many requests came.
pub(super) fn counters(tokens: u64, queries: u64) -> Value {
    json!({ "tokens": tokens, "queries": queries })
}

/// The answer to a call for a task.
pub(super) fn task(outcome: Outcome) -> Response<Full<Bytes>> {
    let found = |status: &str, remark: &str, failures: Vec<Value>| {
        json!({
            "resultCode": "0",
            "resultMessage": "The query is successful.",
            "taskInfo": { "status": status, "remark": remark },
            "failDataList": failures,
        })
    };
    let body = match outcome {
        Outcome::Todo => found("TODO", "", Vec::new()),
        Outcome::Doing => found("DOING", "", Vec::new()),
        Outcome::Done => found("DONE", "", Vec::new()),
        Outcome::DoneWithFailures => {
            let failures = failures();
            found("DONE", &format!("{} users failed", failures.len()), failures)
        }
        Outcome::Missing => json!({
            "resultCode": "60101060007",
            "resultMessage": "the federated user does not exist",
        }),
        Outcome::Unavailable => return error(StatusCode::SERVICE_UNAVAILABLE, "service unavailable"),
    };
    json(StatusCode::OK, &body)
}

/// One failure for each failCode, in the order of the reference's table: action, name, account, roles, code,
/// message. All of them are invented.
type Failure =
    (&'static str, &'static str, &'static str, &'static [&'static str], &'static str, &'static str);

const FAILURES: [Failure; 15] = [
    (
        "CREATE",
        "Ada Lind",
        "ada.lind",
        &["101"],
        "60101040050",
        "input parameter email invalid: must not be empty",
    ),
    ("MODIFY", "Bruno Reis", "bruno.reis", &["101", "205"], "60101060003", "the mapping fails"),
    ("CREATE", "Cy Wu", "cy", &["101"], "60101020076", "length of account cy does not meet the requirements"),
    (
        "CREATE",
        "Dora Nagy",
        "dora#nagy",
        &["102"],
        "60101020085",
        "account dora#nagy contains invalid characters #",
    ),
    ("DISABLE", "Emil Storm", "emil.storm", &[], "60101060007", "the federated user does not exist"),
    (
        "MODIFY",
        "Farah Aziz",
        "farah.aziz",
        &["999"],
        "60101030013",
        "role ID 999 does not exist in the database",
    ),
    ("CREATE", "Goran Ilic", "goran.ilic", &["101"], "60101900002", "internal system error: write timed out"),
    ("MODIFY", "Hana Sato", "hana.sato", &["205"], "60101000100", "user details could not be obtained"),
    (
        "CREATE",
        "Ivo Marek",
        "ivo.marek",
        &["101"],
        "60101000101",
        "the federated-user mapping rule could not be obtained",
    ),
    (
        "CREATE",
        "Júlia Prado",
        "julia.prado",
        &["102"],
        "60101000102",
        "the third-party system ID could not be obtained",
    ),
    ("DISABLE", "Kofi Mensah", "kofi.mensah", &[], "60101000103", "the obtained user details are empty"),
    (
        "MODIFY",
        "Lena Vogt",
        "lena.vogt",
        &["101", "102", "205"],
        "60101000104",
        "the sum interface could not be invoked for user role information",
    ),
    (
        "CREATE",
        "Mio Tanaka",
        "mio.tanaka",
        &["101"],
        "60101000105",
        "the user ID obtained during user creation is empty",
    ),
    ("CREATE", "Nora Bakke", "nora.bakke", &["101"], "60101000108", "the user already exists"),
    (
        "MODIFY",
        "Omar Haddad",
        "omar.haddad",
        &["205"],
        "60101000109",
        "input parameters could not be mapped to federated-user information",
    ),
];

fn failures() -> Vec<Value> {
    let failure = |(action, name, account, roles, code, message): &Failure| {
        json!({
            "federationUser": {
                "action": action,
                "userName": name,
                "userAccount": account,
                "email": format!("{}@example.com", account.replace('#', ".")),
                "roleIds": roles,
            },
            "failCode": code,
            "failMessage": message,
        })
    };
    FAILURES.iter().map(failure).collect()
}

/// The answer to a request whose path or parameters are wrong.
pub(super) fn malformed() -> Response<Full<Bytes>> {
    error(StatusCode::BAD_REQUEST, "incorrect request: check the request path and parameters")
}

/// The answer to another method than the one there is.
pub(super) fn not_post() -> Response<Full<Bytes>> {
    let mut refusal = error(StatusCode::METHOD_NOT_ALLOWED, "only POST");
    refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
    refusal
}

/// An answer that is not the call's own. The reference does not say what its body is.
pub(super) fn error(status: StatusCode, message: &str) -> Response<Full<Bytes>> {
    json(status, &json!({ "error": message }))
}

pub(super) fn json(status: StatusCode, body: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
