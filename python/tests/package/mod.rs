//! The package as a wheel would install it, and a Python to run it.

#![allow(unreachable_pub, dead_code, reason = "not every test program uses all of it")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// The folder of this crate.
pub fn crate_folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Python with `module`, or `None`, said by name, where there is none; where `CI` is set that is a failure.
pub fn python(test: &str, module: &str) -> Option<PathBuf> {
    let python = env::var_os("PODA_TEST_PYTHON").map(PathBuf::from).filter(|python| {
        let found = Command::new(python).args(["-c", &format!("import {module}")]).output();
        found.is_ok_and(|output| output.status.success())
    });
    if python.is_none() {
        let missing = format!("PODA_TEST_PYTHON names no Python with {module}; tests/run.sh sets one up");
        assert!(env::var_os("CI").is_none(), "{test}: {missing}");
        eprintln!("skipped {test}: {missing}");
    }
    python
}

/// A folder with the package `poda` as a wheel would install it.
pub fn package() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let package = folder.path().join("poda");
    fs::create_dir(&package).unwrap();
    for entry in fs::read_dir(crate_folder().join("poda")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            fs::copy(&path, package.join(path.file_name().unwrap())).unwrap();
        }
    }
    // Cargo puts the module beside this program.
    let program = env::current_exe().unwrap();
    let built = program.parent().unwrap();
    let name = format!("{}_poda{}", env::consts::DLL_PREFIX, env::consts::DLL_SUFFIX);
    fs::copy(built.join(&name), package.join("_poda.abi3.so"))
        .unwrap_or_else(|error| panic!("{name}: {error}"));
    folder
}

/// Runs a program that is to succeed, and shows what it said.
pub fn run(command: &mut Command) {
    let output = command.output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}\n{out}\n{err}");
    // Shown with --nocapture: what pytest skipped, and why.
    println!("{out}");
}
