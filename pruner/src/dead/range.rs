//! Range analysis: between which bounds each channel of a value stays, whatever the inputs.
//!
//! A channel whose bounds meet is constant: its weights are zero, or an activation clamps all that can come (after
//! ReLU6 the input of a depthwise convolution is within 0..6, and a strongly negative shift then leaves 0 only).
//! Bounds are computed in f64. Operators without a rule give no bounds.

use poda_formats::op::{Binary, PoolKind, ReduceKind, SoftmaxKind, Variadic};
use poda_formats::{Graph, Op, ValueId};

use super::bounds::{
    Ranges, binary_ranges, concatenated, convolution, ordered, padded, product, reshaped, times, unary_ranges,
};
use crate::criterion::float_values;
use crate::dependency::Facts;

/// Bounds of every value.
pub(super) struct Bounds(Vec<Ranges>);

impl Bounds {
    pub(super) fn of(&self, id: ValueId) -> &Ranges {
        &self.0[id.index()]
    }
}

/// Follows bounds through `graph`, whose inputs are finite and at most `greatest`.
pub(super) fn ranges(graph: &Graph, facts: Facts<'_>, greatest: f64) -> Bounds {
    let mut all = Bounds(vec![Ranges::unknown(); graph.values.len()]);
    for (index, value) in graph.values.iter().enumerate() {
        if let Some(weight) = value.weight.as_ref().filter(|w| w.dtype().is_float()) {
            let ranges = weight.to_dense().ok().and_then(|tensor| Ranges::of(&tensor));
            all.0[index] = ranges.unwrap_or_else(Ranges::unknown);
        }
    }
    for &input in &graph.inputs {
        let of_type = |dtype| Ranges::of_input(dtype, greatest);
        all.0[input.index()] = graph.value(input).dtype.map_or_else(Ranges::unknown, of_type);
    }
    for node in &graph.nodes {
        let Some(output) = node.output(0) else { continue };
        let at = |i: usize| node.input(i).map_or_else(Ranges::unknown, |id| all.of(id).clone());
        let constant = |i: usize| node.input(i).and_then(|id| facts.constant(id)).and_then(float_values);
        let shape = |i: usize| node.input(i).and_then(|id| facts.shape(id));
        // Bounds of a summand by output channel, zero when there is none.
        let bias = |i: usize, from_end: usize, n: usize| match node.input(i) {
            Some(id) => all.of(id).spread(from_end, n),
            None => vec![(0.0, 0.0); n],
        };
        let result = match &node.op {
            Op::Conv(conv) => constant(1)
                .zip(shape(1))
                .and_then(|(w, s)| convolution(conv, &w, s, &bias(2, 1, *s.first()?), &at(0))),
            Op::Gemm { alpha, beta, trans_a: false, trans_b } => {
                constant(1).zip(shape(1)).and_then(|(w, s)| {
                    let columns = *s.get(usize::from(!*trans_b))?;
                    let scaled = Ranges::along(1, bias(2, 1, columns)).map(|(low, high)| {
                        let beta = f64::from(*beta);
                        ordered(times(low, beta), times(high, beta))
                    });
                    product(&w, s, *trans_b, *alpha, &scaled.spread(1, columns), &at(0))
                })
            }
            Op::MatMul => constant(1)
                .zip(shape(1))
                .filter(|(_, s)| s.len() == 2)
                .and_then(|(w, s)| product(&w, s, false, 1.0, &vec![(0.0, 0.0); s[1]], &at(0))),
            Op::BatchNormalization { epsilon } => facts.shape(output).and_then(|shape| {
                let (from_end, channels) = (shape.len().checked_sub(1)?, *shape.get(1)?);
                let vectors: Option<Vec<Vec<f32>>> = (1..5).map(constant).collect();
                let vectors = vectors.filter(|vectors| vectors.iter().all(|v| v.len() == channels))?;
                let x = at(0).spread(from_end, channels).into_iter().enumerate();
                let pairs = x.map(|(channel, (low, high))| {
                    let of = |i: usize| f64::from(vectors[i][channel]);
                    let scale = of(0) / (of(3) + f64::from(*epsilon)).sqrt();
                    let shift = of(1) - of(2) * scale;
                    ordered(times(low, scale) + shift, times(high, scale) + shift)
                });
                Some(Ranges::along(from_end, pairs.collect()))
            }),
            Op::Unary(unary) => unary_ranges(*unary, &at(0)),
            Op::Clip => {
                let bound = |i: usize, none: f64| match node.input(i) {
                    Some(_) => constant(i).and_then(|v| v.first().map(|&b| f64::from(b))),
                    None => Some(none),
                };
                let bounds = bound(1, f64::NEG_INFINITY).zip(bound(2, f64::INFINITY));
                bounds.map(|(least, most)| {
                    at(0).map(|(low, high)| (low.max(least).min(most), high.max(least).min(most)))
                })
            }
            Op::Softmax { kind: SoftmaxKind::Softmax, .. } => Some(Ranges::all(0.0, 1.0)),
            Op::Binary(binary) => Some(binary_ranges(*binary, &at(0), &at(1))),
            Op::Variadic(Variadic::Sum) if node.inputs.len() == 2 => {
                Some(binary_ranges(Binary::Add, &at(0), &at(1)))
            }
            Op::Pool(pool) if matches!(pool.kind, PoolKind::Average | PoolKind::Max) => {
                let channels = facts.shape(output).map(|s| (s.len().saturating_sub(1), s.get(1).copied()));
                // Bounds along a dimension of the window hold for all of it.
                let x = match (at(0).dimension(), channels) {
                    (Some((from_end, n)), Some((at_end, c))) if (from_end, Some(n)) != (at_end, c) => {
                        at(0).hull()
                    }
                    _ => at(0),
                };
                let pads = pool.kind == PoolKind::Average && pool.count_include_pad && padded(&pool.padding);
                Some(if pads { x.with_zero() } else { x })
            }
            Op::GlobalPool { kind: PoolKind::Average | PoolKind::Max } => {
                let rank = facts.shape(output).map_or(0, <[usize]>::len);
                let spatial = at(0).dimension().is_some_and(|(from_end, _)| from_end + 2 <= rank);
                Some(if spatial { at(0).hull() } else { at(0) })
            }
            Op::Reduce { kind: ReduceKind::Mean | ReduceKind::Max | ReduceKind::Min, keep_dims, .. } => {
                shape(0).zip(node.input(1).and_then(|id| facts.integers(id))).map(|(shape, axes)| {
                    let (x, rank) = (at(0), shape.len() as i64);
                    let Some((from_end, _)) = x.dimension() else { return x };
                    let dim = rank - from_end as i64;
                    let reduced: Vec<i64> = axes.iter().map(|&a| if a < 0 { a + rank } else { a }).collect();
                    let later = reduced.iter().filter(|&&r| r > dim).count();
                    if reduced.is_empty() || reduced.contains(&dim) || dim < 0 {
                        return x.hull();
                    }
                    if *keep_dims { x } else { x.moved(from_end.saturating_sub(later)) }
                })
            }
            Op::Identity | Op::Cast { .. } => {
                let is_float = |id| facts.info(id).is_some_and(|info| info.dtype.is_float());
                (is_float(output) && node.input(0).is_some_and(is_float)).then(|| at(0))
            }
            Op::Reshape { .. } | Op::Flatten { .. } | Op::Squeeze | Op::Unsqueeze => {
                shape(0).zip(facts.shape(output)).map(|(from, to)| reshaped(&at(0), from, to))
            }
            Op::Transpose { perm } => shape(0).and_then(|shape| {
                let (x, rank) = (at(0), shape.len());
                let Some((from_end, _)) = x.dimension() else { return Some(x) };
                let dim = rank.checked_sub(from_end)?;
                let to =
                    if perm.is_empty() { rank - 1 - dim } else { perm.iter().position(|&p| p == dim)? };
                Some(x.moved(rank - to))
            }),
            Op::Concat { axis } => {
                let inputs: Vec<ValueId> = node.inputs.iter().flatten().copied().collect();
                concatenated(&all, facts, &inputs, *axis)
            }
            // No bounds: no channel is found dead there.
            _ => None,
        };
        all.0[output.index()] = result.unwrap_or_else(Ranges::unknown);
    }
    all
}
