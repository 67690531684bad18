//! What the fuzz targets do with bytes. `fuzz_targets/` runs them under libFuzzer, `tests/fuzz.rs` for a moment on damaged files.

#![allow(dead_code, reason = "each target takes one of them")]

use poda_formats::onnx::{self, OnnxOptions, read_storage};
use poda_formats::safetensors::SafeTensors;
use poda_formats::storage::{AlignedBytes, Storage};
use poda_formats::{Graph, Op, Weight, artifact};

fn storage(bytes: &[u8]) -> Storage {
    Storage::owned(AlignedBytes::copy_of(bytes))
}

/// Reading a model from any bytes gives a graph or an error.
pub(crate) fn onnx_read(bytes: &[u8]) {
    if let Ok(mut graph) = read_storage(storage(bytes)) {
        graph.normalize().expect("what was read is well formed");
    }
}

/// Any bytes as an ONNX model: what can be read and written can be read again.
pub(crate) fn onnx_write(bytes: &[u8]) {
    let Ok(graph) = read_storage(storage(bytes)) else { return };
    // Foreign operators may hold anything, graphs that refer to names included.
    let graphs = graph.with_bodies();
    let foreign = graphs.iter().flat_map(|graph| &graph.nodes).any(|node| matches!(node.op, Op::Foreign(_)));
    for sparse_initializers in [false, true] {
        let mut written = Vec::new();
        let options = OnnxOptions { sparse_initializers, ..OnnxOptions::default() };
        if onnx::write(&mut written, &graph, &options).is_ok() && !foreign {
            read_storage(storage(&written)).expect("what was written can be read");
        }
    }
}

/// Any bytes as a safetensors file: an error, or tensors that lie within the file.
pub(crate) fn safetensors_read(bytes: &[u8]) {
    let Ok(file) = SafeTensors::parse(storage(bytes)) else { return };
    let tensors = file.names().filter_map(|name| file.tensor(name).ok());
    let sum: usize = tensors.map(|tensor| tensor.bytes().len()).sum();
    assert!(sum <= bytes.len(), "tensors do not overlap");
}

/// Any bytes as an artifact: an error, or a graph that can be written, and read again as the same.
pub(crate) fn artifact_read(bytes: &[u8]) {
    let parse =
        |bytes: &[u8]| -> Option<Graph> { artifact::parse(&SafeTensors::parse(storage(bytes)).ok()?).ok() };
    let Some(graph) = parse(bytes) else { return };
    let weights = graph.with_bodies().into_iter().flat_map(|graph| &graph.values);
    let damaged = weights.filter_map(|value| value.weight.as_ref()).any(|weight| match weight {
        Weight::Matrix(weight) => weight.matrix().is_err(),
        Weight::Tensor(_) => false,
    });
    let mut written = Vec::new();
    let outcome = artifact::write(&mut written, &graph);
    assert_eq!(outcome.is_err(), damaged, "{outcome:?}");
    if !damaged {
        let mut again = Vec::new();
        artifact::write(&mut again, &parse(&written).expect("what was written can be read")).unwrap();
        assert!(written == again);
    }
}
