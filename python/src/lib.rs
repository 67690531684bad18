//! The Python package `poda`, as far as it is Rust: `poda._poda`. What Python does as well is in `poda/*.py`.

#![allow(clippy::needless_pass_by_value, reason = "what Python passes is extracted by value")]

mod arrays;
mod errors;
mod model;
mod ports;
mod prune;
mod tools;

/// The native half of `poda`.
#[pyo3::pymodule]
mod _poda {
    #[pymodule_export]
    use super::model::Model;
    #[pymodule_export]
    use super::ports::Port;
    #[pymodule_export]
    use super::prune::{default_recipe, prune, read_recipe};
    #[pymodule_export]
    use super::tools::{bench, convert, inspect};

    #[pymodule_export]
    #[expect(non_upper_case_globals, reason = "the name that Python knows")]
    const __version__: &str = env!("CARGO_PKG_VERSION");
}
