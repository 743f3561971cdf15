#![no_main]
//! See `properties::settings`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| properties::settings(data));
