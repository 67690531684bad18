//! What follows from a graph and the shapes of its inputs alone: types, concrete shapes, constants, and work in MACs.

use std::collections::BTreeMap;

use poda_formats::op::{self, OpClass};
use poda_formats::{Dim, Graph, Op, ValueId};

use crate::info::Info;
pub use crate::ops::Analysis;
use crate::ops::analyze_from;

/// Multiply-accumulates of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Macs {
    /// As if every weight were kept.
    pub dense: u64,
    /// Those whose weight is not zero.
    pub nonzero: u64,
}

/// Why no concrete input shapes can be derived.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum ShapeError {
    #[error("the shape of input {input:?} is not in the model, give it")]
    Undeclared { input: String },
    #[error("dimension {axis} ({symbol:?}) of input {input:?} has no size in the model, give it")]
    Symbol { input: String, axis: usize, symbol: String },
}

/// Concrete shapes of the inputs: declared sizes, and `batch` for symbols that are named like a batch or that are an
/// input's unnamed first dimension.
///
/// # Errors
/// When another dimension has no size.
pub fn default_shapes(graph: &Graph, batch: usize) -> Result<BTreeMap<String, Vec<usize>>, ShapeError> {
    let mut shapes = BTreeMap::new();
    for &id in &graph.inputs {
        let value = graph.value(id);
        let input = value.name.clone();
        let Some(dims) = &value.shape else { return Err(ShapeError::Undeclared { input }) };
        let dims = dims.iter().enumerate().map(|(axis, dim)| match dim {
            Dim::Fixed(size) => Ok(*size),
            Dim::Symbol(symbol) if is_batch(symbol, axis) => Ok(batch),
            Dim::Symbol(symbol) => {
                Err(ShapeError::Symbol { input: input.clone(), axis, symbol: symbol.clone() })
            }
        });
        shapes.insert(input.clone(), dims.collect::<Result<_, _>>()?);
    }
    Ok(shapes)
}

/// Whether the name of a symbolic dimension is one that batches have; an unnamed first dimension counts as one.
pub fn is_batch(symbol: &str, axis: usize) -> bool {
    let lower = symbol.to_ascii_lowercase();
    lower.contains("batch")
        || matches!(lower.as_str(), "n" | "b" | "bs")
        || (axis == 0 && (symbol.is_empty() || lower.starts_with("unk") || lower == "?" || lower == "none"))
}

/// Derives everything that follows from `graph` and the shapes of its inputs, by name. Inputs without a shape here and
/// in the graph are of unknown shape, and so is what follows from them.
pub fn analyze(graph: &Graph, input_shapes: &BTreeMap<String, Vec<usize>>) -> Analysis {
    analyze_with(graph, &|id| {
        let given = input_shapes.get(&graph.value(id).name).cloned();
        given.or_else(|| fixed_shape(graph, id))
    })
}

/// As [`analyze`], with the shapes of inputs by a function.
pub(crate) fn analyze_with(graph: &Graph, input_shape: &dyn Fn(ValueId) -> Option<Vec<usize>>) -> Analysis {
    let info = |&id: &ValueId| {
        let info = |dtype| Info { dtype, shape: input_shape(id), value: None };
        graph.value(id).dtype.map(info)
    };
    analyze_from(graph, graph.inputs.iter().map(info).collect())
}

/// The declared shape of a value, when it has no symbols.
pub(crate) fn fixed_shape(graph: &Graph, id: ValueId) -> Option<Vec<usize>> {
    let dims = graph.value(id).shape.as_ref()?.iter().map(|dim| match dim {
        Dim::Fixed(size) => Some(*size),
        Dim::Symbol(_) => None,
    });
    dims.collect()
}

/// The declared shape of a value with 1 for batches and `size` for other symbols.
pub(crate) fn probe_shape(graph: &Graph, id: ValueId, size: usize) -> Vec<usize> {
    let dims = graph.value(id).shape.iter().flatten().enumerate();
    dims.map(|(axis, dim)| match dim {
        Dim::Fixed(size) => *size,
        Dim::Symbol(symbol) if is_batch(symbol, axis) => 1,
        Dim::Symbol(_) => size,
    })
    .collect()
}

impl Analysis {
    /// Multiply-accumulates of node `index` of the graph that was analysed, or `None` when shapes are not known. Reads the
    /// elements of the node's weights.
    pub fn macs(&self, graph: &Graph, index: usize) -> Option<Macs> {
        let node = &graph.nodes[index];
        let shape = |id: &Option<ValueId>| id.and_then(|id| self.shape(id));
        let len = |shape: &[usize]| shape.iter().map(|&d| d as u64).product::<u64>();
        match node.op.class() {
            OpClass::Product => {
                let shapes: Vec<_> = node.inputs.iter().map(shape).collect();
                let products = node.op.products(&shapes, node.output(0).and_then(|id| self.shape(id)));
                let of = |product: &op::Product| {
                    let [m, k] = product.form.size().map(|d| d as u64);
                    let columns = product.columns? as u64;
                    let kept = self.nonzeros(graph, node.input(product.input)?);
                    Some((
                        Macs { dense: columns * m * k, nonzero: columns * kept.unwrap_or(m * k) },
                        kept.is_some(),
                    ))
                };
                let all = products.iter().map(of).collect::<Option<Vec<_>>>()?;
                let (weights, others): (Vec<_>, Vec<_>) =
                    all.into_iter().partition(|(_, constant)| *constant);
                // Of activations with each other, the products that an operand could be the weight of are one and the same.
                let recurrent = matches!(node.op, Op::Recurrent(_));
                let counted =
                    if weights.is_empty() && !recurrent { &others[..others.len().min(1)] } else { &weights };
                let counted = counted.iter().chain(if recurrent { &others[..] } else { &[] });
                let sum = counted.fold(Macs::default(), |sum, (macs, _)| Macs {
                    dense: sum.dense + macs.dense,
                    nonzero: sum.nonzero + macs.nonzero,
                });
                // (No equation that is not a product counts.)
                shapes.iter().all(Option::is_some).then_some(sum)
            }
            OpClass::Attention if matches!(node.op, Op::Attention(_)) => {
                // Scores and their product with V; sizes follow from rank-3 or rank-4 inputs alike.
                let (q, k) = (shape(node.inputs.first()?)?, shape(node.inputs.get(1)?)?);
                let keys = k.get(k.len().checked_sub(2)?).map_or(0, |&d| d as u64);
                let dense = 2 * len(q) * keys;
                Some(Macs { dense, nonzero: dense })
            }
            OpClass::Attention
            | OpClass::Elementwise
            | OpClass::Normalization
            | OpClass::Sampling
            | OpClass::Reduction
            | OpClass::Movement
            | OpClass::Generator
            | OpClass::Quantization
            | OpClass::Control
            | OpClass::Foreign => Some(Macs::default()),
        }
    }

    /// Elements of a constant that are not zero.
    fn nonzeros(&self, graph: &Graph, id: ValueId) -> Option<u64> {
        match (graph.weight(id), self.constant(id)) {
            (Some(weight), _) => Some(weight.nnz() as u64),
            (None, Some(tensor)) => Some(poda_formats::Weight::Tensor(tensor.clone()).nnz() as u64),
            (None, None) => None,
        }
    }
}
