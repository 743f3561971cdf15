//! What ends a measurement: a part that failed, or an answer that was wrong. There is nobody to handle it, only
//! somebody to read it.

use std::error::Error;
use std::fmt::{self, Display};

/// Why there is no result.
#[derive(Debug)]
pub(crate) struct Fault(String);

impl Fault {
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }

    /// Makes an error's fault: what failed, and why.
    pub(crate) fn of<E: Display>(what: &str) -> impl FnOnce(E) -> Self {
        move |error| Self(format!("{what}: {error}"))
    }
}

impl Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Fault {}

/// Tells whoever runs the bench.
#[expect(clippy::print_stderr, reason = "a bench talks to who runs it")]
pub(crate) fn tell(fault: &Fault) {
    eprintln!("bench: {fault}");
}
