//! The kernels that were chosen for a model's weights, and what else was considered.

use std::path::{Path, PathBuf};

use poda_formats::{FileFormat, Graph, GraphError, OpenError, Value, WriteError, WriteOptions};
use poda_runtime::{Executable, Model, NodeProfile, Options, PrepareError, RunError};
use serde::Serialize;

use crate::feeds::{self, FeedsError};
use crate::machine::Machine;
use crate::shapes::{Shapes, ShapesError, Sizes};

/// Runs of which a layer's time is the median.
const RUNS: usize = 10;

/// Why no kernels can be chosen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum ChooseError {
    #[error(transparent)]
    Shapes(#[from] ShapesError),
    #[error(transparent)]
    Feeds(#[from] FeedsError),
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    #[error(transparent)]
    Run(#[from] RunError),
    #[error("{path}: only an artifact (.safetensors) holds what kernels read", path = path.display())]
    Output { path: PathBuf },
    #[error(transparent)]
    Graph(#[from] GraphError),
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error(transparent)]
    Open(#[from] OpenError),
}

/// What was chosen for a model on this CPU.
#[derive(Debug, Serialize)]
pub struct Choices {
    /// Where it was chosen.
    #[serde(flatten)]
    pub machine: Machine,
    /// Of a run.
    pub threads: usize,
    /// Of the inputs.
    pub shapes: Shapes,
    /// The layers with a constant weight, with the median time of each in the whole model.
    pub layers: Vec<NodeProfile>,
    /// The file that the model was written to, with what its kernels read ([`Executable::with_packings`]).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<Prepared>,
    /// Where the choices are kept.
    pub cache: Option<PathBuf>,
    /// Why they are not, if they are not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Sizes that nobody gave.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub assumed: Option<String>,
}

/// A model that was written with what its kernels read.
#[derive(Debug, Serialize)]
#[allow(missing_docs)]
pub struct Prepared {
    pub path: PathBuf,
    pub file_bytes: u64,
    /// Weights whose packings it keeps.
    pub packed_weights: usize,
}

/// As [`choose`], of a model whose weights are stored sparse where that is smaller; writes it, as the artifact `output`, with what its
/// kernels read, so that it is sooner ready on such a CPU, with as many threads and for these shapes.
///
/// # Errors
/// As [`choose`]; also when the file cannot be written, or is not to be an artifact.
pub fn choose_and_keep(
    mut graph: Graph,
    sizes: &Sizes,
    options: Options,
    output: &Path,
) -> Result<Choices, ChooseError> {
    if FileFormat::of_name(output) != Some(FileFormat::Artifact) {
        return Err(ChooseError::Output { path: output.to_owned() });
    }
    graph.store_sparse();
    let (mut choices, executable) = chosen(&Model::from_graph(graph)?, sizes, options)?;
    let graph = executable.with_packings();
    poda_formats::write(&graph, output, &WriteOptions::default())?;
    let packed = |value: &&Value| value.weight.as_ref().is_some_and(|weight| !weight.packings().is_empty());
    choices.output = Some(Prepared {
        path: output.to_owned(),
        file_bytes: poda_formats::file_bytes(output)?,
        packed_weights: graph.values.iter().filter(packed).count(),
    });
    Ok(choices)
}

/// Prepares a model, which times the kernels of its weights unless the answers are known, and runs it a few times.
///
/// # Errors
/// When sizes do not fit, or the model does not run.
pub fn choose(model: &Model, sizes: &Sizes, options: Options) -> Result<Choices, ChooseError> {
    Ok(chosen(model, sizes, options)?.0)
}

fn chosen(model: &Model, sizes: &Sizes, options: Options) -> Result<(Choices, Executable), ChooseError> {
    let shapes = sizes.resolve(model.graph())?;
    let feeds = feeds::random(model.graph(), &shapes.shapes, 0)?;
    let executable = model.prepare(options)?;
    let profile = executable.profile(&feeds::views(&feeds), RUNS)?;
    let tuner = executable.tuner();
    tuner.save();
    let choices = Choices {
        machine: Machine::this(),
        shapes: shapes.shapes.clone(),
        threads: executable.threads(),
        layers: profile.nodes.into_iter().filter(|node| node.weight.is_some()).collect(),
        output: None,
        cache: tuner.cache_path(),
        note: tuner.cache_note(),
        assumed: shapes.note(),
    };
    Ok((choices, executable))
}
