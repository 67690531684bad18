//! Single weights become zero.

use std::collections::BTreeMap;

use half::{bf16, f16};
use poda_formats::storage::{AlignedBytes, Storage};
use poda_formats::weight::SparseError;
use poda_formats::{DataType, Graph, MatrixForm, Node, Op, Tensor, ValueId, Weight};
use poda_runtime::analysis::analyze;
use rayon::prelude::*;

use crate::allocation::{Scope, Shares};
use crate::criterion::{OfWeights, weight_scores};
use crate::cut::{Cut, cuts};
use crate::recipe::Recipe;

/// The weights that products use as matrices ([`Op::products`]), in order of first use, seen through what only moves them.
/// Not embeddings (a matrix that is also looked up is one), norms, biases, nor equations that no kernel takes.
pub fn prunable_weights(graph: &Graph, recipe: &Recipe) -> Vec<ValueId> {
    let producers = graph.producers();
    let source = |id: ValueId| weight_behind(graph, &producers, id);
    let mut seen = vec![false; graph.values.len()];
    for node in &graph.nodes {
        let table = if matches!(node.op, Op::Gather { .. }) { node.input(0) } else { None };
        if let Some(table) = table {
            seen[table.index()] = true;
        }
    }
    let consumers = graph.consumers();
    let excluded = |id: ValueId| {
        recipe.excludes(&graph.value(id).name)
            || consumers[id.index()].iter().any(|&node| recipe.excludes(&graph.nodes[node].name))
    };
    // Of constants at least.
    let facts = analyze(graph, &BTreeMap::new());
    let mut weights = Vec::new();
    for node in &graph.nodes {
        let shapes: Vec<_> = node.inputs.iter().map(|id| facts.shape((*id)?)).collect();
        for product in node.op.products(&shapes, None) {
            let Some(id) = node.input(product.input).and_then(&source) else { continue };
            let weight = graph.weight(id).expect("a source is a weight");
            let fits = weight.shape().len() > 1 && weight.dtype().is_float();
            if fits
                && !std::mem::replace(&mut seen[id.index()], true)
                && !excluded_by_node(recipe, node)
                && !excluded(id)
            {
                weights.push(id);
            }
        }
    }
    weights
}

fn excluded_by_node(recipe: &Recipe, node: &Node) -> bool {
    recipe.excludes(&node.name)
}

/// The weight that `id` is, or that it was made of by movements and casts.
pub(crate) fn weight_behind(graph: &Graph, producers: &[Option<usize>], mut id: ValueId) -> Option<ValueId> {
    loop {
        if graph.weight(id).is_some() {
            return Some(id);
        }
        let node = &graph.nodes[producers[id.index()]?];
        id = if node.op.rearranges() { node.input(0)? } else { return None };
    }
}

/// `graph` with exactly these shares of the elements of `weights` zero (of all together, or of each), rounded to the nearest
/// element. Elements that are zero already count, and go first; equal scores go by position.
///
/// # Errors
/// When a sparse weight cannot be read.
pub fn zero_weights(
    graph: &Graph,
    weights: &[ValueId],
    criterion: &dyn OfWeights,
    seed: u64,
    shares: Shares<'_>,
) -> Result<Graph, SparseError> {
    let scores = |at: usize| element_scores(graph, weights[at], criterion, seed);
    if shares.scope == Scope::Row {
        let uses = graph.matrix_uses();
        return zero_marked(graph, weights, |at| match uses.get(&weights[at]) {
            Some(&form) => in_tensor(form, &row_marks(form.cols, &form.rows_of(&scores(at)), shares.of(at))),
            None => lowest(&scores(at), shares.of(at)),
        });
    }
    let cuts = cuts(weights.len(), &scores, shares);
    zero_marked(graph, weights, |at| cuts[at].marks(&scores(at)))
}

/// Marks the share `sparsity` of lowest scores.
pub(crate) fn lowest(scores: &[f32], sparsity: f64) -> Vec<bool> {
    let count = (scores.len() as f64 * sparsity).round() as usize;
    Cut::of(scores, count.min(scores.len())).marks(scores)
}

/// Marks the share `sparsity` of lowest scores of each row of `cols`.
pub(crate) fn row_marks(cols: usize, scores: &[f32], sparsity: f64) -> Vec<bool> {
    scores.chunks(cols.max(1)).flat_map(|row| lowest(row, sparsity)).collect()
}

/// Marks of the elements of a matrix in the order of its tensor.
fn in_tensor(form: MatrixForm, marks: &[bool]) -> Vec<bool> {
    let mut to = vec![false; marks.len()];
    form.tensor_of(marks, &mut to);
    to
}

/// `graph` with zeros in `weights` where `marks` says so of each by number; one weight a thread at a time.
///
/// # Errors
/// When a sparse weight cannot be read.
pub(crate) fn zero_marked(
    graph: &Graph,
    weights: &[ValueId],
    marks: impl Fn(usize) -> Vec<bool> + Sync,
) -> Result<Graph, SparseError> {
    let zeroed = |(at, &id): (usize, &ValueId)| {
        let weight = graph.weight(id)?;
        Some(weight.to_dense().map(|dense| (id, zeroed(&dense, &marks(at)))))
    };
    let all: Result<Vec<(ValueId, Tensor)>, SparseError> =
        weights.par_iter().enumerate().filter_map(zeroed).collect();
    let mut pruned = graph.clone();
    for (id, tensor) in all? {
        pruned.value_mut(id).weight = Some(Weight::Tensor(tensor));
    }
    Ok(pruned)
}

/// Scores of the elements of a float weight; -1 for zeros, which go first whatever the criterion says of them.
pub(crate) fn element_scores(graph: &Graph, id: ValueId, criterion: &dyn OfWeights, seed: u64) -> Vec<f32> {
    let mut scores = weight_scores(graph, id, None, criterion, (None, None), seed).unwrap_or_default();
    let dense = graph.weight(id).and_then(|w| w.to_dense().ok());
    if let Some(values) = dense.as_ref().and_then(crate::criterion::float_values) {
        for (score, value) in scores.iter_mut().zip(values) {
            if value == 0.0 {
                *score = -1.0;
            }
        }
    }
    scores
}

/// `tensor` with zeros where `removed` says.
pub(crate) fn zeroed(tensor: &Tensor, removed: &[bool]) -> Tensor {
    let size = tensor.dtype().size();
    let mut bytes = AlignedBytes::copy_of(tensor.bytes());
    let elements = bytes.chunks_exact_mut(size).zip(removed).filter(|(_, removed)| **removed);
    elements.for_each(|(element, _)| element.fill(0));
    Tensor::new(tensor.dtype(), tensor.shape().to_vec(), Storage::owned(bytes)).expect("as many bytes")
}

/// A float tensor of type `dtype` with these elements.
pub(crate) fn float_tensor(dtype: DataType, shape: &[usize], values: &[f32]) -> Option<Tensor> {
    match dtype {
        DataType::F32 => Some(Tensor::from_slice(shape, values)),
        DataType::F64 => {
            Some(Tensor::from_slice(shape, &values.iter().map(|&v| f64::from(v)).collect::<Vec<_>>()))
        }
        DataType::F16 => {
            Some(Tensor::from_slice(shape, &values.iter().map(|&v| f16::from_f32(v)).collect::<Vec<_>>()))
        }
        DataType::BF16 => {
            Some(Tensor::from_slice(shape, &values.iter().map(|&v| bf16::from_f32(v)).collect::<Vec<_>>()))
        }
        DataType::I8
        | DataType::I16
        | DataType::I32
        | DataType::I64
        | DataType::U8
        | DataType::U16
        | DataType::U32
        | DataType::U64
        | DataType::Bool => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::criterion::L1;
    use poda_formats::Dim;

    #[test]
    fn matrices_of_products_are_pruned_and_tables_are_not() {
        let mut graph = Graph::default();
        let ids = graph.add_input("ids", DataType::I64, vec![Dim::Fixed(3)]);
        let table = graph.add_weight("table", Tensor::from_slice(&[4, 2], &[1.0_f32; 8]));
        let w = graph.add_weight("w", Tensor::from_slice(&[2, 2], &[4.0_f32, -1.0, 0.0, 2.0]));
        let bias = graph.add_weight("bias", Tensor::from_slice(&[2], &[1.0_f32; 2]));
        let x = graph.add_node(Op::Gather { axis: 0 }, &[table, ids], "x");
        let turned = graph.add_node(Op::Transpose { perm: vec![1, 0] }, &[w], "turned");
        let y = graph.add_node(Op::MatMul, &[x, turned], "y");
        let y = graph.add_node(Op::Binary(poda_formats::op::Binary::Add), &[y, bias], "z");
        graph.outputs.push(y);
        let weights = prunable_weights(&graph, &Recipe::default());
        assert_eq!(weights, [w]);
        let none = prunable_weights(&graph, &Recipe { exclude: vec!["w".into()], ..Recipe::default() });
        assert!(none.is_empty());
        let pruned = zero_weights(&graph, &weights, &L1, 0, Shares::all(Scope::Layer, 0.5)).unwrap();
        let values = pruned.weight(w).unwrap().to_dense().unwrap();
        assert_eq!(values.as_slice::<f32>().unwrap(), [4.0, 0.0, 0.0, 2.0]);
    }
}
