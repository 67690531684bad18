//! From one format to another, with the zeros of weights stored as nothing and their values perhaps narrower.

use std::io;
use std::path::{Path, PathBuf};

use poda_formats::atomic::{self, AtomicFile};
use poda_formats::safetensors::{self, SafeTensorsError};
use poda_formats::weight::{RoundWeightError, SparseError};
use poda_formats::{
    DataType, FileFormat, Graph, OpenError, RoundedWeight, ValueType, Weight, WriteError, WriteOptions,
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
    #[error("{path}: {error}", path = path.display())]
    Read { path: PathBuf, error: SafeTensorsError },
    #[error("{path}: {error}", path = path.display())]
    Io { path: PathBuf, error: io::Error },
    #[error("{path}: the model has no weight {name:?}", path = path.display())]
    Unknown { path: PathBuf, name: String },
    #[error(
        "{path}: weight {name:?} is {dtype} {found:?}, in the model {expected_type} {expected:?}",
        path = path.display()
    )]
    Shape {
        path: PathBuf,
        name: String,
        dtype: DataType,
        found: Vec<usize>,
        expected_type: DataType,
        expected: Vec<usize>,
    },
}

/// Sets weights to those of a safetensors file, by name. Those that are not there stay.
///
/// # Errors
/// When one is of another name, shape or type than the model's, or the file cannot be read.
pub fn set_weights(graph: &mut Graph, path: &Path) -> Result<(), ConvertError> {
    let failed = |error| ConvertError::Read { path: path.to_owned(), error };
    let file = safetensors::read(path).map_err(failed)?;
    let mut names: Vec<&str> = file.names().collect();
    names.sort_unstable();
    for name in names {
        let tensor = file.tensor(name).map_err(failed)?;
        let known = graph.find(name).and_then(|id| Some((id, graph.weight(id)?)));
        let Some((id, weight)) = known else {
            return Err(ConvertError::Unknown { path: path.to_owned(), name: name.to_owned() });
        };
        if (weight.shape(), weight.dtype()) != (tensor.shape(), tensor.dtype()) {
            return Err(ConvertError::Shape {
                path: path.to_owned(),
                name: name.to_owned(),
                dtype: tensor.dtype(),
                found: tensor.shape().to_vec(),
                expected_type: weight.dtype(),
                expected: weight.shape().to_vec(),
            });
        }
        graph.value_mut(id).weight = Some(Weight::Tensor(tensor));
    }
    Ok(())
}

/// Writes the float weights of a graph, dense and by name, as a safetensors file; gives their number.
///
/// # Errors
/// When a weight cannot be read, or the file not be written.
pub fn write_weights(graph: &Graph, path: &Path) -> Result<usize, ConvertError> {
    let mut tensors = Vec::new();
    for value in &graph.values {
        if let Some(weight) = value.weight.as_ref().filter(|weight| weight.dtype().is_float()) {
            tensors.push((value.name.clone(), weight.to_dense()?));
        }
    }
    let write = || -> io::Result<()> {
        let mut file = AtomicFile::create_in(atomic::folder(path))?;
        safetensors::write_packed(&mut file, &tensors)?;
        file.commit(path)
    };
    write().map_err(|error| ConvertError::Io { path: path.to_owned(), error })?;
    Ok(tensors.len())
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
    graph.drop_packings();
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
