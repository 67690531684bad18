//! From one format to another, with the zeros of weights stored as nothing and their values perhaps narrower.

use std::path::{Path, PathBuf};

use poda_formats::weight::{RoundWeightError, SparseError};
use poda_formats::{
    FileFormat, Graph, OpenError, RoundedWeight, ValueType, Weight, WriteError, WriteOptions,
};
use serde::Serialize;

/// How weights are to be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Conversion {
    /// Every weight with its zeros.
    pub dense: bool,
    /// Weights of products and convolutions in this type.
    pub values: Option<ValueType>,
}

/// What a conversion did. Serializes as `poda convert --json` prints it.
#[derive(Debug, Serialize)]
pub struct Converted {
    /// The file that was read; `None` where the model came from elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<File>,
    /// The file that was written.
    pub output: Output,
    /// Weights whose values are narrower than f32, and what that lost.
    pub rounded: Vec<RoundedWeight>,
}

/// A file that was written.
#[derive(Debug, Serialize)]
pub struct Output {
    /// Its name and size.
    #[serde(flatten)]
    pub file: File,
    /// Weights that are stored without their zeros.
    pub sparse_weights: usize,
}

/// A file and its size.
#[derive(Debug, Serialize)]
#[allow(missing_docs)]
pub struct File {
    pub path: PathBuf,
    pub file_bytes: u64,
}

impl File {
    fn at(path: &Path) -> Result<Self, OpenError> {
        Ok(Self { path: path.to_owned(), file_bytes: poda_formats::file_bytes(path)? })
    }
}

/// Why a model cannot be converted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum ConvertError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error(transparent)]
    Round(#[from] RoundWeightError),
    #[error(transparent)]
    Sparse(#[from] SparseError),
}

/// Writes `graph`, which came from the file `input` if from any, to `output`, in the format that its name says.
///
/// # Errors
/// When a weight cannot be stored as asked, or a file not be read or written.
pub fn convert(
    mut graph: Graph,
    input: Option<&Path>,
    output: &Path,
    how: Conversion,
) -> Result<Converted, ConvertError> {
    // The file that is written may be the one that was read.
    let input = input.map(File::at).transpose()?;
    if let Some(values) = how.values {
        graph.round_weights(values)?;
    }
    if how.dense {
        graph.visit_mut(&mut |graph| {
            for weight in graph.values.iter_mut().filter_map(|value| value.weight.as_mut()) {
                if weight.is_sparse() {
                    *weight = Weight::Tensor(weight.to_dense()?);
                }
            }
            Ok::<(), SparseError>(())
        })?;
    }
    // An .onnx file says every zero.
    let artifact = FileFormat::of_name(output) == Some(FileFormat::Artifact);
    if !how.dense && artifact {
        graph.store_sparse();
    }
    poda_formats::write(&graph, output, &WriteOptions::default())?;
    let values = graph.with_bodies().into_iter().flat_map(|graph| &graph.values);
    let sparse = values.filter(|value| value.weight.as_ref().is_some_and(Weight::is_sparse)).count();
    let output = Output { file: File::at(output)?, sparse_weights: if artifact { sparse } else { 0 } };
    Ok(Converted { input, output, rounded: graph.rounded_weights() })
}
