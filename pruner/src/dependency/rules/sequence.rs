//! Attention, rotary embeddings and recurrent layers.

use poda_formats::op::{AttentionAttributes, Direction, RecurrentAttributes, RecurrentKind};

use super::super::axis::{AxisId, ONE};
use super::super::build::{Builder, Fix, Layout};
use super::super::reason::Why;

/// Batch, heads, sequence and head size of an operand `[b, h, s, d]` or `[b, s, h·d]`, with what is zero.
struct Operand {
    batch: AxisId,
    heads: AxisId,
    sequence: AxisId,
    size: AxisId,
    zero: bool,
}

fn heads(b: &mut Builder<'_>, layout: &Layout, count: usize) -> Option<Operand> {
    match layout.axes[..] {
        [batch, heads, sequence, size] => {
            Some(Operand { batch, heads, sequence, size, zero: layout.zero[1] && layout.zero[3] })
        }
        [batch, sequence, width] => {
            let total = b.table.size(width);
            if count == 0 || !total.is_multiple_of(count) {
                return None;
            }
            let reason = b.reason(Why::Coupled);
            let parts = b.table.reshape(&[width], &[count, total / count], reason);
            Some(Operand { batch, heads: parts[0], sequence, size: parts[1], zero: layout.zero[2] })
        }
        _ => None,
    }
}

pub(super) fn attention(b: &mut Builder<'_>, attributes: &AttentionAttributes) {
    let (Some(q), Some(k), Some(v)) = (b.input(0), b.input(1), b.input(2)) else { return };
    let (Some(query), Some(key), Some(value)) = (
        heads(b, &q, attributes.q_num_heads),
        heads(b, &k, attributes.kv_num_heads),
        heads(b, &v, attributes.kv_num_heads),
    ) else {
        return b.opaque(Why::Coupled);
    };
    if [4, 5].iter().any(|&i| b.input(i).is_some_and(|past| past.axes.len() != 4)) {
        return b.opaque(Why::Coupled);
    }
    let (hq, hk, k_rank) = (b.table.size(query.heads), b.table.size(key.heads), k.axes.len());
    if hk == 0 || !hq.is_multiple_of(hk) {
        return b.opaque(Why::Coupled);
    }
    // Query head i uses key head i / (hq / hk).
    let reason = b.reason(Why::Coupled);
    let grouped = b.table.reshape(&[query.heads], &[hk, hq / hk], reason);
    b.unify(grouped[0], key.heads);
    b.unify(key.heads, value.heads);
    b.unify(query.size, key.size);
    if !(query.zero || key.zero) {
        b.block(key.size, Why::NotZero);
    }
    if let (Some(a), Some(k)) = (b.node().input(0), b.node().input(1)) {
        b.sums(query.size, [(a, q.axes.len() - 1), (k, k_rank - 1)]);
    }
    for operand in [&key, &value] {
        b.unify(query.batch, operand.batch);
    }
    b.unify(key.sequence, value.sequence);
    for axis in [query.sequence, key.sequence] {
        b.block(axis, Why::Softmax);
    }
    if let Some(mask) = b.input(3) {
        let rank = mask.axes.len();
        for (dim, &axis) in mask.axes.iter().enumerate() {
            match (rank - dim, b.table.size(axis)) {
                (_, 1) => {}
                (3, size) if size == hq => b.unify(axis, query.heads),
                (4, size) if size == b.table.size(query.batch) => b.unify(axis, query.batch),
                _ => b.block(axis, Why::Softmax),
            }
        }
    }
    for (past, operand) in [(4, &key), (5, &value)] {
        if let Some(past) = b.input(past) {
            b.unify(past.axes[0], operand.batch);
            b.unify(past.axes[1], operand.heads);
            b.block(past.axes[2], Why::Softmax);
            b.unify(past.axes[3], operand.size);
        }
    }
    b.parameter(6);
    let axes = if q.axes.len() == 4 {
        vec![query.batch, query.heads, query.sequence, value.size]
    } else {
        vec![query.batch, query.sequence, b.table.product(&[query.heads, value.size])]
    };
    // A removed head averages values that are zero.
    let zero = vec![value.zero; axes.len()];
    b.set(0, axes, zero);
    let sequence = |b: &mut Builder<'_>, output: usize, dim: usize| {
        let reason = b.reason(Why::Softmax);
        let size = b.output_shape(output).map_or(1, |shape| shape[dim]);
        b.table.blocked(size, reason)
    };
    for (output, operand) in [(1, &key), (2, &value)] {
        if b.node().output(output).is_some() {
            let total = sequence(b, output, 2);
            b.set(output, vec![operand.batch, operand.heads, total, operand.size], vec![operand.zero; 4]);
        }
    }
    if b.node().output(3).is_some() {
        let total = sequence(b, 3, 3);
        b.set(3, vec![query.batch, query.heads, query.sequence, total], vec![false; 4]);
    }
    b.fix(Fix::Heads { query: query.heads, key: key.heads, size: query.size });
}

pub(super) fn rotary(b: &mut Builder<'_>, interleaved: bool, num_heads: usize, rotary_dim: usize) {
    let Some(x) = b.input(0) else { return };
    let Some(parts) = heads(b, &x, num_heads) else { return b.opaque(Why::Coupled) };
    let size = b.table.size(parts.size);
    let rotated = if rotary_dim == 0 { size } else { rotary_dim };
    if rotated > size || !rotated.is_multiple_of(2) {
        return b.opaque(Why::Coupled);
    }
    let reason = b.reason(Why::Coupled);
    let turned = if rotated == size {
        parts.size
    } else {
        b.table.cut(parts.size, &[rotated, size - rotated], reason)[0]
    };
    let frequencies = if interleaved {
        let pairs = b.table.reshape(&[turned], &[rotated / 2, 2], reason);
        b.block(pairs[1], Why::Coupled);
        pairs[0]
    } else {
        let halves = b.table.cut(turned, &[rotated / 2, rotated / 2], reason);
        b.unify(halves[0], halves[1]);
        halves[0]
    };
    for input in [1, 2] {
        if let Some(&axis) = b.input(input).and_then(|l| l.axes.last().copied()).as_ref() {
            b.unify(axis, frequencies);
        }
        for &axis in b.input(input).iter().flat_map(|l| &l.axes[..l.axes.len().saturating_sub(1)]) {
            b.block(axis, Why::LookedUp);
        }
    }
    b.parameter(3);
    b.block(parts.sequence, Why::Ordered);
    b.fix(Fix::Rotary {
        heads: (num_heads != 0).then_some(parts.heads),
        rotated: (rotary_dim != 0).then_some(turned),
    });
    b.set(0, x.axes, x.zero);
}

pub(super) fn recurrent(b: &mut Builder<'_>, attributes: &RecurrentAttributes) {
    let (Some(x), Some(w), Some(r)) = (b.input(0), b.input(1), b.input(2)) else { return };
    let rank = |input: usize| b.input(input).map(|l| l.axes.len());
    let three = [0, 1, 2].iter().all(|&i| rank(i) == Some(3));
    let states = [5, 6].iter().all(|&i| rank(i).is_none_or(|r| r == 3));
    if !three || !states || [3, 7].iter().any(|&i| rank(i).is_some_and(|r| r != 2)) {
        return b.opaque(Why::Coupled);
    }
    let gates = match attributes.kind {
        RecurrentKind::Lstm { .. } => 4,
        RecurrentKind::Gru { .. } => 3,
        RecurrentKind::Rnn => 1,
    };
    let hidden = attributes.hidden_size;
    let directions = if attributes.direction == Direction::Bidirectional { 2 } else { 1 };
    let shapes_fit = hidden > 0
        && b.table.size(w.axes[1]) == gates * hidden
        && b.table.size(r.axes[1]) == gates * hidden
        && b.table.size(r.axes[2]) == hidden;
    // A unit without weights must stay zero: the default activations do that.
    if !shapes_fit || !attributes.activations.is_empty() && !default_activations(attributes, directions) {
        return b.opaque(Why::Coupled);
    }
    let [batch_at, sequence_at] = if attributes.batch_first { [0, 1] } else { [1, 0] };
    b.contract((0, 2), (1, 2));
    b.block(x.axes[sequence_at], Why::Ordered);
    let unit = r.axes[2];
    if let Some(recurrence) = b.node().input(2) {
        b.sums(unit, [(recurrence, 2); 2]);
    }
    let reason = b.reason(Why::Coupled);
    let stacked = |b: &mut Builder<'_>, axis: AxisId, rows: usize| {
        let parts = b.table.reshape(&[axis], &[rows, hidden], reason);
        b.block(parts[0], Why::Coupled);
        b.unify(parts[1], unit);
    };
    stacked(b, w.axes[1], gates);
    stacked(b, r.axes[1], gates);
    let direction_axis = w.axes[0];
    b.block(direction_axis, Why::Coupled);
    b.unify(direction_axis, r.axes[0]);
    for (input, rows) in [(3, 2 * gates), (7, 3)] {
        if let Some(vector) = b.input(input) {
            b.unify(direction_axis, vector.axes[0]);
            stacked(b, vector.axes[1], rows);
        }
    }
    b.parameter(4);
    let mut starts_at_zero = true;
    for input in [5, 6] {
        if let Some(state) = b.input(input) {
            b.unify(state.axes[2], unit);
            b.block(state.axes[0], Why::Coupled);
            b.block(state.axes[1], Why::Coupled);
            starts_at_zero &= state.zero[2];
        }
    }
    let batch = x.axes[batch_at];
    if batch != ONE {
        b.block(batch, Why::Ordered);
    }
    let state = |rank_four: bool| match (rank_four, attributes.batch_first) {
        (true, false) => vec![x.axes[0], direction_axis, x.axes[1], unit],
        (true, true) => vec![x.axes[0], x.axes[1], direction_axis, unit],
        (false, false) => vec![direction_axis, batch, unit],
        (false, true) => vec![batch, direction_axis, unit],
    };
    for output in 0..3 {
        let axes = state(output == 0);
        let mut zero = vec![true; axes.len()];
        zero[axes.len() - 1] = starts_at_zero;
        b.set(output, axes, zero);
    }
    b.fix(Fix::Hidden(unit));
}

/// Whether the activations given are those that keep a unit without weights at zero.
fn default_activations(attributes: &RecurrentAttributes, directions: usize) -> bool {
    let names: Vec<String> = attributes.activations.iter().map(|name| name.to_lowercase()).collect();
    let wanted: &[&str] = match attributes.kind {
        RecurrentKind::Lstm { .. } => &["sigmoid", "tanh", "tanh"],
        RecurrentKind::Gru { .. } => &["sigmoid", "tanh"],
        RecurrentKind::Rnn => return names.iter().all(|name| matches!(name.as_str(), "tanh" | "relu")),
    };
    names.len() == wanted.len() * directions && names.chunks(wanted.len()).all(|chunk| chunk == wanted)
}
