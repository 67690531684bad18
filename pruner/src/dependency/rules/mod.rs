//! The rule of each operator: which axes of its inputs and outputs are the same, which must stay whole, and what
//! else changes when units go.

mod elementwise;
mod movement;
mod norm;
mod product;
mod selection;
mod sequence;

use poda_formats::Op;
use poda_formats::op::{Binary, OpClass, Unary};

use super::build::{Builder, Fix};
use super::reason::Why;
use elementwise::Zero;

/// Applies the rule of the current node. Shapes of all its inputs and outputs are known.
pub(super) fn apply(b: &mut Builder<'_>, op: &Op) {
    match op {
        Op::Unary(unary) => {
            let zero = if unary_keeps_zero(*unary) { Zero::All } else { Zero::Never };
            elementwise::apply(b, 1, zero);
        }
        Op::Binary(binary) => elementwise::binary(b, *binary),
        Op::Variadic(variadic) => elementwise::variadic(b, *variadic),
        Op::Clip => elementwise::clip(b),
        Op::Where => elementwise::apply(b, 3, Zero::Branches),
        // The second input of CastLike gives its type only.
        Op::Cast { .. } | Op::CastLike | Op::Identity => elementwise::apply(b, 1, Zero::All),

        Op::MatMul => product::matmul(b),
        Op::Gemm { trans_a, trans_b, .. } => product::gemm(b, *trans_a, *trans_b),
        Op::Einsum { equation } => product::einsum(b, equation),
        Op::Conv(conv) => product::conv(b, conv.group),
        Op::ConvTranspose { conv, .. } => product::conv_transpose(b, conv.group),
        Op::MatMulInteger | Op::ConvInteger(_) | Op::QLinearMatMul | Op::QLinearConv(_) => {
            b.opaque(Why::Quantised);
        }
        Op::Attention(attributes) => sequence::attention(b, attributes),
        Op::RotaryEmbedding { interleaved, num_heads, rotary_embedding_dim } => {
            sequence::rotary(b, *interleaved, *num_heads, *rotary_embedding_dim);
        }
        Op::Recurrent(attributes) => sequence::recurrent(b, attributes),

        Op::BatchNormalization { .. } => norm::batch(b),
        Op::InstanceNormalization { .. } => norm::instance(b),
        Op::LayerNormalization { axis, .. } => norm::layer(b, *axis),
        Op::GroupNormalization { num_groups, .. } => norm::group(b, *num_groups),
        Op::RmsNormalization { axis, .. } => norm::root_mean_square(b, *axis),
        Op::LpNormalization { axis, .. } => norm::lp(b, *axis),
        Op::MeanVarianceNormalization { axes } => norm::keep_whole(b, axes, Why::Normalised, false),
        Op::Lrn { .. } => norm::keep_whole(b, &[1], Why::Normalised, true),
        Op::Softmax { axis, .. } => norm::keep_whole(b, &[*axis], Why::Softmax, false),

        Op::Pool(_) => norm::pool(b),
        Op::GlobalPool { .. } => norm::global_pool(b),
        Op::Resize(attributes) => norm::resize(b, attributes),
        Op::GridSample { .. } | Op::RoiAlign(_) => norm::sample(b),
        Op::Reduce { kind, keep_dims, noop_with_empty_axes } => {
            norm::reduce(b, *kind, *keep_dims, *noop_with_empty_axes);
        }
        Op::ArgReduce { axis, .. } | Op::TopK { axis, .. } => norm::search(b, *axis),
        Op::Cumulative { .. } => norm::cumulative(b),
        Op::Trilu { .. } => norm::keep_whole(b, &[-2, -1], Why::Ordered, true),
        Op::ReverseSequence { batch_axis, time_axis } => {
            b.parameter(1);
            norm::keep_whole(b, &[*batch_axis, *time_axis], Why::Ordered, true);
        }

        Op::Reshape { .. } => {
            b.parameter(1);
            movement::reshape(b);
            movement::sizes_of_output(b, 1);
        }
        Op::Flatten { .. } => movement::reshape(b),
        Op::Squeeze | Op::Unsqueeze => {
            if b.node().input(1).is_none() {
                // A dimension of one would be dropped.
                b.wide.extend(b.input(0).into_iter().flat_map(|x| x.axes));
            }
            b.parameter(1);
            movement::reshape(b);
        }
        Op::Transpose { perm } => movement::transpose(b, perm),
        Op::Concat { axis } => movement::concat(b, *axis),
        Op::Expand => movement::expand(b),
        Op::Tile => movement::tile(b),
        Op::Pad { mode } => movement::pad(b, *mode),
        Op::DepthToSpace { block_size, mode } => movement::depth_to_space(b, *block_size, *mode),
        Op::SpaceToDepth { block_size } => movement::space_to_depth(b, *block_size),
        Op::ConstantOfShape { value } => movement::constant_of_shape(b, value.bits == 0),

        Op::Split { axis, .. } => selection::split(b, *axis),
        Op::Slice => selection::slice(b),
        Op::Gather { axis } => selection::gather(b, *axis),
        Op::GatherElements { axis } => selection::gather_elements(b, *axis),

        Op::Shape { start, end } => {
            let Some(x) = b.input(0) else { return };
            let rank = x.axes.len() as i64;
            let bound = |at: i64| (if at < 0 { at + rank } else { at }).clamp(0, rank) as usize;
            let (start, end) = (bound(*start), bound(end.unwrap_or(rank)));
            let axes = x.axes.get(start..end).unwrap_or_default().to_vec();
            b.fresh_outputs(Why::Parameter);
            b.fix(Fix::Shape { start, axes });
        }
        // Nothing is pruned through what has no rule.
        _ => b.opaque(match op.class() {
            OpClass::Quantization => Why::Quantised,
            OpClass::Generator => Why::Parameter,
            OpClass::Control => Why::ControlFlow,
            OpClass::Foreign => Why::Foreign,
            _ => Why::DataDependent,
        }),
    }
}

/// Whether `f(0) = 0`.
fn unary_keeps_zero(unary: Unary) -> bool {
    match unary {
        Unary::Abs
        | Unary::Asin
        | Unary::Asinh
        | Unary::Atan
        | Unary::Atanh
        | Unary::Ceil
        | Unary::Celu { .. }
        | Unary::Elu { .. }
        | Unary::Erf
        | Unary::Floor
        | Unary::Gelu { .. }
        | Unary::HardSwish
        | Unary::IsInf { .. }
        | Unary::IsNan
        | Unary::LeakyRelu { .. }
        | Unary::Mish
        | Unary::Neg
        | Unary::Relu
        | Unary::Round
        | Unary::Selu { .. }
        | Unary::Sign
        | Unary::Sin
        | Unary::Sinh
        | Unary::Softsign
        | Unary::Sqrt
        | Unary::Swish { .. }
        | Unary::Tan
        | Unary::Tanh => true,
        Unary::Shrink { lambda, .. } => lambda >= 0.0,
        Unary::ThresholdedRelu { alpha } => alpha >= 0.0,
        Unary::HardSigmoid { beta, .. } => beta <= 0.0,
        Unary::Acos
        | Unary::Acosh
        | Unary::BitwiseNot
        | Unary::Cos
        | Unary::Cosh
        | Unary::Exp
        | Unary::Log
        | Unary::Not
        | Unary::Reciprocal
        | Unary::Sigmoid
        | Unary::Softplus => false,
    }
}

/// Whether `f(0, y) = 0` for every `y` (but for a division by zero).
fn binary_zero(binary: Binary) -> Zero {
    match binary {
        Binary::Add | Binary::Sub | Binary::BitwiseOr | Binary::BitwiseXor | Binary::Or | Binary::Xor => {
            Zero::All
        }
        Binary::Mul | Binary::And | Binary::BitwiseAnd => Zero::Any,
        Binary::Div | Binary::Mod { .. } | Binary::BitShift { .. } | Binary::PRelu => Zero::First,
        Binary::Pow => Zero::Power,
        Binary::Equal | Binary::Greater | Binary::GreaterOrEqual | Binary::Less | Binary::LessOrEqual => {
            Zero::Never
        }
    }
}
