//! The library as C has it: its header, its symbols, and programs in C, C++ and Go that are compiled and run.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::{env, fs};

use poda::formats::{Dim, Op, WriteOptions};
use poda::{DataType, Graph, Tensor};

fn folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Where Cargo put the libraries: beside this program.
fn libraries() -> PathBuf {
    env::current_exe().unwrap().parent().unwrap().to_owned()
}

/// Whether a program is there; said by name where it is not.
fn has(test: &str, program: &str) -> bool {
    let there = Command::new(program).arg("--version").output().is_ok();
    if !there {
        eprintln!("skipped {test}: there is no {program}");
    }
    there
}

/// `y = x · W`, `[batch, 4]` to `[batch, 3]`; of ones `y` is 10, 20, 30.
fn model(folder: &Path) -> PathBuf {
    let mut graph = Graph::default();
    let x = graph.add_input("x", DataType::F32, vec![Dim::Symbol("batch".into()), Dim::Fixed(4)]);
    let weights: Vec<f32> =
        (1..=4).flat_map(|row| [row as f32, 2.0 * row as f32, 3.0 * row as f32]).collect();
    let w = graph.add_weight("w", Tensor::from_slice(&[4, 3], &weights));
    let y = graph.add_node(Op::MatMul, &[x, w], "y");
    graph.outputs.push(y);
    let path = folder.join("model.onnx");
    poda::formats::write(&graph, &path, &WriteOptions::default()).unwrap();
    path
}

fn succeed(command: &mut Command) -> String {
    let output: Output = command.output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{out}\n{err}", output.status);
    out.into_owned()
}

/// Compiles an example against the shared library.
fn compile(compiler: &str, source: &str, flags: &[&str], to: &Path) -> PathBuf {
    let program = to.join(source.replace('.', "-"));
    let libraries = libraries();
    succeed(
        Command::new(compiler)
            .args(flags)
            .args(["-Wall", "-Wextra", "-Werror", "-g", "-o"])
            .arg(&program)
            .arg(folder().join("examples").join(source))
            .arg("-I")
            .arg(folder().join("include"))
            .arg("-L")
            .arg(&libraries)
            .arg("-lpoda_capi")
            .arg(format!("-Wl,-rpath,{}", libraries.display())),
    );
    program
}

#[test]
fn the_header_is_that_of_the_code() {
    let path = folder().join("include/poda.h");
    let config = cbindgen::Config::from_file(folder().join("cbindgen.toml")).unwrap();
    let bindings = cbindgen::generate_with_config(folder(), config).unwrap();
    let mut made = Vec::new();
    bindings.write(&mut made);
    // What is a contract in Rust is said at the top of the header for all.
    let made = String::from_utf8(made).unwrap().replace(" # Safety\n", " Asked of the caller:\n");
    if env::var_os("PODA_WRITE_HEADER").is_some() {
        fs::write(&path, &made).unwrap();
    }
    let committed = fs::read_to_string(&path).unwrap();
    assert!(
        committed == made,
        "include/poda.h is not what src/ says: PODA_WRITE_HEADER=1 cargo test -p poda-capi"
    );
}

/// Names of the functions in the header.
fn declared() -> BTreeSet<String> {
    let header = fs::read_to_string(folder().join("include/poda.h")).unwrap();
    let name = |line: &str| {
        let (before, _) = line.split_once('(').filter(|(before, _)| !before.trim_start().starts_with('*'))?;
        let name = before.rsplit([' ', '*']).next()?;
        name.starts_with("poda_").then(|| name.to_owned())
    };
    header.lines().filter_map(name).collect()
}

#[test]
fn the_functions_are_those_that_were_promised() {
    let promised = fs::read_to_string(folder().join("abi.txt")).unwrap();
    let promised: BTreeSet<String> =
        promised.lines().filter(|line| line.starts_with("poda_")).map(str::to_owned).collect();
    assert_eq!(
        declared(),
        promised,
        "abi.txt: functions are added there, with PODA_ABI one more, never taken away"
    );
    if !has("the_functions_are_those_that_were_promised (symbols)", "nm") {
        return;
    }
    let library =
        libraries().join(format!("{}poda_capi{}", env::consts::DLL_PREFIX, env::consts::DLL_SUFFIX));
    let symbols = succeed(Command::new("nm").args(["-D", "--defined-only"]).arg(library));
    let symbols = symbols.lines().filter_map(|line| line.split_whitespace().last());
    let symbols: BTreeSet<String> =
        symbols.filter(|name| name.starts_with("poda_")).map(str::to_owned).collect();
    assert_eq!(symbols, promised);
}

#[test]
fn a_tensor_lies_in_memory_as_promised() {
    use poda_capi::PodaTensor;
    let offsets = [
        std::mem::offset_of!(PodaTensor, name),
        std::mem::offset_of!(PodaTensor, shape),
        std::mem::offset_of!(PodaTensor, rank),
        std::mem::offset_of!(PodaTensor, data),
        std::mem::offset_of!(PodaTensor, bytes),
        std::mem::offset_of!(PodaTensor, dtype),
    ];
    let word = size_of::<usize>();
    assert_eq!(offsets, [0, 1, 2, 3, 4, 5].map(|at| at * word));
    assert_eq!(size_of::<PodaTensor>(), 6 * word);
}

#[test]
fn a_program_in_c_runs() {
    if !has("a_program_in_c_runs", "cc") {
        return;
    }
    let to = tempfile::tempdir().unwrap();
    let program = compile("cc", "run.c", &["-std=c11", "-pedantic"], to.path());
    let model = model(to.path());
    let said = succeed(Command::new(&program).arg(&model));
    assert!(said.starts_with("input x, 2 dimensions\noutput y: 10 20 30\nrefused: input \"x\""), "{said}");
    let failed = Command::new(&program).arg(to.path().join("none.onnx")).output().unwrap();
    let said = String::from_utf8_lossy(&failed.stderr);
    assert!(failed.status.code() == Some(1) && said.contains("(status 2)"), "{said}");
}

#[test]
fn valgrind_finds_nothing() {
    if !has("valgrind_finds_nothing", "cc") || !has("valgrind_finds_nothing", "valgrind") {
        return;
    }
    let to = tempfile::tempdir().unwrap();
    let program = compile("cc", "run.c", &["-std=c11"], to.path());
    let model = model(to.path());
    let said = succeed(
        Command::new("valgrind")
            .args([
                "-q",
                "--error-exitcode=9",
                "--leak-check=full",
                "--errors-for-leak-kinds=definite,indirect",
            ])
            .arg(&program)
            .arg(&model),
    );
    assert!(said.contains("output y: 10 20 30"), "{said}");
}

#[test]
fn a_program_in_cpp_runs() {
    if !has("a_program_in_cpp_runs", "c++") {
        return;
    }
    let to = tempfile::tempdir().unwrap();
    let program = compile("c++", "run.cpp", &["-std=c++17", "-pthread"], to.path());
    let said = succeed(Command::new(program).arg(model(to.path())));
    assert!(said.starts_with("output: 10 20 30\nrefused: no input is named \"z\""), "{said}");
}

#[test]
fn a_program_in_go_runs() {
    if !Command::new("go").arg("version").output().is_ok_and(|output| output.status.success()) {
        eprintln!("skipped a_program_in_go_runs: there is no go");
        return;
    }
    let to = tempfile::tempdir().unwrap();
    let libraries = libraries();
    let said = succeed(
        Command::new("go")
            .arg("run")
            .arg(folder().join("examples/run.go"))
            .arg(model(to.path()))
            .env("CGO_ENABLED", "1")
            .env("GOCACHE", to.path().join("cache"))
            .env("GOFLAGS", "-mod=mod")
            .env("CGO_CFLAGS", format!("-I{}", folder().join("include").display()))
            .env("CGO_LDFLAGS", format!("-L{0} -lpoda_capi -Wl,-rpath,{0}", libraries.display())),
    );
    assert_eq!(said, "output: [10 20 30]\n");
}
