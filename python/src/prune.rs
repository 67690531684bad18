//! `poda.prune`, as far as it is Rust. Keywords become a [`Recipe`] through serde, so that a new field needs no line here.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::PathBuf;

use poda::Graph;
use poda::dataset::Dataset;
use poda::judge::DataJudge;
use poda::pruner::judge::{Fidelity, Judge, JudgeError};
use poda::pruner::termination::{State, Verdict};
use poda::pruner::{Observer, Progress, Recipe};
use poda::pruning;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};
use pythonize::{depythonize, pythonize};

use crate::arrays::Fed;
use crate::errors::{self, InputError};
use crate::model::{self, Model, Settings, sizes};

/// The fields of a recipe with their defaults.
#[pyfunction]
pub(crate) fn default_recipe(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    Ok(pythonize(py, &Recipe::default())?)
}

/// The fields of a recipe in TOML.
#[pyfunction]
pub(crate) fn read_recipe<'py>(py: Python<'py>, text: &str) -> PyResult<Bound<'py, PyAny>> {
    let recipe = Recipe::parse(text).map_err(|error| PyValueError::new_err(error.to_string()))?;
    Ok(pythonize(py, &recipe)?)
}

/// Prunes a model; `poda.prune` says how.
#[pyfunction]
#[pyo3(signature = (model, output, recipe, *, shape, data, metric, termination, progress, threads, prefer))]
pub(crate) fn prune(
    py: Python<'_>,
    model: &Bound<'_, Model>,
    output: Option<PathBuf>,
    recipe: &Bound<'_, PyDict>,
    shape: Option<&Bound<'_, PyDict>>,
    data: Option<&Bound<'_, PyDict>>,
    metric: Option<Py<PyAny>>,
    termination: Option<Py<PyAny>>,
    progress: Option<Py<PyAny>>,
    threads: Option<usize>,
    prefer: &str,
) -> PyResult<Model> {
    let recipe: Recipe = depythonize(recipe).map_err(|error| PyValueError::new_err(error.to_string()))?;
    recipe.validate().map_err(|error| PyValueError::new_err(error.to_string()))?;
    let format = output.as_deref().map(model::format).transpose()?;
    let settings = Settings::new(threads, prefer, true, "map", None)?;
    let (graph, before) = (model.get().graph(), model.get().path());
    let shapes =
        sizes(1, shape)?.resolve_given(graph).map_err(|error| InputError::new_err(error.to_string()))?;
    // Where sizes are not known, timing says which are missing, and nothing else needs them.
    let timed = sizes(1, shape)?.resolve(graph).map_or_else(|_| shapes.clone(), |resolved| resolved.shapes);
    let data = data.map(dataset).transpose()?;
    if let Some(data) = &data {
        data.bind(graph).map_err(|error| InputError::new_err(error.to_string()))?;
    }
    let mut observer = Callbacks { progress, termination, raised: None };
    let scored = settings.clone();
    let (pruned, report) = py.detach(|| {
        let measured = DataJudge::new(graph, data.as_slice(), timed, scored.options());
        let judge = ByMetric { metric, settings: scored, measured };
        let judge = recipe.searches().then_some(&judge as &dyn Judge);
        let pruned = poda::pruner::prune(graph, &recipe, &shapes, &mut observer, judge);
        if let Some(raised) = observer.raised.take() {
            return Err(raised);
        }
        let (pruned, mut report) = pruned.map_err(errors::prune)?;
        let pruned = pruning::stored(pruned, recipe.granularity, format, &mut report);
        if let Some(output) = &output {
            pruning::write(&pruned, output, before, &mut report).map_err(errors::stored)?;
        }
        Ok::<_, PyErr>((pruned, report))
    })?;
    let report = pythonize(py, &report)?.unbind();
    Model::of_graph(pruned, settings, Some(report))
}

/// Measures candidates, with a score that a Python callable gives, if there is one.
struct ByMetric<'a> {
    metric: Option<Py<PyAny>>,
    settings: Settings,
    measured: DataJudge<'a>,
}

impl Judge for ByMetric<'_> {
    fn score(&self, graph: &Graph) -> Result<f64, JudgeError> {
        let Some(metric) = &self.metric else { return self.measured.score(graph) };
        let score = Python::attach(|py| {
            let model = Model::of_graph(graph.clone(), self.settings.clone(), None)?;
            metric.call1(py, (model,))?.extract::<f64>(py)
        });
        score.map_err(JudgeError::failed)
    }

    fn fidelity(&self, graph: &Graph) -> Result<Fidelity, JudgeError> {
        self.measured.fidelity(graph)
    }

    fn latency(&self, graph: &Graph) -> Result<f64, JudgeError> {
        self.measured.latency(graph)
    }
}

/// Arrays `[samples, …]` by name.
fn dataset(arrays: &Bound<'_, PyDict>) -> PyResult<Dataset> {
    let array = |(name, array): (Bound<'_, PyAny>, Bound<'_, PyAny>)| {
        let name = name.extract::<String>()?;
        let tensor = Fed::new(&name, &array, None)?.tensor()?;
        Ok((name, tensor))
    };
    Ok(Dataset::new(arrays.iter().map(array).collect::<PyResult<BTreeMap<_, _>>>()?))
}

/// Callables of Python's that watch a pruning. What one raises ends it, and so does Ctrl-C.
struct Callbacks {
    progress: Option<Py<PyAny>>,
    termination: Option<Py<PyAny>>,
    raised: Option<PyErr>,
}

impl Callbacks {
    fn call<T>(&mut self, f: impl FnOnce(&Self, Python<'_>) -> PyResult<T>) -> Option<T> {
        match Python::attach(|py| f(self, py)) {
            Ok(value) => Some(value),
            Err(error) => {
                self.raised.get_or_insert(error);
                None
            }
        }
    }
}

impl Observer for Callbacks {
    fn progress(&mut self, progress: Progress) -> ControlFlow<()> {
        if self.raised.is_some() {
            return ControlFlow::Break(());
        }
        let told = self.call(|callbacks, py| {
            py.check_signals()?;
            if let Some(callable) = &callbacks.progress {
                callable.call1(py, (pythonize(py, &progress)?,))?;
            }
            Ok(())
        });
        if told.is_some() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    }

    fn judges(&self) -> bool {
        self.termination.is_some()
    }

    fn verdict(&mut self, state: &State) -> Verdict {
        let verdict = self.call(|callbacks, py| match &callbacks.termination {
            None => Ok(Verdict::Continue),
            Some(callable) => verdict(callable.call1(py, (pythonize(py, state)?,))?.bind(py)),
        });
        // What was raised ends the run as soon as it tells of its progress again.
        verdict.unwrap_or(Verdict::Stop)
    }
}

/// True and 'stop' end the run, 'roll back' takes the step back too, None, False and 'continue' go on.
fn verdict(said: &Bound<'_, PyAny>) -> PyResult<Verdict> {
    if let Ok(text) = said.cast::<PyString>() {
        return match text.to_str()? {
            "continue" => Ok(Verdict::Continue),
            "stop" => Ok(Verdict::Stop),
            "roll back" => Ok(Verdict::RollBack),
            other => Err(PyTypeError::new_err(format!(
                "termination said {other:?}, expected True or 'stop', 'roll back', or None, False or 'continue'"
            ))),
        };
    }
    Ok(if said.is_truthy()? { Verdict::Stop } else { Verdict::Continue })
}
