//! The command line: parse, run a command, exit code.
fn main() {}
