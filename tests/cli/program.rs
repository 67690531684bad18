//! A folder to work in and a way to run the command there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use poda::formats::Dim;
use poda::formats::op::{Op, Unary};
use poda::{DataType, Graph, Tensor};

/// A temporary folder, gone when dropped.
pub(crate) struct Dir(tempfile::TempDir);

impl Dir {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        fs::write(self.path(name), bytes).unwrap();
        self.path(name)
    }

    /// A small MLP `mlp.onnx`: `x` `[batch, 16]` → 32 → `y` `[batch, 4]`, with one hidden unit that nothing uses.
    pub(crate) fn mlp(&self) -> PathBuf {
        let path = self.path("mlp.onnx");
        poda::formats::write(&mlp(), &path, &poda::formats::WriteOptions::default()).unwrap();
        path
    }

    /// Runs `poda` here.
    pub(crate) fn poda(&self, args: &[&str]) -> Done {
        let mut command = Command::new(env!("CARGO_BIN_EXE_poda"));
        command.args(args).current_dir(self.0.path()).env("XDG_CACHE_HOME", self.path("cache"));
        Done::of(command, self.0.path())
    }

    /// Runs `poda` here with at most `kib` KiB of address space.
    pub(crate) fn poda_within(&self, kib: u64, args: &[&str]) -> Done {
        let mut command = Command::new("sh");
        let script = format!("ulimit -v {kib}; exec \"$0\" \"$@\"");
        command
            .args(["-c", &script, env!("CARGO_BIN_EXE_poda")])
            .args(args)
            .current_dir(self.0.path())
            .env("XDG_CACHE_HOME", self.path("cache"));
        Done::of(command, self.0.path())
    }
}

pub(crate) fn mlp() -> Graph {
    let weights = |m: usize, k: usize, seed: usize| -> Vec<f32> {
        (0..m * k).map(|i| ((i * 7919 + seed) % 1009) as f32 / 504.0 - 1.0).collect()
    };
    let mut g = Graph { name: "mlp".into(), ..Graph::default() };
    let x = g.add_input("x", DataType::F32, vec![Dim::Symbol("batch".into()), Dim::Fixed(16)]);
    let w1 = g.add_weight("w1", Tensor::from_slice(&[32, 16], &weights(32, 16, 1)));
    let b1 = g.add_weight("b1", Tensor::from_slice(&[32], &weights(32, 1, 2)));
    let mut second = weights(4, 32, 3);
    second.iter_mut().skip(5).step_by(32).for_each(|w| *w = 0.0);
    let w2 = g.add_weight("w2", Tensor::from_slice(&[4, 32], &second));
    let gemm = |inputs: &[_], g: &mut Graph, name: &str| {
        let op = Op::Gemm { alpha: 1.0, beta: 1.0, trans_a: false, trans_b: true };
        g.add_node(op, inputs, name)
    };
    let hidden = gemm(&[x, w1, b1], &mut g, "hidden");
    let active = g.add_node(Op::Unary(Unary::Relu), &[hidden], "active");
    let y = gemm(&[active, w2], &mut g, "y");
    g.outputs.push(y);
    g
}

/// What a run gave.
pub(crate) struct Done {
    what: String,
    output: Output,
}

impl Done {
    fn of(mut command: Command, folder: &Path) -> Self {
        let output = command.output().unwrap();
        let entries: Vec<_> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name()).collect();
        Self { what: format!("{command:?}\nin {} with {entries:?}", folder.display()), output }
    }

    fn report(&self) -> String {
        let Output { status, stdout, stderr } = &self.output;
        let (stdout, stderr) = (String::from_utf8_lossy(stdout), String::from_utf8_lossy(stderr));
        format!("{}\n{status}\n--- stdout\n{stdout}\n--- stderr\n{stderr}", self.what)
    }

    /// Asserts success; gives standard output.
    pub(crate) fn ok(&self) -> String {
        assert!(self.output.status.success(), "{}", self.report());
        String::from_utf8(self.output.stdout.clone()).unwrap()
    }

    /// Asserts success; gives standard output as JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.ok()).unwrap_or_else(|e| panic!("{e}\n{}", self.report()))
    }

    /// Asserts exit code 1 and one line on standard error; gives the line.
    pub(crate) fn error(&self) -> String {
        self.exit(1);
        let stderr = String::from_utf8(self.output.stderr.clone()).unwrap();
        assert_eq!(stderr.lines().count(), 1, "{}", self.report());
        assert!(stderr.starts_with("poda: "), "{}", self.report());
        stderr
    }

    /// Standard output.
    pub(crate) fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.output.stdout).into_owned()
    }

    /// Standard error.
    pub(crate) fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.output.stderr).into_owned()
    }

    /// Asserts exit code 1; gives the last line of standard error, where a log may come before it.
    pub(crate) fn last_error(&self) -> String {
        self.exit(1);
        let stderr = String::from_utf8(self.output.stderr.clone()).unwrap();
        let last = stderr.lines().last().unwrap_or_default();
        assert!(last.starts_with("poda: "), "{}", self.report());
        last.to_owned()
    }

    /// Asserts the exit code.
    pub(crate) fn exit(&self, code: i32) {
        assert_eq!(self.output.status.code(), Some(code), "{}", self.report());
    }
}
