//! Real trained networks against the outputs that ONNX Runtime gave for them (`tests/models/make_references.py`).

mod common;

use std::path::Path;
use std::process::Command;

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

/// Runs a command, and gives what it said where it failed.
fn done(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| error.to_string())?;
    let said = || String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    if output.status.success() { Ok(()) } else { Err(said()) }
}

/// What ONNX Runtime's quantisers make of a model is pruned like any other, and ONNX Runtime takes the result.
#[test]
fn quantised_by_another() {
    let Some(python) = std::env::var_os("PODA_TEST_PYTHON") else {
        eprintln!("skipped: nothing is quantised (PODA_TEST_PYTHON is not set)");
        return;
    };
    let Some(path) = model("mnist_cnn.onnx") else { return };
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let script = |command: &str| {
        let mut process = Command::new(&python);
        process.arg(root.join("tests/models/quantized.py")).arg(command);
        process
    };
    let poda = || {
        let mut process = Command::new(env!("CARGO_BIN_EXE_poda"));
        process.env("XDG_CACHE_HOME", file("cache"));
        process
    };
    let inputs = root.join("tests/data/references/mnist_cnn.npz");
    done(script("make").arg(&path).arg(inputs).arg(folder.path())).unwrap();
    for name in ["static", "operators", "dynamic", "unsigned"] {
        for granularity in ["unstructured", "channel"] {
            let what = |error| panic!("{name}, {granularity}: {error}");
            let (was, pruned, ours) = (file(&format!("{name}.onnx")), file("pruned.onnx"), file("ours.npz"));
            let prune = ["--sparsity", "0.5", "--granularity", granularity, "-o"];
            done(poda().arg("prune").arg(&was).args(prune).arg(&pruned)).unwrap_or_else(what);
            let feeds = file("feeds.npz");
            done(poda().arg("run").arg(&pruned).arg("--input").arg(feeds).arg("-o").arg(&ours))
                .unwrap_or_else(what);
            let mut check = script("check");
            check.arg(folder.path()).arg(name).arg(&pruned).arg(&ours).args(["--granularity", granularity]);
            done(&mut check).unwrap_or_else(what);
        }
    }
}
