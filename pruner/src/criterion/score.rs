//! Scores of all weights and all units of a graph.

use std::collections::{BTreeMap, HashMap};

use half::{bf16, f16};
use poda_formats::{Graph, MatrixForm, Tensor, ValueId};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rayon::prelude::*;

use super::{Criterion, Layer};
use crate::calibration::{Needs, Statistics};
use crate::dependency::DependencyGraph;

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
    criterion: &dyn Criterion,
    statistics: Option<&Statistics>,
    seed: u64,
) -> Option<Vec<f32>> {
    let dense = graph.weight(id)?.to_dense().ok()?;
    let values = float_values(&dense)?;
    let form = form.unwrap_or(MatrixForm { parts: 1, rows: 1, cols: values.len(), transposed: false });
    let weights = form.rows_of(&values);
    let layer = Layer { size: form.size(), weights: &weights, statistics };
    let mut scores = criterion.elements(&layer, &mut random_for(seed, id));
    scores.iter_mut().filter(|s| s.is_nan()).for_each(|s| *s = f32::INFINITY);
    if !form.transposed {
        return Some(scores);
    }
    let mut in_order = vec![0.0; scores.len()];
    form.tensor_of(&scores, &mut in_order);
    Some(in_order)
}

/// Scores of all units of `dependencies`, comparable between groups: the mean of each group is 1. `given` are scores of the
/// elements of weights, in the order of their tensors, where a criterion needs data for them; weights that have none then
/// say nothing.
pub fn unit_scores(
    graph: &Graph,
    dependencies: &DependencyGraph,
    criterion: &dyn Criterion,
    given: &BTreeMap<ValueId, Vec<f32>>,
    seed: u64,
) -> Vec<f64> {
    let mut scores = vec![0.0; dependencies.unit_count()];
    let mut seen = vec![0_u32; dependencies.unit_count()];
    let mut group_of = vec![usize::MAX; dependencies.unit_count()];
    for (index, group) in dependencies.groups().iter().enumerate() {
        group.units.iter().for_each(|&unit| group_of[unit] = index);
    }
    // One weight a thread at a time; sums in the order of the weights, whatever the threads.
    let of_weight = |index: usize| {
        let id = ValueId(index as u32);
        let (weight, layout) = (graph.weight(id)?, dependencies.layout(id)?);
        let shape = weight.shape();
        let shrinks = layout.axes.iter().any(|&axis| dependencies.can_shrink(axis));
        if shape.len() < 2 || !weight.dtype().is_float() || !shrinks {
            return None;
        }
        let elements = match given.get(&id) {
            Some(scores) => scores.clone(),
            None if criterion.needs() > Needs::Weights => return None,
            None => weight_scores(graph, id, None, criterion, None, seed)?,
        };
        let mut random = random_for(seed.wrapping_add(1), id);
        let mut of_units = Vec::new();
        for (dim, &axis) in layout.axes.iter().enumerate().filter(|(_, axis)| dependencies.can_shrink(**axis))
        {
            let sums = sums_along(&elements, shape, dim);
            let mut all = BTreeMap::new();
            dependencies.for_each_unit(axis, &mut |at, unit| *all.entry(unit).or_insert(0.0) += sums[at]);
            let mut means = HashMap::new();
            for (&unit, sum) in &mut all {
                *sum = criterion.slice(*sum, &mut random);
                let mean: &mut (f64, usize) = means.entry(group_of[unit]).or_default();
                *mean = (mean.0 + *sum, mean.1 + 1);
            }
            of_units.extend(all.into_iter().map(|(unit, score)| {
                let (sum, count) = means[&group_of[unit]];
                (unit, if sum > 0.0 { score * count as f64 / sum } else { 0.0 })
            }));
        }
        Some(of_units)
    };
    let all: Vec<Vec<(usize, f64)>> = (0..graph.values.len()).into_par_iter().filter_map(of_weight).collect();
    for (unit, score) in all.into_iter().flatten() {
        scores[unit] += score;
        seen[unit] += 1;
    }
    for (score, seen) in scores.iter_mut().zip(seen) {
        *score /= f64::from(seen.max(1));
    }
    scores
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
