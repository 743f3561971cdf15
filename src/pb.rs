//! The contract's messages and service, generated from `proto/` by the build script, and its descriptor set.

#![expect(unused_qualifications, clippy::allow_attributes_without_reason, reason = "generated code")]

tonic::include_proto!("federation.v1");

/// The file descriptor set of the contract, comments included: for reflection and for proto3-JSON.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/federation.bin"));
