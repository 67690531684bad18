//! Errors of the library as the exceptions of `poda/errors.py`.

use poda::Graph;
use poda::formats::{OpenError, WriteError};
use poda::pruner::PruneError;
use poda::pruner::judge::JudgeError;
use poda::pruning::PruningError as StoringError;
use poda::runtime::{LoadError, PrepareError, RunError};
use pyo3::PyErr;
use pyo3::exceptions::{PyMemoryError, PyOSError, PyValueError};

mod classes {
    #![allow(missing_docs)]
    pyo3::import_exception!(poda.errors, PodaError);
    pyo3::import_exception!(poda.errors, ModelError);
    pyo3::import_exception!(poda.errors, UnsupportedError);
    pyo3::import_exception!(poda.errors, InputError);
    pyo3::import_exception!(poda.errors, DeadlineError);
    pyo3::import_exception!(poda.errors, PruningError);
}

pub(crate) use classes::{DeadlineError, InputError, ModelError, PodaError, PruningError, UnsupportedError};

/// `OSError` of the kind that the number says, such as `FileNotFoundError`.
fn os_error(path: &std::path::Path, error: &std::io::Error) -> PyErr {
    match error.raw_os_error() {
        Some(number) => {
            let text = error.to_string();
            let said = text.split(" (os error").next().unwrap_or_default().to_owned();
            PyOSError::new_err((number, said, path.display().to_string()))
        }
        None => PyOSError::new_err(format!("{}: {error}", path.display())),
    }
}

pub(crate) fn open(error: &OpenError) -> PyErr {
    match error {
        OpenError::Io { path, error } => os_error(path, error),
        other => ModelError::new_err(other.to_string()),
    }
}

pub(crate) fn load(error: &LoadError) -> PyErr {
    match error {
        LoadError::Open(error) => open(error),
        other => ModelError::new_err(other.to_string()),
    }
}

pub(crate) fn write(error: &WriteError) -> PyErr {
    match error {
        WriteError::Format { .. } => PyValueError::new_err(error.to_string()),
        other => PyOSError::new_err(other.to_string()),
    }
}

pub(crate) fn prepare(error: &PrepareError) -> PyErr {
    if error.is_unsupported() {
        return UnsupportedError::new_err(error.to_string());
    }
    match error {
        PrepareError::Threads(_) => PyValueError::new_err(error.to_string()),
        other => ModelError::new_err(other.to_string()),
    }
}

pub(crate) fn run(error: &RunError) -> PyErr {
    let said = error.to_string();
    match error {
        error if error.is_input() => InputError::new_err(said),
        error if error.is_stopped() => DeadlineError::new_err(said),
        error if error.is_memory() => PyMemoryError::new_err(said),
        RunError::Plan(plan) if plan.is_unsupported() => UnsupportedError::new_err(said),
        RunError::Prepare(error) => prepare(error),
        _ => PodaError::new_err(said),
    }
}

pub(crate) fn prune(error: PruneError) -> PyErr {
    match error {
        PruneError::Judge(error) => judge(error),
        PruneError::Recipe(error) => PyValueError::new_err(error.to_string()),
        other => PruningError::new_err(other.to_string()),
    }
}

/// What a callable raised comes back as it was.
pub(crate) fn judge(error: JudgeError) -> PyErr {
    match error {
        JudgeError::Failed(error) => match error.downcast::<PyErr>() {
            Ok(raised) => *raised,
            Err(error) => PruningError::new_err(format!("the model cannot be measured: {error}")),
        },
        other => PruningError::new_err(other.to_string()),
    }
}

pub(crate) fn stored(error: StoringError) -> PyErr {
    match error {
        StoringError::Open(error) => open(&error),
        StoringError::Write(error) => write(&error),
        other => PruningError::new_err(other.to_string()),
    }
}

/// A graph in order, as [`poda::Model`] takes it.
pub(crate) fn model(graph: Graph) -> Result<poda::Model, PyErr> {
    poda::Model::from_graph(graph).map_err(|error| ModelError::new_err(error.to_string()))
}
