//! Any bytes as a safetensors file: an error, or tensors that lie within the file.

#![no_main]

use libfuzzer_sys::fuzz_target;
use poda_formats::safetensors::SafeTensors;
use poda_formats::storage::{AlignedBytes, Storage};

fuzz_target!(|bytes: &[u8]| {
    let Ok(file) = SafeTensors::parse(Storage::owned(AlignedBytes::copy_of(bytes))) else { return };
    let mut sum = 0;
    for name in file.names() {
        if let Ok(tensor) = file.tensor(name) {
            sum += tensor.bytes().len();
        }
    }
    assert!(sum <= bytes.len(), "tensors do not overlap");
});
