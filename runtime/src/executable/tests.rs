use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use poda_formats::op::{Binary, Unary};
use poda_formats::{Dim, Weight};

use super::*;
use crate::{Model, Options, Stop};

fn numbers(shape: &[usize], seed: usize) -> Tensor {
    let len = shape.iter().product();
    let values: Vec<f32> = (0..len).map(|i| ((i * 37 + seed * 11) % 19) as f32 * 0.25 - 2.0).collect();
    Tensor::from_slice(shape, &values)
}

/// `relu(x · w1 + b1) · w2`, and the hidden values reshaped; `batch` rows.
fn mlp() -> Graph {
    let mut graph = Graph::default();
    let x = graph.add_input("x", DataType::F32, vec![Dim::Symbol("batch".into()), Dim::Fixed(6)]);
    let w1 = graph.add_weight("w1", numbers(&[6, 8], 1));
    let b1 = graph.add_weight("b1", numbers(&[8], 2));
    let w2 = graph.add_weight("w2", numbers(&[8, 3], 3));
    let product = graph.add_node(Op::MatMul, &[x, w1], "product");
    let sum = graph.add_node(Op::Binary(Binary::Add), &[product, b1], "sum");
    let hidden = graph.add_node(Op::Unary(Unary::Relu), &[sum], "hidden");
    let y = graph.add_node(Op::MatMul, &[hidden, w2], "y");
    let flat = graph.add_node(Op::Flatten { axis: 0 }, &[hidden], "flat");
    graph.outputs.extend([y, flat, hidden]);
    graph
}

fn prepare(graph: &Graph, threads: usize) -> Executable {
    let options = Options { threads: Some(threads), tune: false, ..Options::default() };
    Model::from_graph(graph.clone()).unwrap().prepare(options).unwrap()
}

/// Every value of [`mlp`] by name, by hand.
fn reference(x: &Tensor, w1: &Tensor) -> Vec<(&'static str, Vec<f32>)> {
    let product = |a: &[f32], b: &Tensor| -> Vec<f32> {
        let ([k, n], b) = (<[usize; 2]>::try_from(b.shape()).unwrap(), b.as_slice::<f32>().unwrap());
        let row =
            |a: &[f32]| -> Vec<f32> { (0..n).map(|j| (0..k).map(|i| a[i] * b[i * n + j]).sum()).collect() };
        a.chunks(k).flat_map(row).collect()
    };
    let b1 = numbers(&[8], 2);
    let first = product(x.as_slice().unwrap(), w1);
    let sum: Vec<f32> =
        first.iter().zip(b1.as_slice::<f32>().unwrap().iter().cycle()).map(|(a, b)| a + b).collect();
    let hidden: Vec<f32> = sum.iter().map(|v| v.max(0.0)).collect();
    let y = product(&hidden, &numbers(&[8, 3], 3));
    vec![("product", first), ("sum", sum), ("flat", hidden.clone()), ("hidden", hidden), ("y", y)]
}

fn expect(name: &str, found: &[f32], expected: &[(&str, Vec<f32>)]) {
    let (_, expected) = expected.iter().find(|(known, _)| *known == name).unwrap();
    assert_eq!(found.len(), expected.len(), "{name}");
    for (a, b) in found.iter().zip(expected) {
        assert!((a - b).abs() < 1e-4, "{name}: {found:?}, expected {expected:?}");
    }
}

#[test]
fn samples_are_apart_where_nothing_looks_across_them() {
    let mut graph = mlp();
    let apart = |graph: &Graph, batch: usize| prepare(graph, 1).samples_apart(&[("x", &[batch, 6])]).unwrap();
    assert!(!apart(&graph, 4), "one output is a single row of all samples");
    graph.outputs.remove(1);
    assert!(apart(&graph, 4) && apart(&graph, 3));
    let sum = graph.add_node(Op::Unary(Unary::Relu), &[graph.outputs[0]], "last");
    let axes = graph.add_weight("axes", Tensor::from_slice(&[1], &[0_i64]));
    let op =
        Op::Reduce { kind: poda_formats::op::ReduceKind::Sum, keep_dims: true, noop_with_empty_axes: false };
    let sum = graph.add_node(op, &[sum, axes], "across");
    graph.outputs.push(sum);
    assert!(!apart(&graph, 4));
    assert!(prepare(&mlp(), 1).samples_apart(&[("x", &[4, 7])]).is_err());
}

#[test]
fn results_go_into_the_callers_buffers() {
    let executable = prepare(&mlp(), 1);
    for batch in [1, 4, 0] {
        let x = numbers(&[batch, 6], batch);
        let expected = reference(&x, &numbers(&[6, 8], 1));
        let (mut y, mut flat, mut hidden) =
            (vec![f32::NAN; batch * 3], vec![f32::NAN; batch * 8], vec![f32::NAN; batch * 8]);
        let shapes = ([batch, 3], [1, batch * 8], [batch, 8]);
        executable
            .run_into(
                &[("x", x.view())],
                &mut [
                    ("flat", TensorViewMut::from_slice(&shapes.1, &mut flat)),
                    ("y", TensorViewMut::from_slice(&shapes.0, &mut y)),
                    ("hidden", TensorViewMut::from_slice(&shapes.2, &mut hidden)),
                ],
            )
            .unwrap();
        expect("y", &y, &expected);
        expect("flat", &flat, &expected);
        expect("hidden", &hidden, &expected);
    }
}

#[test]
fn buffers_that_do_not_fit_are_refused() {
    let executable = prepare(&mlp(), 1);
    let x = numbers(&[2, 6], 0);
    let mut buffers = [[0.0_f32; 16]; 4];
    let [y, flat, hidden, more] = &mut buffers;
    let run = |outputs: &mut [(&str, TensorViewMut<'_>)]| executable.run_into(&[("x", x.view())], outputs);
    let error = run(&mut [("z", TensorViewMut::from_slice(&[2, 3], &mut y[..6]))]).unwrap_err();
    assert_eq!(error.to_string(), r#"no output is named "z"; the model gives ["y", "flat", "hidden"]"#);
    let error = run(&mut [("y", TensorViewMut::from_slice(&[2, 3], &mut y[..6]))]).unwrap_err();
    assert!(matches!(error, RunError::MissingOutput { name } if name == "flat"));
    let error = run(&mut [
        ("y", TensorViewMut::from_slice(&[2, 3], &mut y[..6])),
        ("y", TensorViewMut::from_slice(&[2, 3], &mut more[..6])),
    ]);
    assert!(matches!(error.unwrap_err(), RunError::DuplicateOutput { name } if name == "y"));
    for (shape, len) in [([3, 2], 6), ([2, 4], 8)] {
        let error = run(&mut [
            ("y", TensorViewMut::from_slice(&shape, &mut y[..len])),
            ("flat", TensorViewMut::from_slice(&[1, 16], flat)),
            ("hidden", TensorViewMut::from_slice(&[2, 8], hidden)),
        ]);
        assert!(matches!(error.unwrap_err(), RunError::Buffer { name, .. } if name == "y"));
    }
    let mut integers = [0_i32; 6];
    let error = run(&mut [
        ("y", TensorViewMut::from_slice(&[2, 3], &mut integers)),
        ("flat", TensorViewMut::from_slice(&[1, 16], flat)),
        ("hidden", TensorViewMut::from_slice(&[2, 8], hidden)),
    ]);
    assert_eq!(error.unwrap_err().to_string(), r#"output "y" is (F32, [2, 3]), its buffer (I32, [2, 3])"#);
}

#[test]
fn inputs_constants_and_late_shapes_are_copied_into_buffers() {
    let mut graph = Graph::default();
    let x = graph.add_input("x", DataType::F32, vec![Dim::Fixed(4)]);
    let c = graph.add_weight("c", numbers(&[3], 5));
    let found = graph.add_node(Op::NonZero, &[x], "found");
    graph.outputs.extend([x, c, found]);
    let executable = prepare(&graph, 1);
    let fed = Tensor::from_slice(&[4], &[0.0_f32, 2.0, 0.0, 3.0]);
    let (mut x, mut c, mut found) = ([0.0_f32; 4], [0.0_f32; 3], [0_i64; 2]);
    let run = |x: &mut [f32], c: &mut [f32], shape: &[usize], found: &mut [i64]| {
        executable.run_into(
            &[("x", fed.view())],
            &mut [
                ("x", TensorViewMut::from_slice(&[4], x)),
                ("c", TensorViewMut::from_slice(&[3], c)),
                ("found", TensorViewMut::from_slice(shape, found)),
            ],
        )
    };
    run(&mut x, &mut c, &[1, 2], &mut found).unwrap();
    assert_eq!(x, [0.0, 2.0, 0.0, 3.0]);
    assert_eq!(c, *numbers(&[3], 5).as_slice::<f32>().unwrap());
    assert_eq!(found, [1, 3]);
    // As many elements in another shape.
    let error = run(&mut x, &mut c, &[2, 1], &mut found).unwrap_err();
    assert!(matches!(error, RunError::Buffer { name, .. } if name == "found"));
}

#[test]
fn taps_show_values_as_they_arise() {
    let graph = mlp();
    for threads in [1, 2] {
        let executable = prepare(&graph, threads);
        let x = numbers(&[5, 6], 9);
        let expected = reference(&x, &numbers(&[6, 8], 1));
        let names = ["hidden", "sum", "product", "y", "flat", "sum"];
        let taps = names.map(|name| graph.find(name).unwrap());
        let mut seen = Vec::new();
        let show = |index: usize, view: TensorView<'_>| {
            expect(names[index], view.as_slice().unwrap(), &expected);
            seen.push(names[index]);
            ControlFlow::Continue(())
        };
        executable.observe(&[("x", x.view())], &taps, show).unwrap();
        assert_eq!(seen, ["product", "sum", "sum", "hidden", "flat", "y"]);
    }
}

#[test]
fn taps_keep_only_themselves_from_fusion_and_end_with_the_last() {
    let graph = mlp();
    let executable = prepare(&graph, 1);
    let steps = |taps: &[&str]| {
        let taps = taps.iter().map(|name| graph.find(name).unwrap()).collect();
        let plan = executable.planned(&Request { shapes: vec![vec![2, 6]], wanted: Wants::Taps(taps) });
        plan.unwrap().steps().len()
    };
    // The first product with its bias and activation is one step; the second is not needed.
    assert_eq!(steps(&["hidden"]), 1);
    assert_eq!(steps(&["y"]), 2);
    // The sum has its bias fused, and the activation goes apart.
    assert_eq!(steps(&["sum"]), 1);
    assert_eq!(steps(&["sum", "hidden"]), 2);
    assert_eq!(steps(&["x", "w1"]), 0);
    // Inputs and constants are shown, too.
    let (x, mut seen) = (numbers(&[2, 6], 4), Vec::new());
    let taps = ["x", "w1"].map(|name| graph.find(name).unwrap());
    executable
        .observe(&[("x", x.view())], &taps, |_, view| {
            seen.push(view.to_tensor());
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(seen, [x, numbers(&[6, 8], 1)]);
}

#[test]
fn who_watches_may_break_off() {
    let graph = mlp();
    let executable = prepare(&graph, 1);
    let taps = ["product", "hidden", "y"].map(|name| graph.find(name).unwrap());
    let (x, mut seen) = (numbers(&[2, 6], 4), 0);
    let show = |index, _: TensorView<'_>| {
        seen += 1;
        if index == 1 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    executable.observe(&[("x", x.view())], &taps, show).unwrap();
    assert_eq!(seen, 2);
    let nowhere = executable.observe(&[("x", x.view())], &[ValueId(99)], |_, _| ControlFlow::Continue(()));
    assert!(matches!(nowhere, Err(RunError::NoSuchValue { index: 99, .. })));
}

#[test]
fn a_run_stops_when_told() {
    let executable = prepare(&mlp(), 1);
    let x = numbers(&[2, 6], 4);
    let run = |stop| executable.run_with(&[("x", x.view())], &RunOptions { stop, ..RunOptions::default() });
    let flag = AtomicBool::new(false);
    let later = Instant::now() + Duration::from_hours(1);
    assert!(run(Stop { cancelled: Some(&flag), deadline: Some(later) }).is_ok());
    flag.store(true, Ordering::Relaxed);
    let stopped = run(Stop { cancelled: Some(&flag), deadline: None });
    assert!(matches!(stopped, Err(RunError::Stopped { step: 0, .. })));
    let stopped = run(Stop { cancelled: None, deadline: Some(Instant::now()) });
    assert!(matches!(stopped, Err(RunError::Stopped { step: 0, .. })));
    assert!(executable.run(&[("x", x.view())]).is_ok(), "it stays usable");
}

#[test]
fn weights_can_be_inputs() {
    let mut graph = mlp();
    let w1 = graph.find("w1").unwrap();
    let weight = graph.make_input(w1).unwrap();
    assert!(matches!(weight, Weight::Tensor(_)) && graph.make_input(w1).is_none());
    let executable = prepare(&graph, 1);
    let x = numbers(&[3, 6], 1);
    for seed in [1, 7] {
        let w1 = numbers(&[6, 8], seed);
        let found = executable.run(&[("w1", w1.view()), ("x", x.view())]).unwrap();
        let expected = reference(&x, &w1);
        found.iter().for_each(|(name, found)| expect(name, found.as_slice().unwrap(), &expected));
    }
    let narrow = numbers(&[6, 7], 1);
    assert!(executable.run(&[("w1", narrow.view()), ("x", x.view())]).is_err());
}

#[test]
fn shapes_are_planned_ahead_and_checked() {
    let executable = prepare(&mlp(), 1);
    executable.warm(&[("x", &[7, 6])]).unwrap();
    let planned = executable.plans.len();
    executable.run(&[("x", numbers(&[7, 6], 1).view())]).unwrap();
    assert_eq!(executable.plans.len(), planned, "made before");
    executable.run(&[("x", numbers(&[8, 6], 1).view())]).unwrap();
    assert_eq!(executable.plans.len(), planned + 1);
    let error = executable.warm(&[("x", &[7, 5])]).unwrap_err();
    assert!(matches!(error, RunError::Feed(FeedError::Dimension { axis: 1, expected: 6, .. })));
    assert!(matches!(executable.warm(&[]), Err(RunError::Feed(FeedError::Missing { .. }))));
    assert!(matches!(executable.warm(&[("y", &[1])]), Err(RunError::Feed(FeedError::Unknown { .. }))));
}

#[test]
fn plans_share_what_is_packed() {
    let mut graph = Graph::default();
    let x = graph.add_input("x", DataType::F32, vec![Dim::Symbol("batch".into()), Dim::Fixed(256)]);
    let weight: Vec<f32> = (0..256 * 512_usize).map(|i| if i * 7919 % 100 < 5 { 1.0 } else { 0.0 }).collect();
    let w = graph.add_weight("w", Tensor::from_slice(&[256, 512], &weight));
    let y = graph.add_node(Op::MatMul, &[x, w], "y");
    graph.outputs.push(y);
    let mut stored = graph.clone();
    assert_eq!(stored.store_sparse(), 1);
    for graph in [graph, stored] {
        let executable = prepare(&graph, 1);
        executable.warm(&[("x", &[64, 256])]).unwrap();
        let bytes = executable.packed_bytes();
        assert!((1..weight.len() * 4).contains(&bytes), "{bytes} bytes of a sparse weight");
        // The same kernel, for another number of columns.
        executable.warm(&[("x", &[128, 256])]).unwrap();
        assert_eq!(executable.packed_bytes(), bytes);
    }
}

#[test]
fn a_shape_is_planned_once_and_holds_up_no_other() {
    let plans = Plans::new(8);
    let request = |batch: usize| Request { shapes: vec![vec![batch]], wanted: Wants::Results(Vec::new()) };
    let executable = prepare(&mlp(), 1);
    let real = || {
        let request = Request { shapes: vec![vec![1, 6]], wanted: Wants::Results(Vec::new()) };
        let context = plan::Context {
            graph: &executable.optimized.graph,
            weights: &executable.weights,
            arenas: &executable.arenas,
            threads: &executable.threads,
            limit: 1 << 20,
            passes: Passes::all(),
            open: false,
            split: false,
        };
        plan::plan(&context, &request)
    };
    let (begun, other, made) = (Barrier::new(2), AtomicBool::new(false), AtomicBool::new(false));
    let get = |batch: usize, make: &dyn Fn() -> Result<Plan, PlanError>| {
        plans.get(|kept| *kept == request(batch), || request(batch), |_| make())
    };
    thread::scope(|scope| {
        let slow = scope.spawn(|| {
            get(1, &|| {
                begun.wait();
                // Another shape is planned while this one is not done.
                while !other.load(Ordering::Acquire) {
                    thread::yield_now();
                }
                made.store(true, Ordering::Release);
                real()
            })
        });
        begun.wait();
        let same: Vec<_> = (0..3).map(|_| scope.spawn(|| get(1, &|| panic!("made twice")))).collect();
        get(2, &real).unwrap();
        assert!(!made.load(Ordering::Acquire));
        other.store(true, Ordering::Release);
        let slow = slow.join().unwrap().unwrap();
        for same in same {
            assert!(Arc::ptr_eq(&slow, &same.join().unwrap().unwrap()));
        }
    });
    // What fails is not kept.
    assert!(get(3, &|| Err(PlanError::Memory { limit: 1 })).is_err());
    assert_eq!(plans.len(), 2);
    assert!(get(3, &real).is_ok());
    let left = std::cell::Cell::new(2);
    plans.shrink(|| left.replace(left.get() - 1) > 0);
    assert_eq!(plans.len(), 1);
    plans.shrink(|| true);
    assert_eq!(plans.len(), 1, "the latest stays");
}

#[test]
fn packed_weights_keep_within_a_limit() {
    let options = Options { threads: Some(1), tune: false, packed_limit: Some(0), ..Options::default() };
    let executable = Model::from_graph(mlp()).unwrap().prepare(options).unwrap();
    for batch in [1, 4, 100, 1000] {
        executable.run(&[("x", numbers(&[batch, 6], 1).view())]).unwrap();
        assert_eq!(executable.plans.len(), 1, "only the latest");
    }
    assert!(executable.packed_bytes() > 0);
}

#[test]
fn executables_of_one_model_share_its_stored_weights() {
    let mut graph = Graph::default();
    let ids = graph.add_input("ids", DataType::I64, vec![Dim::Fixed(2)]);
    let table = graph.add_weight("table", numbers(&[5, 4], 1));
    let rows = graph.add_node(Op::Gather { axis: 0 }, &[table, ids], "rows");
    graph.outputs.push(rows);
    let model = Model::from_graph(graph).unwrap();
    let stored = match model.graph().weight(table) {
        Some(Weight::Tensor(tensor)) => tensor.bytes().as_ptr(),
        other => panic!("{other:?}"),
    };
    for threads in [1, 2] {
        let passes = if threads == 2 { Passes::all() } else { Passes::none() };
        let options = Options { threads: Some(threads), passes, ..Options::default() };
        let executable = model.prepare(options).unwrap();
        assert!(std::ptr::eq(executable.graph(), model.graph()));
        let plan = executable
            .planned(&Request { shapes: vec![vec![2]], wanted: Wants::Results(Vec::new()) })
            .unwrap();
        let constants: Vec<_> = plan.constants.iter().map(|tensor| tensor.bytes().as_ptr()).collect();
        assert_eq!(constants, [stored], "read where the model holds it");
    }
}
