//! See [`targets::onnx_write`].

#![no_main]

#[path = "../targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| targets::onnx_write(bytes));
