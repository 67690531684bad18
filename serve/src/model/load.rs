//! From a file to a model that is served: read, prepared, warmed, and tried once.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use poda_formats::{Dim, Graph, Load, OpenError};
use poda_runtime::executable::{PrepareError, RunError};
use poda_runtime::random_feeds::{RandomFeedError, random_feeds};
use poda_runtime::shapes::{ShapesError, Sizes};
use poda_runtime::{LoadError as ModelError, Model, Options, Port, Prefer, Profile};
use tracing::{info, warn};

use super::admission::Admission;
use super::plans::{Form, Plans};
use super::queue::{Batching, Queue, with_samples};
use super::run::Engine;
use super::{Facts, Limits, Parts, Served};
use crate::config::{Config, ConfigError};
use crate::metrics::Metrics;
use crate::refusal::Refusal;
use crate::text::{Text, TextError};

/// Why a file does not become a model that is served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum LoadError {
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    #[error(transparent)]
    Shapes(#[from] ShapesError),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("the trial run: {0}")]
    Trial(#[from] RunError),
    #[error("the trial run: {0}")]
    Feeds(#[from] RandomFeedError),
    #[error("plans for batches of {batch}: {reason}")]
    Warm { batch: usize, reason: String },
    #[error("internal error while loading: a panic; please report it")]
    Panicked,
    #[error("cannot start threads: {0}")]
    Threads(std::io::Error),
    #[error(transparent)]
    Text(#[from] TextError),
    #[error("{path}: {source}", path = path.display())]
    Io { path: std::path::PathBuf, source: std::io::Error },
    #[error("labels.txt has {found} lines, output {output:?} has {expected} classes")]
    Labels { found: usize, output: String, expected: usize },
    #[error(
        "{what} of the new version are not those of the one that serves; --allow-signature-change takes it"
    )]
    Signature { what: &'static str },
    #[error("{path} is still being written", path = path.display())]
    Unsettled { path: std::path::PathBuf },
    #[error("there is no model {name:?} in the repository")]
    NotThere { name: String },
}

/// Loads a model, whatever happens.
pub(crate) fn load(
    config: &Config,
    metrics: &Metrics,
    name: &str,
    version: &str,
    path: &Path,
) -> Result<Served, LoadError> {
    let loaded = catch_unwind(AssertUnwindSafe(|| try_load(config, metrics, name, version, path)));
    loaded.unwrap_or(Err(LoadError::Panicked))
}

fn try_load(
    config: &Config,
    metrics: &Metrics,
    name: &str,
    version: &str,
    path: &Path,
) -> Result<Served, LoadError> {
    let start = Instant::now();
    let model = Model::open_with(path, if config.no_map { Load::Read } else { Load::Map })?;
    let graph = model.graph();
    let (inputs, outputs) = (model.inputs(), model.outputs());
    let folder = path.parent().unwrap_or(Path::new("."));
    let text = Text::beside(folder, &inputs, &outputs)?;
    let labels = labels(folder)?;
    check_labels(labels.as_deref(), &outputs)?;
    let concurrency = config.concurrency();
    let options = Options {
        threads: Some(concurrency.threads),
        prefer: if config.prefer_memory { Prefer::Memory } else { Prefer::Latency },
        tune: !config.no_tune,
        // (So that what `Plans` counts as planned is.)
        plans: config.plans.saturating_mul(2),
        ..Options::default()
    };
    let executable = model.prepare(options)?;
    if let Some(note) = executable.tuner().cache_note() {
        warn!(model = name, "kernels are timed at each start: {note}");
    }
    let batching =
        Batching { most: config.max_batch, sizes: config.batch_sizes(), delay: config.max_delay() };
    let engine = Engine {
        name: name.to_owned(),
        executable,
        inputs: inputs.iter().map(|port| port.name.clone()).collect(),
        queue: Queue::new(batching, concurrency.runs),
        admission: Admission::new(
            config.queue,
            concurrency,
            config.max_batch,
            !config.no_shed_load,
            Instant::now(),
        ),
        plans: Plans::new(config.plans),
        metrics: metrics.model(name, version),
    };
    let shapes = Sizes { batch: 1, given: config.shapes()? }.resolve(graph)?;
    let form: Form = inputs.iter().map(|port| shapes.shapes[&port.name].clone()).collect();
    let profile = trial(&engine, graph, &shapes.shapes)?;
    let (batched, batching) = warm(config, &engine, &inputs, &form, text.as_ref())?;
    engine.executable.tuner().save();
    let counts = graph.parameters();
    // What loading took in passing goes back to the system, and what it read of the file once.
    poda_formats::storage::give_back();
    graph.release();
    let facts = Facts {
        path: path.to_owned(),
        file_bytes: poda_formats::file_bytes(path)?,
        parameters: counts.count,
        nonzero_parameters: counts.nonzero,
        kernels: kernels(&profile),
        batching,
        load_seconds: start.elapsed().as_secs_f64(),
    };
    info!(
        model = name,
        version,
        seconds = facts.load_seconds,
        batching = facts.batching,
        assumed = shapes.note(),
        packings = engine.executable.kept_packings().note(),
        "loaded"
    );
    let limits =
        Limits { concurrency, max_batch: config.max_batch, max_client_batch: config.max_client_batch };
    let (name, version) = (name.to_owned(), version.to_owned());
    let parts = Parts { name, version, inputs, outputs, facts, text, labels, engine, limits, batched };
    Served::start(parts).map_err(LoadError::Threads)
}

/// Runs the model once on made-up inputs, which says what kernels it uses.
fn trial(
    engine: &Engine,
    graph: &Graph,
    shapes: &BTreeMap<String, Vec<usize>>,
) -> Result<Profile, LoadError> {
    let feeds = random_feeds(graph, shapes, 0)?;
    let views: Vec<_> = feeds.iter().map(|(name, tensor)| (name.as_str(), tensor.view())).collect();
    let profile = engine.executable.profile(&views, 1)?;
    engine.plans.add(feeds.iter().map(|(_, tensor)| tensor.shape().to_vec()).collect());
    Ok(profile)
}

fn kernels(profile: &Profile) -> BTreeMap<String, usize> {
    let mut kernels = BTreeMap::new();
    for node in profile.nodes.iter().filter(|node| node.weight.is_some()) {
        *kernels.entry(node.kernel.clone()).or_default() += 1;
    }
    kernels
}

/// Plans for the usual batches; gives whether requests may share runs, and what is said of it.
fn warm(
    config: &Config,
    engine: &Engine,
    inputs: &[Port],
    form: &Form,
    text: Option<&Text>,
) -> Result<(bool, String), LoadError> {
    let failed = |batch| move |refusal: Refusal| LoadError::Warm { batch, reason: refusal.to_string() };
    let open = |port: &Port| matches!(port.shape.as_deref(), Some([Dim::Symbol(_), ..]));
    if let Some(port) = inputs.iter().find(|port| !open(port)) {
        return Ok((false, format!("off: the first dimension of input {:?} is not open", port.name)));
    }
    if inputs.is_empty() {
        return Ok((false, "off: the model has no inputs".into()));
    }
    let mut forms = vec![form.clone()];
    // Texts have lengths of their own.
    forms.extend(text.map(|text| text.warm_forms(form)).unwrap_or_default());
    let mut sizes: Vec<usize> =
        config.warm.iter().copied().filter(|&size| size <= config.max_batch).collect();
    sizes.sort_unstable();
    sizes.dedup();
    let trial = with_samples(form, 2);
    let shapes: Vec<(&str, &[usize])> =
        engine.inputs.iter().map(String::as_str).zip(trial.iter().map(Vec::as_slice)).collect();
    if !engine.executable.samples_apart(&shapes)? {
        return Ok((false, "off: it is not proved that samples of a batch are computed apart".into()));
    }
    for form in &forms {
        for &size in &sizes {
            let form = with_samples(form, size);
            if size == 1 {
                engine.warm(&form).map_err(failed(size))?;
            } else if !engine.warm_batch(&form).map_err(failed(size))? {
                return Ok((false, format!("off: in a batch of {size} samples are not proved to be apart")));
            }
        }
    }
    Ok((
        config.max_batch > 1,
        match config.max_batch {
            1 => "off: --max-batch 1".into(),
            most => format!("up to {most} samples"),
        },
    ))
}

/// The lines of `labels.txt` beside the model.
fn labels(folder: &Path) -> Result<Option<Vec<String>>, LoadError> {
    let path = folder.join("labels.txt");
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text.lines().map(str::to_owned).collect())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(LoadError::Io { path, source }),
    }
}

/// As many labels as the first output has classes.
fn check_labels(labels: Option<&[String]>, outputs: &[Port]) -> Result<(), LoadError> {
    let (Some(labels), Some(output)) = (labels, outputs.first()) else { return Ok(()) };
    match output.shape.as_deref().and_then(<[_]>::last) {
        Some(&Dim::Fixed(expected)) if expected != labels.len() => {
            Err(LoadError::Labels { found: labels.len(), output: output.name.clone(), expected })
        }
        _ => Ok(()),
    }
}

/// The same tensors in and out.
pub(crate) fn same_signature(old: &Served, new: &Served) -> Result<(), LoadError> {
    for (what, old, new) in [("inputs", &old.inputs, &new.inputs), ("outputs", &old.outputs, &new.outputs)] {
        if super::signature(old) != super::signature(new) {
            return Err(LoadError::Signature { what });
        }
    }
    Ok(())
}

impl Served {
    /// For whoever shares it.
    pub(crate) fn shared(self) -> Arc<Self> {
        Arc::new(self)
    }
}
