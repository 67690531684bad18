//! Writing: a graph becomes a model that other engines load.
//!
//! The model imports the oldest operator set, from 18 on, that has the forms of all its operators, so that older
//! engines load it. Names, declared types and symbolic dimensions are kept; what bodies of control flow capture is
//! referred to by name again. Weights go to disk one by one: a sparse one is made dense only for that moment. Of
//! weights that share their bytes only the first is written, and stands for all.

mod attributes;
mod graph;
mod op;
mod stream;
#[cfg(test)]
mod tests;

use std::io::{self, Write};
use std::path::{Path, PathBuf};

pub(super) use self::attributes::Form;
use self::graph::{Main, Writer};
use self::stream::Weights;
use super::METADATA_PREFIX;
use super::proto::{ModelProto, OperatorSetIdProto, StringStringEntryProto};
use crate::atomic::{self, AtomicFile};
use crate::graph::{Graph, GraphError};
use crate::weight::SparseError;

/// The operator set that a model imports when nothing in it needs a newer one.
const BASE_OPSET: i64 = 18;

/// Protobuf messages end below this.
const MESSAGE_LIMIT: usize = i32::MAX as usize;

/// Weights smaller than this, in bytes, stay in the model: engines read shapes and axes there.
const EXTERNAL_FROM: usize = 1024;

/// How to write a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OnnxOptions {
    /// Write CSR weights of the main graph as `sparse_initializer`. Smaller above two thirds of zeros. ONNX Runtime
    /// reads them for any operator, but the type inference of ONNX itself (`onnx.checker` with `full_check`) accepts
    /// them for none.
    pub sparse_initializers: bool,
    /// Models of more bytes than this keep their weights in a second file beside them. At most, and by default,
    /// 2 GiB, the limit of the format.
    pub external_data_above: usize,
}

impl Default for OnnxOptions {
    fn default() -> Self {
        Self { sparse_initializers: false, external_data_above: MESSAGE_LIMIT }
    }
}

/// Why a graph cannot be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum WriteError {
    #[error(transparent)]
    Graph(#[from] GraphError),
    #[error("weight {weight:?}: {error}")]
    Weight { weight: String, error: SparseError },
    #[error("input {name:?} has no declared type")]
    InputType { name: String },
    #[error("node {node:?}: an attribute is damaged: {error}")]
    Attribute { node: String, error: prost::DecodeError },
    #[error("node {node:?} is a {op}, which training uses and ONNX has not")]
    NotOnnx { node: String, op: String },
    #[error("node {node:?} holds a graph that refers to {value:?}, which would have to be renamed")]
    ForeignCapture { node: String, value: String },
    #[error(
        "the model takes {bytes} bytes without the weights that can be moved out; {MESSAGE_LIMIT} are possible"
    )]
    TooLarge { bytes: usize },
    #[error("the name of {path:?} is not UTF-8, so the model cannot refer to a file beside it")]
    FileName { path: PathBuf },
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Writes `graph` as one model without external data.
///
/// # Errors
/// When the graph is not well formed, its model does not fit 2 GiB, or `out` cannot be written to.
pub fn write(out: &mut impl Write, graph: &Graph, options: &OnnxOptions) -> Result<(), WriteError> {
    let mut graph = graph.clone();
    graph.normalize()?;
    let (model, weights) = messages(&graph, options)?;
    let layout = weights.layout(model, "")?;
    check_size(layout.bytes)?;
    weights.write_model(out, &layout)
}

/// Writes `graph` as the model `path`, with its weights in a file beside it where [`OnnxOptions`] say so.
///
/// An old model there, and its old weights, stay as they are until the new one is whole and on disk. The file of
/// weights has a name of its own for each content, `NAME.HASH.data`; those of older writes to the same path are
/// removed afterwards.
///
/// # Errors
/// As [`write()`]; also when a folder or a device is at `path`.
pub fn save(graph: &Graph, path: impl AsRef<Path>, options: &OnnxOptions) -> Result<(), WriteError> {
    let path = atomic::destination(path.as_ref())?;
    let folder = atomic::folder(&path);
    let mut graph = graph.clone();
    graph.normalize()?;
    let (model, mut weights) = messages(&graph, options)?;
    let limit = options.external_data_above.min(MESSAGE_LIMIT);
    let mut location = String::new();
    let mut data = None;
    let mut layout = weights.layout(model.clone(), "")?;
    if layout.bytes > limit && weights.move_out(EXTERNAL_FROM) {
        let mut file = AtomicFile::create_in(folder)?;
        location = data_name(&path, weights.write_external(&mut file)?)?;
        data = Some(file);
        layout = weights.layout(model, &location)?;
    }
    check_size(layout.bytes)?;
    let mut file = AtomicFile::create_in(folder)?;
    weights.write_model(&mut file, &layout)?;
    if let Some(data) = data {
        data.commit(&folder.join(&location))?;
    }
    file.commit(&path)?;
    remove_old_data(&path, &location);
    Ok(())
}

fn check_size(bytes: usize) -> Result<(), WriteError> {
    if bytes > MESSAGE_LIMIT { Err(WriteError::TooLarge { bytes }) } else { Ok(()) }
}

/// The model without the weights of its main graph, and these.
fn messages<'g>(graph: &'g Graph, options: &OnnxOptions) -> Result<(ModelProto, Weights<'g>), WriteError> {
    let mut writer = Writer::default();
    let Main { graph: proto, weights } = writer.main(graph)?;
    let opset = writer.opsets.entry(String::new()).or_default();
    *opset = BASE_OPSET.max(*opset);
    let ir_version = ir_version(*opset);
    let property = |key: &str| graph.metadata.get(&format!("{METADATA_PREFIX}{key}")).cloned();
    let own =
        graph.metadata.iter().filter(|(key, _)| !key.starts_with(METADATA_PREFIX) && *key != Graph::KERNELS);
    let model = ModelProto {
        ir_version: Some(ir_version),
        producer_name: "poda".to_owned(),
        producer_version: env!("CARGO_PKG_VERSION").to_owned(),
        domain: property("domain").unwrap_or_default(),
        model_version: property("model_version").and_then(|v| v.parse().ok()).unwrap_or_default(),
        graph: Some(proto),
        opset_import: (writer.opsets.into_iter())
            .map(|(domain, version)| OperatorSetIdProto { domain, version })
            .collect(),
        metadata_props: own
            .map(|(key, value)| StringStringEntryProto { key: key.clone(), value: value.clone() })
            .collect(),
        functions: Vec::new(),
    };
    Ok((model, Weights::new(weights, options.sparse_initializers)))
}

/// The version of the format that came with an operator set.
fn ir_version(opset: i64) -> i64 {
    match opset {
        ..=18 => 8,
        19..=20 => 9,
        21..=22 => 10,
        23 => 11,
        24 => 12,
        25..=27 => 13,
        28.. => 14,
    }
}

/// Name of the file of weights of the model `path`.
fn data_name(path: &Path, hash: u64) -> Result<String, WriteError> {
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| WriteError::FileName { path: path.to_owned() })?;
    Ok(format!("{name}.{hash:016x}.data"))
}

/// Removes the files of weights that earlier writes to `path` left, all but `keep`. One that cannot be removed stays.
fn remove_old_data(path: &Path, keep: &str) {
    let Some(model) = path.file_name().and_then(|name| name.to_str()) else { return };
    let is_old = |name: &str| {
        let hash =
            name.strip_prefix(model).and_then(|n| n.strip_prefix('.')).and_then(|n| n.strip_suffix(".data"));
        name != keep && hash.is_some_and(|h| h.len() == 16 && h.bytes().all(|b| b.is_ascii_hexdigit()))
    };
    for entry in atomic::folder(path).read_dir().into_iter().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(is_old) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}
