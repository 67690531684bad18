//! Scores of all weights and all units of a graph.

use std::collections::BTreeMap;

use half::{bf16, f16};
use poda_formats::{Graph, MatrixForm, Tensor, ValueId};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rayon::prelude::*;

use super::{Layer, OfMatrices, OfWeights, Part, Side};
use crate::calibration::{Needs, Statistics};
use crate::dependency::{DependencyGraph, UnitId};
use crate::gradients::saliency::WeightGradients;
use crate::structured::Matrix;

/// The elements of a float tensor as f32; `None` for other types.
pub fn float_values(tensor: &Tensor) -> Option<Vec<f32>> {
    if let Ok(values) = tensor.as_slice::<f32>() {
        return Some(values.to_vec());
    }
    if let Ok(values) = tensor.as_slice::<f16>() {
        return Some(values.iter().map(|v| v.to_f32()).collect());
    }
    if let Ok(values) = tensor.as_slice::<bf16>() {
        return Some(values.iter().map(|v| v.to_f32()).collect());
    }
    tensor.as_slice::<f64>().ok().map(|values| values.iter().map(|&v| v as f32).collect())
}

/// Numbers for one weight, the same whatever else is scored.
pub(crate) fn random_for(seed: u64, id: ValueId) -> SmallRng {
    SmallRng::seed_from_u64(seed ^ (u64::from(id.0) << 32))
}

/// Scores of the elements of a float weight in the order of the tensor, or `None` if it is none; `form` says how it lies as a
/// matrix. NaN counts as most important.
pub fn weight_scores(
    graph: &Graph,
    id: ValueId,
    form: Option<MatrixForm>,
    criterion: &dyn OfWeights,
    (statistics, gradients): (Option<&Statistics>, Option<&WeightGradients>),
    seed: u64,
) -> Option<Vec<f32>> {
    let dense = graph.weight(id)?.to_dense().ok()?;
    let values = float_values(&dense)?;
    let form = form.unwrap_or(MatrixForm { parts: 1, rows: 1, cols: values.len(), transposed: false });
    let weights = form.rows_of(&values);
    let gradients = gradients.map(|gradients| gradients.rows_of(form));
    let layer = Layer { size: form.size(), weights: &weights, statistics, gradients: gradients.as_ref() };
    let mut scores = criterion.elements(&layer, &mut random_for(seed, id));
    scores.iter_mut().filter(|s| s.is_nan()).for_each(|s| *s = f32::INFINITY);
    if !form.transposed {
        return Some(scores);
    }
    let mut in_order = vec![0.0; scores.len()];
    form.tensor_of(&scores, &mut in_order);
    Some(in_order)
}

/// Scores of units from the scores of their weights, one part for each dimension of a weight that has some. `given` are scores of
/// the elements of weights, in the order of their tensors, where a criterion needs more than weights for them; weights that
/// have none then say nothing.
pub(crate) fn slice_parts(
    graph: &Graph,
    dependencies: &DependencyGraph,
    criterion: &dyn OfWeights,
    given: &BTreeMap<ValueId, Vec<f32>>,
    seed: u64,
) -> Vec<Part> {
    // One weight a thread at a time; parts in the order of the weights, whatever the threads.
    let of_weight = |index: usize| {
        let id = ValueId(index as u32);
        let (weight, layout) = (graph.weight(id)?, dependencies.layout(id)?);
        let shape = weight.shape();
        let shrinks = layout.axes.iter().any(|&axis| dependencies.can_shrink(axis));
        if shape.len() < 2 || !weight.dtype().is_float() || !shrinks {
            return None;
        }
        let weights_alone = criterion.needs() == Needs::Weights && criterion.gradients().is_none();
        let elements = match given.get(&id) {
            Some(scores) => scores.clone(),
            None if !weights_alone => return None,
            None => weight_scores(graph, id, None, criterion, (None, None), seed)?,
        };
        let mut random = random_for(seed.wrapping_add(1), id);
        let mut parts = Vec::new();
        for (dim, &axis) in layout.axes.iter().enumerate().filter(|(_, axis)| dependencies.can_shrink(**axis))
        {
            let sums = sums_along(&elements, shape, dim);
            let mut all = BTreeMap::new();
            dependencies.for_each_unit(axis, &mut |at, unit| *all.entry(unit).or_insert(0.0) += sums[at]);
            parts
                .push(all.into_iter().map(|(unit, sum)| (unit, criterion.slice(sum, &mut random))).collect());
        }
        Some(parts)
    };
    let all: Vec<Vec<Part>> = (0..graph.values.len()).into_par_iter().filter_map(of_weight).collect();
    all.into_iter().flatten().collect()
}

/// Scores of units from the rows, or the columns, that they are of a matrix, by the side that the criterion looks at; a part for
/// each group that the matrix has there.
pub(crate) fn matrix_parts(
    graph: &Graph,
    dependencies: &DependencyGraph,
    criterion: &dyn OfMatrices,
    matrix: &Matrix,
    statistics: Option<&Statistics>,
) -> Vec<Part> {
    let dense = graph.weight(matrix.id).and_then(|weight| weight.to_dense().ok());
    let (Some(dense), Some(layout)) = (dense, dependencies.layout(matrix.id)) else { return Vec::new() };
    let Some(values) = float_values(&dense) else { return Vec::new() };
    let weights = matrix.form.rows_of(&values);
    let size = [matrix.rows, matrix.cols];
    let layer = Layer { size, weights: &weights, statistics, gradients: None };
    let mut parts = Vec::new();
    for (dim, &axis) in layout.axes.iter().enumerate().filter(|(_, axis)| dependencies.can_shrink(**axis)) {
        let Some(lines) = lines(matrix, dense.shape(), dim, criterion.side()) else { continue };
        let mut sets: BTreeMap<UnitId, Vec<usize>> = BTreeMap::new();
        dependencies.for_each_unit(axis, &mut |index, unit| {
            sets.entry(unit).or_default().extend(&lines[index]);
        });
        for group in dependencies.groups() {
            let (units, sets): (Vec<UnitId>, Vec<Vec<usize>>) =
                group.units.iter().filter_map(|&unit| Some((unit, sets.get(&unit)?.clone()))).unzip();
            if !units.is_empty() {
                parts.push(units.into_iter().zip(criterion.sets(&layer, &sets)).collect());
            }
        }
    }
    parts
}

/// The rows or columns of a matrix that each index along a dimension of its tensor is; `None` where indices are none.
fn lines(matrix: &Matrix, shape: &[usize], dim: usize, side: Side) -> Option<Vec<Vec<usize>>> {
    let inner: usize = shape[dim + 1..].iter().product();
    let index = |at: usize| at / inner.max(1) % shape[dim];
    let index = |row: usize, col: usize| index(matrix.form.at(row, col));
    let (count, across) = match side {
        Side::Outputs => (matrix.rows, matrix.cols),
        Side::Inputs => (matrix.cols, matrix.rows),
    };
    let index = |line: usize, at: usize| match side {
        Side::Outputs => index(line, at),
        Side::Inputs => index(at, line),
    };
    if across == 0 {
        return None;
    }
    let mut lines = vec![Vec::new(); shape[dim]];
    for line in 0..count {
        let first = index(line, 0);
        if (1..across).any(|at| index(line, at) != first) {
            return None;
        }
        lines[first].push(line);
    }
    Some(lines)
}

/// Sums over all dimensions but one.
fn sums_along(elements: &[f32], shape: &[usize], dim: usize) -> Vec<f64> {
    let inner: usize = shape[dim + 1..].iter().product();
    let mut sums = vec![0.0; shape[dim]];
    if inner > 0 && !sums.is_empty() {
        for (row, elements) in elements.chunks_exact(inner).enumerate() {
            sums[row % shape[dim]] += elements.iter().map(|&e| f64::from(e)).sum::<f64>();
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_run_over_the_other_dimensions() {
        let elements: Vec<f32> = (0..12).map(|i| i as f32).collect();
        assert_eq!(sums_along(&elements, &[2, 3, 2], 0), [15.0, 51.0]);
        assert_eq!(sums_along(&elements, &[2, 3, 2], 1), [14.0, 22.0, 30.0]);
        assert_eq!(sums_along(&elements, &[2, 3, 2], 2), [30.0, 36.0]);
    }
}
