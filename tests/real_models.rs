//! Real trained networks against the outputs that ONNX Runtime gave for them (`tests/models/make_references.py`).

mod common;

use std::path::Path;

use common::{model, relative_difference};
use poda::{Model, Options, arrays};

/// Runs the model that a file of references is for, and compares every output.
fn check(reference: &str) {
    let name = reference.split("--").next().expect("split gives at least one part");
    let Some(path) = model(&format!("{name}.onnx")) else { return };
    let references = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/references");
    let arrays = arrays::read(references.join(format!("{reference}.npz"))).unwrap();
    let inputs: Vec<_> =
        arrays.iter().filter_map(|(name, t)| Some((name.strip_prefix("in:")?, t.view()))).collect();
    for threads in [1, 2] {
        let options = Options { threads: Some(threads), ..Options::default() };
        let executable = Model::open(&path).unwrap().prepare(options).unwrap();
        for run in 0..2 {
            let outputs = executable.run(&inputs).unwrap();
            assert_eq!(outputs.len(), arrays.len() - inputs.len());
            for (name, ours) in outputs {
                let theirs = &arrays[&format!("out:{name}")];
                let difference = relative_difference(&ours, theirs);
                assert!(
                    difference < 1e-3,
                    "{reference}, {threads} threads, run {run}: {name} is off by {difference:e}"
                );
            }
        }
    }
}

#[test]
fn mnist_cnn() {
    check("mnist_cnn");
}

#[test]
fn efficientnet_lite0() {
    check("efficientnet_lite0");
}

#[test]
fn minilm() {
    check("minilm");
}

#[test]
fn skill_mlp() {
    check("skill_mlp");
}

#[test]
fn silero_voice_activity() {
    check("silero_vad_16k_sequence");
}

/// The sample rate chooses a branch while it runs.
#[test]
fn silero_voice_activity_with_branches() {
    check("silero_vad");
    check("silero_vad--8k");
}

#[test]
fn silero_voice_activity_without_branches() {
    check("silero_vad_op18_ifless");
    check("silero_vad_op18_ifless--8k");
}
