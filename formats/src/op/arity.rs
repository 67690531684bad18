//! How many inputs and outputs operators have.

use super::{Op, PoolKind, RecurrentKind};

/// Bounds on the inputs and outputs of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arity {
    /// How many leading inputs must be present.
    pub required: usize,
    /// The most inputs.
    pub inputs: usize,
    /// The most outputs.
    pub outputs: usize,
}

/// No bound.
const ANY: usize = usize::MAX;

impl Op {
    /// Bounds on the inputs and outputs of nodes with this operator, as its documentation lists them.
    pub fn arity(&self) -> Arity {
        let (required, inputs, outputs) = match self {
            Self::Unary(_)
            | Self::Cast { .. }
            | Self::Identity
            | Self::LpNormalization { .. }
            | Self::MeanVarianceNormalization { .. }
            | Self::Lrn { .. }
            | Self::Softmax { .. }
            | Self::GlobalPool { .. }
            | Self::ArgReduce { .. }
            | Self::NonZero
            | Self::Flatten { .. }
            | Self::Transpose { .. }
            | Self::DepthToSpace { .. }
            | Self::SpaceToDepth { .. }
            | Self::Shape { .. }
            | Self::Size
            | Self::ConstantOfShape { .. }
            | Self::EyeLike { .. } => (1, 1, 1),
            Self::Binary(_)
            | Self::CastLike
            | Self::MatMul
            | Self::ConvGradient(_)
            | Self::RmsNormalization { .. }
            | Self::GridSample { .. }
            | Self::Cumulative { .. }
            | Self::Compress { .. }
            | Self::Reshape { .. }
            | Self::Unsqueeze
            | Self::Gather { .. }
            | Self::GatherElements { .. }
            | Self::GatherNd { .. }
            | Self::Expand
            | Self::Tile
            | Self::ReverseSequence { .. } => (2, 2, 1),
            Self::Where
            | Self::InstanceNormalization { .. }
            | Self::GroupNormalization { .. }
            | Self::RoiAlign(_)
            | Self::ScatterElements { .. }
            | Self::ScatterNd { .. }
            | Self::Range
            | Self::OneHot { .. } => (3, 3, 1),
            Self::Variadic(_) | Self::Einsum { .. } | Self::Concat { .. } => (1, ANY, 1),
            Self::Reduce { .. } | Self::Squeeze | Self::Trilu { .. } => (1, 2, 1),
            Self::Gemm { .. }
            | Self::Conv(_)
            | Self::ConvTranspose { .. }
            | Self::TensorScatter { .. }
            | Self::NegativeLogLikelihoodLoss(_)
            | Self::QuantizeLinear { .. }
            | Self::DequantizeLinear { .. } => (2, 3, 1),
            Self::MatMulInteger | Self::ConvInteger(_) | Self::Pad { .. } => (2, 4, 1),
            Self::Clip => (1, 3, 1),
            Self::SoftmaxCrossEntropyLoss(_) => (2, 3, 2),
            Self::QLinearMatMul => (8, 8, 1),
            Self::QLinearConv(_) => (8, 9, 1),
            Self::Attention(_) => (3, 7, 4),
            Self::RotaryEmbedding { .. } => (3, 4, 1),
            Self::Recurrent(attributes) => match attributes.kind {
                RecurrentKind::Lstm { .. } => (3, 8, 3),
                RecurrentKind::Gru { .. } | RecurrentKind::Rnn => (3, 6, 2),
            },
            Self::BatchNormalization { .. } => (5, 5, 1),
            Self::LayerNormalization { .. } => (2, 3, 3),
            Self::Pool(attributes) => match attributes.kind {
                PoolKind::Max => (1, 1, 2),
                PoolKind::Average | PoolKind::Lp { .. } => (1, 1, 1),
            },
            Self::Resize(_) => (1, 4, 1),
            Self::NonMaxSuppression { .. } => (2, 5, 1),
            Self::TopK { .. } => (2, 2, 2),
            Self::Unique { .. } => (1, 1, 4),
            Self::Split { .. } => (1, 2, ANY),
            Self::Slice => (3, 5, 1),
            Self::DynamicQuantizeLinear => (1, 1, 3),
            Self::If { .. } => (1, ANY, ANY),
            Self::Loop { .. } | Self::Foreign(_) => (0, ANY, ANY),
        };
        Arity { required, inputs, outputs }
    }
}
