//! The same bits through every door: Rust, the command, C and Python, on real models.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use poda::shapes::Sizes;
use poda::{Model, Options, arrays, feeds};

mod package;

/// Real models of `tests/models/fetch_models.py`.
const MODELS: [&str; 5] =
    ["skill_mlp", "mnist_cnn", "efficientnet_lite0", "silero_vad_16k_sequence", "minilm"];

/// What was built beside this program, where it was.
fn built(test: &str, name: &str) -> Option<PathBuf> {
    let deps = env::current_exe().unwrap().parent().unwrap().to_owned();
    let found = [deps.join(name), deps.parent().unwrap().join(name)].into_iter().find(|path| path.exists());
    if found.is_none() {
        eprintln!("skipped {test} for {name}, which is not built: cargo test --workspace builds it");
    }
    found
}

#[test]
fn every_door_gives_the_same_bits() {
    let test = "every_door_gives_the_same_bits";
    let Some(models) = env::var_os("PODA_TEST_MODELS").map(PathBuf::from) else {
        assert!(env::var_os("CI").is_none(), "{test}: PODA_TEST_MODELS is not set");
        eprintln!("skipped {test}: PODA_TEST_MODELS is not set; tests/run.sh sets it");
        return;
    };
    let python = package::python(test, "numpy");
    let package = package::package();
    let command = built(test, "poda");
    let library = built(test, "libpoda_capi.so");
    let mut compared = 0;
    for name in MODELS {
        let path = models.join(name).with_extension("onnx");
        if !path.exists() {
            eprintln!("skipped {test} for {name}, which is not there");
            continue;
        }
        let folder = tempfile::tempdir().unwrap();
        let [inputs, outputs, others] =
            ["in.npz", "out.npz", "others.npz"].map(|file| folder.path().join(file));
        write_ours(&path, &inputs, &outputs);
        if let Some(command) = &command {
            let mut run = Command::new(command);
            run.arg("run").arg(&path).arg("--input").arg(&inputs).arg("-o").arg(&others);
            package::run(run.args(["--threads", "1", "--no-tune"]).env("XDG_CACHE_HOME", folder.path()));
            assert_eq!(
                arrays::read(&others).unwrap(),
                arrays::read(&outputs).unwrap(),
                "{name}: the command"
            );
        }
        if let Some(python) = &python {
            let mut run = Command::new(python);
            run.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/doors.py"))
                .args([&path, &inputs, &outputs]);
            package::run(run.args(&library).env("PYTHONPATH", package.path()).current_dir(package.path()));
        }
        compared += 1;
    }
    assert!(compared == MODELS.len() || env::var_os("CI").is_none(), "{compared} of {} models", MODELS.len());
}

/// What Rust makes of a model on made-up inputs.
fn write_ours(path: &Path, inputs: &Path, outputs: &Path) {
    let model = Model::open(path).unwrap();
    let shapes = Sizes::default().resolve(model.graph()).unwrap().shapes;
    let feeds = feeds::random(model.graph(), &shapes, 0).unwrap();
    let options = Options { threads: Some(1), tune: false, ..Options::default() };
    let results = model.prepare(options).unwrap().run(&feeds::views(&feeds)).unwrap();
    arrays::write_npz(inputs, &feeds).unwrap();
    arrays::write_npz(outputs, &results).unwrap();
    assert!(fs::metadata(outputs).unwrap().len() > 0);
}
