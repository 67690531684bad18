//! Any bytes as an artifact: an error, or a graph that can be written, and read again as the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use poda_formats::artifact;
use poda_formats::safetensors::SafeTensors;
use poda_formats::storage::{AlignedBytes, Storage};
use poda_formats::{Graph, Weight};

fn parse(bytes: &[u8]) -> Option<Graph> {
    artifact::parse(&SafeTensors::parse(Storage::owned(AlignedBytes::copy_of(bytes))).ok()?).ok()
}

fuzz_target!(|bytes: &[u8]| {
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
});
