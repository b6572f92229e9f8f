//! See `mountwarden_fuzz::options`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mountwarden_fuzz::options(data));
