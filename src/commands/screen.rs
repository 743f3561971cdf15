//! Standard output as the calling commands use it: whether it is a terminal, how large, with which colours, and
//! whether anyone still reads it. What is written there is `render`'s and `live`'s.

use std::io::{IsTerminal, Write};
use std::os::fd::{AsFd, OwnedFd};

use anstream::{AutoStream, ColorChoice};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::render::Paint;

/// The width of texts that go to a pipe or a file.
const PIPED_WIDTH: usize = 100;

/// Whether a view can be redrawn in place.
pub(super) fn is_live() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Columns and rows of the terminal, or 100 columns and no limit of rows where there is none.
pub(super) fn size() -> (usize, usize) {
    match terminal_size::terminal_size_of(std::io::stdout()) {
        // A terminal that was never told its size says 0 by 0.
        Some((width, height)) if width.0 > 0 && height.0 > 0 => (width.0.into(), height.0.into()),
        _ => (PIPED_WIDTH, usize::MAX),
    }
}

/// Colours if the terminal has them and nobody asked for none (`NO_COLOR`).
pub(super) fn paint() -> Paint {
    Paint { has_colours: AutoStream::choice(&std::io::stdout()) != ColorChoice::Never }
}

/// Writes a text at once: a reader at the other end of a pipe waits for it.
pub(super) fn write(text: &str) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// Writes to standard error; if that is closed nobody is left to tell.
pub(super) fn complain(text: &str) {
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

/// Waits until nobody reads standard output any more, so that a watch without news ends with its reader. Where
/// that can't be known (a file), it waits for ever, and the next write tells.
pub(super) async fn closed() {
    #[expect(deprecated, reason = "its successor is unsafe; an OwnedFd keeps the promise that one asks for")]
    let watch = |copy: OwnedFd| AsyncFd::with_interest(copy, Interest::ERROR);
    if let Ok(copy) = std::io::stdout().as_fd().try_clone_to_owned()
        && let Ok(watched) = watch(copy)
        && watched.ready(Interest::ERROR).await.is_ok()
    {
        return;
    }
    std::future::pending().await
}
