//! The package's own tests, run by pytest on the module that was just built; and its types, checked by mypy.
//!
//! Python is `PODA_TEST_PYTHON`, with NumPy and pytest, which `tests/run.sh` sets up.

use std::process::Command;

use package::{crate_folder, package, python, run};

mod package;

#[test]
fn pytest_passes() {
    let Some(python) = python("pytest_passes", "pytest") else { return };
    let package = package();
    run(Command::new(python)
        .current_dir(package.path())
        .args(["-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "--confcutdir"])
        .arg(crate_folder())
        .arg(crate_folder().join("tests"))
        .env("PYTHONPATH", package.path())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("XDG_CACHE_HOME", package.path()));
}

#[test]
fn the_types_are_right() {
    let Some(python) = python("the_types_are_right", "mypy") else { return };
    let package = package();
    run(Command::new(python)
        .args(["-m", "mypy", "--no-incremental", "--config-file"])
        .arg(crate_folder().join("pyproject.toml"))
        .current_dir(package.path()));
}
