//! Requests in, states out: protobuf's types to the domain's and back.

use std::time::{Duration, SystemTime};

use prost::Message as _;
use tonic::Status;

use super::status;
use crate::pb;
use crate::task::{self, Form, Observation, TaskId};

/// The range of `google.protobuf.Duration`, in seconds (its own documentation: about 10,000 years).
const LONGEST_SECONDS: i64 = 315_576_000_000;
const NANOS_A_SECOND: i32 = 1_000_000_000;

/// Checks a request's `task_id`.
pub(super) fn task_id(text: &str) -> Result<TaskId, Status> {
    TaskId::parse(text).map_err(|error| status::invalid_field("task_id", &error.to_string()))
}

/// Checks a duration field; an unset one is none.
pub(super) fn duration(
    field: &'static str,
    value: Option<prost_types::Duration>,
) -> Result<Option<Duration>, Status> {
    let Some(prost_types::Duration { seconds, nanos }) = value else { return Ok(None) };
    let is_in_range = seconds.unsigned_abs() <= LONGEST_SECONDS.unsigned_abs()
        && nanos.unsigned_abs() < NANOS_A_SECOND.unsigned_abs();
    let is_one_sign = seconds == 0 || nanos == 0 || (seconds < 0) == (nanos < 0);
    if !is_in_range || !is_one_sign {
        return Err(status::invalid_field(
            field,
            "is not a valid google.protobuf.Duration: out of its range",
        ));
    }
    match (u64::try_from(seconds), u32::try_from(nanos)) {
        (Ok(seconds), Ok(nanos)) => Ok(Some(Duration::new(seconds, nanos))),
        _ => Err(status::invalid_field(field, "is negative; give 0 s or more")),
    }
}

/// An observation as callers get it: made for the first of them, shared by all.
#[must_use]
pub fn form(id: &TaskId, observation: &Observation) -> Form {
    let make = || {
        let answer = &observation.answer;
        let mut response =
            pb::QueryTaskResponse { task: None, result_message: answer.result_message.clone() };
        let message = response.encoded_len();
        response.task = Some(task(id, observation));
        let bytes = response.encode_to_vec();
        Form { shared: bytes.len() - message, bytes: bytes.into() }
    };
    observation.answer.form.get_or_init(make).clone()
}

/// A task as callers see it.
fn task(id: &TaskId, observation: &Observation) -> pb::Task {
    let state = observation.state();
    pb::Task {
        task_id: id.as_str().to_owned(),
        status: status_of(state).into(),
        raw_status: state.raw_status.clone(),
        remark: state.remark.clone(),
        fail_data: state.fail_data.iter().map(fail_data).collect(),
        observed_at: Some(timestamp(observation.answer.observed_at)),
    }
}

fn status_of(state: &task::State) -> pb::TaskStatus {
    match state.status() {
        None => pb::TaskStatus::Unspecified,
        Some(task::Status::Todo) => pb::TaskStatus::Todo,
        Some(task::Status::Doing) => pb::TaskStatus::Doing,
        Some(task::Status::Done) => pb::TaskStatus::Done,
    }
}

fn fail_data(failed: &task::FailData) -> pb::FailData {
    pb::FailData {
        federation_user: failed.federation_user.as_ref().map(federation_user),
        fail_reason: fail_reason(&failed.fail_code).into(),
        fail_code: failed.fail_code.clone(),
        fail_message: failed.fail_message.clone(),
    }
}

fn federation_user(user: &task::FederationUser) -> pb::FederationUser {
    pb::FederationUser {
        action: user_action(&user.raw_action).into(),
        raw_action: user.raw_action.clone(),
        user_name: user.user_name.clone(),
        user_account: user.user_account.clone(),
        email: user.email.clone(),
        role_ids: user.role_ids.clone(),
    }
}

fn user_action(text: &str) -> pb::UserAction {
    match text {
        "CREATE" => pb::UserAction::Create,
        "MODIFY" => pb::UserAction::Modify,
        "DISABLE" => pb::UserAction::Disable,
        _ => pb::UserAction::Unspecified,
    }
}

/// The vendor's failCodes (its reference, queryTask).
fn fail_reason(code: &str) -> pb::FailReason {
    match code {
        "60101040050" => pb::FailReason::InvalidParameter,
        "60101060003" => pb::FailReason::MappingFailed,
        "60101020076" => pb::FailReason::AccountLengthInvalid,
        "60101020085" => pb::FailReason::AccountCharactersInvalid,
        "60101060007" => pb::FailReason::UserNotFound,
        "60101030013" => pb::FailReason::RoleNotFound,
        "60101900002" => pb::FailReason::InternalError,
        "60101000100" => pb::FailReason::UserDetailsUnavailable,
        "60101000101" => pb::FailReason::MappingRuleUnavailable,
        "60101000102" => pb::FailReason::ThirdPartySystemIdUnavailable,
        "60101000103" => pb::FailReason::UserDetailsEmpty,
        "60101000104" => pb::FailReason::UserRolesUnavailable,
        "60101000105" => pb::FailReason::CreatedUserIdEmpty,
        "60101000108" => pb::FailReason::UserAlreadyExists,
        "60101000109" => pb::FailReason::InputMappingFailed,
        _ => pb::FailReason::Unspecified,
    }
}

fn timestamp(time: SystemTime) -> prost_types::Timestamp {
    time.into()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::time::Instant;

    use super::*;
    use crate::task::{Answer, FailData, FederationUser, State};

    fn shown(state: State) -> pb::Task {
        let observed_at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_500);
        let answer = Arc::new(Answer::new(state, String::new(), observed_at));
        task(&TaskId::parse("7").unwrap(), &Observation { answer, began: Instant::now() })
    }

    #[tokio::test]
    async fn what_is_unknown_keeps_its_text() {
        let user =
            FederationUser { raw_action: "MERGE".into(), user_name: "Ada".into(), ..Default::default() };
        let task = shown(State {
            raw_status: "PAUSED".into(),
            remark: "r".into(),
            fail_data: vec![
                FailData { federation_user: Some(user), fail_code: "7".into(), fail_message: "m".into() },
                FailData::default(),
            ],
        });
        assert_eq!((&*task.task_id, task.status, &*task.raw_status), ("7", 0, "PAUSED"));
        assert_eq!(task.observed_at, Some(prost_types::Timestamp { seconds: 1, nanos: 500_000_000 }));
        let failed = &task.fail_data[0];
        assert_eq!((failed.fail_reason, &*failed.fail_code, &*failed.fail_message), (0, "7", "m"));
        let user = failed.federation_user.as_ref().unwrap();
        assert_eq!((user.action, &*user.raw_action, &*user.user_name), (0, "MERGE", "Ada"));
        assert_eq!(task.fail_data[1].federation_user, None);
    }

    #[tokio::test]
    async fn what_is_known_has_its_number() {
        for (text, number) in [("TODO", 1), ("DOING", 2), ("DONE", 3), ("done", 0), ("", 0)] {
            assert_eq!(shown(State { raw_status: text.into(), ..Default::default() }).status, number);
        }
        for (text, number) in [("CREATE", 1), ("MODIFY", 2), ("DISABLE", 3), ("create", 0)] {
            assert_eq!(user_action(text) as i32, number);
        }
        let codes = "60101040050 60101060003 60101020076 60101020085 60101060007 60101030013 60101900002 60101000100 \
                     60101000101 60101000102 60101000103 60101000104 60101000105 60101000108 60101000109";
        for (at, code) in codes.split_whitespace().enumerate() {
            assert_eq!(fail_reason(code) as usize, at + 1, "{code}");
        }
    }

    #[test]
    fn durations_are_checked() {
        let read = |seconds, nanos| duration("max_age", Some(prost_types::Duration { seconds, nanos }));
        assert_eq!(duration("max_age", None).unwrap(), None);
        assert_eq!(read(0, 0).unwrap(), Some(Duration::ZERO));
        assert_eq!(read(LONGEST_SECONDS, 999_999_999).unwrap().unwrap().as_secs(), 315_576_000_000);
        for (seconds, nanos) in [
            (-1, 0),
            (0, -1),
            (1, -1),
            (-1, 1),
            (0, 1_000_000_000),
            (LONGEST_SECONDS + 1, 0),
            (i64::MIN, i32::MIN),
            (i64::MAX, i32::MAX),
        ] {
            let status = read(seconds, nanos).unwrap_err();
            assert_eq!(status.code(), tonic::Code::InvalidArgument, "{seconds} {nanos}");
            assert!(status.message().starts_with("max_age "), "{}", status.message());
        }
    }
}
