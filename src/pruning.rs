//! What comes after [`pruner::prune()`](crate::pruner::prune()): the result is stored without its zeros, written, and its
//! bytes are counted.

use std::io;
use std::path::Path;

use poda_formats::{FileFormat, Graph, OpenError, WriteError, WriteOptions};
use poda_pruner::report::FileBytes;
use poda_pruner::{Granularity, Report};

use crate::fingerprint::Fingerprint;
use crate::inspection::PROVENANCE;

/// Notes in a graph, and so in the file that it becomes, by what recipe and version it was pruned, and of which files:
/// their names and [`Fingerprint`]s.
///
/// # Errors
/// When one cannot be read.
pub fn note_provenance(graph: &mut Graph, recipe: &str, model: &Path, data: &[&Path]) -> io::Result<()> {
    let told = |path: &Path| -> io::Result<String> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        Ok(format!("{name} {}", Fingerprint::of(path)?))
    };
    let mut note = |key: &str, text: String| graph.metadata.insert(format!("{PROVENANCE}{key}"), text);
    note("recipe", recipe.to_owned());
    note("version", env!("CARGO_PKG_VERSION").to_owned());
    note("model", told(model)?);
    if !data.is_empty() {
        note("data", data.iter().map(|path| told(path)).collect::<io::Result<Vec<_>>>()?.join(", "));
    }
    Ok(())
}

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
pub fn stored(
    mut pruned: Graph,
    granularity: Granularity,
    format: Option<FileFormat>,
    report: &mut Report,
) -> Graph {
    pruned.drop_packings();
    let stored = match format {
        Some(FileFormat::Onnx) => pruned,
        Some(FileFormat::Artifact) | None => granularity.stored(&pruned),
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
