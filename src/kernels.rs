//! The kernels that were chosen for a model's weights, and what else was considered.

use std::path::PathBuf;

use poda_runtime::{Model, NodeProfile, Options, PrepareError, RunError};
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
    /// Where the choices are kept.
    pub cache: Option<PathBuf>,
    /// Why they are not, if they are not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Sizes that nobody gave.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub assumed: Option<String>,
}

/// Prepares a model, which times the kernels of its weights unless the answers are known, and runs it a few times.
///
/// # Errors
/// When sizes do not fit, or the model does not run.
pub fn choose(model: &Model, sizes: &Sizes, options: Options) -> Result<Choices, ChooseError> {
    let shapes = sizes.resolve(model.graph())?;
    let feeds = feeds::random(model.graph(), &shapes.shapes, 0)?;
    let executable = model.prepare(options)?;
    let profile = executable.profile(&feeds::views(&feeds), RUNS)?;
    let tuner = executable.tuner();
    tuner.save();
    Ok(Choices {
        machine: Machine::this(),
        shapes: shapes.shapes.clone(),
        threads: executable.threads(),
        layers: profile.nodes.into_iter().filter(|node| node.weight.is_some()).collect(),
        cache: tuner.cache_path(),
        note: tuner.cache_note(),
        assumed: shapes.note(),
    })
}
