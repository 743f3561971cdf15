//! Log lines on a page of memory, for tests that read them.

use std::io;
use std::sync::{Arc, LazyLock, Mutex};

use tracing::Dispatch;
use tracing_subscriber::layer::SubscriberExt as _;

use super::{lines, parse_filter};

/// Beside a page there is always this one. With a page alone, whether anybody reads a message would be asked, once and
/// for good, of the thread that says it first: of another test's, where nobody does.
static BESIDE: LazyLock<Dispatch> = LazyLock::new(|| Dispatch::new(tracing_subscriber::registry()));

#[derive(Clone, Default)]
struct Page(Arc<Mutex<Vec<u8>>>);

impl io::Write for Page {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("nobody panics with it").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What this thread says meanwhile, as text.
pub(crate) fn text(filter: &str, say: impl FnOnce()) -> String {
    written(filter, true, say)
}

/// What this thread says meanwhile, a JSON object a line.
pub(crate) fn json(filter: &str, say: impl FnOnce()) -> Vec<serde_json::Value> {
    let written = written(filter, false, say);
    written.lines().map(|line| serde_json::from_str(line).expect("a JSON object a line")).collect()
}

fn written(filter: &str, as_text: bool, say: impl FnOnce()) -> String {
    LazyLock::force(&BESIDE);
    let page = Page::default();
    let writer = page.clone();
    let filter = parse_filter(filter).expect("a test's filter can be read");
    let lines = lines(as_text, false, move || writer.clone());
    tracing::subscriber::with_default(tracing_subscriber::registry().with(filter).with(lines), say);
    let bytes = page.0.lock().expect("nobody panics with it").clone();
    String::from_utf8(bytes).expect("lines are text")
}
