//! `poda.Model`: a model and, once it is needed, the executable made of it.

use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{fmt, process};

use poda::feeds::{self, Feeds};
use poda::formats::{FileFormat, Load, WriteOptions, artifact};
use poda::shapes::{NamedShape, Sizes};
use poda::{Executable, Graph, Options, Prefer, RunOptions, Stop, Tensor, TensorView};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyString, PyTuple};
use pythonize::pythonize;

use crate::arrays::{Fed, to_numpy};
use crate::errors::{self, InputError, ModelError};
use crate::ports::Port;

/// A model, ready to run: Model(path_or_bytes, threads=None, prefer='latency').
///
/// `path_or_bytes` names an ONNX file or an artifact of Poda's, or is the content of one (bytes, or an onnx.ModelProto).
/// `threads` is by default as many as this container may use. `prefer` is 'latency', or 'memory' for the fastest kernel
/// among the smallest. `tune=False` chooses kernels by a cost model instead of timing them on this CPU. `load='read'` copies
/// the file where 'map' shares its pages. `memory_limit` is the most bytes that the activations of a run may take. With
/// `prepare=False` it is made ready at its first run, and not refused before for operators that Poda has not.
///
/// A model may be called from many threads at once, and other Python threads go on meanwhile.
#[pyclass(frozen, subclass, weakref, module = "poda")]
pub(crate) struct Model {
    loaded: poda::Model,
    source: Source,
    settings: Settings,
    /// Locked only by threads that hold the interpreter, and never while they let it go, so that it is free in a fork.
    prepared: Mutex<Option<Arc<Prepared>>>,
    report: Option<Py<PyAny>>,
}

/// Where a model came from, for pickling.
enum Source {
    Path(PathBuf),
    Bytes(Py<PyBytes>),
    /// It was made here.
    Graph,
}

/// How a model runs.
#[derive(Clone)]
pub(crate) struct Settings {
    threads: Option<usize>,
    prefer: Prefer,
    tune: bool,
    load: Load,
    memory_limit: Option<usize>,
}

impl Settings {
    pub(crate) fn new(
        threads: Option<usize>,
        prefer: &str,
        tune: bool,
        load: &str,
        memory_limit: Option<usize>,
    ) -> PyResult<Self> {
        if threads == Some(0) {
            return Err(PyValueError::new_err("threads must be at least 1, or None"));
        }
        let prefer = match prefer {
            "latency" => Prefer::Latency,
            "memory" => Prefer::Memory,
            _ => {
                return Err(PyValueError::new_err(format!(
                    "prefer is {prefer:?}, expected 'latency' or 'memory'"
                )));
            }
        };
        let load = match load {
            "map" => Load::Map,
            "read" => Load::Read,
            _ => return Err(PyValueError::new_err(format!("load is {load:?}, expected 'map' or 'read'"))),
        };
        Ok(Self { threads, prefer, tune, load, memory_limit })
    }

    pub(crate) fn options(&self) -> Options {
        let Self { threads, prefer, tune, memory_limit, .. } = *self;
        Options { threads, prefer, tune, memory_limit, ..Options::default() }
    }
}

/// An executable, and the process whose threads it has.
struct Prepared {
    process: u32,
    executable: ManuallyDrop<Executable>,
}

impl Prepared {
    fn is_ours(&self) -> bool {
        self.process == process::id()
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        // After a fork the threads are the parent's, and to wait for their end would be forever.
        if self.is_ours() {
            // SAFETY: `self` is being dropped, so that nobody uses the executable any more.
            unsafe { ManuallyDrop::drop(&mut self.executable) };
        }
    }
}

impl Deref for Prepared {
    type Target = Executable;

    fn deref(&self) -> &Executable {
        &self.executable
    }
}

impl Model {
    /// A model that was made here, which is prepared when it first runs.
    pub(crate) fn of_graph(graph: Graph, settings: Settings, report: Option<Py<PyAny>>) -> PyResult<Self> {
        let loaded = errors::model(graph)?;
        Ok(Self { loaded, source: Source::Graph, settings, prepared: Mutex::default(), report })
    }

    pub(crate) fn graph(&self) -> &Graph {
        self.loaded.graph()
    }

    pub(crate) fn loaded(&self) -> &poda::Model {
        &self.loaded
    }

    pub(crate) fn options(&self) -> Options {
        self.settings.options()
    }

    pub(crate) fn path(&self) -> Option<&Path> {
        match &self.source {
            Source::Path(path) => Some(path),
            Source::Bytes(_) | Source::Graph => None,
        }
    }

    /// The executable, made now if there is none of this process.
    fn prepared(&self, py: Python<'_>) -> PyResult<Arc<Prepared>> {
        let known = self.lock().clone();
        if let Some(prepared) = known.filter(|prepared| prepared.is_ours()) {
            return Ok(prepared);
        }
        let made = py.detach(|| self.loaded.prepare(self.settings.options()));
        let executable = ManuallyDrop::new(made.map_err(|error| errors::prepare(&error))?);
        let prepared = Arc::new(Prepared { process: process::id(), executable });
        *self.lock() = Some(Arc::clone(&prepared));
        Ok(prepared)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Arc<Prepared>>> {
        self.prepared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What an input or a weight that an input may replace is declared as.
    fn fed<'py>(&self, name: &str, array: &Bound<'py, PyAny>) -> PyResult<Fed<'py>> {
        let graph = self.graph();
        let declared = graph.inputs.iter().map(|&id| graph.value(id)).find(|value| value.name == name);
        Fed::new(name, array, declared.and_then(|value| value.dtype))
    }

    fn execute<'py>(
        &self,
        py: Python<'py>,
        fed: &[(&str, Fed<'py>)],
        timeout: Option<f64>,
    ) -> PyResult<Vec<(String, Tensor)>> {
        let prepared = self.prepared(py)?;
        let views = fed.iter().map(|(name, fed)| Ok((*name, fed.view()?))).collect::<PyResult<Vec<_>>>()?;
        let deadline = timeout.map(deadline).transpose()?;
        let options = RunOptions { stop: Stop { deadline, ..Stop::default() }, ..RunOptions::default() };
        py.detach(|| prepared.run_with(&views, &options)).map_err(|error| errors::run(&error))
    }

    fn names(&self) -> Vec<&str> {
        self.graph().inputs.iter().map(|&id| self.graph().value(id).name.as_str()).collect()
    }

    /// Arrays by name, copied.
    pub(crate) fn given(&self, feeds: &Bound<'_, PyDict>) -> PyResult<Feeds> {
        let feed = |(name, array): (Bound<'_, PyAny>, Bound<'_, PyAny>)| {
            let name = name.extract::<String>()?;
            let tensor = self.fed(&name, &array)?.tensor()?;
            Ok((name, tensor))
        };
        feeds.iter().map(feed).collect()
    }

    /// Arrays for a profile: those given, or made up.
    fn feeds(&self, feeds: Option<&Bound<'_, PyDict>>, sizes: &Sizes) -> PyResult<Feeds> {
        if let Some(feeds) = feeds {
            return self.given(feeds);
        }
        let resolved = sizes.resolve(self.graph()).map_err(|error| InputError::new_err(error.to_string()))?;
        feeds::random(self.graph(), &resolved.shapes, 0)
            .map_err(|error| InputError::new_err(error.to_string()))
    }
}

fn deadline(seconds: f64) -> PyResult<Instant> {
    let duration = Duration::try_from_secs_f64(seconds).ok();
    duration.and_then(|duration| Instant::now().checked_add(duration)).ok_or_else(|| {
        PyValueError::new_err(format!("timeout is {seconds}, expected seconds, not negative, or None"))
    })
}

/// `{'ids': (1, 128), 'sequence': 128}`: shapes of inputs, and sizes of open dimensions.
pub(crate) fn sizes(batch: usize, given: Option<&Bound<'_, PyDict>>) -> PyResult<Sizes> {
    let named = |(name, dims): (Bound<'_, PyAny>, Bound<'_, PyAny>)| {
        let shape = match dims.extract::<usize>() {
            Ok(size) => vec![size],
            Err(_) => dims.extract()?,
        };
        Ok(NamedShape { name: name.extract()?, shape })
    };
    let given = given.into_iter().flatten().map(named).collect::<PyResult<_>>()?;
    Ok(Sizes { batch, given })
}

#[pymethods]
impl Model {
    #[new]
    #[pyo3(signature = (path_or_bytes, threads=None, prefer="latency", *, tune=true, load="map", memory_limit=None, prepare=true))]
    fn new(
        py: Python<'_>,
        path_or_bytes: &Bound<'_, PyAny>,
        threads: Option<usize>,
        prefer: &str,
        tune: bool,
        load: &str,
        memory_limit: Option<usize>,
        prepare: bool,
    ) -> PyResult<Self> {
        let settings = Settings::new(threads, prefer, tune, load, memory_limit)?;
        let made = |loaded, source| Self {
            loaded,
            source,
            settings: settings.clone(),
            prepared: Mutex::default(),
            report: None,
        };
        let model = if let Ok(path) = path_or_bytes.extract::<PathBuf>() {
            let path = std::path::absolute(&path).unwrap_or(path);
            let model = py.detach(|| poda::Model::open_with(&path, settings.load));
            made(model.map_err(|error| errors::load(&error))?, Source::Path(path))
        } else {
            let bytes = content(path_or_bytes)?;
            let content = bytes.as_bytes();
            let model = py.detach(|| poda::Model::from_bytes(content));
            made(model.map_err(|error| errors::load(&error))?, Source::Bytes(bytes.unbind()))
        };
        if prepare {
            model.prepared(py)?;
        }
        Ok(model)
    }

    /// Runs the model on arrays, in the order of `inputs` or by name: the one output, or a dict of several.
    #[pyo3(signature = (*arrays, **named))]
    fn __call__<'py>(
        &self,
        py: Python<'py>,
        arrays: &Bound<'py, PyTuple>,
        named: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let names = self.names();
        if arrays.len() > names.len() {
            let (given, takes) = (arrays.len(), names.len());
            return Err(PyTypeError::new_err(format!(
                "the model takes {takes} inputs {names:?}, {given} given"
            )));
        }
        let mut fed = Vec::with_capacity(names.len());
        for (name, array) in names.iter().zip(arrays) {
            fed.push((*name, self.fed(name, &array)?));
        }
        let named: Vec<_> = named.into_iter().flatten().collect();
        for (name, array) in &named {
            let name = name.cast::<PyString>()?.to_str()?;
            fed.push((name, self.fed(name, array)?));
        }
        let mut outputs = self.execute(py, &fed, None)?;
        match outputs.pop() {
            Some((_, output)) if outputs.is_empty() => to_numpy(py, output),
            last => Ok(as_dict(py, outputs.into_iter().chain(last))?.into_any()),
        }
    }

    /// Runs the model on arrays by name; gives a dict of its outputs. `outputs` names the ones wanted; `timeout` ends the run,
    /// with a DeadlineError, after so many seconds.
    #[pyo3(signature = (feeds, outputs=None, *, timeout=None))]
    fn run<'py>(
        &self,
        py: Python<'py>,
        feeds: &Bound<'py, PyDict>,
        outputs: Option<Vec<String>>,
        timeout: Option<f64>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let feeds: Vec<_> = feeds.iter().collect();
        let mut fed = Vec::with_capacity(feeds.len());
        for (name, array) in &feeds {
            let name = name.cast::<PyString>()?.to_str()?;
            fed.push((name, self.fed(name, array)?));
        }
        if let Some(wanted) = &outputs {
            let graph = self.graph();
            let known: Vec<_> = graph.outputs.iter().map(|&id| graph.value(id).name.as_str()).collect();
            if let Some(unknown) = wanted.iter().find(|name| !known.contains(&name.as_str())) {
                return Err(InputError::new_err(format!(
                    "no output is named {unknown:?}; the model gives {known:?}"
                )));
            }
        }
        let mut results = self.execute(py, &fed, timeout)?;
        match outputs {
            None => as_dict(py, results),
            Some(wanted) => {
                results.retain(|(name, _)| wanted.contains(name));
                results.sort_by_key(|(name, _)| wanted.iter().position(|wanted| wanted == name));
                as_dict(py, results)
            }
        }
    }

    /// What the model takes, in order.
    #[getter]
    fn inputs(&self) -> Vec<Port> {
        self.loaded.inputs().into_iter().map(Port::from).collect()
    }

    /// What the model gives, in order.
    #[getter]
    fn outputs(&self) -> Vec<Port> {
        self.loaded.outputs().into_iter().map(Port::from).collect()
    }

    /// What the file says of itself.
    #[getter]
    fn metadata(&self) -> std::collections::BTreeMap<String, String> {
        self.loaded.metadata().clone()
    }

    /// Number of threads that a run uses.
    #[getter]
    fn threads(&self, py: Python<'_>) -> PyResult<usize> {
        Ok(self.prepared(py)?.threads())
    }

    /// Fraction of zeros among all parameters.
    #[getter]
    fn sparsity(&self) -> f64 {
        let parameters = self.graph().parameters();
        1.0 - parameters.nonzero as f64 / parameters.count.max(1) as f64
    }

    /// What pruning did, as `poda prune --json` prints it; None for a model that was not pruned here.
    #[getter]
    fn report<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.report.as_ref().map(|report| report.bind(py).clone())
    }

    /// Every weight by its name, as a dense array of its own.
    fn weights<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let weights = PyDict::new(py);
        for value in &self.graph().values {
            if let Some(weight) = &value.weight {
                let dense = py
                    .detach(|| weight.to_dense())
                    .map_err(|error| ModelError::new_err(error.to_string()))?;
                weights.set_item(&value.name, to_numpy(py, dense)?)?;
            }
        }
        Ok(weights)
    }

    /// Plans, packs and tunes ahead, so that the first run is as fast as the next: for shapes such as
    /// {'ids': (1, 128)} or {'sequence': 128}, and by default for batches of `batch` and usual sizes.
    #[pyo3(signature = (shapes=None, *, batch=1))]
    fn warm(&self, py: Python<'_>, shapes: Option<&Bound<'_, PyDict>>, batch: usize) -> PyResult<()> {
        let resolved = sizes(batch, shapes)?.resolve(self.graph());
        let resolved = resolved.map_err(|error| InputError::new_err(error.to_string()))?;
        let prepared = self.prepared(py)?;
        let named: Vec<(&str, &[usize])> =
            resolved.shapes.iter().map(|(name, shape)| (name.as_str(), shape.as_slice())).collect();
        py.detach(|| prepared.warm(&named)).map_err(|error| errors::run(&error))
    }

    /// Where the time of a run goes: a dict with 'nodes', each with its kernel and milliseconds, and 'total_ms'. The inputs
    /// are those of `feeds`, or made up.
    #[pyo3(signature = (feeds=None, *, runs=10, batch=1, shapes=None))]
    fn profile<'py>(
        &self,
        py: Python<'py>,
        feeds: Option<&Bound<'py, PyDict>>,
        runs: usize,
        batch: usize,
        shapes: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let feeds = self.feeds(feeds, &sizes(batch, shapes)?)?;
        let prepared = self.prepared(py)?;
        let views: Vec<(&str, TensorView<'_>)> = feeds::views(&feeds);
        let profile = py.detach(|| prepared.profile(&views, runs)).map_err(|error| errors::run(&error))?;
        let said = pythonize(py, &profile)?;
        said.set_item("total_ms", profile.total_ms())?;
        Ok(said)
    }

    /// Writes the model: .safetensors, Poda's artifact, or .onnx.
    fn save(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        py.detach(|| poda::formats::write(self.graph(), &path, &WriteOptions::default()))
            .map_err(|error| errors::write(&error))
    }

    /// The model as the bytes of an artifact.
    fn to_bytes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let mut bytes = Vec::new();
        py.detach(|| artifact::write(&mut bytes, self.graph()))
            .map_err(|error| ModelError::new_err(error.to_string()))?;
        Ok(PyBytes::new(py, &bytes))
    }

    /// Pickles by path, or by content where the model came as bytes or was made here.
    fn __getnewargs_ex__<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyTuple>, Bound<'py, PyDict>)> {
        let source = match &self.source {
            Source::Path(path) => path.as_os_str().into_pyobject(py)?.into_any(),
            Source::Bytes(bytes) => bytes.bind(py).clone().into_any(),
            Source::Graph => self.to_bytes(py)?.into_any(),
        };
        let Settings { threads, prefer, tune, load, memory_limit } = self.settings;
        let options = PyDict::new(py);
        options.set_item("threads", threads)?;
        options.set_item("prefer", if prefer == Prefer::Memory { "memory" } else { "latency" })?;
        options.set_item("tune", tune)?;
        options.set_item("load", if load == Load::Read { "read" } else { "map" })?;
        options.set_item("memory_limit", memory_limit)?;
        Ok((PyTuple::new(py, [source])?, options))
    }

    fn __repr__(&self) -> String {
        let of = match &self.source {
            Source::Path(path) => format!("\"{}\", ", path.display()),
            Source::Bytes(_) | Source::Graph => String::new(),
        };
        format!(
            "Model({of}inputs={}, outputs={})",
            Names(&self.loaded.inputs()),
            Names(&self.loaded.outputs())
        )
    }
}

/// Names of ports, in brackets.
struct Names<'a>(&'a [poda::Port]);

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.0.iter().map(|port| port.name.as_str()).collect();
        write!(f, "{names:?}")
    }
}

fn as_dict(
    py: Python<'_>,
    outputs: impl IntoIterator<Item = (String, Tensor)>,
) -> PyResult<Bound<'_, PyDict>> {
    let dict = PyDict::new(py);
    for (name, tensor) in outputs {
        dict.set_item(name, to_numpy(py, tensor)?)?;
    }
    Ok(dict)
}

/// The content of a file: bytes, what is like them, or a message of protobuf's.
pub(crate) fn content<'py>(object: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
    if let Ok(bytes) = object.cast::<PyBytes>() {
        return Ok(bytes.clone());
    }
    let py = object.py();
    let made = if object.hasattr("SerializeToString")? {
        object.call_method0("SerializeToString")
    } else {
        // (Of a number, `bytes` alone would make so many zeros.)
        let view = py.import("builtins")?.getattr("memoryview")?.call1((object,));
        view.and_then(|view| py.get_type::<PyBytes>().call1((view,)))
    };
    let unfit = || {
        let of = object.get_type().name().map_or_else(|_| "object".to_owned(), |name| name.to_string());
        PyTypeError::new_err(format!("a model is a path, bytes or an onnx.ModelProto, not {of}"))
    };
    made.map_err(|_| unfit())?.cast_into::<PyBytes>().map_err(|_| unfit())
}

/// The format that the name of a file says.
pub(crate) fn format(path: &Path) -> PyResult<FileFormat> {
    FileFormat::of_name(path).ok_or_else(|| {
        PyValueError::new_err(format!(
            "cannot tell from the name {} which format to write: .onnx and .safetensors are possible",
            path.display()
        ))
    })
}
