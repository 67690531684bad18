//! See [`targets::artifact_read`].

#![no_main]

#[path = "../targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| targets::artifact_read(bytes));
