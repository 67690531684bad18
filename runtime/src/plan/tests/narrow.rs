//! Weights whose values are narrower than f32 compute what they stand for.

use poda_formats::ValueType;

use super::{check, cnn, numbers, prepare, views};
use crate::model::Model;
use crate::options::{Options, Prefer};

#[test]
fn narrow_weights_run_as_what_they_stand_for() {
    for sparsity in [0.0, 0.8] {
        for to in &ValueType::ALL[1..] {
            let mut graph = cnn(sparsity);
            assert!(graph.round_weights(*to).unwrap() > 2);
            check(&graph, &[("x", numbers(&[2, 3, 9, 8], 5, 0.0))]);
            graph.store_sparse();
            check(&graph, &[("x", numbers(&[2, 3, 9, 8], 5, 0.0))]);
        }
    }
}

#[test]
fn memory_is_preferred_with_values_as_they_are_stored() {
    let mut graph = cnn(0.8);
    graph.round_weights(ValueType::Int8).unwrap();
    graph.store_sparse();
    let feeds = [("x", numbers(&[2, 3, 9, 8], 5, 0.0))];
    let expected = prepare(&graph, 1, true).run(&views(&feeds)).unwrap();
    for tune in [false, true] {
        let options = Options { threads: Some(1), tune, prefer: Prefer::Memory, ..Options::default() };
        let executable = Model::from_graph(graph.clone()).unwrap().prepare(options).unwrap();
        let found = executable.run(&views(&feeds)).unwrap();
        for ((_, found), (_, expected)) in found.iter().zip(&expected) {
            assert!(super::close(found, expected));
        }
        let profile = executable.profile(&views(&feeds), 1).unwrap();
        let kernels: Vec<&str> = profile.nodes.iter().map(|step| step.kernel.as_str()).collect();
        let products = kernels.iter().filter(|name| name.contains("_f32_") && !name.starts_with("depthwise"));
        assert_eq!(products.count(), 0, "{kernels:?}");
        assert!(kernels.iter().any(|name| name.contains("_i8_")), "{kernels:?}");
    }
}
