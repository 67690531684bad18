//! Runs that end when a measure of the model reaches a bound.

use poda::{Tensor, arrays};

use crate::program::Dir;

/// Samples for the network of [`Dir::mlp`], with no labels.
fn samples(dir: &Dir) {
    let x: Vec<f32> = (0..40 * 4).map(|i| ((i * 37) % 23) as f32 / 11.0 - 1.0).collect();
    let inputs = dir.poda(&["inspect", "mlp.onnx", "--json"]).json();
    let width = inputs["inputs"][0]["shape"][1].as_u64().unwrap() as usize;
    let rows = x.len() / width;
    arrays::write_npz(
        dir.path("x.npz"),
        &[("x".into(), Tensor::from_slice(&[rows, width], &x[..rows * width]))],
    )
    .unwrap();
}

#[test]
fn a_target_is_reached_while_outputs_stay_close() {
    let dir = Dir::new();
    dir.mlp();
    samples(&dir);
    let prune = ["prune", "mlp.onnx", "-o", "p.safetensors", "--until", "macs=60%"];
    let bounded = [&prune[..], &["--keep", "cosine=0.5", "--data", "x.npz"]].concat();
    let report = dir.poda(&[&bounded[..], &["--json"]].concat()).json();
    let share = |key: &str| report[key]["nonzero_macs"].as_f64().unwrap();
    assert!(share("after") <= 0.6 * share("before"));
    let search = &report["search"];
    let taken = &search["trials"][search["taken"].as_u64().unwrap() as usize];
    assert!(taken["measured"]["cosine"].as_f64().unwrap() >= 0.5, "{search}");
    assert!(search["stopped"].as_str().unwrap().starts_with("macs at most 0.6000, found 0.5"), "{search}");
    let said = dir.poda(&bounded).ok();
    assert!(said.contains("taken") && said.contains("stopped: macs at most"), "{said}");
    // What cannot be had is said with how near it came.
    let far = [&prune[..4], &["--until", "macs=1%", "--keep", "cosine=0.9", "--data", "x.npz"]].concat();
    let said = dir.poda(&far).ok();
    assert!(said.contains("note: macs at most 0.0100 was not reached, macs is 0."), "{said}");
    assert!(said.contains("would break cosine at least 0.9000"), "{said}");
    // A clock needs no data.
    let report = dir.poda(&["prune", "mlp.onnx", "-o", "p.onnx", "--latency", "10s", "--json"]).json();
    assert!(report["notes"][0].as_str().unwrap().contains("the dense model already has it"), "{report}");
}

#[test]
fn bounds_that_cannot_be_asked_are_refused_before_anything_is_pruned() {
    let dir = Dir::new();
    dir.mlp();
    samples(&dir);
    let prune = |flags: &[&str]| dir.poda(&[&["prune", "mlp.onnx", "-o", "p.onnx"], flags].concat());
    assert!(
        prune(&["--keep", "cosine=0.9"])
            .error()
            .contains("closeness to the dense model needs validation data")
    );
    assert!(prune(&["--keep", "drop=0.1", "--data", "x.npz"]).error().contains("labels"));
    for (flags, says) in [
        (["--until", "speed=2"], "there is no measure \"speed\"; there are sparsity, nonzeros"),
        (["--until", "latency=2MiB"], "expected a time such as 2ms"),
        (["--keep", "cosine"], "write MEASURE=VALUE"),
    ] {
        let done = prune(&flags);
        done.exit(2);
        assert!(done.stderr().contains(says), "{}", done.stderr());
    }
    dir.write("recipe.toml", b"until = [\"latency=2ms\", \"macs=0.5\"]\nkeep = [\"warmth=1\"]");
    assert!(prune(&["--recipe", "recipe.toml"]).error().contains("there is no measure \"warmth\""));
    assert!(!dir.path("p.onnx").exists());
}

#[test]
fn compare_tells_what_differs() {
    let dir = Dir::new();
    dir.mlp();
    samples(&dir);
    let same = dir.poda(&["compare", "mlp.onnx", "mlp.onnx", "--json"]).json();
    assert_eq!(same["weights"].as_array().map(Vec::len), Some(0));
    assert_eq!(same["outputs"][0]["distance"]["max_abs"].as_f64(), Some(0.0));
    dir.poda(&["prune", "mlp.onnx", "-o", "p.safetensors", "--sparsity", "0.5"]).ok();
    let said = dir.poda(&["compare", "mlp.onnx", "p.safetensors", "--data", "x.npz", "--json"]).json();
    let row = &said["weights"][0];
    let nnz = |side: &str| row[side]["nnz"].as_u64().unwrap();
    assert_eq!(row["zeroed"].as_u64(), Some(nnz("a") - nnz("b")), "{row}");
    let difference = row["relative_difference"].as_f64().unwrap();
    assert!(difference > 0.0 && difference < 1.0, "{row}");
    assert!(said["outputs"][0]["distance"]["relative_error"].as_f64().unwrap() > 0.0);
    let table = dir.poda(&["compare", "mlp.onnx", "p.safetensors"]).ok();
    assert!(table.contains("weights are the same, element by element"), "{table}");
    dir.poda(&["prune", "mlp.onnx", "-o", "c.onnx", "--granularity", "channel", "--sparsity", "0.5"]).ok();
    let said = dir.poda(&["compare", "mlp.onnx", "c.onnx", "--json"]).json();
    assert!(said["weights"].as_array().unwrap().iter().any(|row| row["a"]["shape"] != row["b"]["shape"]));
}
