//! Models timed against each other, in turn, in one process.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use poda_formats::{OpenError, TensorView};
use poda_runtime::{Executable, Model, Options, PrepareError};
use serde::Serialize;

use crate::batching::Batching;
use crate::feeds::{self, Feeds, FeedsError};
use crate::machine::Machine;
use crate::profiling::Profiled;
use crate::shapes::{Shapes, ShapesError, Sizes};
use crate::timing::{self, Contestant, Latency, Timing, TimingError};

/// Why models cannot be timed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum BenchError {
    #[error("there is no model")]
    NoModel,
    #[error("seconds is {given}, expected 0 to {MOST_SECONDS}")]
    Seconds { given: f64 },
    #[error("streams is {given}, expected 1 to {MOST_STREAMS}")]
    Streams { given: usize },
    #[error(transparent)]
    Shapes(#[from] ShapesError),
    #[error(transparent)]
    Feeds(#[from] FeedsError),
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Timing(#[from] TimingError),
}

/// A day.
const MOST_SECONDS: f64 = 86_400.0;
const MOST_STREAMS: usize = 4096;

/// Models beside each other. Serializes as `poda bench --json` prints it.
#[derive(Debug, Serialize)]
#[allow(missing_docs)]
pub struct Bench {
    pub models: Vec<Row>,
    #[serde(flatten)]
    pub machine: Machine,
    pub threads: usize,
    pub streams: usize,
    /// Samples of a run, of the first model.
    pub batch: usize,
    pub notes: Vec<String>,
}

/// One model.
#[derive(Debug, Serialize)]
#[allow(missing_docs)]
pub struct Row {
    /// Its file, or what it is called.
    pub path: PathBuf,
    pub latency_ms: Latency,
    /// Samples of a run: the size of the model's batch axis, whichever way it came about.
    pub batch: usize,
    /// Of the inputs.
    pub shapes: Shapes,
    /// Of one stream, from the median latency.
    pub samples_per_second: f64,
    /// Samples that all streams finished in a second, by the clock.
    pub throughput: f64,
    pub runs: usize,
    pub speedup_over_first: f64,
    pub speedup_quartiles: [f64; 2],
    /// Distance of the quartiles of the turns' medians, as a share of their median.
    pub unrest: f64,
    /// What a process of its own took.
    #[serde(flatten)]
    pub footprint: Option<Loading>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<Profiled>,
}

/// Resident MiB after loading and a few runs, and the most until then.
#[derive(Debug, Serialize)]
#[allow(missing_docs)]
pub struct Rss {
    pub loaded: f64,
    pub peak: f64,
}

/// What it took to load a model.
#[derive(Debug, Serialize)]
#[allow(missing_docs)]
pub struct Loading {
    /// Until the first outputs, where the kernels are chosen already.
    pub load_ms: f64,
    /// Until the first outputs, where they are not.
    pub first_load_ms: f64,
    pub rss_mb: Rss,
}

/// A model that is ready to run, and what it is fed.
#[derive(Debug)]
#[allow(missing_docs)]
pub struct Contender {
    pub path: PathBuf,
    pub executable: Executable,
    pub feeds: Feeds,
    pub shapes: Shapes,
    /// Samples of a run.
    pub batch: usize,
    /// Sizes that nobody gave.
    pub assumed: Option<String>,
}

impl Contender {
    /// A model by its file or name, fed `given`, or what is made up in such sizes.
    ///
    /// # Errors
    /// When sizes do not fit, or the model cannot be prepared.
    pub fn new(
        path: &Path,
        model: &Model,
        given: Option<Feeds>,
        sizes: &Sizes,
        options: Options,
    ) -> Result<Self, BenchError> {
        let graph = model.graph();
        let (feeds, assumed) = match given {
            Some(feeds) => (feeds, None),
            None => {
                let resolved = sizes.resolve(graph)?;
                (feeds::random(graph, &resolved.shapes, 0)?, resolved.note())
            }
        };
        let shapes: Shapes =
            feeds.iter().map(|(name, tensor)| (name.clone(), tensor.shape().to_vec())).collect();
        let batch = Batching::of(graph, &shapes).samples(graph, &shapes);
        let executable = model.prepare(options)?;
        Ok(Self { path: path.to_owned(), executable, feeds, shapes, batch, assumed })
    }

    /// What it is fed, as a run takes it.
    pub fn views(&self) -> Vec<(&str, TensorView<'_>)> {
        feeds::views(&self.feeds)
    }
}

/// Times models in turn, for `seconds` each, in `streams` runs at once. `progress` is told the share that is done, and may break
/// off. Footprints and profiles are left to whoever measures them.
///
/// # Errors
/// When a number is out of range, or a model does not run.
pub fn bench(
    contenders: &[Contender],
    seconds: f64,
    streams: usize,
    progress: &mut dyn FnMut(f64) -> ControlFlow<()>,
) -> Result<Bench, BenchError> {
    check(seconds, streams)?;
    let Some(first) = contenders.first() else { return Err(BenchError::NoModel) };
    let contestants: Vec<_> = contenders
        .iter()
        .map(|contender| Contestant { executable: &contender.executable, feeds: contender.views() })
        .collect();
    let timings = timing::alternate(&contestants, seconds, streams, progress)?;
    let mut notes: Vec<String> = Vec::new();
    for contender in contenders {
        let packings = contender.executable.kept_packings().note();
        notes.extend(packings.map(|note| format!("{}: {note}", contender.path.display())));
        notes.extend(contender.assumed.clone().filter(|note| !notes.contains(note)));
    }
    if contenders.iter().any(|other| other.batch != first.batch) {
        notes.push("the models run batches of different sizes: compare samples a second".to_owned());
    }
    notes.extend(unrest(contenders, &timings));
    let rows = contenders.iter().zip(timings).map(|(contender, timing)| row(contender, timing));
    Ok(Bench {
        models: rows.collect(),
        machine: Machine::this(),
        threads: first.executable.threads(),
        streams,
        batch: first.batch,
        notes,
    })
}

/// Whether models can be timed so.
///
/// # Errors
/// When a number is out of range.
pub fn check(seconds: f64, streams: usize) -> Result<(), BenchError> {
    if !(0.0..=MOST_SECONDS).contains(&seconds) {
        return Err(BenchError::Seconds { given: seconds });
    }
    if !(1..=MOST_STREAMS).contains(&streams) {
        return Err(BenchError::Streams { given: streams });
    }
    Ok(())
}

fn row(contender: &Contender, timing: Timing) -> Row {
    Row {
        path: contender.path.clone(),
        batch: contender.batch,
        shapes: contender.shapes.clone(),
        samples_per_second: contender.batch as f64 * 1e3 / timing.latency.p50,
        throughput: contender.batch as f64 * timing.runs_per_second,
        latency_ms: timing.latency,
        runs: timing.runs,
        speedup_over_first: timing.speedup,
        speedup_quartiles: timing.spread,
        unrest: timing.unrest,
        footprint: None,
        file_bytes: None,
        profile: None,
    }
}

/// A warning where the machine was not at rest.
fn unrest(contenders: &[Contender], timings: &[Timing]) -> Option<String> {
    let all = contenders.iter().zip(timings);
    let (contender, why) = all.into_iter().find_map(|(c, timing)| Some((c, timing.disturbed()?)))?;
    let name = contender.path.file_name().unwrap_or(contender.path.as_os_str()).to_string_lossy();
    Some(format!(
        "the machine was busy, or its clock changed: of {name}, {why}; trust ratios rather than times, and repeat"
    ))
}
