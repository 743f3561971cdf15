#![no_main]
//! See `properties::durations`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| properties::durations(data));
