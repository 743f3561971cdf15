#![no_main]
//! See `properties::vendor_json`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| properties::vendor_json(data));
