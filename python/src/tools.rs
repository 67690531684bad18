//! `poda.inspect`, `poda.convert` and `poda.bench`, as far as they are Rust: what the commands of these names print.

use std::ops::ControlFlow;
use std::path::PathBuf;

use poda::benchmark::{self, BenchError, Contender};
use poda::conversion::{self, Conversion, ConvertError};
use poda::formats::ValueType;
use poda::inspection::{self, InspectError};
use poda::timing::TimingError;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use pythonize::pythonize;

use crate::errors::{self, InputError, ModelError, PodaError};
use crate::model::{self, Model, sizes};

/// What there is to say of a model; `poda.inspect` says how.
#[pyfunction]
#[pyo3(signature = (model, *, shape, batch, nodes))]
pub(crate) fn inspect<'py>(
    py: Python<'py>,
    model: &Bound<'py, Model>,
    shape: Option<&Bound<'py, PyDict>>,
    batch: usize,
    nodes: bool,
) -> PyResult<Bound<'py, PyAny>> {
    let (sizes, model) = (sizes(batch, shape)?, model.get());
    let said = py.detach(|| inspection::inspect(model.graph(), model.path(), &sizes, nodes));
    let said = said.map_err(|error| match error {
        InspectError::Open(error) => errors::open(&error),
        other => InputError::new_err(other.to_string()),
    })?;
    Ok(pythonize(py, &said)?)
}

/// Writes a model to a file; `poda.convert` says how.
#[pyfunction]
#[pyo3(signature = (model, output, *, values, dense))]
pub(crate) fn convert<'py>(
    py: Python<'py>,
    model: &Bound<'py, Model>,
    output: PathBuf,
    values: Option<&str>,
    dense: bool,
) -> PyResult<Bound<'py, PyAny>> {
    let named = |name: &str| {
        let known = ValueType::ALL.map(ValueType::name).join(", ");
        ValueType::named(name)
            .ok_or_else(|| PyValueError::new_err(format!("values is {name:?}, expected one of {known}")))
    };
    let how = Conversion { dense, values: values.map(named).transpose()? };
    model::format(&output)?;
    let model = model.get();
    let raised = |error| match error {
        ConvertError::Open(error) => errors::open(&error),
        ConvertError::Write(error) => errors::write(&error),
        other => ModelError::new_err(other.to_string()),
    };
    let convert = || conversion::convert(model.graph().clone(), model.path(), &output, how).map_err(raised);
    Ok(pythonize(py, &py.detach(convert)?)?)
}

/// Times models against each other; `poda.bench` says how.
#[pyfunction]
#[pyo3(signature = (models, names, *, feeds, shape, batch, seconds, streams, progress))]
pub(crate) fn bench<'py>(
    py: Python<'py>,
    models: Vec<Bound<'py, Model>>,
    names: Vec<String>,
    feeds: Option<&Bound<'py, PyDict>>,
    shape: Option<&Bound<'py, PyDict>>,
    batch: usize,
    seconds: f64,
    streams: usize,
    progress: Option<Py<PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let sizes = sizes(batch, shape)?;
    benchmark::check(seconds, streams).map_err(said)?;
    let mut contenders = Vec::with_capacity(models.len());
    for (model, name) in models.iter().zip(&names) {
        let model = model.get();
        let given = feeds.map(|feeds| model.given(feeds)).transpose()?;
        let made = py.detach(|| {
            Contender::new(name.as_ref(), model.loaded(), given, &sizes, model.options()).map_err(said)
        });
        contenders.push(made?);
    }
    let mut raised = None;
    let mut tell = |share: f64| {
        let told = Python::attach(|py| {
            py.check_signals()?;
            progress.as_ref().map_or(Ok(()), |callable| callable.call1(py, (share,)).map(|_| ()))
        });
        match told {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                raised = Some(error);
                ControlFlow::Break(())
            }
        }
    };
    let timed = py.detach(|| benchmark::bench(&contenders, seconds, streams, &mut tell).map_err(said));
    match raised {
        Some(raised) => Err(raised),
        None => Ok(pythonize(py, &timed?)?),
    }
}

fn said(error: BenchError) -> PyErr {
    match error {
        BenchError::Prepare(error) => errors::prepare(&error),
        BenchError::Timing(TimingError::Run(error)) => errors::run(&error),
        BenchError::Open(error) => errors::open(&error),
        BenchError::Shapes(_) | BenchError::Feeds(_) => InputError::new_err(error.to_string()),
        BenchError::NoModel | BenchError::Seconds { .. } | BenchError::Streams { .. } => {
            PyValueError::new_err(error.to_string())
        }
        other => PodaError::new_err(other.to_string()),
    }
}
