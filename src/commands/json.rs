//! Messages as proto3-JSON, one object a line, by the contract's own descriptors: enums by name, times in
//! RFC 3339, empty fields left out. For programs; what people read is `render`'s.

use std::sync::LazyLock;

use prost::{Message, Name};
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};

use super::render::is_hidden;
use crate::pb;

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(pb::FILE_DESCRIPTOR_SET).expect("the build compiled the descriptor set")
});

/// Why a message is no JSON: a value that proto3-JSON cannot hold, such as a time outside its range.
#[derive(Debug, thiserror::Error)]
pub(super) enum JsonError {
    /// The message is not of the contract, or its bytes are not its type's.
    #[error("the message is not one of the contract's")]
    Foreign(#[source] Option<prost::DecodeError>),
    /// A field's value has no JSON form.
    #[error("a field has no JSON form")]
    Value(#[from] serde_json::Error),
}

/// A message as one line, newline included.
pub(super) fn line<M: Message + Name>(message: &M) -> Result<String, JsonError> {
    let descriptor = POOL.get_message_by_name(&M::full_name()).ok_or(JsonError::Foreign(None))?;
    let bytes = message.encode_to_vec();
    let dynamic = DynamicMessage::decode(descriptor, bytes.as_slice())
        .map_err(|error| JsonError::Foreign(Some(error)))?;
    let mut json = serde_json::Serializer::new(Vec::with_capacity(bytes.len() * 2));
    dynamic.serialize_with_options(&mut json, &SerializeOptions::new())?;
    let text = String::from_utf8(json.into_inner()).expect("serde_json writes UTF-8");
    Ok(escaped(&text) + "\n")
}

/// The same document with the characters that a terminal would obey written as JSON escapes: it may be shown on
/// one, and a reader of JSON sees no difference.
fn escaped(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if is_hidden(character) {
            // They stand inside strings alone, and all of them are in the basic plane.
            shown.push_str(&format!("\\u{:04x}", u32::from(character)));
        } else {
            shown.push(character);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enums_have_names_times_are_dates_and_empty_fields_are_left_out() {
        let task = pb::Task {
            task_id: "1659446191820726274".to_owned(),
            status: pb::TaskStatus::Done.into(),
            fail_data: vec![pb::FailData {
                federation_user: Some(pb::FederationUser {
                    action: pb::UserAction::Disable.into(),
                    role_ids: vec!["7".to_owned()],
                    ..Default::default()
                }),
                fail_reason: pb::FailReason::RoleNotFound.into(),
                ..Default::default()
            }],
            observed_at: Some(prost_types::Timestamp { seconds: 1, nanos: 500_000_000 }),
            ..Default::default()
        };
        let message = pb::WatchTaskResponse { task: Some(task), reason: pb::WatchReason::Initial.into() };
        assert_eq!(
            line(&message).unwrap(),
            concat!(
                r#"{"task":{"taskId":"1659446191820726274","status":"TASK_STATUS_DONE","failData":["#,
                r#"{"federationUser":{"action":"USER_ACTION_DISABLE","roleIds":["7"]},"#,
                r#""failReason":"FAIL_REASON_ROLE_NOT_FOUND"}],"observedAt":"1970-01-01T00:00:01.500Z"},"#,
                r#""reason":"WATCH_REASON_INITIAL"}"#,
                "\n"
            )
        );
        assert_eq!(line(&pb::QueryTaskResponse::default()).unwrap(), "{}\n");
    }

    #[test]
    fn what_a_terminal_would_obey_is_escaped_and_reads_the_same() {
        let text = "a\u{1b}[2J\u{9b}\u{202e}\u{2028}\u{feff}\u{7f}\n\"b\\";
        let message = pb::QueryTaskResponse { result_message: text.to_owned(), ..Default::default() };
        let line = line(&message).unwrap();
        let body = line.strip_suffix('\n').unwrap();
        assert!(!body.chars().any(is_hidden), "{body}");
        let read: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(read["resultMessage"], text);
    }

    #[test]
    fn a_time_that_json_can_not_hold_is_an_error() {
        let observed_at = Some(prost_types::Timestamp { seconds: i64::MAX, nanos: 0 });
        let task = Some(pb::Task { observed_at, ..Default::default() });
        assert!(line(&pb::QueryTaskResponse { task, ..Default::default() }).is_err());
    }
}
