//! ONNX in a build without feature `onnx`: a file of that format is told, and refused with the way out.

use std::collections::BTreeSet;
use std::path::Path;

use crate::graph::Graph;
use crate::storage::{Load, Storage};

/// Start of the metadata keys that hold properties of the ONNX file that a model was made of.
pub const METADATA_PREFIX: &str = "onnx.";

/// Why an ONNX file cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OnnxError {
    /// Always.
    #[error(
        "no artifact of Poda's, and this program was built without ONNX: enable feature `onnx`, or make an artifact of a \
         model with `poda convert model.onnx -o model.safetensors`"
    )]
    LeftOut,
}

/// As [`OnnxError`].
pub type WriteError = OnnxError;

/// How to write a model: there is nothing to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OnnxOptions {}

pub(crate) fn read_file(_: &Path, _: Storage, _: Load) -> Result<Graph, OnnxError> {
    Err(OnnxError::LeftOut)
}

pub(crate) fn read_storage(_: Storage) -> Result<Graph, OnnxError> {
    Err(OnnxError::LeftOut)
}

pub(crate) fn external_locations(_: Storage) -> Result<BTreeSet<String>, OnnxError> {
    Err(OnnxError::LeftOut)
}

pub(crate) fn save(_: &Graph, _: &Path, _: &OnnxOptions) -> Result<(), WriteError> {
    Err(OnnxError::LeftOut)
}
