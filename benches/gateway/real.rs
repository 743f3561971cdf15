//! The binary as it is built for its users. The one that `cargo bench` builds along has the features that only tests
//! need, a clock that can be paused among them, and is slower by some percent for it.

use std::process::Command;

use crate::fault::Fault;

/// Builds it, where the other one stands.
pub(crate) fn build() -> Result<(), Fault> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--release", "--locked", "--bin", "federation-gateway"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .map_err(Fault::of("cargo can't be run"))?;
    if status.success() { Ok(()) } else { Err(Fault::new("the gateway can't be built".to_owned())) }
}
