//! See `mountwarden_fuzz::policy_parse`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mountwarden_fuzz::policy_parse(data));
