#![no_main]
//! See `properties::retry_after`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| properties::retry_after(data));
