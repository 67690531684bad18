//! What comes after [`pruner::prune()`](crate::pruner::prune()): the result is stored without its zeros, written, and its
//! bytes are counted. And what often comes with it: the accuracy on validation samples as the score of a model.

use std::path::Path;

use poda_formats::{FileFormat, Graph, OpenError, WriteError, WriteOptions};
use poda_pruner::report::FileBytes;
use poda_pruner::{Recipe, Report};
use poda_runtime::{LoadError, Model, Options, PrepareError};

use crate::dataset::{Dataset, DatasetError};

/// Samples of a run when a model is scored.
const BATCH: usize = 64;

/// Why a pruned model cannot be stored or scored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum PruningError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    #[error(transparent)]
    Dataset(#[from] DatasetError),
}

/// `pruned` with its zeros stored as nothing, unless it goes to a format that says every zero, and its bytes in the report.
pub fn stored(pruned: Graph, recipe: &Recipe, format: Option<FileFormat>, report: &mut Report) -> Graph {
    let stored = match format {
        Some(FileFormat::Onnx) => pruned,
        Some(FileFormat::Artifact) | None => recipe.granularity.stored(&pruned),
    };
    report.count_bytes(&stored);
    stored
}

/// Writes a stored model to `output`, with the bytes of both files in the report; `before` is the file that it came from.
///
/// # Errors
/// When a file cannot be read or written.
pub fn write(
    stored: &Graph,
    output: &Path,
    before: Option<&Path>,
    report: &mut Report,
) -> Result<(), PruningError> {
    // The file that is written may be the one that was read.
    let before = before.map(poda_formats::file_bytes).transpose()?;
    poda_formats::write(stored, output, &WriteOptions::default())?;
    if let Some(before) = before {
        report.file = Some(FileBytes { before, after: poda_formats::file_bytes(output)? });
    }
    Ok(())
}

/// Top-1 accuracy of a graph on samples with labels.
///
/// # Errors
/// When the samples do not fit, or the model does not run.
pub fn accuracy(data: &Dataset, graph: &Graph) -> Result<f64, PruningError> {
    let model = Model::from_graph(graph.clone()).map_err(LoadError::from)?;
    let executable = model.prepare(Options { tune: false, ..Options::default() })?;
    Ok(data.bind(graph)?.accuracy(&executable, BATCH, None)?.top1)
}
