//! Operators that take part of a dimension: constant indices go where the units go, others keep the dimension whole.

use poda_formats::op::slice_elements;

use super::super::axis::AxisId;
use super::super::build::{Builder, Fix, Selection};
use super::super::reason::Why;

/// A constant selection longer than this is a table look-up.
const MOST_INDICES: usize = 1 << 16;

fn resolve(axis: i64, rank: usize) -> Option<usize> {
    let at = if axis < 0 { axis + rank as i64 } else { axis };
    usize::try_from(at).ok().filter(|&at| at < rank)
}

pub(super) fn split(b: &mut Builder<'_>, axis: i64) {
    let Some(x) = b.input(0) else { return };
    b.parameter(1);
    let outputs = b.node().outputs.len();
    let dim = resolve(axis, x.axes.len());
    let sizes: Option<Vec<usize>> =
        dim.and_then(|dim| (0..outputs).map(|i| b.output_shape(i).map(|s| s[dim])).collect());
    let (Some(dim), Some(sizes)) = (dim, sizes) else { return b.opaque(Why::DataDependent) };
    let fixed = b.node().input(0).is_some_and(|id| b.facts.is_fixed(id, dim));
    if !fixed || sizes.iter().sum::<usize>() != b.table.size(x.axes[dim]) {
        return b.opaque(Why::DataDependent);
    }
    let reason = b.reason(Why::Picked);
    let parts = b.table.cut(x.axes[dim], &sizes, reason);
    let parts: Vec<AxisId> = parts.into_iter().map(|part| b.table.never_alone(part, reason)).collect();
    for (output, &part) in parts.iter().enumerate() {
        let mut axes = x.axes.clone();
        axes[dim] = part;
        b.set(output, axes, x.zero.clone());
    }
    b.fix(Fix::Split(parts));
}

pub(super) fn slice(b: &mut Builder<'_>) {
    let (Some(x), Some(shape)) = (b.input(0), b.output_shape(0)) else { return };
    let (node, rank) = (b.node(), x.axes.len());
    let list = |input: usize| node.input(input).map(|id| b.facts.integers(id));
    let (starts, ends, axes_given, steps) = (list(1).flatten(), list(2).flatten(), list(3), list(4));
    let count = node.input(1).and_then(|id| b.facts.shape(id)).and_then(|s| s.first().copied());
    (1..5).for_each(|input| b.parameter(input));
    let listed: Option<Vec<i64>> = axes_given.unwrap_or_else(|| count.map(|n| (0..n as i64).collect()));
    let Some(listed) = listed else { return b.opaque(Why::DataDependent) };
    let mut axes = x.axes.clone();
    let mut selections = Vec::new();
    for (position, &axis) in listed.iter().enumerate() {
        let Some(dim) = resolve(axis, rank) else { return b.opaque(Why::DataDependent) };
        let size = b.table.size(x.axes[dim]);
        let fixed = node.input(0).is_some_and(|id| b.facts.is_fixed(id, dim));
        let at = |values: &Option<Vec<i64>>| values.as_ref().and_then(|v| v.get(position).copied());
        let step = if node.input(4).is_some() { at(&steps.clone().flatten()) } else { Some(1) };
        let indices = match (at(&starts), at(&ends), step) {
            (Some(start), Some(end), Some(step)) if fixed => {
                let taken = slice_elements(size, start, end, step);
                taken.filter(|&(_, count)| count == shape[dim] && size <= MOST_INDICES).map(
                    |(first, count)| {
                        (0..count as i64).map(|i| (first as i64 + i * step) as usize).collect::<Vec<_>>()
                    },
                )
            }
            _ => None,
        };
        let Some(indices) = indices else {
            b.block(x.axes[dim], Why::DataDependent);
            let reason = b.reason(Why::DataDependent);
            axes[dim] = b.table.blocked(shape[dim], reason);
            continue;
        };
        let whole = indices.len() == size && step == Some(1);
        if !whole {
            let reason = b.reason(Why::Picked);
            axes[dim] = b.table.select(x.axes[dim], &indices, reason);
        }
        selections.push((position, Selection { dim, source: x.axes[dim], result: axes[dim], indices }));
    }
    b.fix(Fix::Slice(selections));
    b.set(0, axes, x.zero);
}

pub(super) fn gather(b: &mut Builder<'_>, axis: i64) {
    let (Some(x), Some(picks), Some(shape)) = (b.input(0), b.input(1), b.output_shape(0)) else { return };
    let Some(dim) = resolve(axis, x.axes.len()) else { return b.opaque(Why::DataDependent) };
    let size = b.table.size(x.axes[dim]);
    let fixed = b.node().input(0).is_some_and(|id| b.facts.is_fixed(id, dim));
    let constant = b.node().input(1).and_then(|id| b.facts.integers(id)).filter(|v| v.len() <= MOST_INDICES);
    let indices: Option<Vec<usize>> = constant.and_then(|values| {
        values.iter().map(|&i| usize::try_from(if i < 0 { i + size as i64 } else { i }).ok()).collect()
    });
    let mut axes = x.axes[..dim].to_vec();
    let mut zero = x.zero[..dim].to_vec();
    match indices {
        Some(indices) if fixed && picks.axes.len() == 1 && indices.len() > 1 => {
            b.parameter(1);
            let reason = b.reason(Why::Picked);
            let result = b.table.select(x.axes[dim], &indices, reason);
            axes.push(result);
            zero.push(x.zero[dim]);
            b.fix(Fix::Gather(Selection { dim, source: x.axes[dim], result, indices }));
        }
        known => {
            b.block(x.axes[dim], if known.is_some() { Why::Picked } else { Why::LookedUp });
            if known.is_some() {
                b.parameter(1);
            }
            axes.extend(&picks.axes);
            zero.extend(picks.axes.iter().map(|_| false));
        }
    }
    axes.extend(&x.axes[dim + 1..]);
    zero.extend(&x.zero[dim + 1..]);
    debug_assert_eq!(axes.len(), shape.len());
    b.set(0, axes, zero);
}

pub(super) fn gather_elements(b: &mut Builder<'_>, axis: i64) {
    let (Some(x), Some(picks)) = (b.input(0), b.input(1)) else { return };
    let Some(dim) = resolve(axis, x.axes.len()) else { return b.opaque(Why::DataDependent) };
    if picks.axes.len() != x.axes.len() {
        return b.opaque(Why::LookedUp);
    }
    b.block(x.axes[dim], Why::LookedUp);
    for other in (0..x.axes.len()).filter(|&d| d != dim) {
        b.unify(x.axes[other], picks.axes[other]);
    }
    let zero = (0..x.axes.len()).map(|d| d != dim && x.zero[d]).collect();
    b.set(0, picks.axes, zero);
}
