//! Element types and ranks of values, as far as reading older operators needs them: they follow from the declared ones
//! through the nodes. Shape inference proper is the runtime's.

use crate::dtype::DataType;
use crate::graph::{Dim, Value};
use crate::op::{ArgKind, Binary, LossReduction, Op, Unary};

/// What is known of a value.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(in crate::onnx) struct Facts {
    pub(in crate::onnx) dtype: Option<DataType>,
    pub(in crate::onnx) rank: Option<usize>,
    /// Number of elements, of vectors.
    pub(in crate::onnx) len: Option<usize>,
}

impl Facts {
    /// What the declaration of a value says.
    pub(in crate::onnx) fn of(value: &Value) -> Self {
        let len = match value.shape.as_deref() {
            Some(&[Dim::Fixed(len)]) => Some(len),
            _ => None,
        };
        Self { dtype: value.dtype, rank: value.shape.as_ref().map(Vec::len), len }
    }

    /// These facts, filled up with others where nothing is known.
    pub(in crate::onnx) fn or(self, other: Self) -> Self {
        Self {
            dtype: self.dtype.or(other.dtype),
            rank: self.rank.or(other.rank),
            len: self.len.or(other.len),
        }
    }
}

/// Facts about the first output of an operator, from those of its inputs.
pub(in crate::onnx) fn infer(op: &Op, inputs: &[Facts]) -> Facts {
    let input = |index: usize| inputs.get(index).copied().unwrap_or_default();
    let x = input(0);
    let broadcast =
        |inputs: &[Facts]| inputs.iter().map(|f| f.rank).reduce(|a, b| Some(a?.max(b?))).flatten();
    let sum = |a: Option<usize>, b: Option<usize>| a?.checked_add(b?);
    let dtype_of = |index: usize| input(index).dtype;
    let (dtype, rank) = match op {
        Op::Unary(Unary::IsInf { .. } | Unary::IsNan) => (Some(DataType::Bool), x.rank),
        Op::Binary(
            Binary::Equal | Binary::Greater | Binary::GreaterOrEqual | Binary::Less | Binary::LessOrEqual,
        ) => (Some(DataType::Bool), broadcast(inputs)),
        Op::Binary(_) | Op::Variadic(_) => (x.dtype, broadcast(inputs)),
        Op::Where => (dtype_of(1).or(dtype_of(2)), broadcast(inputs)),
        Op::Cast { to } => (Some(*to), x.rank),
        Op::CastLike | Op::DequantizeLinear { .. } => (dtype_of(1), x.rank),
        Op::MatMul => {
            let both = x.rank.zip(input(1).rank).filter(|&(a, b)| a >= 2 && b >= 2);
            (x.dtype, both.map(|(a, b)| a.max(b)))
        }
        Op::Gemm { .. } | Op::Flatten { .. } => (x.dtype, Some(2)),
        Op::MatMulInteger | Op::ConvInteger(_) => (Some(DataType::I32), x.rank),
        Op::QLinearMatMul | Op::QLinearConv(_) => (dtype_of(7), x.rank),
        Op::Recurrent(_) | Op::RoiAlign(_) => (x.dtype, Some(4)),
        Op::Unary(_)
        | Op::Clip
        | Op::Identity
        | Op::Conv(_)
        | Op::ConvGradient(_)
        | Op::ConvTranspose { .. }
        | Op::Attention(_)
        | Op::RotaryEmbedding { .. }
        | Op::BatchNormalization { .. }
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
        | Op::TopK { .. }
        | Op::Cumulative { .. }
        | Op::Transpose { .. }
        | Op::Concat { .. }
        | Op::Split { .. }
        | Op::Slice
        | Op::ScatterElements { .. }
        | Op::ScatterNd { .. }
        | Op::TensorScatter { .. }
        | Op::Tile
        | Op::Pad { .. }
        | Op::DepthToSpace { .. }
        | Op::SpaceToDepth { .. }
        | Op::Trilu { .. }
        | Op::ReverseSequence { .. }
        | Op::Reduce { keep_dims: true, .. } => (x.dtype, x.rank),
        Op::EyeLike { dtype, .. } => (dtype.or(x.dtype), Some(2)),
        Op::SoftmaxCrossEntropyLoss(loss) | Op::NegativeLogLikelihoodLoss(loss) => {
            let each = loss.reduction == LossReduction::None;
            (x.dtype, if each { x.rank.map(|rank| rank.saturating_sub(1)) } else { Some(0) })
        }
        Op::NonMaxSuppression { .. } | Op::NonZero => (Some(DataType::I64), Some(2)),
        Op::Reduce { keep_dims: false, .. } => {
            let removed = input(1).len.or((inputs.len() < 2).then_some(x.rank).flatten());
            (x.dtype, x.rank.zip(removed).and_then(|(rank, removed)| rank.checked_sub(removed)))
        }
        Op::ArgReduce { kind: ArgKind::Max | ArgKind::Min, keep_dims, .. } => {
            (Some(DataType::I64), x.rank.and_then(|rank| rank.checked_sub(usize::from(!keep_dims))))
        }
        Op::Unique { axis, .. } | Op::Compress { axis } => (x.dtype, axis.map_or(Some(1), |_| x.rank)),
        Op::Reshape { .. } => (x.dtype, input(1).len),
        Op::Expand => (x.dtype, broadcast(&[x, Facts { rank: input(1).len, ..Facts::default() }])),
        Op::Squeeze => {
            (x.dtype, x.rank.zip(input(1).len).and_then(|(rank, removed)| rank.checked_sub(removed)))
        }
        Op::Unsqueeze => (x.dtype, sum(x.rank, input(1).len)),
        Op::Gather { .. } => (x.dtype, sum(x.rank, input(1).rank).and_then(|rank| rank.checked_sub(1))),
        Op::GatherElements { .. } => (x.dtype, input(1).rank),
        Op::Shape { .. } => {
            return Facts { dtype: Some(DataType::I64), rank: Some(1), len: None };
        }
        Op::Size => (Some(DataType::I64), Some(0)),
        Op::ConstantOfShape { value } => (Some(value.dtype), x.len),
        Op::Range => (x.dtype, Some(1)),
        Op::OneHot { .. } => (dtype_of(2), sum(x.rank, Some(1))),
        Op::QuantizeLinear { to, .. } => (to.or(dtype_of(2)), x.rank),
        Op::DynamicQuantizeLinear => (Some(DataType::U8), x.rank),
        Op::Einsum { .. } | Op::GatherNd { .. } => (x.dtype, None),
        // What is not known here is asked of what the file declares, or an older operator that needs it is refused.
        _ => (None, None),
    };
    Facts { dtype, rank, len: None }
}
