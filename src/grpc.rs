//! The contract in and out: requests checked, states and failures translated, streams fed. The only place that
//! makes a `tonic::Status`. Knows no sockets and no HTTP client.

mod call;
mod convert;
mod health;
mod service;
mod status;
mod watch;

pub use call::{CallLayer, CallService, Rooms};
pub use health::HealthService;
pub use service::TasksService;
pub use status::errors_markdown;
