//! The domain's plain types: a task's id, its state as observed, and (in [`failure`]) what can go wrong on the
//! way to it. Imports nothing of the project: every floor above may speak in these.

pub mod failure;

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use bytes::Bytes;
use tokio::time::Instant;

/// A task's id, checked: 1 to [`TaskId::MAX_BYTES`] bytes of printable ASCII without spaces.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaskId(Arc<str>);

impl TaskId {
    /// The longest id that is taken (contract 1).
    pub const MAX_BYTES: usize = 128;

    /// Checks a caller's text.
    ///
    /// # Errors
    /// Says what is wrong with it, without repeating it.
    pub fn parse(text: &str) -> Result<Self, InvalidTaskId> {
        if text.is_empty() {
            return Err(InvalidTaskId::Empty);
        }
        if text.len() > Self::MAX_BYTES {
            return Err(InvalidTaskId::TooLong { bytes: text.len() });
        }
        match text.bytes().position(|byte| !byte.is_ascii_graphic()) {
            None => Ok(Self(text.into())),
            Some(at) => Err(InvalidTaskId::NotPrintable { at }),
        }
    }

    /// The id as the vendor's API wants it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is wrong with a text that should be a task's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTaskId {
    /// There is none.
    #[error("is empty; give the id that createTask returned")]
    Empty,
    /// It is longer than any id.
    #[error("has {bytes} bytes; at most {} are taken", TaskId::MAX_BYTES)]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// It holds something else than printable ASCII without spaces.
    #[error("has a byte that is not printable ASCII, or a space, at offset {at}")]
    NotPrintable {
        /// Where the first such byte stands, counted from 0.
        at: usize,
    },
}

/// How far a task has come, as far as the vendor's text is known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    /// Accepted, not begun.
    Todo,
    /// Under way.
    Doing,
    /// At its end.
    Done,
}

impl Status {
    /// Reads the vendor's text; a text that is not in its reference is no status, and no error.
    #[must_use]
    pub fn from_vendor(text: &str) -> Option<Self> {
        match text {
            "TODO" => Some(Self::Todo),
            "DOING" => Some(Self::Doing),
            "DONE" => Some(Self::Done),
            _ => None,
        }
    }
}

/// A task's state: all that makes two observations of it different. Texts are the vendor's, as they came;
/// absent ones are empty.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct State {
    /// `taskInfo.status`.
    pub raw_status: String,
    /// `taskInfo.remark`.
    pub remark: String,
    /// `failDataList`, in the vendor's order.
    pub fail_data: Vec<FailData>,
}

impl State {
    /// The status, as far as its text is known.
    #[must_use]
    pub fn status(&self) -> Option<Status> {
        Status::from_vendor(&self.raw_status)
    }

    /// Whether nothing more will change.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.status() == Some(Status::Done)
    }

    /// About how much memory this takes, in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        let spare = (self.fail_data.capacity() - self.fail_data.len()) * size_of::<FailData>();
        let users: usize = spare + self.fail_data.iter().map(FailData::size).sum::<usize>();
        size_of::<Self>() + self.raw_status.capacity() + self.remark.capacity() + users
    }
}

// Hand-written: remarks and failed users are people's data, which no log or panic message may hold.
impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State")
            .field("status", &self.status())
            .field("failed_users", &self.fail_data.len())
            .finish_non_exhaustive()
    }
}

/// One user that could not be handled. Texts are the vendor's, as they came.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct FailData {
    /// The user, if named.
    pub federation_user: Option<FederationUser>,
    /// `failCode`.
    pub fail_code: String,
    /// `failMessage`.
    pub fail_message: String,
}

impl FailData {
    fn size(&self) -> usize {
        let user = self.federation_user.as_ref().map_or(0, FederationUser::size);
        size_of::<Self>() + self.fail_code.capacity() + self.fail_message.capacity() + user
    }
}

/// A user as the task named it. Texts are the vendor's, as they came.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct FederationUser {
    /// `action`: `CREATE`, `MODIFY`, `DISABLE`, or what the vendor adds later.
    pub raw_action: String,
    /// `userName`.
    pub user_name: String,
    /// `userAccount`.
    pub user_account: String,
    /// `email`.
    pub email: String,
    /// `roleIds`.
    pub role_ids: Vec<String>,
}

impl FederationUser {
    fn size(&self) -> usize {
        let roles = self.role_ids.capacity() * size_of::<String>()
            + self.role_ids.iter().map(String::capacity).sum::<usize>();
        self.raw_action.capacity()
            + self.user_name.capacity()
            + self.user_account.capacity()
            + self.email.capacity()
            + roles
    }
}

/// An answer of the vendor to queryTask.
#[derive(Debug)]
pub struct Answer {
    /// The state.
    pub state: State,
    /// `resultMessage`; may be empty.
    pub result_message: String,
    /// When it was received, by the wall clock.
    pub observed_at: SystemTime,
    /// The form in which it is handed out: made by whoever does so first, shared by all who get it.
    pub form: OnceLock<Form>,
}

impl Answer {
    /// An answer that nobody was given yet.
    #[must_use]
    pub fn new(state: State, result_message: String, observed_at: SystemTime) -> Self {
        Self { state, result_message, observed_at, form: OnceLock::new() }
    }

    /// About how much memory this takes, in bytes; with its form, which is no larger than what it is made of.
    #[must_use]
    pub fn size(&self) -> usize {
        size_of::<Self>() + 2 * (self.result_message.capacity() + self.state.size())
    }
}

/// An answer as its receivers get it; what the bytes say is theirs to know.
#[derive(Clone)]
pub struct Form {
    /// All of it; clones share the memory.
    pub bytes: Bytes,
    /// How many of the first bytes say the state alone.
    pub shared: usize,
}

// Hand-written: the bytes hold people's data.
impl fmt::Debug for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Form").field("bytes", &self.bytes.len()).finish_non_exhaustive()
    }
}

/// An answer, and since when it may have been true. Clones share the answer.
#[derive(Clone, Debug)]
pub struct Observation {
    /// The answer.
    pub answer: Arc<Answer>,
    /// When the try that brought it began. Its age is counted from here, since the state may be as old.
    pub began: Instant,
}

impl Observation {
    /// The observed state.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.answer.state
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_1_to_128_bytes_of_printable_ascii_without_spaces() {
        assert_eq!(TaskId::parse("1659446191820726274").unwrap().as_str(), "1659446191820726274");
        assert!(TaskId::parse(&"!".repeat(128)).is_ok());
        assert!(TaskId::parse("~").is_ok());
        let refused: [(&str, InvalidTaskId); 6] = [
            ("", InvalidTaskId::Empty),
            (&"7".repeat(129), InvalidTaskId::TooLong { bytes: 129 }),
            ("a b", InvalidTaskId::NotPrintable { at: 1 }),
            ("a\n", InvalidTaskId::NotPrintable { at: 1 }),
            ("\u{7f}", InvalidTaskId::NotPrintable { at: 0 }),
            ("é", InvalidTaskId::NotPrintable { at: 0 }),
        ];
        for (text, error) in refused {
            assert_eq!(TaskId::parse(text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn debug_output_holds_nothing_of_a_person() {
        let user =
            FederationUser { user_name: "Ada".into(), email: "ada@example.com".into(), ..Default::default() };
        let state = State {
            raw_status: "DONE".into(),
            remark: "for Ada".into(),
            fail_data: vec![FailData { federation_user: Some(user), ..Default::default() }],
        };
        assert_eq!(format!("{state:?}"), "State { status: Some(Done), failed_users: 1, .. }");
    }
}
