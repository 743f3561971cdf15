#![no_main]
//! See `properties::task_ids`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| properties::task_ids(data));
