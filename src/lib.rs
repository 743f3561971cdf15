//! One gRPC service in front of a contact centre's federated-user tasks: one token, one poller a task, exact errors.
pub mod clock;
pub mod health;
pub mod pb;
pub mod shutdown;
