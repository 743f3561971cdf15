//! The contract in and out: requests checked, states and failures translated, streams fed. The only place that
//! makes a `tonic::Status`. Knows no sockets and no HTTP client.

mod arrival;
mod body;
mod call;
mod convert;
mod health;
mod message;
mod rooms;
mod service;
mod status;
mod watch;

pub use body::CallBody;
pub use call::CallService;
pub use convert::form;
pub use health::HealthService;
pub use message::{MAX_REQUEST, Message};
pub use rooms::Rooms;
pub use service::TasksService;
pub use status::errors_markdown;

/// What requests and failures are judged by: public for the properties in `fuzz` alone.
#[doc(hidden)]
pub mod judged {
    pub use super::arrival::parse_timeout as timeout;
    pub use super::convert::{duration, task_id};
    pub use super::status::of as status;
}
