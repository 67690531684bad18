//! From a model to a pruned one and its outputs.

use std::fs;

use poda::formats::{DataType, Dim, Graph, Op, WriteOptions};
use poda::{Tensor, arrays};
use serde_json::Value;

use crate::program::Dir;

fn feed(dir: &Dir) -> Tensor {
    let x: Vec<f32> = (0..48).map(|i| (i % 11) as f32 / 5.0 - 1.0).collect();
    let x = Tensor::from_slice(&[3, 16], &x);
    arrays::write_npz(dir.path("x.npz"), &[("x".into(), x.clone())]).unwrap();
    x
}

fn outputs(dir: &Dir, model: &str) -> Vec<f32> {
    dir.poda(&["run", model, "--input", "x.npz", "-o", "y.npz"]).ok();
    arrays::read(dir.path("y.npz")).unwrap()["y"].as_slice::<f32>().unwrap().to_vec()
}

fn assert_close(a: &[f32], b: &[f32]) {
    assert_eq!(a.len(), b.len());
    let worst = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst < 1e-4, "{a:?}\n{b:?}");
}

#[test]
fn a_model_survives_conversion_to_an_artifact_and_back() {
    let dir = Dir::new();
    dir.mlp();
    feed(&dir);
    let dense = outputs(&dir, "mlp.onnx");
    dir.poda(&["convert", "mlp.onnx", "-o", "mlp.safetensors"]).ok();
    assert_close(&outputs(&dir, "mlp.safetensors"), &dense);
    dir.poda(&["convert", "mlp.safetensors", "-o", "back.onnx"]).ok();
    assert_close(&outputs(&dir, "back.onnx"), &dense);
    // A file may replace itself.
    dir.poda(&["convert", "back.onnx", "-o", "back.onnx"]).ok();
    assert_close(&outputs(&dir, "back.onnx"), &dense);
}

#[test]
fn dead_neurons_go_and_nothing_changes() {
    let dir = Dir::new();
    dir.mlp();
    feed(&dir);
    let dense = outputs(&dir, "mlp.onnx");
    dir.poda(&["prune", "mlp.onnx", "-o", "alive.onnx", "--remove-dead"]).ok();
    assert_close(&outputs(&dir, "alive.onnx"), &dense);
    let inspected = dir.poda(&["inspect", "alive.onnx", "--json"]).json();
    let shapes: Vec<_> =
        inspected["weights"].as_array().unwrap().iter().map(|w| w["shape"].clone()).collect();
    assert!(shapes.contains(&serde_json::json!([31, 16])), "{shapes:?}");
}

#[test]
fn weights_are_pruned_exactly_and_stored_sparse() {
    let dir = Dir::new();
    dir.mlp();
    feed(&dir);
    dir.poda(&["prune", "mlp.onnx", "-o", "sparse.safetensors", "--sparsity", "0.75"]).ok();
    dir.poda(&["prune", "mlp.onnx", "-o", "sparse.onnx", "--sparsity", "0.75"]).ok();
    let inspected = dir.poda(&["inspect", "sparse.safetensors", "--json"]).json();
    let weights = inspected["weights"].as_array().unwrap();
    let nnz: u64 = weights
        .iter()
        .filter(|w| w["shape"].as_array().unwrap().len() == 2)
        .map(|w| w["nnz"].as_u64().unwrap())
        .sum();
    assert_eq!(nnz, (32 * 16 + 4 * 32) / 4);
    assert!(weights.iter().any(|w| w["layout"] == "bitmap"));
    assert_close(&outputs(&dir, "sparse.safetensors"), &outputs(&dir, "sparse.onnx"));
}

#[test]
fn values_are_rounded_when_asked_and_what_that_loses_is_told() {
    let dir = Dir::new();
    let demo = concat!(env!("CARGO_MANIFEST_DIR"), "/src/commands/demo");
    let [model, data] = ["fashion_mnist.onnx", "fashion_mnist_test.npz"].map(|file| format!("{demo}/{file}"));
    let top1 = |model: &str| {
        let scores = dir.poda(&["eval", model, "--data", &data, "--batch", "100", "--json"]).json();
        scores["accuracy"]["top1"].as_f64().unwrap()
    };
    dir.poda(&["convert", &model, "-o", "f32.safetensors", "--values", "f32"]).ok();
    let exact = top1("f32.safetensors");
    let bytes = |model: &str| std::fs::metadata(dir.path(model)).unwrap().len() as f64;
    for (values, size, loss) in [("bf16", 0.7, 0.01), ("f16", 0.7, 0.001), ("int8", 0.5, 0.02)] {
        let out = format!("{values}.safetensors");
        let told = dir.poda(&["convert", &model, "-o", &out, "--values", values, "--json"]).json();
        let rounded = told["rounded"].as_array().unwrap();
        assert_eq!(rounded.len(), 3, "{told}");
        for weight in rounded {
            assert_eq!(weight["values"], values);
            let rms = weight["error"]["relative_rms"].as_f64().unwrap();
            assert!(rms > loss / 100.0 && rms < loss, "{weight}");
            assert!(weight["error"]["max"].as_f64().unwrap() > 0.0);
        }
        assert!(bytes(&out) < size * bytes("f32.safetensors"), "{values}: {}", bytes(&out));
        assert!((top1(&out) - exact).abs() <= 0.01, "{values}: {} {exact}", top1(&out));
        let inspected = dir.poda(&["inspect", &out, "--json"]).json();
        let weights = inspected["weights"].as_array().unwrap();
        let row = |name: &serde_json::Value| weights.iter().find(|w| &w["name"] == name).unwrap();
        for weight in rounded {
            let row = row(&weight["weight"]);
            assert_eq!((&row["values"], &row["rounding_error"]), (&weight["values"], &weight["error"]));
            assert_eq!(row["dtype"], "f32");
        }
        let shown = dir.poda(&["inspect", &out]).ok();
        assert!(shown.contains(values) && shown.contains("relative RMS"), "{shown}");
    }
    let told = dir.poda(&["convert", "int8.safetensors", "-o", "back.onnx"]).ok();
    assert!(told.contains("holds the rounded values as f32"), "{told}");
    assert!((top1("back.onnx") - top1("int8.safetensors")).abs() <= 0.001);
    dir.poda(&["convert", "int8.safetensors", "-o", "wide.safetensors", "--values", "f32"]).ok();
    assert!(!dir.poda(&["inspect", "wide.safetensors"]).ok().contains("int8"));
}

#[test]
fn pruning_rounds_what_is_left() {
    let dir = Dir::new();
    dir.mlp();
    feed(&dir);
    let prune = |out: &str, more: &[&str]| {
        let args = [&["prune", "mlp.onnx", "-o", out, "--sparsity", "0.75", "--json"], more].concat();
        dir.poda(&args).json()
    };
    let exact = prune("f32.safetensors", &[]);
    assert_eq!(exact["rounded"], serde_json::json!([]));
    let report = prune("int8.safetensors", &["--values", "int8"]);
    assert_eq!(report["rounded"].as_array().unwrap().len(), 2, "{report}");
    let (exact, rounded) = (outputs(&dir, "f32.safetensors"), outputs(&dir, "int8.safetensors"));
    let worst = exact.iter().zip(&rounded).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst > 0.0 && worst < 0.2, "{exact:?}\n{rounded:?}");
    dir.write("recipe.toml", b"sparsity = 0.75\nvalues = \"int8\"");
    let from_recipe =
        dir.poda(&["prune", "mlp.onnx", "-o", "r.safetensors", "--recipe", "recipe.toml", "--json"]);
    assert_eq!(from_recipe.json()["rounded"], report["rounded"]);
    dir.poda(&["prune", "mlp.onnx", "-o", "x.onnx", "--sparsity", "0.5", "--values", "int4"]).exit(2);
}

#[test]
fn blocks_and_n_of_m_are_pruned_and_stored_as_such() {
    let dir = Dir::new();
    dir.mlp();
    feed(&dir);
    for (granularity, flags) in
        [("block:4x1", &["--sparsity", "0.75"][..]), ("block:1x4", &["--sparsity", "0.5"]), ("nm:2:4", &[])]
    {
        let prune =
            |output| [&["prune", "mlp.onnx", "-o", output, "--granularity", granularity], flags].concat();
        let printed = dir.poda(&prune("p.safetensors")).ok();
        assert!(printed.contains(granularity), "{printed}");
        dir.poda(&prune("p.onnx")).ok();
        let inspected = dir.poda(&["inspect", "p.safetensors", "--json"]).json();
        let weights = inspected["weights"].as_array().unwrap();
        assert!(weights.iter().any(|w| w["layout"] == granularity), "{weights:?}");
        assert_close(&outputs(&dir, "p.safetensors"), &outputs(&dir, "p.onnx"));
        // A model pruned elsewhere, whose zeros keep to the pattern.
        dir.poda(&["convert", "p.onnx", "-o", "c.safetensors"]).ok();
        let converted = dir.poda(&["inspect", "c.safetensors", "--json"]).json();
        let first = |inspected: &Value| inspected["weights"][0].clone();
        assert_eq!(first(&converted), first(&inspected));
        assert_eq!(first(&inspected)["layout"], granularity);
    }
    fs::write(dir.path("recipe.toml"), "granularity = \"nm:1:4\"\n").unwrap();
    let report = dir.poda(&["prune", "mlp.onnx", "-o", "r.onnx", "--recipe", "recipe.toml", "--json"]).json();
    assert_eq!(report["granularity"], "nm:1:4");
    assert_eq!(report["layers"][0]["nnz_after"], 32 * 16 / 4);
    for granularity in ["block:4", "nm:4:2", "rows"] {
        let flags = ["prune", "mlp.onnx", "-o", "p.onnx", "--sparsity", "0.5", "--granularity", granularity];
        dir.poda(&flags).exit(2);
    }
    let flags = ["prune", "mlp.onnx", "-o", "p.onnx", "--sparsity", "0.7", "--granularity", "nm:2:4"];
    assert!(dir.poda(&flags).error().contains("removes 0.5 of the weights; sparsity cannot say otherwise"));
}

#[test]
fn channels_are_removed_for_real() {
    let dir = Dir::new();
    dir.mlp();
    feed(&dir);
    let args = ["prune", "mlp.onnx", "-o", "small.onnx", "--sparsity", "0.5", "--granularity", "channel"];
    let report = dir.poda(&[&args[..], &["--json"]].concat()).json();
    assert!(report.is_object());
    let before = dir.poda(&["inspect", "mlp.onnx", "--json"]).json();
    let after = dir.poda(&["inspect", "small.onnx", "--json"]).json();
    assert!(after["parameters"].as_u64() <= before["parameters"].as_u64().map(|n| n * 6 / 10));
    assert_eq!(outputs(&dir, "small.onnx").len(), 12);
    let dry =
        dir.poda(&["prune", "mlp.onnx", "--dry-run", "--sparsity", "0.5", "--granularity", "channel"]).ok();
    assert!(dry.contains("w1"), "{dry}");
}

#[test]
fn a_dry_run_says_what_the_run_would() {
    let dir = Dir::new();
    dir.mlp();
    for flags in [
        &["--sparsity", "0.9"][..],
        &["--sparsity", "0.5", "--granularity", "block:4x1"],
        &["--sparsity", "0.5", "--granularity", "channel"],
        &["--target-macs", "0.6", "--granularity", "channel"],
        &["--remove-dead"],
    ] {
        let report = |end: &[&str]| dir.poda(&[&["prune", "mlp.onnx", "--json"], flags, end].concat()).json();
        let mut dry = report(&["--dry-run"]);
        assert!(!dir.path("out.safetensors").exists());
        let mut done = report(&["-o", "out.safetensors", "--report", "report.json"]);
        let written: Value = serde_json::from_slice(&fs::read(dir.path("report.json")).unwrap()).unwrap();
        assert_eq!(written, done);
        let bytes = fs::metadata(dir.path("out.safetensors")).unwrap().len();
        assert_eq!(done["file"]["after"].as_u64(), Some(bytes));
        assert!(done["after"]["bytes"].as_u64().unwrap() <= bytes);
        dry["file"].take();
        done["file"].take();
        assert_eq!(dry, done, "{flags:?}");
        fs::remove_file(dir.path("out.safetensors")).unwrap();
    }
    // There is one dead unit; without it, none.
    dir.poda(&["prune", "mlp.onnx", "-o", "alive.onnx", "--remove-dead"]).ok();
    let said = dir.poda(&["prune", "alive.onnx", "-o", "again.onnx", "--remove-dead"]).ok();
    assert!(said.contains("no dead units") && !said.contains("same"), "{said}");
}

#[test]
fn kernels_are_chosen_once_and_explained() {
    let dir = Dir::new();
    dir.mlp();
    feed(&dir);
    dir.poda(&["prune", "mlp.onnx", "-o", "sparse.safetensors", "--sparsity", "0.9"]).ok();
    let dense = outputs(&dir, "sparse.safetensors");
    std::fs::remove_dir_all(dir.path("cache")).ok();

    let tuned = dir.poda(&["tune", "sparse.safetensors", "--batch", "3", "--json"]).json();
    let layers = tuned["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 2);
    let file = dir.path("cache").join("poda/kernels.json");
    let kept = std::fs::read(&file).unwrap();
    let candidates = |choices: &Value| -> Vec<Value> {
        let layers = choices["layers"].as_array().unwrap();
        layers.iter().map(|layer| layer["weight"]["candidates"].clone()).collect()
    };
    for (layer, candidates) in layers.iter().zip(candidates(&tuned)) {
        let candidates = candidates.as_array().unwrap();
        assert!(candidates.len() > 1 && candidates.iter().all(|c| c["micros"].as_f64().unwrap() > 0.0));
        assert!(
            candidates.iter().any(|c| c["kernel"].as_str().unwrap().starts_with("gemm")),
            "dense is in the race"
        );
        assert!(!layer["reason"].as_str().unwrap().is_empty());
    }

    // A second start measures nothing, with the same answers; a damaged file is replaced, with a word.
    let inspect = ["inspect", "sparse.safetensors", "--kernels", "--batch", "3"];
    let again = dir.poda(&[&inspect[..], &["--json"]].concat()).json();
    assert_eq!(candidates(&again["kernels"]), candidates(&tuned));
    assert_eq!(std::fs::read(&file).unwrap(), kept);
    assert!(dir.poda(&inspect).ok().contains("choices are kept in"));
    std::fs::write(&file, "{").unwrap();
    assert!(dir.poda(&["tune", "sparse.safetensors", "--batch", "3"]).ok().contains("kernels.json"));
    assert!(std::fs::read(&file).unwrap().len() > 100);

    // Other ways to choose give the same outputs.
    let run = |flags: &[&str]| {
        let args = ["run", "sparse.safetensors", "--input", "x.npz", "-o", "y.npz"];
        dir.poda(&[&args[..], flags].concat()).ok();
        arrays::read(dir.path("y.npz")).unwrap()["y"].as_slice::<f32>().unwrap().to_vec()
    };
    assert_close(&run(&["--no-tune"]), &dense);
    assert_close(&run(&["--prefer", "memory", "--threads", "1"]), &dense);
}

#[test]
fn a_model_that_keeps_its_packings_starts_without_timing() {
    let dir = Dir::new();
    dir.mlp();
    feed(&dir);
    dir.poda(&["prune", "mlp.onnx", "-o", "sparse.safetensors", "--sparsity", "0.9"]).ok();
    let expected = outputs(&dir, "sparse.safetensors");
    let tune = ["tune", "sparse.safetensors", "--batch", "3", "-o"];
    assert!(dir.poda(&[&tune[..], &["model.onnx"]].concat()).error().contains("artifact"));
    assert!(!dir.path("model.onnx").exists());
    let tuned = dir.poda(&[&tune[..], &["ready.safetensors", "--json"]].concat()).json();
    let bytes = |name: &str| fs::metadata(dir.path(name)).unwrap().len();
    assert_eq!(tuned["output"]["file_bytes"], bytes("ready.safetensors"));

    // The answers are the model's: nothing is timed, and nothing is new to the cache.
    fs::remove_dir_all(dir.path("cache")).ok();
    assert_close(&outputs(&dir, "ready.safetensors"), &expected);
    let kernels = |choices: &Value| -> Vec<Value> {
        let layers = choices["layers"].as_array().unwrap();
        layers.iter().map(|layer| layer["weight"]["candidates"].clone()).collect()
    };
    let ready = ["inspect", "ready.safetensors", "--kernels", "--batch", "3", "--json"];
    assert_eq!(kernels(&dir.poda(&ready).json()["kernels"]), kernels(&tuned));
    assert!(!dir.path("cache").join("poda/kernels.json").exists());

    // What is made of it keeps nothing of that.
    for (command, name) in [("convert", "2.safetensors"), ("convert", "2.onnx"), ("prune", "3.safetensors")] {
        let sparsity: &[&str] = if command == "prune" { &["--sparsity", "0.95"] } else { &[] };
        let [plain, ready] = ["sparse", "ready"].map(|from| {
            let [from, to] = [format!("{from}.safetensors"), format!("{from}{name}")];
            dir.poda(&[&[command, &from, "-o", &to], sparsity].concat()).ok();
            let mut graph = poda::formats::open(dir.path(&to)).unwrap();
            graph.metadata.remove("poda.model");
            graph
        });
        assert!(plain == ready, "{name}");
    }
}

#[test]
fn a_model_may_keep_what_its_kernels_read() {
    let dir = Dir::new();
    let mut graph = Graph::default();
    let x = graph.add_input("x", DataType::F32, vec![Dim::Symbol("batch".into()), Dim::Fixed(256)]);
    let values = (0..256 * 128_usize).map(|i| if i * 7919 % 10 == 0 { (i % 17) as f32 - 8.5 } else { 0.0 });
    let w = graph.add_weight("w", Tensor::from_slice(&[256, 128], &values.collect::<Vec<_>>()));
    let y = graph.add_node(Op::MatMul, &[x, w], "y");
    graph.outputs.push(y);
    poda::formats::write(&graph, dir.path("model.onnx"), &WriteOptions::default()).unwrap();
    let x: Vec<f32> = (0..64 * 256).map(|i| (i % 11) as f32 / 5.0 - 1.0).collect();
    arrays::write_npz(dir.path("x.npz"), &[("x".into(), Tensor::from_slice(&[64, 256], &x))]).unwrap();

    // (What is chosen without timing is the same everywhere.)
    let tune =
        ["tune", "model.onnx", "--batch", "64", "--no-tune", "--threads", "1", "-o", "ready.safetensors"];
    let said = dir.poda(&tune).ok();
    assert!(said.contains("the packings of 1 of its weights"), "{said}");
    let run = |model: &str, threads: &str| {
        let args =
            ["run", model, "--input", "x.npz", "-o", "y.npz", "--no-tune", "--threads", threads, "--json"];
        let said = dir.poda(&args).json();
        let y = arrays::read(dir.path("y.npz")).unwrap()["y"].as_slice::<f32>().unwrap().to_vec();
        (y, said["packings"].clone())
    };
    let (expected, _) = run("model.onnx", "1");
    let (found, note) = run("ready.safetensors", "1");
    assert_eq!(note, Value::Null);
    assert_close(&found, &expected);
    let (found, note) = run("ready.safetensors", "2");
    assert!(note.as_str().unwrap().contains("made anew"), "{note}");
    assert_close(&found, &expected);
}

#[test]
fn bench_gives_the_figures_that_scripts_rely_on() {
    let dir = Dir::new();
    dir.mlp();
    let bench = dir
        .poda(&[
            "bench",
            "mlp.onnx",
            "mlp.onnx",
            "--seconds",
            "0",
            "--batch",
            "2",
            "--threads",
            "1",
            "--json",
        ])
        .json();
    assert_eq!((&bench["threads"], &bench["batch"]), (&1.into(), &2.into()));
    assert!(["cpu", "instruction_set", "version"].iter().all(|key| bench[key].is_string()), "{bench}");
    for model in bench["models"].as_array().unwrap() {
        assert_eq!(model["path"], "mlp.onnx");
        let figures = [
            &model["latency_ms"]["min"],
            &model["latency_ms"]["p50"],
            &model["latency_ms"]["p90"],
            &model["latency_ms"]["p99"],
            &model["latency_ms"]["mean"],
            &model["latency_ms"]["p95"],
            &model["load_ms"],
            &model["first_load_ms"],
            &model["samples_per_second"],
            &model["speedup_over_first"],
            &model["rss_mb"]["loaded"],
            &model["rss_mb"]["peak"],
            &model["file_bytes"],
        ];
        assert!(figures.iter().all(|f| f.as_f64().is_some_and(|f| f > 0.0)), "{model}");
    }
    assert_eq!(bench["models"].as_array().map(Vec::len), Some(2));
}

#[test]
fn eval_scores_against_labels_and_another_model() {
    let dir = Dir::new();
    dir.mlp();
    let x = feed(&dir);
    let y = outputs(&dir, "mlp.onnx");
    let best = |row: &[f32]| (0..4).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap() as i64;
    let labels: Vec<i64> = y.chunks(4).map(best).collect();
    let labels = Tensor::from_slice(&[3], &labels);
    arrays::write_npz(dir.path("data.npz"), &[("x".into(), x), ("labels".into(), labels)]).unwrap();
    let args =
        ["eval", "mlp.onnx", "--data", "data.npz", "--reference", "mlp.onnx", "--batch", "2", "--json"];
    let scores = dir.poda(&args).json();
    assert_eq!(scores["accuracy"]["top1"], Value::from(1.0));
    assert_eq!(scores["reference"][0]["distance"]["mse"], Value::from(0.0));
    dir.poda(&["eval", "mlp.onnx", "--data", "x.npz"]).error();
}
