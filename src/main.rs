//! The command line: parse, run a command, exit code.

use std::process::ExitCode;

use federation_gateway::commands;
use mimalloc::MiMalloc;

/// Chosen by measurement: see `benches/`.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    match commands::command().try_get_matches() {
        Ok(matches) => commands::run(&matches),
        Err(error) => {
            // Help and version go to standard output and are no failure. A reader that left is none either.
            let _ = error.print();
            if error.use_stderr() { ExitCode::from(commands::BAD_USAGE) } else { ExitCode::SUCCESS }
        }
    }
}
