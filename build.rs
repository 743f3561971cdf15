//! Compiles the contract with protox, so that no `protoc` has to be installed, and keeps the descriptor set
//! for reflection and for proto3-JSON.

use std::error::Error;
use std::path::PathBuf;

use prost_build::Config;

const PROTO: &str = "proto/federation/v1/federation_tasks.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile([PROTO], ["proto"])?;
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    // protox keeps the comments; they are for readers of the file, and reflection serves them at no cost.
    std::fs::write(out.join("federation.bin"), prost::Message::encode_to_vec(&descriptors))?;
    let mut config = Config::new();
    config.enable_type_names();
    tonic_prost_build::configure().build_transport(false).compile_fds_with_config(descriptors, config)?;
    Ok(())
}
