//! Products: an axis summed over ends here, the free axes of both operands go on.

use super::super::axis::{AxisId, ONE};
use super::super::build::{Builder, Fix, Layout};
use super::super::reason::Why;

/// Couples the leading dimensions `lead` of each operand as broadcasting does, for an output where a slice is zero
/// when it is zero in some operand.
pub(super) fn batch_dims(
    b: &mut Builder<'_>,
    operands: &[(&Layout, usize)],
    shape: &[usize],
) -> (Vec<AxisId>, Vec<bool>) {
    let rank = shape.len();
    let (mut axes, mut zero) = (vec![ONE; rank], vec![false; rank]);
    for &(layout, lead) in operands {
        for own in 0..lead {
            let Some(dim) = (own + rank).checked_sub(lead) else { continue };
            let axis = layout.axes[own];
            if b.table.size(axis) != shape[dim] || axis == ONE {
                continue;
            }
            zero[dim] |= layout.zero[own];
            if axes[dim] == ONE {
                axes[dim] = axis;
            } else {
                b.unify(axes[dim], axis);
            }
        }
    }
    (axes, zero)
}

pub(super) fn matmul(b: &mut Builder<'_>) {
    let (Some(x), Some(y), Some(shape)) = (b.input(0), b.input(1), b.output_shape(0)) else { return };
    let (r, s) = (x.axes.len(), y.axes.len());
    if r == 0 || s == 0 {
        return b.opaque(Why::Coupled);
    }
    b.contract((0, r - 1), (1, s.saturating_sub(2)));
    let (m, n) = (usize::from(r > 1), usize::from(s > 1));
    let lead = shape.len() - m - n;
    let operands = [(&x, r.saturating_sub(2)), (&y, s.saturating_sub(2))];
    let (mut axes, mut zero) = batch_dims(b, &operands, &shape[..lead]);
    if m == 1 {
        axes.push(x.axes[r - 2]);
        zero.push(x.zero[r - 2]);
    }
    if n == 1 {
        axes.push(y.axes[s - 1]);
        zero.push(y.zero[s - 1]);
    }
    b.set(0, axes, zero);
}

pub(super) fn gemm(b: &mut Builder<'_>, trans_a: bool, trans_b: bool) {
    let (Some(x), Some(y)) = (b.input(0), b.input(1)) else { return };
    let rank = |input: usize| b.input(input).map_or(0, |l| l.axes.len());
    if rank(0) != 2 || rank(1) != 2 || rank(2) > 2 {
        return b.opaque(Why::Coupled);
    }
    let (m, k) = if trans_a { (1, 0) } else { (0, 1) };
    let (n, own_k) = if trans_b { (0, 1) } else { (1, 0) };
    b.contract((0, k), (1, own_k));
    let axes = vec![x.axes[m], y.axes[n]];
    let mut zero = vec![x.zero[m], y.zero[n]];
    if let Some(c) = b.input(2) {
        let offset = 2 - c.axes.len().min(2);
        let mut summand = [false; 2];
        for (own, &axis) in c.axes.iter().enumerate() {
            if b.table.size(axis) == b.table.size(axes[own + offset]) {
                b.unify(axis, axes[own + offset]);
                summand[own + offset] = c.zero[own];
            }
        }
        zero = vec![zero[0] && summand[0], zero[1] && summand[1]];
    }
    b.set(0, axes, zero);
}

/// Splits a channel axis into groups × channels of a group.
fn groups(b: &mut Builder<'_>, axis: AxisId, group: usize) -> Option<(AxisId, AxisId)> {
    let size = b.table.size(axis);
    if group == 0 || !size.is_multiple_of(group) {
        return None;
    }
    let reason = b.reason(Why::Coupled);
    let parts = b.table.reshape(&[axis], &[group, size / group], reason);
    Some((parts[0], parts[1]))
}

/// Blocks the spatial dimensions of input `index`, and gives the output blocked ones after its channels.
fn spatial(b: &mut Builder<'_>, axes: &mut Vec<AxisId>, zero: &mut Vec<bool>) {
    for input in 0..2 {
        for &axis in b.input(input).iter().flat_map(|l| l.axes.iter().skip(2)) {
            b.block(axis, Why::Spatial);
        }
    }
    for &size in b.output_shape(0).unwrap_or_default().iter().skip(axes.len()) {
        let reason = b.reason(Why::Spatial);
        axes.push(b.table.blocked(size, reason));
        zero.push(true);
    }
}

pub(super) fn conv(b: &mut Builder<'_>, group: usize) {
    convolution(b, group, [0, 1]);
}

pub(super) fn conv_transpose(b: &mut Builder<'_>, group: usize) {
    convolution(b, group, [1, 0]);
}

/// `[out, inp]` are the dimensions of the weight with output and input channels. Dimension 0 counts those of all
/// groups: the weight is `[g·o, i, …]`, of a transposed convolution `[g·i, o, …]`.
fn convolution(b: &mut Builder<'_>, group: usize, [out, inp]: [usize; 2]) {
    let (Some(x), Some(w)) = (b.input(0), b.input(1)) else { return };
    if x.axes.len() < 2 || w.axes.len() < 2 {
        return b.opaque(Why::Coupled);
    }
    let (Some((x_groups, x_each)), Some((w_groups, w_each))) =
        (groups(b, x.axes[1], group), groups(b, w.axes[0], group))
    else {
        return b.opaque(Why::Coupled);
    };
    b.unify(x_groups, w_groups);
    let (channels, summed) =
        if out == 0 { (w.axes[0], w.axes[1]) } else { (b.table.product(&[w_groups, w.axes[1]]), w_each) };
    b.unify(x_each, summed);
    if !(x.zero[1] || w.zero[inp]) {
        b.block(x_each, Why::NotZero);
    }
    let node = b.node();
    if let (Some(data), Some(weight)) = (node.input(0), node.input(1)) {
        b.sums(x_each, [(data, 1), (weight, inp)]);
    }
    if group > 1 {
        b.fix(Fix::Group(x_groups));
    }
    let bias = b.input(2);
    let has_bias = node.input(2).is_some();
    let mut zero = vec![x.zero[0] && !has_bias, w.zero[out]];
    if let Some((&axis, &is_zero)) = bias.as_ref().and_then(|l| l.axes.first().zip(l.zero.first())) {
        b.unify(axis, channels);
        zero[1] &= is_zero;
    }
    let mut axes = vec![x.axes[0], channels];
    spatial(b, &mut axes, &mut zero);
    b.set(0, axes, zero);
}

pub(super) fn einsum(b: &mut Builder<'_>, equation: &str) {
    let Some((terms, result)) = parse(equation) else { return b.opaque(Why::Coupled) };
    let layouts: Vec<Layout> = (0..terms.len()).filter_map(|i| b.input(i)).collect();
    let fits = layouts.len() == terms.len()
        && layouts.iter().zip(&terms).all(|(layout, term)| layout.axes.len() == term.len());
    if !fits {
        return b.opaque(Why::Coupled);
    }
    let mut letters: Vec<char> = terms.iter().flatten().copied().collect();
    letters.sort_unstable();
    letters.dedup();
    let mut found: Vec<(char, AxisId, bool)> = Vec::new();
    for letter in letters {
        let (mut axis, mut zero, mut places) = (ONE, false, Vec::new());
        for (index, (layout, term)) in layouts.iter().zip(&terms).enumerate() {
            let Some(dim) = term.iter().position(|&l| l == letter) else { continue };
            if layout.axes[dim] == ONE {
                continue;
            }
            places.push((index, dim));
            zero |= layout.zero[dim];
            if axis == ONE {
                axis = layout.axes[dim];
            } else {
                b.unify(axis, layout.axes[dim]);
            }
        }
        if !result.contains(&letter) {
            if !zero {
                b.block(axis, Why::NotZero);
            }
            let at = |i: usize| places.get(i).and_then(|&(input, dim)| Some((b.node().input(input)?, dim)));
            if let Some(first) = at(0) {
                let second = at(1).unwrap_or(first);
                b.sums(axis, [first, second]);
            }
        }
        found.push((letter, axis, zero));
    }
    let of = |letter: &char| found.iter().find(|f| f.0 == *letter).map_or((ONE, true), |f| (f.1, f.2));
    let (axes, zero) = result.iter().map(of).unzip();
    b.set(0, axes, zero);
}

/// The letters of each operand and of the result; `None` with an ellipsis or a diagonal.
fn parse(equation: &str) -> Option<(Vec<Vec<char>>, Vec<char>)> {
    let text: String = equation.chars().filter(|c| !c.is_whitespace()).collect();
    if text.contains('.') {
        return None;
    }
    let (left, right) = text.split_once("->").map_or((text.as_str(), None), |(l, r)| (l, Some(r)));
    let terms: Vec<Vec<char>> = left.split(',').map(|term| term.chars().collect()).collect();
    let distinct = |term: &Vec<char>| term.iter().enumerate().all(|(i, c)| !term[..i].contains(c));
    let result: Vec<char> = match right {
        Some(right) => right.chars().collect(),
        None => {
            let mut all: Vec<char> = terms.iter().flatten().copied().collect();
            all.sort_unstable();
            let once = |c: &&char| all.iter().filter(|d| d == c).count() == 1;
            all.iter().filter(once).copied().collect()
        }
    };
    (terms.iter().all(distinct) && distinct(&result)).then_some((terms, result))
}
