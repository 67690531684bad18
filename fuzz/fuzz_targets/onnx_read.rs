//! Reading a model from any bytes gives a graph or an error.

#![no_main]

use libfuzzer_sys::fuzz_target;
use poda_formats::onnx;
use poda_formats::storage::{AlignedBytes, Storage};

fuzz_target!(|data: &[u8]| {
    if let Ok(mut graph) = onnx::read_storage(Storage::owned(AlignedBytes::copy_of(data))) {
        graph.normalize().expect("what was read is well formed");
    }
});
