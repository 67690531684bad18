//! The suite's models as Poda writes them: read back by Poda itself, and put before ONNX's checker and ONNX Runtime,
//! which must take them wherever they take the originals.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::Command;

use poda_formats::Graph;
use poda_formats::onnx::{self, OnnxOptions};
use poda_formats::storage::{AlignedBytes, Storage};
use tempfile::TempDir;

/// Models written so far, for Python to look at.
pub(crate) struct Written {
    /// A Python with ONNX and ONNX Runtime, and where it finds the models.
    python: Option<(OsString, TempDir)>,
}

impl Written {
    /// Nothing yet. Without `PODA_TEST_PYTHON` only Poda reads what was written; `tests/run.sh` sets it.
    pub(crate) fn new() -> Self {
        let python = std::env::var_os("PODA_TEST_PYTHON");
        if python.is_none() {
            eprintln!(
                "skipped: written models are not put before ONNX Runtime (PODA_TEST_PYTHON is not set)"
            );
        }
        Self { python: python.map(|python| (python, TempDir::new().expect("a temporary folder"))) }
    }

    /// Writes `graph`, which is the model of `files`, and gives what reading that gives.
    pub(crate) fn add(
        &self,
        name: &str,
        files: &BTreeMap<String, Vec<u8>>,
        graph: &Graph,
    ) -> Result<Graph, String> {
        let mut written = Vec::new();
        onnx::write(&mut written, graph, &OnnxOptions::default()).map_err(|error| error.to_string())?;
        if let Some((_, folder)) = &self.python {
            let case = folder.path().join(name.replace('/', "."));
            let save =
                |name: &str, bytes: &[u8]| fs::write(case.join(name), bytes).expect("a file is written");
            fs::create_dir(&case).expect("each test has a name of its own");
            save("written.onnx", &written);
            save("original.onnx", &files["model.onnx"]);
            for (path, bytes) in files {
                if let Some(input) = path.strip_prefix("test_data_set_0/").filter(|n| n.starts_with("input_"))
                {
                    save(input, bytes);
                }
            }
        }
        let read = onnx::read_storage(Storage::owned(AlignedBytes::copy_of(&written)));
        read.map_err(|error| error.to_string())
    }

    /// What Python says of the models.
    ///
    /// # Errors
    /// When it does not take some of them: these, a line each.
    pub(crate) fn check(&self) -> Result<(), String> {
        let Some((python, folder)) = &self.python else { return Ok(()) };
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models/check_written.py");
        let done = Command::new(python).arg(script).arg(folder.path()).output().expect("Python starts");
        if done.status.success() {
            return Ok(());
        }
        Err(String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned())
    }
}
