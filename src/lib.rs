//! One gRPC service in front of a contact centre's federated-user tasks: one token, one poller a task, exact errors.
pub mod clock;
pub mod grpc;
pub mod health;
pub mod limits;
pub mod metrics;
pub mod net;
pub mod pb;
pub mod retry;
pub mod shutdown;
pub mod task;
pub mod tasks;
pub mod telemetry;
pub mod tls;
pub mod token;
pub mod vendor;
