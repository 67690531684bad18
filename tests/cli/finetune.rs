//! `poda finetune`: what was pruned learns again, and a run that is killed comes to the same weights.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use poda::{Tensor, arrays};

use crate::program::Dir;

pub(crate) const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/commands/demo");

/// The demo's network without most of its weights, and its samples.
fn pruned(dir: &Dir) {
    let model = format!("{DEMO}/fashion_mnist.onnx");
    let prune = ["prune", &model, "-o", "sparse.safetensors", "--sparsity", "0.99", "--no-check"];
    dir.poda(&prune).ok();
    samples(dir);
}

/// The demo's samples: some to train on, `train.npz`, others to test, `test.npz`.
pub(crate) fn samples(dir: &Dir) {
    let all = arrays::read(format!("{DEMO}/fashion_mnist_test.npz")).unwrap();
    let (image, labels) = (all["image"].as_slice::<f32>().unwrap(), all["labels"].as_slice::<i64>().unwrap());
    for (name, range) in [("train.npz", 0..1000), ("test.npz", 1500..2000)] {
        let images = Tensor::from_slice(&[range.len(), 784], &image[range.start * 784..range.end * 784]);
        let labels = Tensor::from_slice(&[range.len()], &labels[range]);
        arrays::write_npz(dir.path(name), &[("image".into(), images), ("labels".into(), labels)]).unwrap();
    }
}

fn top1(dir: &Dir, model: &str) -> f64 {
    let scores = dir.poda(&["eval", model, "--data", "test.npz", "--no-tune", "--json"]).json();
    scores["accuracy"]["top1"].as_f64().unwrap()
}

#[test]
fn what_was_pruned_learns_again() {
    let dir = Dir::new();
    pruned(&dir);
    let before = top1(&dir, "sparse.safetensors");
    let train = ["finetune", "sparse.safetensors", "--data", "train.npz"];
    let options = ["--epochs", "3", "--rate", "0.002", "--json"];
    let report = dir.poda(&[&train[..], &["-o", "tuned.safetensors"], &options].concat()).json();
    let after = top1(&dir, "tuned.safetensors");
    assert!(after > before + 0.02, "{before} {after} {report}");
    assert_eq!(report["trained"].as_array().unwrap().len(), 6);
    let nnz = |model: &str| {
        let weights = dir.poda(&["inspect", model, "--json"]).json()["weights"].clone();
        let matrices = weights.as_array().unwrap().clone();
        let matrices = matrices.into_iter().filter(|w| w["shape"].as_array().unwrap().len() == 2);
        matrices.map(|w| w["nnz"].as_u64().unwrap()).sum::<u64>()
    };
    assert_eq!(nnz("tuned.safetensors"), nnz("sparse.safetensors"));
    assert!(!dir.path("tuned.safetensors.checkpoint").exists());
    // Scored on samples that are for that.
    let on = ["finetune", "sparse.safetensors", "--data", "train.npz", "--validation", "test.npz"];
    let told = dir.poda(&[&on[..], &["-o", "other.onnx", "--epochs", "1", "--rate", "0.002"]].concat()).ok();
    let right = format!("{:.1} % on validation samples", 100.0 * top1(&dir, "other.onnx"));
    assert!(told.contains(&right), "{right}: {told}");
    // Where no epoch betters the start, that is said, with why it may be so.
    let still = ["--epochs", "1", "--rate", "1e-12"];
    let report = dir.poda(&[&train[..], &["-o", "still.onnx", "--json"], &still].concat()).json();
    let notes = report["notes"].to_string();
    assert!(report["best_epoch"] == 0 && notes.contains("no epoch scored better than the start"), "{report}");
    assert!(
        notes.contains("scored on 100 of the training samples") && notes.contains("--validation"),
        "{notes}"
    );
    let told = dir.poda(&[&on[..], &["-o", "still.onnx"], &still].concat()).ok();
    assert!(told.contains("note: no epoch scored better than the start"), "{told}");
    assert!(!told.contains("--validation") && told.contains("note: try another rate"), "{told}");
    // Without labels, from the dense model.
    let images = arrays::read(dir.path("train.npz")).unwrap()["image"].clone();
    arrays::write_npz(dir.path("images.npz"), &[("image".into(), images)]).unwrap();
    let model = format!("{DEMO}/fashion_mnist.onnx");
    let learn = ["finetune", "sparse.safetensors", "--data", "images.npz"];
    let line = dir.poda(&[&learn[..], &["-o", "out.onnx"]].concat()).error();
    assert!(line.contains("nothing to learn from") && line.contains("--teacher"), "{line}");
    let told =
        dir.poda(&[&learn[..], &["--teacher", &model, "-o", "taught.onnx", "--rate", "0.002"]].concat()).ok();
    assert!(told.contains("cosine") && told.contains("taught.onnx: the state after epoch"), "{told}");
    assert!(top1(&dir, "taught.onnx") > before, "{told}");
}

#[test]
fn a_killed_run_goes_on_to_the_same_weights() {
    let dir = Dir::new();
    pruned(&dir);
    let train =
        ["finetune", "sparse.safetensors", "--data", "train.npz", "--epochs", "2", "--checkpoint-every", "0"];
    dir.poda(&[&train[..], &["-o", "whole.safetensors"]].concat()).ok();
    let command = |output: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_poda"));
        command.args(train).args(["-o", output]).current_dir(dir.path(""));
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    let checkpoint = dir.path("again.safetensors.checkpoint");
    let mut kills = 0;
    for _ in 0..3 {
        let mut child = command("again.safetensors").spawn().unwrap();
        let written = || fs::metadata(&checkpoint).and_then(|m| m.modified()).ok();
        let (before, start) = (written(), Instant::now());
        while written() == before
            && child.try_wait().unwrap().is_none()
            && start.elapsed() < Duration::from_mins(1)
        {
            std::thread::sleep(Duration::from_millis(1));
        }
        kills += u32::from(child.kill().is_ok() && !child.wait().unwrap().success());
    }
    assert!(kills > 0);
    dir.poda(&[&train[..], &["-o", "again.safetensors"]].concat()).ok();
    let [whole, again] =
        ["whole", "again"].map(|name| fs::read(dir.path(&format!("{name}.safetensors"))).unwrap());
    assert!(whole == again, "the same bits");
    assert!(!checkpoint.exists());
}

#[test]
fn what_does_not_fit_is_said() {
    let dir = Dir::new();
    dir.mlp();
    let x = Tensor::from_slice(&[20, 16], &[0.5_f32; 320]);
    let save = |name: &str, array: &str, tensor: Tensor| {
        arrays::write_npz(dir.path(name), &[("x".into(), x.clone()), (array.into(), tensor)]).unwrap();
    };
    save("labels.npz", "labels", Tensor::from_slice(&[20], &[4_i64; 20]));
    save("targets.npz", "targets", Tensor::from_slice(&[20, 3], &[0.0_f32; 60]));
    save("good.npz", "labels", Tensor::from_slice(&[20], &[3_i64; 20]));
    let train = |data: &str, more: &[&str]| {
        let args = [&["finetune", "mlp.onnx", "--data", data, "-o", "out.onnx"], more].concat();
        dir.poda(&args).error()
    };
    for (data, more, expected) in [
        ("labels.npz", &[][..], "sample 0 has the label 4, but \"y\" has 4 classes"),
        ("targets.npz", &[], "array \"targets\" has shape [20, 3]"),
        ("good.npz", &["--scores", "z"], "the model has no value \"z\""),
        ("good.npz", &["--freeze", "w9"], "\"w9\""),
        ("good.npz", &["--rate", "0"], "learning rate"),
        ("good.npz", &["--rate", "1e30", "--optimizer", "sgd", "--batch", "2"], "try a lower rate"),
        ("good.npz", &["--teacher", "nowhere.onnx"], "nowhere.onnx"),
    ] {
        let line = train(data, more);
        assert!(line.contains(expected), "{line}");
    }
    assert!(!dir.path("out.onnx").exists());
}
