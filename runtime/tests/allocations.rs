//! Once warm, a run allocates its results and little else: nothing whose size depends on the model's activations. Into the
//! caller's buffers, a run of products and convolutions allocates nothing at all.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use poda_formats::op::{Binary, ConvAttributes, Padding, PoolKind, Unary};
use poda_formats::{DataType, Dim, Graph, Op, Tensor, TensorViewMut};
use poda_runtime::{Model, Options};

struct Counting;

static BYTES: AtomicUsize = AtomicUsize::new(0);
static CALLS: AtomicUsize = AtomicUsize::new(0);
/// One test at a time: all count with the same numbers.
static ALONE: Mutex<()> = Mutex::new(());

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        BYTES.fetch_add(layout.size(), Ordering::Relaxed);
        CALLS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Convolutions with a residual between them, perhaps a pool, and a product: activations of 8 · 64 · 64 floats, 128 KiB each.
fn model(pool: bool) -> Model {
    let mut graph = Graph::default();
    let dims = [1, 8, 64, 64].map(Dim::Fixed).to_vec();
    let x = graph.add_input("x", DataType::F32, dims);
    let weight = |shape: &[usize]| {
        let len: usize = shape.iter().product();
        let values: Vec<f32> = (0..len).map(|i| (i % 7) as f32 * 0.1 - 0.3).collect();
        Tensor::from_slice(shape, &values)
    };
    let conv = Op::Conv(ConvAttributes {
        group: 1,
        kernel: vec![],
        strides: vec![],
        dilations: vec![],
        padding: Padding::Explicit(vec![1; 4]),
    });
    let w1 = graph.add_weight("w1", weight(&[8, 8, 3, 3]));
    let w2 = graph.add_weight("w2", weight(&[8, 8, 3, 3]));
    let a = graph.add_node(conv.clone(), &[x, w1], "a");
    let b = graph.add_node(Op::Unary(Unary::Relu), &[a], "b");
    let c = graph.add_node(conv, &[b, w2], "c");
    let d = graph.add_node(Op::Binary(Binary::Add), &[c, b], "d");
    let e = graph.add_node(Op::Unary(Unary::Relu), &[d], "e");
    let f = if pool { graph.add_node(Op::GlobalPool { kind: PoolKind::Average }, &[e], "f") } else { e };
    let g = graph.add_node(Op::Flatten { axis: 1 }, &[f], "g");
    let w3 = graph.add_weight("w3", weight(&[if pool { 8 } else { 8 * 64 * 64 }, 10]));
    let y = graph.add_node(Op::MatMul, &[g, w3], "y");
    graph.outputs.push(y);
    Model::from_graph(graph).expect("a valid graph")
}

#[test]
fn a_warm_run_allocates_only_results() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let x = Tensor::from_slice(&[1, 8, 64, 64], &vec![0.5_f32; 8 * 64 * 64]);
    for threads in [1, 2] {
        let options = Options { threads: Some(threads), tune: false, ..Options::default() };
        let executable = model(true).prepare(options).expect("a supported model");
        let run = || executable.run(&[("x", x.view())]).expect("feeds that fit");
        for _ in 0..4 {
            run();
        }
        let mut bytes: Vec<usize> = (0..11)
            .map(|_| {
                let before = BYTES.load(Ordering::Relaxed);
                run();
                BYTES.load(Ordering::Relaxed) - before
            })
            .collect();
        // The median: on a busy machine a thread of the pool may get its first work, and its buffers, late.
        bytes.sort_unstable();
        let bytes = bytes[bytes.len() / 2];
        // Names, shapes and ten floats of results, and the bookkeeping of one run.
        assert!(bytes < 4096, "{bytes} bytes in each run on {threads} threads");
    }
}

#[test]
fn a_warm_run_into_buffers_allocates_nothing() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let x = Tensor::from_slice(&[1, 8, 64, 64], &vec![0.5_f32; 8 * 64 * 64]);
    for threads in [1, 2] {
        let options = Options { threads: Some(threads), tune: false, ..Options::default() };
        let executable = model(false).prepare(options).expect("a supported model");
        let mut y = [f32::NAN; 10];
        let mut run = || {
            let y = TensorViewMut::from_slice(&[1, 10], &mut y);
            executable.run_into(&[("x", x.view())], &mut [("y", y)]).expect("feeds that fit");
        };
        for _ in 0..4 {
            run();
        }
        let mut calls: Vec<usize> = (0..11)
            .map(|_| {
                let before = CALLS.load(Ordering::Relaxed);
                run();
                CALLS.load(Ordering::Relaxed) - before
            })
            .collect();
        // The median, as above.
        calls.sort_unstable();
        assert_eq!(calls[calls.len() / 2], 0, "{calls:?} allocations in each run on {threads} threads");
        assert!(y.iter().all(|y| y.is_finite()));
    }
}
