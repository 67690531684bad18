//! `poda.prune`, as far as it is Rust. Keywords become a [`Recipe`] through serde, so that a new field needs no line here.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Duration;

use poda::Graph;
use poda::calibration::Calibration;
use poda::dataset::Dataset;
use poda::judge::DataJudge;
use poda::pruner::calibration::Samples;
use poda::pruner::goal::{self, Goal};
use poda::pruner::judge::{Correlation, Fidelity, Judge, JudgeError};
use poda::pruner::termination::{State, Verdict};
use poda::pruner::{Data, Observer, Progress, Recipe, Report};
use poda::pruning;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};
use pythonize::{depythonize, pythonize};

use crate::arrays::Fed;
use crate::errors::{self, InputError, PruningError};
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
#[pyo3(signature = (model, output, recipe, *, shape, data, validation, goal, time, metric, termination, progress, threads, prefer))]
pub(crate) fn prune(
    py: Python<'_>,
    model: &Bound<'_, Model>,
    output: Option<PathBuf>,
    recipe: &Bound<'_, PyDict>,
    shape: Option<&Bound<'_, PyDict>>,
    data: Option<&Bound<'_, PyAny>>,
    validation: Option<&Bound<'_, PyAny>>,
    goal: Option<&str>,
    time: f64,
    metric: Option<Py<PyAny>>,
    termination: Option<Py<PyAny>>,
    progress: Option<Py<PyAny>>,
    threads: Option<usize>,
    prefer: &str,
) -> PyResult<Model> {
    let mut recipe: Recipe = depythonize(recipe).map_err(|error| PyValueError::new_err(error.to_string()))?;
    let goal = goal.map(parse_goal).transpose()?;
    if goal.is_none() {
        recipe.validate().map_err(|error| PyValueError::new_err(error.to_string()))?;
    }
    let time = Duration::try_from_secs_f64(time)
        .map_err(|_| PyValueError::new_err(format!("time is {time}, expected seconds, not negative")))?;
    let format = output.as_deref().map(model::format).transpose()?;
    let settings = Settings::new(threads, prefer, true, "map", None)?;
    let (graph, before) = (model.get().graph(), model.get().path());
    let shapes =
        sizes(1, shape)?.resolve_given(graph).map_err(|error| InputError::new_err(error.to_string()))?;
    // Where sizes are not known, timing says which are missing, and nothing else needs them.
    let timed = sizes(1, shape)?.resolve(graph).map_or_else(|_| shapes.clone(), |resolved| resolved.shapes);
    let (data, validation) = (data.map(Given::new).transpose()?, validation.map(Given::new).transpose()?);
    let calibration = data.as_ref().map(|data| data.calibration(graph)).transpose()?;
    // What does not fit is known before anything is pruned.
    let samples = calibration.as_ref().map(|calibration| calibration.bind(graph));
    let samples = samples.transpose().map_err(|error| InputError::new_err(error.to_string()))?;
    let searches = recipe.searches() || goal.is_some();
    let judged_by = validation.as_ref().or(data.as_ref()).filter(|_| searches);
    let judged_by = judged_by.map(Given::dataset).transpose()?;
    let mut labelled = metric.is_some();
    if let Some(data) = &judged_by {
        let bound = data.bind(graph).map_err(|error| InputError::new_err(error.to_string()))?;
        labelled |= bound.are_labelled();
    }
    if goal.is_some() && recipe.keep.is_empty() && recipe.max_drop.is_none() {
        if judged_by.is_none() && metric.is_none() {
            return Err(PyTypeError::new_err(
                "goal needs samples to judge by: data, validation, or a metric",
            ));
        }
        let least = if labelled { "drop=0.01" } else { "cosine=0.99" };
        recipe.keep.push(least.parse().expect("it is a bound"));
    }
    let mut observer = Callbacks { progress, termination, raised: None };
    let scored = settings.clone();
    let (pruned, report) = py.detach(|| {
        let measured = DataJudge::new(graph, judged_by.as_slice(), timed, scored.options());
        let judge = ByMetric { metric, settings: scored, measured };
        let judge = searches.then_some(&judge as &dyn Judge);
        let samples_of = samples.as_ref().map(|samples| samples as &dyn Samples);
        let data = Data { judge, samples: samples_of, ..Data::default() };
        let pruned = match goal {
            None => poda::pruner::prune_with(graph, &recipe, &shapes, &mut observer, data).map(Some),
            Some(goal) => {
                goal::reach(graph, &recipe, goal, &shapes, &mut observer, data, time).map(|(best, tried)| {
                    let (pruned, by, report) = best?;
                    recipe = by;
                    Some((pruned, Report { goal: Some(tried), ..report }))
                })
            }
        };
        if let Some(raised) = observer.raised.take() {
            return Err(raised);
        }
        let (pruned, mut report) = pruned.map_err(errors::prune)?.ok_or_else(|| {
            PruningError::new_err("no way of pruning is better than the dense model and keeps that much")
        })?;
        if let Some(samples) = &samples {
            let likeness = samples.likeness(graph, &pruned);
            report.likeness = Some(likeness.map_err(|error| PruningError::new_err(error.to_string()))?);
        }
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

    fn similarity(&self, graph: &Graph) -> Result<Correlation, JudgeError> {
        self.measured.similarity(graph)
    }

    fn latency(&self, graph: &Graph) -> Result<f64, JudgeError> {
        self.measured.latency(graph)
    }

    fn speedup(&self, graph: &Graph) -> Result<f64, JudgeError> {
        self.measured.speedup(graph)
    }
}

fn parse_goal(text: &str) -> PyResult<Goal> {
    match text {
        "faster" => Ok(Goal::Faster),
        "smaller" => Ok(Goal::Smaller),
        _ => Err(PyValueError::new_err(format!("goal is {text:?}, expected 'faster' or 'smaller'"))),
    }
}

/// Samples, of files or as they are.
enum Given {
    Path(PathBuf),
    Arrays(Dataset),
}

impl Given {
    /// A path, or a dict of arrays `[samples, …]`.
    fn new(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        let Ok(arrays) = object.cast::<PyDict>() else { return Ok(Self::Path(object.extract()?)) };
        let array = |(name, array): (Bound<'_, PyAny>, Bound<'_, PyAny>)| {
            let name = name.extract::<String>()?;
            let tensor = Fed::new(&name, &array, None)?.tensor()?;
            Ok((name, tensor))
        };
        Ok(Self::Arrays(Dataset::new(arrays.iter().map(array).collect::<PyResult<BTreeMap<_, _>>>()?)))
    }

    fn calibration(&self, graph: &Graph) -> PyResult<Calibration> {
        match self {
            Self::Path(path) => {
                Calibration::open(path, graph).map_err(|error| InputError::new_err(error.to_string()))
            }
            Self::Arrays(set) => Ok(Calibration::new(set.clone())),
        }
    }

    fn dataset(&self) -> PyResult<Dataset> {
        match self {
            Self::Path(path) => Dataset::open(path).map_err(|error| InputError::new_err(error.to_string())),
            Self::Arrays(set) => Ok(set.clone()),
        }
    }
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
