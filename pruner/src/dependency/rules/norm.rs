//! Normalisations, softmax, pooling, sampling, reductions and searches: axes that are summed or compared.

use poda_formats::op::{CoordinateTransform, ReduceKind, ResizeAttributes};

use super::super::axis::ONE;
use super::super::build::{Builder, Fix};
use super::super::reason::Why;

fn resolve(axis: i64, rank: usize) -> Option<usize> {
    let at = if axis < 0 { axis + rank as i64 } else { axis };
    usize::try_from(at).ok().filter(|&at| at < rank)
}

/// Output as input, with the dimensions `axes` kept whole.
pub(super) fn keep_whole(b: &mut Builder<'_>, axes: &[i64], why: Why, keeps_zero: bool) {
    let Some(x) = b.input(0) else { return };
    for &axis in axes {
        if let Some(dim) = resolve(axis, x.axes.len()) {
            b.block(x.axes[dim], why);
        }
    }
    let zero = x.zero.iter().map(|&z| z && keeps_zero).collect();
    b.set(0, x.axes, zero);
    for output in 1..b.node().outputs.len() {
        if let Some(shape) = b.output_shape(output) {
            let reason = b.reason(why);
            let axes = shape.iter().map(|&size| b.table.blocked(size, reason)).collect();
            b.set(output, axes, vec![true; shape.len()]);
        }
    }
}

pub(super) fn batch(b: &mut Builder<'_>) {
    let Some(x) = b.input(0) else { return };
    let Some(&channels) = x.axes.get(1) else { return b.opaque(Why::Normalised) };
    for input in 1..5 {
        if let Some(&axis) = b.input(input).as_ref().and_then(|l| l.axes.first()) {
            b.unify(channels, axis);
        }
    }
    // Shifts are set to zero with the rest of a removed unit; other dimensions are shifted.
    let zero = (0..x.axes.len()).map(|dim| dim == 1).collect();
    b.set(0, x.axes, zero);
}

pub(super) fn instance(b: &mut Builder<'_>) {
    let Some(x) = b.input(0) else { return };
    let Some(&channels) = x.axes.get(1) else { return b.opaque(Why::Normalised) };
    for input in 1..3 {
        if let Some(&axis) = b.input(input).as_ref().and_then(|l| l.axes.first()) {
            b.unify(channels, axis);
        }
    }
    for &axis in &x.axes[2..] {
        b.block(axis, Why::Normalised);
    }
    let zero = (0..x.axes.len()).map(|dim| dim == 1).collect();
    b.set(0, x.axes, zero);
}

pub(super) fn group(b: &mut Builder<'_>, groups: usize) {
    let Some(x) = b.input(0) else { return };
    let size = x.axes.get(1).map_or(0, |&axis| b.table.size(axis));
    if groups == 0 || !size.is_multiple_of(groups) {
        return b.opaque(Why::Normalised);
    }
    let reason = b.reason(Why::Normalised);
    let parts = b.table.reshape(&[x.axes[1]], &[groups, size / groups], reason);
    b.block(parts[1], Why::Normalised);
    b.fix(Fix::NumGroups(parts[0]));
    instance(b);
}

pub(super) fn layer(b: &mut Builder<'_>, axis: i64) {
    let Some(x) = b.input(0) else { return };
    let rank = x.axes.len();
    let Some(start) = resolve(axis, rank) else { return b.opaque(Why::Normalised) };
    for &axis in &x.axes[start..] {
        b.block(axis, Why::Normalised);
    }
    couple_scale(b, start);
    let has_bias = b.node().input(2).is_some();
    let zero = x.zero.iter().map(|&z| z && !has_bias).collect();
    b.set(0, x.axes.clone(), zero);
    for output in 1..b.node().outputs.len() {
        let axes = (0..rank).map(|dim| if dim < start { x.axes[dim] } else { ONE }).collect();
        b.set(output, axes, vec![false; rank]);
    }
}

/// Couples scale and bias, which have the shape of the dimensions from `start` or broadcast to it.
fn couple_scale(b: &mut Builder<'_>, start: usize) {
    let Some(x) = b.input(0) else { return };
    for input in 1..b.node().inputs.len() {
        let Some(vector) = b.input(input) else { continue };
        for (&axis, &own) in x.axes[start..].iter().rev().zip(vector.axes.iter().rev()) {
            if b.table.size(axis) == b.table.size(own) {
                b.unify(axis, own);
            }
        }
    }
}

pub(super) fn root_mean_square(b: &mut Builder<'_>, axis: i64) {
    let Some(x) = b.input(0) else { return };
    let Some(start) = resolve(axis, x.axes.len()) else { return b.opaque(Why::Normalised) };
    couple_scale(b, start);
    for dim in start..x.axes.len() {
        sum_of(b, dim);
    }
    b.fix(Fix::RootMeanSquare(x.axes[start..].to_vec()));
    b.set(0, x.axes, x.zero);
}

/// Sums over a dimension of the first input, where removed units must be zero.
fn sum_of(b: &mut Builder<'_>, dim: usize) {
    let (Some(x), Some(id)) = (b.input(0), b.node().input(0)) else { return };
    if !x.zero[dim] {
        b.block(x.axes[dim], Why::NotZero);
    }
    b.sums(x.axes[dim], [(id, dim); 2]);
}

pub(super) fn lp(b: &mut Builder<'_>, axis: i64) {
    let Some(x) = b.input(0) else { return };
    let Some(dim) = resolve(axis, x.axes.len()) else { return b.opaque(Why::Normalised) };
    sum_of(b, dim);
    // A slice of zeros elsewhere would be divided by its norm, zero.
    let zero = (0..x.axes.len()).map(|d| d == dim && x.zero[d]).collect();
    b.set(0, x.axes, zero);
}

pub(super) fn pool(b: &mut Builder<'_>) {
    // Indices count elements across channels.
    if b.node().output(1).is_some() {
        return b.opaque(Why::Searched);
    }
    channels_through(b);
}

pub(super) fn sample(b: &mut Builder<'_>) {
    for input in 1..b.node().inputs.len() {
        b.parameter(input);
    }
    channels_through(b);
}

/// The first two dimensions go through, the rest is new.
fn channels_through(b: &mut Builder<'_>) {
    let (Some(x), Some(shape)) = (b.input(0), b.output_shape(0)) else { return };
    if x.axes.len() != shape.len() {
        return b.opaque(Why::Spatial);
    }
    let (mut axes, mut zero) = (x.axes.clone(), x.zero.clone());
    for (dim, &size) in shape.iter().enumerate() {
        if dim >= 2 || size != b.table.size(x.axes[dim]) {
            b.block(x.axes[dim], Why::Spatial);
            let reason = b.reason(Why::Spatial);
            (axes[dim], zero[dim]) = (b.table.blocked(size, reason), true);
        }
    }
    b.set(0, axes, zero);
}

pub(super) fn global_pool(b: &mut Builder<'_>) {
    let Some(x) = b.input(0) else { return };
    for &axis in x.axes.iter().skip(2) {
        b.block(axis, Why::Spatial);
    }
    let axes = x.axes.iter().enumerate().map(|(dim, &axis)| if dim < 2 { axis } else { ONE }).collect();
    b.set(0, axes, x.zero);
}

pub(super) fn resize(b: &mut Builder<'_>, attributes: &ResizeAttributes) {
    let (Some(x), Some(shape), Some(data)) = (b.input(0), b.output_shape(0), b.node().input(0)) else {
        return;
    };
    for input in 1..4 {
        b.parameter(input);
    }
    let crops = attributes.coordinates == CoordinateTransform::TfCropAndResize;
    let (mut axes, mut zero) = (x.axes.clone(), x.zero.clone());
    for (dim, &size) in shape.iter().enumerate() {
        if crops || size != b.table.size(x.axes[dim]) || !b.facts.is_fixed(data, dim) {
            b.block(x.axes[dim], Why::Spatial);
            let reason = b.reason(Why::Spatial);
            (axes[dim], zero[dim]) = (b.table.blocked(size, reason), true);
        }
    }
    if b.node().input(3).is_some() {
        let rank = shape.len();
        let listed: Vec<usize> = if attributes.axes.is_empty() {
            (0..rank).collect()
        } else {
            attributes.axes.iter().filter_map(|&axis| resolve(axis, rank)).collect()
        };
        let sizes = listed.iter().map(|&dim| axes[dim]).collect();
        b.fix(Fix::Sizes { input: 3, axes: sizes, dims: listed });
    }
    b.set(0, axes, zero);
}

/// How a reduction bears units that are zero and then gone.
enum Bears {
    Unchanged,
    FewerUnits,
    Not,
}

pub(super) fn reduce(b: &mut Builder<'_>, kind: ReduceKind, keep_dims: bool, noop_with_empty_axes: bool) {
    let (Some(x), Some(data)) = (b.input(0), b.node().input(0)) else { return };
    let rank = x.axes.len();
    let given = match b.node().input(1) {
        None => Some(Vec::new()),
        Some(id) => b.facts.integers(id),
    };
    b.parameter(1);
    let Some(given) = given else { return b.opaque(Why::DataDependent) };
    let reduced: Vec<usize> = match (given.is_empty(), noop_with_empty_axes) {
        (true, false) => (0..rank).collect(),
        (true, true) => Vec::new(),
        (false, _) => given.iter().filter_map(|&axis| resolve(axis, rank)).collect(),
    };
    let is_float = b.facts.info(data).is_some_and(|info| info.dtype.is_float());
    let (bears, keeps_zero) = match kind {
        ReduceKind::Sum | ReduceKind::L1 | ReduceKind::L2 | ReduceKind::SumSquare => (Bears::Unchanged, true),
        ReduceKind::Mean if is_float => (Bears::FewerUnits, true),
        ReduceKind::Mean | ReduceKind::Max | ReduceKind::Min | ReduceKind::Prod => (Bears::Not, true),
        ReduceKind::LogSum | ReduceKind::LogSumExp => (Bears::Not, false),
    };
    for &dim in &reduced {
        match bears {
            Bears::Unchanged | Bears::FewerUnits => sum_of(b, dim),
            Bears::Not => b.block(x.axes[dim], Why::Searched),
        }
    }
    if matches!(bears, Bears::FewerUnits) && reduced.iter().any(|&dim| !b.is_blocked(x.axes[dim])) {
        b.fix(Fix::Mean(reduced.iter().map(|&dim| x.axes[dim]).collect()));
    }
    let (mut axes, mut zero) = (Vec::with_capacity(rank), Vec::with_capacity(rank));
    for dim in 0..rank {
        if !reduced.contains(&dim) {
            axes.push(x.axes[dim]);
            zero.push(x.zero[dim] && keeps_zero);
        } else if keep_dims {
            axes.push(ONE);
            zero.push(true);
        }
    }
    b.set(0, axes, zero);
}

/// ArgMax, ArgMin and TopK.
pub(super) fn search(b: &mut Builder<'_>, axis: i64) {
    let Some(x) = b.input(0) else { return };
    b.parameter(1);
    let Some(dim) = resolve(axis, x.axes.len()) else { return b.opaque(Why::Searched) };
    b.block(x.axes[dim], Why::Searched);
    for output in 0..b.node().outputs.len() {
        let Some(shape) = b.output_shape(output) else { continue };
        let mut axes = x.axes.clone();
        if shape.len() == axes.len() {
            let reason = b.reason(Why::Searched);
            axes[dim] = b.table.blocked(shape[dim], reason);
        } else {
            axes.remove(dim);
        }
        let zero = vec![false; axes.len()];
        b.set(output, axes, zero);
    }
}

pub(super) fn cumulative(b: &mut Builder<'_>) {
    let axis = b.node().input(1).and_then(|id| b.facts.scalar(id));
    b.parameter(1);
    match axis {
        Some(axis) => keep_whole(b, &[axis as i64], Why::Ordered, true),
        None => b.opaque(Why::DataDependent),
    }
}
