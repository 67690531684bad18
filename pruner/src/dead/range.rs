//! Range analysis: between which bounds each channel of a value stays, whatever the inputs.
//!
//! A channel whose bounds meet is constant: its weights are zero, or an activation clamps all that can come (after
//! ReLU6 the input of a depthwise convolution is within 0..6, and a strongly negative shift then leaves 0 only).
//! Bounds are computed in f64. Operators without a rule give no bounds.

use poda_formats::op::{Binary, PoolKind, ReduceKind, Variadic};
use poda_formats::{Graph, Op, ValueId};

use super::bounds::{
    Ranges, binary_ranges, concatenated, convolution, each, last, ordered, padded, product, reshaped, times,
    unary_ranges, vector,
};
use crate::criterion::float_values;
use crate::dependency::Facts;

/// Bounds of every value.
pub(super) fn ranges(graph: &Graph, facts: Facts<'_>) -> Vec<Option<Ranges>> {
    let mut all: Vec<Option<Ranges>> = vec![None; graph.values.len()];
    for (index, value) in graph.values.iter().enumerate() {
        if let Some(weight) = value.weight.as_ref().filter(|w| w.dtype().is_float()) {
            all[index] = weight.to_dense().ok().and_then(|tensor| vector(&tensor));
        }
    }
    for node in &graph.nodes {
        let Some(output) = node.output(0) else { continue };
        let at = |i: usize| node.input(i).and_then(|id| all[id.index()].clone());
        let constant = |i: usize| node.input(i).and_then(|id| facts.constant(id)).and_then(float_values);
        let shape = |i: usize| node.input(i).and_then(|id| facts.shape(id));
        let result = match &node.op {
            Op::Conv(conv) => {
                let weight = constant(1).zip(shape(1));
                let bias = if node.input(2).is_some() { constant(2).map(Some) } else { Some(None) };
                weight.zip(bias).map(|((w, s), bias)| convolution(conv, &w, s, bias.as_deref(), at(0)))
            }
            Op::Gemm { alpha, beta, trans_a: false, trans_b } => {
                let weight = constant(1).zip(shape(1));
                let bias = if node.input(2).is_some() { constant(2).map(Some) } else { Some(None) };
                weight.zip(bias).and_then(|((w, s), bias)| {
                    let columns = s[usize::from(!*trans_b)];
                    let bias = bias.map(|b| b.iter().map(|v| v * beta).collect::<Vec<f32>>());
                    let fits = bias.as_ref().is_none_or(|b| b.len() == columns || b.len() == 1);
                    fits.then(|| product(&w, s, *trans_b, *alpha, bias.as_deref(), at(0).filter(last)))
                })
            }
            Op::MatMul => constant(1)
                .zip(shape(1))
                .filter(|(_, s)| s.len() == 2)
                .map(|(w, s)| product(&w, s, false, 1.0, None, at(0).filter(last))),
            Op::BatchNormalization { epsilon } => at(0).and_then(|x| {
                let rank = facts.shape(output)?.len();
                let vectors: Option<Vec<Vec<f32>>> = (1..5).map(constant).collect();
                let vectors = vectors.filter(|_| x.from_end + 2 == rank + 1)?;
                let mut channel = 0;
                Some(Ranges {
                    from_end: x.from_end,
                    ..each(&x, |low, high| {
                        let of = |i: usize| f64::from(vectors[i][channel]);
                        let scale = of(0) / (of(3) + f64::from(*epsilon)).sqrt();
                        let shift = of(1) - of(2) * scale;
                        channel += 1;
                        ordered(times(low, scale) + shift, times(high, scale) + shift)
                    })
                })
            }),
            Op::Unary(unary) => at(0).and_then(|x| unary_ranges(*unary, &x)),
            Op::Clip => at(0).and_then(|x| {
                let bound = |i: usize, none: f64| match node.input(i) {
                    Some(_) => constant(i).and_then(|v| v.first().map(|&b| f64::from(b))),
                    None => Some(none),
                };
                let (least, most) = (bound(1, f64::NEG_INFINITY)?, bound(2, f64::INFINITY)?);
                Some(x.map(|low, high| (low.max(least).min(most), high.max(least).min(most))))
            }),
            Op::Binary(binary) => binary_ranges(*binary, at(0), at(1)),
            Op::Variadic(Variadic::Sum) if node.inputs.len() == 2 => binary_ranges(Binary::Add, at(0), at(1)),
            Op::Pool(pool) if matches!(pool.kind, PoolKind::Average | PoolKind::Max) => at(0).and_then(|x| {
                let rank = facts.shape(output)?.len();
                let pads = pool.kind == PoolKind::Average && pool.count_include_pad && padded(&pool.padding);
                (x.from_end + 1 == rank).then(|| if pads { x.with_zero() } else { x })
            }),
            Op::GlobalPool { kind: PoolKind::Average | PoolKind::Max } => at(0),
            Op::Reduce { kind: ReduceKind::Mean | ReduceKind::Max | ReduceKind::Min, keep_dims, .. } => at(0)
                .and_then(|x| {
                    let rank = shape(0)?.len();
                    let axes = node.input(1).and_then(|id| facts.integers(id))?;
                    let reduced: Vec<usize> =
                        axes.iter().map(|&a| if a < 0 { a + rank as i64 } else { a } as usize).collect();
                    let dim = rank - x.from_end;
                    let later = reduced.iter().filter(|&&r| r > dim).count();
                    let from_end = if *keep_dims { x.from_end } else { x.from_end - later };
                    (!reduced.is_empty() && !reduced.contains(&dim)).then_some(Ranges { from_end, ..x })
                }),
            Op::Identity | Op::Cast { .. } => {
                let float = facts.info(output).is_some_and(|info| info.dtype.is_float());
                at(0).filter(|_| float)
            }
            Op::Reshape { .. } | Op::Flatten { .. } | Op::Squeeze | Op::Unsqueeze => {
                at(0).and_then(|x| reshaped(&x, shape(0)?, facts.shape(output)?))
            }
            Op::Transpose { perm } => at(0).and_then(|x| {
                let rank = shape(0)?.len();
                let dim = rank - x.from_end;
                let to =
                    if perm.is_empty() { rank - 1 - dim } else { perm.iter().position(|&p| p == dim)? };
                Some(Ranges { from_end: rank - to, ..x })
            }),
            Op::Concat { axis } => {
                let inputs: Vec<ValueId> = node.inputs.iter().flatten().copied().collect();
                concatenated(&all, facts, &inputs, *axis)
            }
            // No bounds: no channel is found dead there.
            Op::Gemm { .. }
            | Op::Variadic(_)
            | Op::Where
            | Op::CastLike
            | Op::Einsum { .. }
            | Op::ConvTranspose { .. }
            | Op::MatMulInteger
            | Op::ConvInteger(_)
            | Op::QLinearMatMul
            | Op::QLinearConv(_)
            | Op::Attention(_)
            | Op::RotaryEmbedding { .. }
            | Op::Recurrent(_)
            | Op::InstanceNormalization { .. }
            | Op::LayerNormalization { .. }
            | Op::GroupNormalization { .. }
            | Op::RmsNormalization { .. }
            | Op::LpNormalization { .. }
            | Op::MeanVarianceNormalization { .. }
            | Op::Lrn { .. }
            | Op::Softmax { .. }
            | Op::Pool(_)
            | Op::GlobalPool { .. }
            | Op::Resize(_)
            | Op::GridSample { .. }
            | Op::RoiAlign(_)
            | Op::NonMaxSuppression { .. }
            | Op::Reduce { .. }
            | Op::ArgReduce { .. }
            | Op::TopK { .. }
            | Op::Cumulative { .. }
            | Op::NonZero
            | Op::Unique { .. }
            | Op::Compress { .. }
            | Op::Split { .. }
            | Op::Slice
            | Op::Gather { .. }
            | Op::GatherElements { .. }
            | Op::GatherNd { .. }
            | Op::ScatterElements { .. }
            | Op::ScatterNd { .. }
            | Op::TensorScatter { .. }
            | Op::Expand
            | Op::Tile
            | Op::Pad { .. }
            | Op::DepthToSpace { .. }
            | Op::SpaceToDepth { .. }
            | Op::Trilu { .. }
            | Op::ReverseSequence { .. }
            | Op::Shape { .. }
            | Op::Size
            | Op::ConstantOfShape { .. }
            | Op::Range
            | Op::OneHot { .. }
            | Op::EyeLike { .. }
            | Op::QuantizeLinear { .. }
            | Op::DequantizeLinear { .. }
            | Op::DynamicQuantizeLinear
            | Op::If { .. }
            | Op::Loop { .. }
            | Op::Foreign(_) => None,
        };
        all[output.index()] = result;
    }
    all
}
