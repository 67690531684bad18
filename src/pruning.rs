//! What comes after [`pruner::prune()`](crate::pruner::prune()): the result is stored without its zeros, written, and its
//! bytes are counted.

use std::path::Path;

use poda_formats::{FileFormat, Graph, OpenError, WriteError, WriteOptions};
use poda_pruner::report::FileBytes;
use poda_pruner::{Recipe, Report};

/// Why a pruned model cannot be stored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum PruningError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Write(#[from] WriteError),
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
