//! Dead units: removed at no cost, because the model computes the same without them.
//!
//! A unit is dead when, wherever it is summed, its weights there are (near) zero, below the rounding of the largest in
//! the layer, or when its value is constant (module `range`);
//! constants are folded into the bias that follows. What dies only once others are gone is found in the next round.

mod bounds;
mod fold;
mod range;

use std::collections::BTreeMap;

use poda_formats::{Graph, Op, ValueId};

use crate::compact::{CompactError, compact_in_place};
use crate::criterion::float_values;
use crate::dependency::{Contraction, DependencyGraph, Facts, Removal};
use crate::report::Dead;
use crate::settings::{Settings, Shapes};
use bounds::{Ranges, TINY};
use fold::Fold;
use range::ranges;

/// Rounds of removal at most.
const ROUNDS: usize = 8;

/// `graph` without its dead units, and how many there were by layer.
///
/// # Errors
/// When a weight cannot be sliced.
pub fn remove_dead(graph: &Graph, shapes: &Shapes) -> Result<(Graph, Vec<Dead>), CompactError> {
    let mut graph = graph.clone();
    let mut found: Vec<Dead> = Vec::new();
    for _ in 0..ROUNDS {
        let settings = Settings::find(&graph, shapes);
        let facts = settings.facts();
        let dependencies = DependencyGraph::new(&graph, facts);
        let (removal, folds) = dead_units(&graph, &dependencies, facts);
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
        let mut next = compact_in_place(&graph, &dependencies, facts, &removal)?;
        for fold in &folds {
            fold.apply(&mut next, &dependencies, &removal);
        }
        next.remove_unused();
        next.normalize()?;
        graph = next;
    }
    Ok((graph, found))
}

/// What a sum sees of a unit.
#[derive(Default, Clone)]
struct Seen {
    /// Some weight of it is not zero.
    weighs: bool,
    /// Its value there is not known to be constant.
    varies: bool,
    /// It is constant, but not zero.
    constant: bool,
}

fn dead_units(graph: &Graph, dependencies: &DependencyGraph, facts: Facts<'_>) -> (Removal, Vec<Fold>) {
    let bounds = ranges(graph, facts);
    let mut alive = vec![false; dependencies.unit_count()];
    let mut summed = vec![false; dependencies.unit_count()];
    for contraction in dependencies.contractions() {
        if !dependencies.can_shrink(contraction.axis) {
            continue;
        }
        let can_fold = Fold::fits(graph, facts, contraction);
        for (unit, seen) in look(dependencies, facts, &bounds, contraction) {
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
    keep_one(dependencies, &mut removal);
    let folds = dependencies.contractions().iter().filter(|c| dependencies.kept(c.axis, &removal).is_some());
    let folds = folds.filter_map(|c| Fold::new(graph, dependencies, facts, &bounds, &removal, c)).collect();
    (removal, folds)
}

/// A layer without a unit is no layer: the first stays.
fn keep_one(dependencies: &DependencyGraph, removal: &mut Removal) {
    for axis in dependencies.shrinking_axes() {
        if dependencies.kept_count(axis, removal) == 0 {
            let mut units = Vec::new();
            dependencies.for_each_unit(axis, &mut |index, unit| {
                if index == 0 {
                    units.push(unit);
                }
            });
            units.into_iter().for_each(|unit| removal.restore(unit));
        }
    }
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

fn look(
    dependencies: &DependencyGraph,
    facts: Facts<'_>,
    bounds: &[Option<Ranges>],
    contraction: &Contraction,
) -> BTreeMap<usize, Seen> {
    let mut seen: BTreeMap<usize, Seen> = BTreeMap::new();
    dependencies.for_each_unit(contraction.axis, &mut |_, unit| {
        seen.entry(unit).or_default();
    });
    let ((data, dim), weight) = operands(facts, contraction);
    // Where the data are constant.
    let watch = |(data, dim): (ValueId, usize), seen: &mut BTreeMap<usize, Seen>| {
        let Some(layout) = dependencies.layout(data) else { return };
        let along = bounds[data.index()].as_ref().filter(|r| layout.axes.len() == dim + r.from_end);
        dependencies.for_each_unit(layout.axes[dim], &mut |index, unit| {
            if let Some(seen) = seen.get_mut(&unit) {
                match along.and_then(|r| r.constant(index)) {
                    Some(value) => seen.constant |= value != 0.0,
                    None => seen.varies = true,
                }
            }
        });
    };
    watch((data, dim), &mut seen);
    let Some((weight, dim)) = weight else {
        seen.values_mut().for_each(|s| s.weighs = true);
        return seen;
    };
    if let (Some(tensor), Some(layout)) = (facts.constant(weight), dependencies.layout(weight)) {
        let weighs = float_values(tensor).map(|values| weighing(&values, tensor.shape(), dim));
        dependencies.for_each_unit(layout.axes[dim], &mut |index, unit| {
            if let Some(seen) = seen.get_mut(&unit) {
                seen.weighs |= weighs.as_ref().is_none_or(|w| w[index]);
            }
        });
    }
    seen
}

/// For each index along a dimension whether some weight there is not (near) zero: smaller than [`TINY`], or than the
/// rounding of the largest weight of the layer. What that does to the outputs is checked in the end.
fn weighing(values: &[f32], shape: &[usize], dim: usize) -> Vec<bool> {
    let inner: usize = shape[dim + 1..].iter().product::<usize>().max(1);
    let largest = values.iter().fold(0.0_f32, |largest, w| largest.max(w.abs()));
    let least = TINY.max(largest * f32::EPSILON);
    let mut weighs = vec![false; shape[dim]];
    for (row, values) in values.chunks_exact(inner).enumerate() {
        weighs[row % shape[dim]] |= values.iter().any(|w| w.abs() >= least || w.is_nan());
    }
    weighs
}

/// Whether a product's second input is its weight.
fn weight_is_second(op: &Op) -> bool {
    matches!(op, Op::MatMul | Op::Gemm { .. } | Op::Conv(_))
}
