//! See `mountwarden_fuzz::fusermount`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mountwarden_fuzz::fusermount(data));
