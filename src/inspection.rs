//! What there is to say of a model before it runs: inputs, operators, weights, multiply-accumulates.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use poda_formats::{Dim, Graph, Op, OpenError, Parameters, RoundingError, ValueId, ValueType};
use poda_runtime::analysis;
use serde::Serialize;

use crate::kernels::Choices;
use crate::shapes::{ShapesError, Sizes};

/// What the keys of a graph's metadata begin with that say what it was pruned from, and how.
pub const PROVENANCE: &str = "poda.";

/// Why a model cannot be inspected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum InspectError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Shapes(#[from] ShapesError),
}

const BODIES: &str = "MACs are those outside of If and Loop: how often bodies run is not known";

/// What there is to say of a model. Serializes as `poda inspect --json` prints it.
#[derive(Debug, Serialize)]
#[allow(missing_docs)]
pub struct Inspection {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_bytes: Option<u64>,
    pub inputs: Vec<Port>,
    pub outputs: Vec<Port>,
    /// Operators by name, with how often each occurs.
    pub operators: BTreeMap<String, usize>,
    /// Fraction of nodes whose operator Poda can run.
    pub supported_fraction: f64,
    pub unsupported: Vec<String>,
    pub parameters: u64,
    pub nonzero_parameters: u64,
    pub weight_bytes: u64,
    /// Fraction of zeros among all parameters.
    pub sparsity: f64,
    /// `None` when shapes are not known; say --shape.
    pub macs: Option<u64>,
    pub nonzero_macs: Option<u64>,
    pub weights: Vec<WeightRow>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<NodeRow>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernels: Option<Choices>,
    /// Of what a model was pruned from, and how: `recipe`, `version`, `model`, `data`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub provenance: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bodies: Option<&'static str>,
}

/// An input or output.
#[derive(Debug, Serialize)]
#[allow(missing_docs)]
pub struct Port {
    pub name: String,
    pub dtype: Option<String>,
    pub shape: Option<Vec<Dim>>,
}

/// A weight.
#[derive(Debug, Serialize)]
#[allow(missing_docs)]
pub struct WeightRow {
    pub name: String,
    pub dtype: String,
    pub shape: Vec<usize>,
    pub layout: String,
    /// What the f32 elements are stored as, where that is narrower, and how far they are from what they were.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub values: Option<ValueType>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rounding_error: Option<RoundingError>,
    pub nnz: u64,
    pub sparsity: f64,
    pub bytes: u64,
}

/// A node.
#[derive(Debug, Serialize)]
#[allow(missing_docs)]
pub struct NodeRow {
    pub name: String,
    pub op: String,
    pub outputs: Vec<Option<Vec<usize>>>,
    pub macs: Option<u64>,
    pub nonzero_macs: Option<u64>,
}

/// Looks at a graph, which came from the file `path` if from any. MACs are those of one run with inputs of such sizes; where
/// sizes are open to which no usual one fits, and nobody gave any, a note says so. `nodes` asks for every node.
///
/// # Errors
/// When given sizes do not fit, or the file is gone.
pub fn inspect(
    graph: &Graph,
    path: Option<&Path>,
    sizes: &Sizes,
    nodes: bool,
) -> Result<Inspection, InspectError> {
    let (analysis, note) = match sizes.resolve(graph) {
        Ok(resolved) => (Some(analysis::analyze(graph, &resolved.shapes)), resolved.note()),
        Err(error) if sizes.given.is_empty() => (None, Some(format!("MACs are not counted: {error:#}"))),
        Err(error) => return Err(error.into()),
    };
    let analysis = analysis.as_ref();
    let has_bodies = graph.nodes.iter().any(|node| !node.op.bodies().is_empty());
    let ports = |ids: &[ValueId]| {
        let port = |&id: &ValueId| {
            let value = graph.value(id);
            let known = analysis.and_then(|a| a.info(id));
            Port {
                name: value.name.clone(),
                dtype: value.dtype.or(known.map(|i| i.dtype)).map(|d| d.to_string()),
                shape: value.shape.clone().or_else(|| {
                    known.and_then(|i| i.shape.clone()).map(|s| s.into_iter().map(Dim::Fixed).collect())
                }),
            }
        };
        ids.iter().map(port).collect()
    };
    let mut operators = BTreeMap::new();
    let mut unsupported = Vec::new();
    let graphs = graph.with_bodies();
    let all_nodes = graphs.iter().map(|graph| graph.nodes.len()).sum::<usize>();
    for node in graphs.iter().flat_map(|graph| &graph.nodes) {
        *operators.entry(node.op.name().to_owned()).or_insert(0) += 1;
        if let Op::Foreign(op) = &node.op {
            unsupported.push(format!("{:?} ({}): {}", node.name, op.op_type, op.reason));
        }
    }
    let weights: Vec<WeightRow> = graphs
        .iter()
        .flat_map(|graph| &graph.values)
        .filter_map(|value| value.weight.as_ref().map(|weight| (&value.name, weight)))
        .map(|(name, weight)| WeightRow {
            name: name.clone(),
            dtype: weight.dtype().to_string(),
            shape: weight.shape().to_vec(),
            layout: weight.layout().into_owned(),
            values: weight.rounding_error().and_then(|_| ValueType::of(weight.values_type())),
            rounding_error: weight.rounding_error(),
            nnz: weight.nnz() as u64,
            sparsity: fraction_of_zeros(weight.nnz() as u64, weight.len() as u64),
            bytes: weight.bytes() as u64,
        })
        .collect();
    let Parameters { count: parameters, nonzero: nonzero_parameters, .. } = graph.parameters();
    let all_macs = |index| analysis.and_then(|a| a.macs(graph, index));
    let macs = || (0..graph.nodes.len()).filter_map(all_macs);
    let rows = graph.nodes.iter().enumerate().filter(|_| nodes).map(|(index, node)| NodeRow {
        name: node.name.clone(),
        op: node.op.name().to_owned(),
        outputs: node
            .outputs
            .iter()
            .flatten()
            .map(|&id| analysis.and_then(|a| a.shape(id)).map(<[usize]>::to_vec))
            .collect(),
        macs: all_macs(index).map(|m| m.dense),
        nonzero_macs: all_macs(index).map(|m| m.nonzero),
    });
    Ok(Inspection {
        path: path.map(Path::to_owned),
        file_bytes: path.map(poda_formats::file_bytes).transpose()?,
        inputs: ports(&graph.inputs),
        outputs: ports(&graph.outputs),
        supported_fraction: 1.0 - unsupported.len() as f64 / all_nodes.max(1) as f64,
        operators,
        unsupported,
        parameters,
        nonzero_parameters,
        weight_bytes: weights.iter().map(|w| w.bytes).sum(),
        sparsity: fraction_of_zeros(nonzero_parameters, parameters),
        macs: analysis.map(|_| macs().map(|m| m.dense).sum()),
        nonzero_macs: analysis.map(|_| macs().map(|m| m.nonzero).sum()),
        weights,
        nodes: rows.collect(),
        provenance: graph
            .metadata
            .iter()
            .filter_map(|(key, text)| Some((key.strip_prefix(PROVENANCE)?.to_owned(), text.clone())))
            .collect(),
        note,
        bodies: has_bodies.then_some(BODIES),
        kernels: None,
    })
}

fn fraction_of_zeros(nnz: u64, len: u64) -> f64 {
    1.0 - nnz as f64 / len.max(1) as f64 - if len == 0 { 1.0 } else { 0.0 }
}
