//! See `mountwarden_fuzz::frame`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mountwarden_fuzz::frame(data));
