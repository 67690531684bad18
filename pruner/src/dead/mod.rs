//! Dead units: removed at no cost, because the model computes the same without them.
//!
//! A unit is dead when, wherever it is summed, its value is constant (module `range`; constants are folded into the bias
//! that follows) or nothing of it arrives: its weights there are zero, or, where that is allowed ([`Proof::Bounded`]), so small
//! that in *each output by itself* what it can contribute is below the rounding of what another unit can, for inputs of any
//! scale. What dies only once others are gone is found in the next round.

mod bounds;
mod fold;
mod range;

use std::collections::BTreeMap;

use poda_formats::{Graph, Op, ValueId};

use crate::allocation::keep_enough_of_each;
use crate::compact::{CompactError, compact_in_place};
use crate::criterion::float_values;
use crate::dependency::{Contraction, DependencyGraph, Facts, Removal};
use crate::masks::{self, Kept};
use crate::report::Dead;
use crate::settings::{Settings, Shapes};
use bounds::{constant, times};
use fold::Fold;
use range::{Bounds, ranges};

/// Rounds of removal at most.
const ROUNDS: usize = 8;

/// What is asked of a unit before it counts as dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// It contributes nothing at all, or a constant.
    Exact,
    /// What it can contribute to an output is below the rounding of what another unit can contribute to the same output.
    /// The other may still be silent for all inputs that there are: check the result.
    Bounded,
}

/// `graph` without its dead units, how many there were by layer, and what stays of weights.
///
/// # Errors
/// When a weight cannot be sliced.
pub fn remove_dead(
    graph: &Graph,
    shapes: &Shapes,
    proof: Proof,
) -> Result<(Graph, Vec<Dead>, Vec<Kept>), CompactError> {
    let (mut graph, mut kept) = (graph.clone(), Vec::new());
    let mut found: Vec<Dead> = Vec::new();
    for _ in 0..ROUNDS {
        let settings = Settings::find(&graph, shapes);
        let facts = settings.facts();
        let dependencies = DependencyGraph::new(&graph, facts);
        let (removal, folds) = dead_units(&graph, &dependencies, facts, proof);
        if removal.is_empty() {
            break;
        }
        for group in dependencies.groups() {
            let dead = group.units.iter().filter(|&&unit| removal.contains(unit)).count();
            match found.iter_mut().find(|d| d.name == group.name) {
                Some(layer) => layer.dead += dead,
                None if dead > 0 => {
                    found.push(Dead {
                        name: group.name.clone(),
                        units: group.units.len() + group.fixed,
                        dead,
                    });
                }
                None => {}
            }
        }
        kept = masks::then(kept, masks::kept(&graph, &dependencies, &removal));
        let mut next = compact_in_place(&graph, &dependencies, facts, &removal)?;
        for fold in &folds {
            fold.apply(&mut next, &dependencies, &removal);
        }
        next.remove_unused();
        next.normalize()?;
        graph = next;
    }
    Ok((graph, found, kept))
}

/// What a sum sees of a unit.
#[derive(Default, Clone)]
struct Seen {
    /// Something of it arrives.
    weighs: bool,
    /// Its value there is not known to be constant.
    varies: bool,
    /// It is constant, but not zero.
    constant: bool,
}

fn dead_units(
    graph: &Graph,
    dependencies: &DependencyGraph,
    facts: Facts<'_>,
    proof: Proof,
) -> (Removal, Vec<Fold>) {
    let bounds = ranges(graph, facts, f64::INFINITY);
    // Small inputs tell apart units that owe their value to a bias, large ones those that owe it to the inputs.
    let scales = match proof {
        Proof::Exact => Vec::new(),
        Proof::Bounded => [1.0, 1e6].map(|greatest| ranges(graph, facts, greatest)).into(),
    };
    let mut alive = vec![false; dependencies.unit_count()];
    let mut summed = vec![false; dependencies.unit_count()];
    for contraction in dependencies.contractions() {
        if !dependencies.can_shrink(contraction.axis) {
            continue;
        }
        let can_fold = Fold::fits(graph, facts, contraction);
        for (unit, seen) in look(dependencies, facts, &bounds, &scales, contraction) {
            summed[unit] = true;
            let bears = !seen.weighs || !seen.varies && (!seen.constant || can_fold);
            alive[unit] |= !bears;
        }
    }
    let mut removal = Removal::none(dependencies);
    for unit in 0..alive.len() {
        if summed[unit] && !alive[unit] {
            removal.remove(unit);
        }
    }
    keep_enough_of_each(dependencies, &vec![0.0; alive.len()], &mut removal);
    let folds = dependencies.contractions().iter().filter(|c| dependencies.kept(c.axis, &removal).is_some());
    let folds = folds.filter_map(|c| Fold::new(graph, dependencies, facts, &bounds, &removal, c)).collect();
    (removal, folds)
}

/// The operands of a sum as data and constant weight; a reduction, or a product of two activations, has none of the
/// latter.
fn operands(facts: Facts<'_>, contraction: &Contraction) -> ((ValueId, usize), Option<(ValueId, usize)>) {
    let [a, b] = contraction.operands;
    let constant = |(id, _): (ValueId, usize)| facts.constant(id).is_some();
    match (constant(a), constant(b)) {
        (_, true) => (a, Some(b)),
        (true, false) => (b, Some(a)),
        (false, false) => (a, None),
    }
}

/// Bounds of a value along one of its dimensions.
fn along(facts: Facts<'_>, bounds: &Bounds, (id, dim): (ValueId, usize)) -> Vec<(f64, f64)> {
    let shape = facts.shape(id).unwrap_or_default();
    shape.get(dim).map_or_else(Vec::new, |&size| bounds.of(id).spread(shape.len() - dim, size))
}

fn look(
    dependencies: &DependencyGraph,
    facts: Facts<'_>,
    bounds: &Bounds,
    scales: &[Bounds],
    contraction: &Contraction,
) -> BTreeMap<usize, Seen> {
    let mut seen: BTreeMap<usize, Seen> = BTreeMap::new();
    dependencies.for_each_unit(contraction.axis, &mut |_, unit| {
        seen.entry(unit).or_default();
    });
    let (data, weight) = operands(facts, contraction);
    let of_data = along(facts, bounds, data);
    if let Some(layout) = dependencies.layout(data.0) {
        dependencies.for_each_unit(layout.axes[data.1], &mut |index, unit| {
            if let Some(seen) = seen.get_mut(&unit) {
                match of_data.get(index).and_then(|&pair| constant(pair)) {
                    Some(value) => seen.constant |= value != 0.0,
                    None => seen.varies = true,
                }
            }
        });
    }
    let Some((weight, dim)) = weight else {
        seen.values_mut().for_each(|s| s.weighs = true);
        return seen;
    };
    if let (Some(tensor), Some(layout)) = (facts.constant(weight), dependencies.layout(weight)) {
        let shape = tensor.shape();
        let reach: Vec<_> = scales.iter().map(|s| reach(&along(facts, s, data), shape[dim])).collect();
        let weighs = float_values(tensor).map(|values| weighing(&values, shape, dim, &reach));
        dependencies.for_each_unit(layout.axes[dim], &mut |index, unit| {
            if let Some(seen) = seen.get_mut(&unit) {
                seen.weighs |= weighs.as_ref().is_none_or(|w| w[index]);
            }
        });
    }
    seen
}

/// The greatest absolute value of the data that each of a weight's `n` indices meets. Indices of a grouped convolution's
/// weight meet a channel of every group.
fn reach(data: &[(f64, f64)], n: usize) -> Vec<f64> {
    let mut reach =
        vec![if data.len().is_multiple_of(n.max(1)) && !data.is_empty() { 0.0 } else { f64::INFINITY }; n];
    for (i, &(low, high)) in data.iter().enumerate() {
        reach[i % n] = f64::max(reach[i % n], low.abs().max(high.abs()));
    }
    reach
}

/// For each index along a dimension whether something of it arrives in some output. `reach` says how large the data are that
/// each is multiplied with, at one scale of the inputs or several; without, only zeros do not arrive.
fn weighing(values: &[f32], shape: &[usize], dim: usize, reach: &[Vec<f64>]) -> Vec<bool> {
    /// Less than any float of a network stands for.
    const NOTHING: f64 = 1e-30;
    /// What sixteen such units together lose in rounding.
    const NEGLIGIBLE: f64 = f32::EPSILON as f64 / 16.0;
    let (size, inner) = (shape[dim], shape[dim + 1..].iter().product::<usize>());
    let mut weighs = vec![false; size];
    if size == 0 || inner == 0 {
        return weighs;
    }
    for slab in values.chunks_exact(size * inner) {
        for output in 0..inner {
            let weight = |i: usize| f64::from(slab[i * inner + output]).abs();
            let mut arrives: Vec<bool> = (0..size).map(|i| weight(i) != 0.0).collect();
            let mut negligible = vec![!reach.is_empty(); size];
            for reach in reach {
                let at = |i: usize| times(weight(i), reach[i]);
                let greatest = (0..size).map(at).filter(|at| at.is_finite()).fold(0.0, f64::max);
                let most = NOTHING.max(greatest * NEGLIGIBLE);
                negligible.iter_mut().enumerate().for_each(|(i, negligible)| *negligible &= at(i) <= most);
            }
            arrives.iter_mut().zip(negligible).for_each(|(arrives, negligible)| *arrives &= !negligible);
            weighs.iter_mut().zip(arrives).for_each(|(weighs, arrives)| *weighs |= arrives);
        }
    }
    weighs
}

/// Whether a product's second input is its weight.
fn weight_is_second(op: &Op) -> bool {
    matches!(op, Op::MatMul | Op::Gemm { .. } | Op::Conv(_))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_arrives_is_judged_for_each_output_by_itself() {
        // Three units, two outputs of very different scale.
        let values = [1e5, 0.0, 1e-4, 1e-4, 0.0, 1e-4];
        let weighs = |values: &[f32], reach: &[[f64; 3]]| {
            let reach: Vec<Vec<f64>> = reach.iter().map(|reach| reach.to_vec()).collect();
            weighing(values, &[3, 2], 0, &reach)
        };
        assert_eq!(weighs(&values, &[[1.0; 3]]), [true, true, true]);
        // The second is below the first's rounding in the only output that it reaches.
        let small = [1e5, 0.0, 1e-4, 0.0, 0.0, 1e-4];
        assert_eq!(weighs(&small, &[[1.0; 3]]), [true, false, true]);
        assert_eq!(weighs(&small, &[]), [true, true, true]);
        // Where its data are large, or without bounds, or the other's small for inputs of some scale, it counts.
        assert_eq!(weighs(&small, &[[1.0, 1e6, 1.0]]), [true, true, true]);
        assert_eq!(weighs(&small, &[[1.0, f64::INFINITY, 1.0]]), [true, true, true]);
        assert_eq!(weighs(&small, &[[1e6; 3], [1e-9, 1.0, 1.0]]), [true, true, true]);
        assert_eq!(weighs(&[1.0, 1.0, 0.0, f32::NAN, 0.0, 0.0], &[[1.0; 3]]), [true, true, false]);
        assert_eq!(weighs(&[1.0, 1.0, 1e-38, 0.0, 0.0, 0.0], &[[0.0, 1e6, 1.0]]), [false, false, false]);
    }

    #[test]
    fn indices_of_a_grouped_weight_meet_every_group() {
        assert_eq!(reach(&[(0.0, 1.0), (-3.0, 0.0), (0.0, 2.0), (0.0, 1.0)], 2), [2.0, 3.0]);
        assert_eq!(reach(&[(0.0, 1.0)], 2), [f64::INFINITY; 2]);
        assert_eq!(reach(&[], 1), [f64::INFINITY]);
    }
}
