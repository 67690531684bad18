//! Operators that move or repeat elements.

use poda_formats::op::{DepthToSpaceMode, PadMode};

use super::super::axis::{AxisId, ONE};
use super::super::build::{Builder, Fix};
use super::super::reason::Why;

/// Reshape and its special forms: the output's shape says all.
pub(super) fn reshape(b: &mut Builder<'_>) {
    let (Some(x), Some(shape)) = (b.input(0), b.output_shape(0)) else { return };
    let from: Vec<usize> = x.axes.iter().map(|&axis| b.table.size(axis)).collect();
    let reason = b.reason(Why::NotAligned);
    let axes = b.table.reshape(&x.axes, shape, reason);
    // An output dimension holds what the input dimensions of the same strides hold.
    let (inner, outer) = (spans(&from), spans(shape));
    let zero = outer
        .iter()
        .map(|&(low, high)| {
            let mut held = inner.iter().enumerate().filter(|&(_, &(l, h))| l.max(low) < h.min(high));
            held.all(|(dim, _)| x.zero[dim] || b.is_blocked(x.axes[dim]))
        })
        .collect();
    b.set(0, axes, zero);
}

/// For each dimension its stride and its stride times its size.
fn spans(shape: &[usize]) -> Vec<(usize, usize)> {
    let mut stride: usize = 1;
    let mut spans: Vec<_> = shape
        .iter()
        .rev()
        .map(|&size| {
            let low = stride;
            stride = stride.saturating_mul(size);
            (low, stride)
        })
        .collect();
    spans.reverse();
    spans
}

/// Notes that `input` lists the sizes of the output's dimensions.
pub(super) fn sizes_of_output(b: &mut Builder<'_>, input: usize) {
    let Some(layout) = b.node().output(0).and_then(|id| b.layouts[id.index()].clone()) else { return };
    let dims = (0..layout.axes.len()).collect();
    b.fix(Fix::Sizes { input, axes: layout.axes, dims });
}

pub(super) fn transpose(b: &mut Builder<'_>, perm: &[usize]) {
    let Some(x) = b.input(0) else { return };
    let rank = x.axes.len();
    let reversed: Vec<usize> = (0..rank).rev().collect();
    let perm = if perm.is_empty() { &reversed } else { perm };
    if perm.len() != rank || perm.iter().any(|&p| p >= rank) {
        return b.opaque(Why::Coupled);
    }
    let axes = perm.iter().map(|&p| x.axes[p]).collect();
    b.set(0, axes, perm.iter().map(|&p| x.zero[p]).collect());
}

pub(super) fn concat(b: &mut Builder<'_>, axis: i64) {
    let Some(rank) = b.output_shape(0).map(<[usize]>::len) else { return };
    let at = if axis < 0 { axis + rank as i64 } else { axis };
    let layouts: Vec<_> = (0..b.node().inputs.len()).filter_map(|i| b.input(i)).collect();
    let fits = layouts.iter().all(|l| l.axes.len() == rank);
    let Some(at) = usize::try_from(at).ok().filter(|&at| at < rank && fits && !layouts.is_empty()) else {
        return b.opaque(Why::Coupled);
    };
    let (mut axes, mut zero) = (Vec::with_capacity(rank), Vec::with_capacity(rank));
    for dim in 0..rank {
        zero.push(layouts.iter().all(|l| l.zero[dim]));
        if dim == at {
            let mut parts = Vec::with_capacity(layouts.len());
            for layout in &layouts {
                if b.table.size(layout.axes[dim]) > 0 {
                    parts.push(layout.axes[dim]);
                }
            }
            let reason = b.reason(Why::Picked);
            axes.push(if parts.is_empty() { layouts[0].axes[dim] } else { b.table.sum(&parts, reason) });
        } else {
            for other in &layouts[1..] {
                b.unify(layouts[0].axes[dim], other.axes[dim]);
            }
            axes.push(layouts[0].axes[dim]);
        }
    }
    b.set(0, axes, zero);
}

pub(super) fn expand(b: &mut Builder<'_>) {
    let (Some(x), Some(shape)) = (b.input(0), b.output_shape(0)) else { return };
    b.parameter(1);
    let is_zero = b.node().input(0).is_some_and(|id| b.is_zero(id));
    let rank = shape.len();
    let (mut axes, mut zero) = (Vec::with_capacity(rank), Vec::with_capacity(rank));
    for (dim, &size) in shape.iter().enumerate() {
        let own = (dim + x.axes.len()).checked_sub(rank);
        match own.filter(|&own| b.table.size(x.axes[own]) == size) {
            Some(own) => {
                axes.push(x.axes[own]);
                zero.push(x.zero[own]);
            }
            None => {
                axes.push(b.fresh(0, dim));
                zero.push(is_zero);
            }
        }
    }
    b.set(0, axes, zero);
    sizes_of_output(b, 1);
}

pub(super) fn tile(b: &mut Builder<'_>) {
    let (Some(x), Some(shape)) = (b.input(0), b.output_shape(0)) else { return };
    let (Some(data), Some(result)) = (b.node().input(0), b.node().output(0)) else { return };
    b.parameter(1);
    if x.axes.len() != shape.len() {
        return b.opaque(Why::DynamicShape);
    }
    let (mut axes, mut zero, mut repeats) = (Vec::new(), Vec::new(), Vec::new());
    for (dim, &size) in shape.iter().enumerate() {
        let own = b.table.size(x.axes[dim]);
        if own == 0 || size == 0 {
            return b.opaque(Why::DynamicShape);
        }
        let repeat = if b.facts.is_fixed(data, dim) && b.facts.is_fixed(result, dim) {
            b.table.leaf(size / own)
        } else {
            let reason = b.reason(Why::DynamicShape);
            b.table.blocked(size / own, reason)
        };
        // A copy that goes is not zero in the masked model.
        zero.push(x.zero[dim] && b.is_blocked(repeat));
        axes.push(b.table.product(&[repeat, x.axes[dim]]));
        repeats.push(repeat);
    }
    b.set(0, axes, zero);
    // The dimensions of the output are no sizes that the input lists.
    b.fix(Fix::Sizes { input: 1, axes: repeats, dims: Vec::new() });
}

pub(super) fn pad(b: &mut Builder<'_>, mode: PadMode) {
    let (Some(x), Some(shape)) = (b.input(0), b.output_shape(0)) else { return };
    let node = b.node();
    let pads = node.input(1).and_then(|id| b.facts.integers(id));
    let rank = x.axes.len();
    let listed = match node.input(3) {
        Some(id) => b.facts.integers(id),
        None => Some((0..rank as i64).collect()),
    };
    let value_is_zero = node.input(2).is_none_or(|id| b.facts.scalar(id) == Some(0.0));
    (1..4).for_each(|input| b.parameter(input));
    let (Some(pads), Some(listed)) = (pads, listed) else { return b.opaque(Why::DataDependent) };
    let mut padded = vec![false; rank];
    for (i, &axis) in listed.iter().enumerate() {
        let dim = if axis < 0 { axis + rank as i64 } else { axis } as usize;
        let amounts = [pads.get(i), pads.get(i + listed.len())];
        if dim < rank && amounts.iter().any(|a| a.is_none_or(|&a| a != 0)) {
            padded[dim] = true;
        }
    }
    let keeps_zero = mode != PadMode::Constant || value_is_zero || padded.iter().all(|&p| !p);
    let mut axes = x.axes.clone();
    for dim in 0..rank {
        if padded[dim] {
            b.block(x.axes[dim], Why::DataDependent);
            let reason = b.reason(Why::DataDependent);
            axes[dim] = b.table.blocked(shape[dim], reason);
        }
    }
    let zero = (0..rank).map(|dim| padded[dim] || (x.zero[dim] && keeps_zero)).collect();
    b.set(0, axes, zero);
}

pub(super) fn depth_to_space(b: &mut Builder<'_>, block: usize, mode: DepthToSpaceMode) {
    let (Some(x), Some(shape)) = (b.input(0), b.output_shape(0)) else { return };
    if x.axes.len() != 4 || shape.len() != 4 {
        return b.opaque(Why::Spatial);
    }
    let channels = shape[1];
    let (sizes, at) = match mode {
        DepthToSpaceMode::DepthColumnRow => ([block, block, channels], 2),
        DepthToSpaceMode::ColumnRowDepth => ([channels, block, block], 0),
    };
    let reason = b.reason(Why::Spatial);
    let parts = b.table.reshape(&[x.axes[1]], &sizes, reason);
    for (index, &part) in parts.iter().enumerate() {
        if index != at {
            b.block(part, Why::Spatial);
        }
    }
    blocks(b, vec![x.axes[0], parts[at]], x.zero);
}

pub(super) fn space_to_depth(b: &mut Builder<'_>, block: usize) {
    let Some(x) = b.input(0) else { return };
    if x.axes.len() != 4 {
        return b.opaque(Why::Spatial);
    }
    let reason = b.reason(Why::Spatial);
    let side = b.table.blocked(block, reason);
    let channels = b.table.product(&[side, side, x.axes[1]]);
    blocks(b, vec![x.axes[0], channels], x.zero);
}

/// Sets an output with these batch and channel axes and new spatial ones.
fn blocks(b: &mut Builder<'_>, mut axes: Vec<AxisId>, zero: Vec<bool>) {
    let (Some(x), Some(shape)) = (b.input(0), b.output_shape(0)) else { return };
    let reason = b.reason(Why::Spatial);
    x.axes[2..].iter().for_each(|&axis| b.block(axis, Why::Spatial));
    axes.extend(shape[2..].iter().map(|&size| b.table.blocked(size, reason)));
    b.set(0, axes, zero);
}

pub(super) fn constant_of_shape(b: &mut Builder<'_>, is_zero: bool) {
    let Some(shape) = b.output_shape(0) else { return };
    b.parameter(0);
    let axes = (0..shape.len()).map(|dim| if shape[dim] == 1 { ONE } else { b.fresh(0, dim) }).collect();
    b.set(0, axes, vec![is_zero; shape.len()]);
    sizes_of_output(b, 0);
}
