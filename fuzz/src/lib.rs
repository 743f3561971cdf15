//! What must hold of the gateway whatever anyone sends: one property a fuzz target. A property panics where the gateway
//! is wrong. The fuzz targets call these with what they make up, and the gateway's ordinary tests with every file of
//! the corpora (`tests/fuzz.rs` there has this file as a module).

mod durations;
mod failures;
mod json;
mod retry_after;
mod settings;
mod task_ids;
mod vendor_json;

pub use durations::durations;
pub use retry_after::retry_after;
pub use settings::settings;
pub use task_ids::task_ids;
pub use vendor_json::vendor_json;

/// A property: it takes whatever it is given, and returns if the gateway is right about it.
pub type Property = fn(&[u8]);

/// Each property under its target's name.
pub const ALL: [(&str, Property); 5] = [
    ("vendor_json", vendor_json),
    ("retry_after", retry_after),
    ("settings", settings),
    ("task_ids", task_ids),
    ("durations", durations),
];
