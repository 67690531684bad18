//! Any bytes as an ONNX model: what can be read and written can be read again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use poda_formats::onnx::{OnnxOptions, read_storage, write};
use poda_formats::storage::{AlignedBytes, Storage};
use poda_formats::{Graph, Op};

fn read(bytes: &[u8]) -> Option<Graph> {
    read_storage(Storage::owned(AlignedBytes::copy_of(bytes))).ok()
}

fuzz_target!(|bytes: &[u8]| {
    let Some(graph) = read(bytes) else { return };
    // Foreign operators may hold anything, graphs that refer to names included.
    let graphs = graph.with_bodies();
    let foreign = graphs.iter().flat_map(|graph| &graph.nodes).any(|node| matches!(node.op, Op::Foreign(_)));
    for sparse_initializers in [false, true] {
        let mut written = Vec::new();
        let options = OnnxOptions { sparse_initializers, ..OnnxOptions::default() };
        if write(&mut written, &graph, &options).is_ok() && !foreign {
            read(&written).expect("what was written can be read");
        }
    }
});
