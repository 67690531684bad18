//! Figures are of what was run: samples, batches, scores.

use poda::formats::op::ReduceKind;
use poda::formats::{Dim, Op, WriteOptions};
use poda::{DataType, Graph, Tensor, arrays};

use crate::program::Dir;

fn dims(text: &str) -> Vec<Dim> {
    let dim = |d: &str| d.parse().map_or_else(|_| Dim::Symbol(d.to_owned()), Dim::Fixed);
    text.split_whitespace().map(dim).collect()
}

/// `y = x · W` with `W` `[8, 5]`.
fn product(dir: &Dir, x: &str) {
    let mut graph = Graph::default();
    let x = graph.add_input("x", DataType::F32, dims(x));
    let weights: Vec<f32> = (0..40).map(|i| ((i * 7919) % 101) as f32 / 50.0 - 1.0).collect();
    let w = graph.add_weight("w", Tensor::from_slice(&[8, 5], &weights));
    let y = graph.add_node(Op::MatMul, &[x, w], "y");
    graph.outputs.push(y);
    poda::formats::write(&graph, dir.path("m.onnx"), &WriteOptions::default()).unwrap();
}

/// Samples with the class that the model gives them, but the last, which is another.
fn samples(dir: &Dir, shape: &[usize]) {
    let count = shape[0];
    let x: Vec<f32> =
        (0..shape.iter().product()).map(|i: usize| ((i * 31) % 17) as f32 / 8.0 - 1.0).collect();
    arrays::write_npz(dir.path("x.npz"), &[("x".into(), Tensor::from_slice(&[count, 8], &x))]).unwrap();
    product(dir, "n 8");
    dir.poda(&["run", "m.onnx", "--input", "x.npz", "-o", "y.npz"]).ok();
    let y = arrays::read(dir.path("y.npz")).unwrap()["y"].as_slice::<f32>().unwrap().to_vec();
    let best = |row: &[f32]| (0..5).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap() as i64;
    let mut labels: Vec<i64> = y.chunks(5).map(best).collect();
    labels[count - 1] = (labels[count - 1] + 1) % 5;
    let arrays = [
        ("x".into(), Tensor::from_slice(shape, &x)),
        ("labels".into(), Tensor::from_slice(&[count], &labels)),
    ];
    arrays::write_npz(dir.path("data.npz"), &arrays).unwrap();
}

#[test]
fn samples_a_second_are_those_of_the_batch_that_ran() {
    let dir = Dir::new();
    for (x, flags, batch) in [
        ("batch 8", &["--batch", "16"][..], 16.0),
        ("batch 8", &["--shape", "x=16x8"], 16.0),
        ("rows 8", &["--shape", "rows=16"], 16.0),
        ("seq batch 8", &["--batch", "3", "--shape", "seq=5"], 3.0),
        ("4 8", &[], 4.0),
        ("4 8", &["--batch", "8"], 4.0),
        ("8", &[], 1.0),
    ] {
        product(&dir, x);
        let bench = ["bench", "m.onnx", "--seconds", "0", "--threads", "1", "--json"];
        let said = dir.poda(&[&bench[..], flags].concat()).json();
        let row = &said["models"][0];
        let number = |value: &serde_json::Value| value.as_f64().unwrap();
        // By the clock, so a little less than by the mean alone.
        let counted = number(&row["throughput"]) * number(&row["latency_ms"]["mean"]) / 1e3;
        assert!(counted > 0.2 * batch && counted < 1.01 * batch, "{x:?} {flags:?}: {counted}");
        let counted = number(&row["samples_per_second"]) * number(&row["latency_ms"]["p50"]) / 1e3;
        assert!((counted - batch).abs() < 1e-6, "{x:?} {flags:?}: {counted}");
        assert_eq!(number(&said["batch"]), batch, "{x:?} {flags:?}");
        let notes = said["notes"].to_string();
        assert_eq!(notes.contains("--batch 8 is not the batch"), flags == ["--batch", "8"], "{notes}");
    }
}

#[test]
fn several_streams_run_at_once_and_steps_are_profiled() {
    let dir = Dir::new();
    product(&dir, "batch 8");
    let flags = ["bench", "m.onnx", "--seconds", "0", "--threads", "1", "--streams", "2", "--profile"];
    let said = dir.poda(&[&flags[..], &["--json", "--trace", "trace.json"]].concat()).json();
    assert_eq!(said["streams"], 2);
    let profile = &said["models"][0]["profile"];
    assert!(profile["roofs"]["gflops"].as_f64().unwrap() > 0.0);
    let steps = profile["nodes"].as_array().unwrap();
    let share: f64 = steps.iter().map(|step| step["share"].as_f64().unwrap()).sum();
    assert!((share - 1.0).abs() < 1e-6, "{share}");
    assert!(steps.iter().all(|step| step["kernel"].is_string() && step["roof"].as_f64().unwrap() > 0.0));
    let trace: serde_json::Value =
        serde_json::from_slice(&std::fs::read(dir.path("trace.json")).unwrap()).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    let complete: Vec<_> = events.iter().filter(|event| event["ph"] == "X").collect();
    assert!(complete.len() >= 2 * steps.len());
    assert!(complete.iter().all(|event| ["ts", "dur"].iter().all(|key| event[key].as_f64().is_some())));
    assert!(dir.poda(&flags).ok().contains("GFLOP/s"));
    dir.poda(&["bench", "m.onnx", "--streams", "0"]).error();
}

#[test]
fn inputs_of_a_bench_may_be_files() {
    let dir = Dir::new();
    samples(&dir, &[6, 8]);
    let said = dir.poda(&["bench", "m.onnx", "--input", "x.npz", "--seconds", "0", "--json"]).json();
    assert_eq!((&said["batch"], &said["models"][0]["shapes"]["x"][0]), (&6.into(), &6.into()));
    dir.poda(&["bench", "m.onnx", "--input", "x.npz", "--batch", "2"]).exit(2);
    dir.poda(&["bench", "m.onnx", "--input", "none.npz"]).error();
}

#[test]
fn every_sample_is_scored_whatever_the_batch() {
    let dir = Dir::new();
    for count in [1, 3, 10] {
        samples(&dir, &[count, 8]);
        for x in ["batch 8", "? 8", "4 8", "1 8", "8"] {
            product(&dir, x);
            let said = dir.poda(&["eval", "m.onnx", "--data", "data.npz", "--json", "--batch", "4"]).json();
            let accuracy = &said["accuracy"];
            assert_eq!((&said["samples"], &accuracy["samples"]), (&count.into(), &count.into()), "{x}");
            let right = (count - 1) as f64 / count as f64;
            assert!((accuracy["top1"].as_f64().unwrap() - right).abs() < 1e-9, "{x}: {said}");
            assert_eq!(
                accuracy["top5"],
                serde_json::Value::Null,
                "of five classes all are among the first five"
            );
        }
    }
    // A model that fixes its batch, beside one that does not.
    product(&dir, "4 8");
    std::fs::rename(dir.path("m.onnx"), dir.path("fixed.onnx")).unwrap();
    product(&dir, "batch 8");
    let compared = dir.poda(&["eval", "m.onnx", "--data", "data.npz", "--reference", "fixed.onnx", "--json"]);
    assert_eq!(compared.json()["reference"][0]["distance"]["elements"], 50);
    dir.poda(&["prune", "m.onnx", "-o", "p.onnx", "--max-drop", "0.5", "--data", "data.npz"]).ok();
}

#[test]
fn what_is_no_score_is_not_scored() {
    let dir = Dir::new();
    samples(&dir, &[4, 8]);
    // One number a sample, and a map of numbers a sample.
    for (shape, reduce) in [("batch 8", true), ("batch 2 8", false)] {
        let mut graph = Graph::default();
        let x = graph.add_input("x", DataType::F32, dims(shape));
        let w = graph.add_weight("w", Tensor::zeros(DataType::F32, &[8, 5]));
        let mut y = graph.add_node(Op::MatMul, &[x, w], "y");
        if reduce {
            let axes = graph.add_weight("axes", Tensor::from_slice(&[1], &[1_i64]));
            let op = Op::Reduce { kind: ReduceKind::Sum, keep_dims: true, noop_with_empty_axes: false };
            y = graph.add_node(op, &[y, axes], "sum");
        }
        graph.outputs.push(y);
        poda::formats::write(&graph, dir.path("m.onnx"), &WriteOptions::default()).unwrap();
        let x: Vec<f32> = vec![0.5; if reduce { 32 } else { 64 }];
        let x = Tensor::from_slice(if reduce { &[4, 8][..] } else { &[4, 2, 8] }, &x);
        let labels = Tensor::from_slice(&[4], &[0_i64; 4]);
        arrays::write_npz(dir.path("d.npz"), &[("x".into(), x), ("labels".into(), labels)]).unwrap();
        let line = dir.poda(&["eval", "m.onnx", "--data", "d.npz"]).error();
        assert!(line.contains("no output can be scored") && line.contains("[4, "), "{line}");
    }
    product(&dir, "batch 8");
    assert!(dir.poda(&["eval", "m.onnx", "--data", "data.npz", "--scores", "z"]).error().contains("\"z\""));
    let labels = Tensor::from_slice(&[2, 2], &[0_i64; 4]);
    let x = Tensor::from_slice(&[4, 8], &[0.5_f32; 32]);
    arrays::write_npz(dir.path("d.npz"), &[("x".into(), x), ("labels".into(), labels)]).unwrap();
    assert!(dir.poda(&["eval", "m.onnx", "--data", "d.npz"]).error().contains("labels have shape"));
}

#[test]
fn sparse_storage_is_claimed_where_it_is() {
    let dir = Dir::new();
    dir.mlp();
    dir.poda(&["prune", "mlp.onnx", "-o", "p.safetensors", "--sparsity", "0.9"]).ok();
    for (from, to, flags, sparse) in [
        ("p.safetensors", "p.onnx", &[][..], 0),
        ("p.onnx", "q.safetensors", &[], 2),
        ("p.onnx", "q.onnx", &[], 0),
        ("p.safetensors", "q.safetensors", &["--dense"], 0),
    ] {
        let said = dir.poda(&[&["convert", from, "-o", to, "--json"], flags].concat()).json();
        assert_eq!(said["output"]["sparse_weights"], sparse, "{from} -> {to}");
        let layouts = dir.poda(&["inspect", to, "--json"]).json()["weights"].to_string();
        assert_eq!(layouts.contains("bitmap") || layouts.contains("csr"), sparse > 0, "{layouts}");
    }
}
