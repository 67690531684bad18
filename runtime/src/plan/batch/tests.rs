//! Parts against the whole: by the operators one by one, and through plans.

use std::sync::Arc;

use poda_formats::op::{Binary, ConvAttributes, Padding, PoolKind, SoftmaxKind, Unary};
use poda_formats::storage::{AlignedBytes, Storage};
use poda_formats::{DataType, Graph, Op, Tensor, TensorView, ValueId};
use proptest::prelude::*;

use super::{Batch, Split, Way, proof};
use crate::analysis;
use crate::memory;
use crate::optimize::Passes;
use crate::plan::tests::links::{Link, chain};
use crate::plan::tests::{Chain, close, numbers, reference};
use crate::plan::{Arenas, Between, Context, Plan, Request, Run, Wanted, Wants, Weights};
use crate::threads::Threads;
use crate::tune::{TuneOptions, Tuner};

fn weights() -> Weights {
    Weights::new(Tuner::by_model(), Vec::new())
}

fn request(feeds: &[Tensor]) -> Request {
    Request {
        shapes: feeds.iter().map(|feed| feed.shape().to_vec()).collect(),
        wanted: Wants::Results(Vec::new()),
    }
}

fn context<'a>(
    graph: &'a Graph,
    weights: &'a Weights,
    arenas: &'a Arc<Arenas>,
    threads: &'a Threads,
) -> Context<'a> {
    let (limit, passes) = (memory::limit(), Passes::all());
    Context { graph, weights, arenas, threads, limit, passes, open: true, split: true }
}

/// The plan of parts of `size` samples.
fn parts(graph: &Graph, feeds: &[Tensor], size: usize, way: Way, threads: &Threads) -> Option<Plan> {
    let weights = weights();
    let arenas = Arc::default();
    let context = context(graph, &weights, &arenas, threads);
    Batch::new(&context, &request(feeds), feeds[0].shape()[0]).apart(size, way)
}

/// The results of a plan that has buffers for all of them.
fn results(plan: &Plan, feeds: &[Tensor], threads: &Threads) -> Vec<Tensor> {
    let feeds: Vec<TensorView<'_>> = feeds.iter().map(Tensor::view).collect();
    let mut buffers: Vec<AlignedBytes> = plan.buffers.iter().map(|&len| AlignedBytes::zeroed(len)).collect();
    let places = buffers.iter_mut().map(|buffer| &mut buffer[..]).collect();
    Run::new(plan, &feeds, places).unwrap().steps(threads, &mut Between::default()).unwrap();
    let tensor = |(wanted, bytes): (&Wanted, AlignedBytes)| {
        Tensor::new(wanted.operand.dtype, wanted.operand.shape.clone(), Storage::owned(bytes)).unwrap()
    };
    plan.outputs.iter().zip(buffers).map(tensor).collect()
}

/// Samples `first..first + count` of feeds whose first dimension is `samples`.
fn share(feeds: &[Tensor], samples: usize, first: usize, count: usize) -> Vec<Tensor> {
    let cut = |feed: &Tensor| match feed.shape().first() {
        Some(&dim) if dim == samples => {
            let mut shape = feed.shape().to_vec();
            shape[0] = count;
            let share = feed.bytes().len() / samples;
            let bytes = &feed.bytes()[first * share..][..count * share];
            TensorView::from_bytes(feed.dtype(), &shape, bytes).unwrap().to_tensor()
        }
        _ => feed.clone(),
    };
    feeds.iter().map(cut).collect()
}

fn named<'a>(graph: &'a Graph, feeds: &[Tensor]) -> Vec<(&'a str, Tensor)> {
    graph.inputs.iter().map(|&id| graph.value(id).name.as_str()).zip(feeds.iter().cloned()).collect()
}

/// Whether samples are found to be apart; checks the graph of the parts, by its operators one by one.
fn separates(graph: &Graph, feeds: &[Tensor], size: usize) -> bool {
    let samples = feeds[0].shape()[0];
    let shapes =
        graph.inputs.iter().zip(feeds).map(|(&id, f)| (graph.value(id).name.clone(), f.shape().to_vec()));
    let whole = analysis::analyze(graph, &shapes.collect());
    let Some(part) = proof::separate(graph, &whole, &request(feeds), [samples, size]) else { return false };
    let expected = reference(graph, &named(graph, feeds));
    for first in (0..samples / size).map(|i| i * size) {
        let feeds = share(feeds, samples, first, size);
        let found = reference(&part.graph, &named(&part.graph, &feeds));
        for (found, whole) in found.iter().zip(&expected) {
            let share = whole.bytes().len() / samples;
            let bytes = &whole.bytes()[first * share..][..size * share];
            let expected = TensorView::from_bytes(whole.dtype(), found.shape(), bytes).unwrap().to_tensor();
            assert!(
                close(found, &expected),
                "samples from {first}: {found:?} is not {expected:?}\n{graph:?}"
            );
        }
    }
    true
}

fn attributes(pad: i64) -> ConvAttributes {
    let padding = Padding::Explicit(vec![pad; 4]);
    ConvAttributes { group: 1, kernel: vec![], strides: vec![], dilations: vec![], padding }
}

/// A convolution, a residual block, a mean, a linear layer with a shape that names the batch where `baked` does.
fn images(baked: Option<usize>) -> Graph {
    let mut c = Chain::new(&[3, 9, 8]);
    let x = c.at;
    let w = c.weight(numbers(&[20, 3, 3, 3], 1, 0.7));
    let y = c.node(Op::Conv(attributes(1)), &[x, w]);
    let y = c.unary(Unary::Relu, y);
    let w = c.weight(numbers(&[20, 20, 1, 1], 2, 0.8));
    let z = c.node(Op::Conv(attributes(0)), &[y, w]);
    let y = c.binary(Binary::Add, z, y);
    let y = c.node(Op::GlobalPool { kind: PoolKind::Average }, &[y]);
    let target = [baked.map_or(-1, |n| n as i64), 20];
    let target = c.weight(Tensor::from_slice(&[2], &target));
    let y = c.node(Op::Reshape { allow_zero: false }, &[y, target]);
    let w = c.weight(numbers(&[20, 7], 3, 0.0));
    c.node(Op::MatMul, &[y, w]);
    c.finish()
}

/// Token numbers, a table, a norm, heads by reshapes and transposes, scores among the tokens of a sample.
fn tokens(samples: usize) -> Graph {
    let mut graph = Graph::default();
    let ids = graph.add_input(
        "ids",
        DataType::I64,
        vec![poda_formats::Dim::Symbol("batch".into()), poda_formats::Dim::Fixed(6)],
    );
    let mut c = Chain { graph, at: ids, count: 0 };
    let table = c.weight(numbers(&[50, 8], 1, 0.0));
    let x = c.node(Op::Gather { axis: 0 }, &[table, ids]);
    let positions = c.weight(numbers(&[1, 6, 8], 2, 0.0));
    let x = c.binary(Binary::Add, x, positions);
    let scale = c.weight(numbers(&[8], 3, 0.0));
    let x = c.node(Op::LayerNormalization { axis: -1, epsilon: 1e-5 }, &[x, scale]);
    let shape = c.weight(Tensor::from_slice(&[4], &[samples as i64, 6, 2, 4]));
    let heads = |c: &mut Chain, seed, perm: &[usize]| {
        let w = c.weight(numbers(&[8, 8], seed, 0.5));
        let y = c.node(Op::MatMul, &[x, w]);
        let y = c.node(Op::Reshape { allow_zero: false }, &[y, shape]);
        c.node(Op::Transpose { perm: perm.to_vec() }, &[y])
    };
    let (q, k, v) =
        (heads(&mut c, 4, &[0, 2, 1, 3]), heads(&mut c, 5, &[0, 2, 3, 1]), heads(&mut c, 6, &[0, 2, 1, 3]));
    let scores = c.node(Op::MatMul, &[q, k]);
    let scores = c.node(Op::Softmax { kind: SoftmaxKind::Softmax, axis: -1 }, &[scores]);
    let y = c.node(Op::MatMul, &[scores, v]);
    let y = c.node(Op::Transpose { perm: vec![0, 2, 1, 3] }, &[y]);
    let flat = c.weight(Tensor::from_slice(&[2], &[-1_i64, 8]));
    let y = c.node(Op::Reshape { allow_zero: false }, &[y, flat]);
    let w = c.weight(numbers(&[8, 3], 7, 0.0));
    c.node(Op::MatMul, &[y, w]);
    c.finish()
}

#[test]
fn parts_give_the_bits_of_single_samples() {
    let ids: Vec<i64> = (0..30).map(|i| i * 7 % 50).collect();
    let cases = [
        (images(None), numbers(&[5, 3, 9, 8], 9, 0.0)),
        (images(Some(5)), numbers(&[5, 3, 9, 8], 9, 0.0)),
        (tokens(5), Tensor::from_slice(&[5, 6], &ids)),
    ];
    for (graph, feed) in &cases {
        let feeds = [feed.clone()];
        let expected = reference(graph, &named(graph, &feeds));
        let one = parts(graph, &feeds, 1, Way::InTurn, &Threads::single()).unwrap();
        let single = results(&one, &feeds, &Threads::single());
        for i in 0..5 {
            let alone = share(&feeds, 5, i, 1);
            let alone = results(&one.split.as_ref().unwrap().plans[0], &alone, &Threads::single());
            let bytes = alone[0].bytes();
            assert_eq!(bytes, &single[0].bytes()[i * bytes.len()..][..bytes.len()], "sample {i}");
        }
        assert!(close(&single[0], &expected[0]), "{:?} is not {:?}", single[0], expected[0]);
        for count in [1, 2, 3] {
            let threads = Threads::new(count).unwrap();
            for (size, way) in
                [(1, Way::Beside), (2, Way::Beside), (2, Way::InTurn), (3, Way::Beside), (4, Way::InTurn)]
            {
                let plan = parts(graph, &feeds, size, way, &threads).unwrap();
                assert_eq!(plan.parts(), 5_usize.div_ceil(size));
                for _ in 0..2 {
                    let found = results(&plan, &feeds, &threads);
                    // Larger parts have more columns, for which other kernels may be chosen.
                    let same = if size == 1 { found == single } else { close(&found[0], &single[0]) };
                    assert!(same, "{size} {way}, {count} threads: {found:?} is not {single:?}");
                }
            }
        }
    }
}

#[test]
fn images_that_share_a_product_keep_their_bits() {
    // Images of 81 and 25 pixels, whose columns share vectors.
    let mut c = Chain::new(&[40, 9, 9]);
    let x = c.at;
    let conv = |c: &mut Chain, x: ValueId, shape: [usize; 4], stride: usize| {
        let w = c.weight(numbers(&shape, shape[2] + stride, 0.9));
        let strides = vec![stride; 2];
        c.node(Op::Conv(ConvAttributes { strides, ..attributes((shape[2] / 2) as i64) }), &[x, w])
    };
    let y = conv(&mut c, x, [40, 40, 1, 1], 1);
    let y = c.unary(Unary::Relu, y);
    let y = conv(&mut c, y, [40, 40, 3, 3], 1);
    let y = c.binary(Binary::Add, y, x);
    let y = c.unary(Unary::Gelu { approximate: false }, y);
    conv(&mut c, y, [41, 40, 3, 3], 2);
    let graph = c.finish();
    let feeds = [numbers(&[40, 40, 9, 9], 9, 0.0)];
    let expected = reference(&graph, &named(&graph, &feeds));
    let weights = weights();
    for threads in [1, 2] {
        let threads = Threads::new(threads).unwrap();
        let arenas = Arc::default();
        let context = Context { split: false, ..context(&graph, &weights, &arenas, &threads) };
        let run = |feeds: &[Tensor]| {
            let plan = super::plan(&context, &request(feeds)).unwrap();
            // (Others take images one by one.)
            assert!(plan.steps().iter().any(|step| step.call.explain().name.starts_with("spmm")));
            results(&plan, feeds, &threads).remove(0)
        };
        let whole = run(&feeds);
        assert!(close(&whole, &expected[0]));
        for i in 0..40 {
            let alone = run(&share(&feeds, 40, i, 1));
            assert_eq!(alone, share(std::slice::from_ref(&whole), 40, i, 1)[0], "image {i}");
        }
    }
}

#[test]
fn parts_that_memory_does_not_hold_are_refused() {
    let (graph, feed) = (images(None), numbers(&[64, 3, 9, 8], 9, 0.0));
    let (weights, arenas, threads) = (weights(), Arc::default(), Threads::new(2).unwrap());
    let request = request(std::slice::from_ref(&feed));
    let context = |limit| Context { limit, ..context(&graph, &weights, &arenas, &threads) };
    let apart = |limit, way| Batch::new(&context(limit), &request, 64).apart(1, way);
    let most = memory::limit();
    let [one, two] = [Way::InTurn, Way::Beside].map(|way| apart(most, way).unwrap());
    let bytes = 64 * 7 * 4;
    assert_eq!(two.arena_bytes, 2 * one.arena_bytes);
    assert!(apart(bytes + one.arena_bytes, Way::InTurn).is_some());
    assert!(apart(bytes + one.arena_bytes, Way::Beside).is_none());
    // A batch that does not fit as a whole runs in parts.
    let plan = super::plan(&context(bytes + one.arena_bytes), &request).unwrap();
    assert_eq!(plan.parts(), 64);
    let found = results(&plan, std::slice::from_ref(&feed), &threads);
    assert!(close(&found[0], &reference(&graph, &[("x", feed)])[0]));
}

#[test]
fn how_a_batch_is_run_is_timed_once_and_a_hostile_file_changes_no_more_than_that() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("kernels.json");
    let (graph, threads) = (images(None), Threads::new(2).unwrap());
    let feed = numbers(&[6, 3, 9, 8], 4, 0.0);
    let request = request(std::slice::from_ref(&feed));
    let note = || {
        let tuner = Tuner::new(TuneOptions { cache: Some(path.clone()), ..TuneOptions::default() });
        let weights = Weights::new(tuner, vec![true; graph.values.len()]);
        let arenas = Arc::default();
        let context = context(&graph, &weights, &arenas, &threads);
        let plan = super::plan(&context, &request).unwrap();
        let found = results(&plan, std::slice::from_ref(&feed), &threads);
        assert!(close(&found[0], &reference(&graph, &[("x", feed.clone())])[0]));
        plan.split.as_ref().map_or_else(|| super::WHOLE.to_owned(), Split::note)
    };
    let first = note();
    // The very same times: nothing was timed again.
    assert_eq!(first, note());
    let change = |timed: serde_json::Value| {
        let mut file: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let batches = file["batches"].as_object_mut().unwrap();
        assert_eq!(batches.len(), 1);
        *batches.values_mut().next().unwrap() = timed;
        std::fs::write(&path, file.to_string()).unwrap();
    };
    change(serde_json::json!([["2 in turn", 1.0], ["whole", 2.0]]));
    assert_eq!(note(), "6 samples, 2 in turn (2 in turn 0.001 ms, whole 0.002 ms)");
    change(serde_json::json!([["2 in turn", 2.0], ["whole", 1.0]]));
    assert_eq!(note(), super::WHOLE);
    for hostile in [
        serde_json::json!([]),
        serde_json::json!([["7 in turn", 1.0]]),
        serde_json::json!([["0 on each thread", 1.0]]),
        serde_json::json!([["\u{1b}[2J", 1.0]]),
        serde_json::json!([["2 in turn", -1.0]]),
        serde_json::json!([["2 in turn", 1e300]]),
    ] {
        change(hostile.clone());
        assert!(!note().contains("0.001 ms"), "{hostile} is timed again");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn what_is_said_to_be_apart_is_apart(
        samples in prop::sample::select(vec![2_usize, 3, 4, 6]),
        dims in prop::collection::vec(prop::sample::select(vec![1_usize, 2, 3, 4]), 0..3),
        links in prop::collection::vec((0_u8..18, [0_usize..12, 0_usize..12, 0_usize..12]), 1..7),
        size in 1_usize..4,
    ) {
        prop_assume!(size < samples && samples % size == 0);
        let graph = chain(&dims, samples, &links);
        let shape: Vec<usize> = std::iter::once(samples).chain(dims.iter().copied()).collect();
        separates(&graph, &[numbers(&shape, 5, 0.0)], size);
    }
}

/// Links that keep samples apart, and links that do not, by themselves.
#[test]
fn what_mixes_samples_is_not_apart() {
    let dims = [4, 3];
    let apart: [&[Link]; 12] = [
        &[(0, [0; 3])],
        &[(2, [1, 2, 0])],
        &[(3, [0, 0, 0]), (0, [0; 3])],
        &[(3, [0, 1, 0])],
        &[(5, [1, 1, 0])],
        &[(6, [2, 0, 0])],
        &[(7, [1, 1, 0]), (8, [1, 0, 0])],
        &[(9, [0, 1, 0]), (10, [0, 1, 0])],
        &[(11, [0; 3])],
        &[(13, [1, 0, 0])],
        &[(14, [0; 3])],
        &[(5, [1, 0, 0]), (16, [0; 3])],
    ];
    let mixed: [&[Link]; 9] = [
        &[(2, [0, 1, 0])],
        &[(5, [0, 0, 0])],
        &[(5, [0, 1, 0])],
        &[(6, [0, 0, 0])],
        &[(7, [0, 1, 0])],
        &[(8, [0, 0, 0])],
        &[(12, [0, 0, 0])],
        &[(13, [0, 0, 0])],
        // Rows become columns although the sizes are the same.
        &[(3, [1, 0, 0]), (5, [1, 1, 0]), (15, [0, 0, 0])],
    ];
    let feed = |samples: usize| [numbers(&[samples, 4, 3], 5, 0.0)];
    for links in apart {
        for (samples, size) in [(4, 1), (4, 2), (6, 3)] {
            assert!(separates(&chain(&dims, samples, links), &feed(samples), size), "{links:?}");
        }
    }
    for links in mixed {
        for (samples, size) in [(4, 1), (4, 2), (2, 1)] {
            assert!(!separates(&chain(&dims, samples, links), &feed(samples), size), "{links:?}");
        }
    }
}

#[test]
fn a_result_that_is_not_of_samples_is_not_apart() {
    let mut graph = images(None);
    let id = graph.add_weight("table", numbers(&[4, 2], 1, 0.0));
    let id: ValueId = graph.add_node(Op::Identity, &[id], "constant");
    graph.outputs.push(id);
    assert!(!separates(&graph, &[numbers(&[4, 3, 9, 8], 9, 0.0)], 1));
}
