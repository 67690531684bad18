//! See [`targets::safetensors_read`].

#![no_main]

#[path = "../targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| targets::safetensors_read(bytes));
