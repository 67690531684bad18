//! What there is to know of every operator without its attributes: one row each.

use super::class::OpClass::{
    self, Attention, Control, Elementwise, Foreign, Generator, Movement, Normalization, Product,
    Quantization, Reduction, Sampling,
};
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

struct Row<'a> {
    name: &'a str,
    class: OpClass,
    arity: Arity,
}

/// Name, family, and how many inputs are required, how many inputs and how many outputs there may be.
const fn row(name: &str, class: OpClass, [required, inputs, outputs]: [usize; 3]) -> Row<'_> {
    Row { name, class, arity: Arity { required, inputs, outputs } }
}

impl Op {
    fn row(&self) -> Row<'_> {
        match self {
            Self::Unary(unary) => row(unary.name(), Elementwise, [1, 1, 1]),
            Self::Binary(binary) => row(binary.name(), Elementwise, [2, 2, 1]),
            Self::Variadic(variadic) => row(variadic.name(), Elementwise, [1, ANY, 1]),
            Self::Clip => row("Clip", Elementwise, [1, 3, 1]),
            Self::Where => row("Where", Elementwise, [3, 3, 1]),
            Self::Cast { .. } => row("Cast", Elementwise, [1, 1, 1]),
            Self::CastLike => row("CastLike", Elementwise, [2, 2, 1]),
            Self::Identity => row("Identity", Elementwise, [1, 1, 1]),
            Self::MatMul => row("MatMul", Product, [2, 2, 1]),
            Self::Gemm { .. } => row("Gemm", Product, [2, 3, 1]),
            Self::Einsum { .. } => row("Einsum", Product, [1, ANY, 1]),
            Self::Conv(_) => row("Conv", Product, [2, 3, 1]),
            Self::ConvTranspose { .. } => row("ConvTranspose", Product, [2, 3, 1]),
            Self::ConvGradient(_) => row("ConvGradient", Product, [2, 2, 1]),
            Self::MatMulInteger => row("MatMulInteger", Product, [2, 4, 1]),
            Self::ConvInteger(_) => row("ConvInteger", Product, [2, 4, 1]),
            Self::QLinearMatMul => row("QLinearMatMul", Product, [8, 8, 1]),
            Self::QLinearConv(_) => row("QLinearConv", Product, [8, 9, 1]),
            Self::Attention(_) => row("Attention", Attention, [3, 7, 4]),
            Self::RotaryEmbedding { .. } => row("RotaryEmbedding", Attention, [3, 4, 1]),
            Self::Recurrent(attributes) => match attributes.kind {
                RecurrentKind::Lstm { .. } => row("LSTM", Product, [3, 8, 3]),
                RecurrentKind::Gru { .. } => row("GRU", Product, [3, 6, 2]),
                RecurrentKind::Rnn => row("RNN", Product, [3, 6, 2]),
            },
            Self::BatchNormalization { .. } => row("BatchNormalization", Normalization, [5, 5, 1]),
            Self::InstanceNormalization { .. } => row("InstanceNormalization", Normalization, [3, 3, 1]),
            Self::LayerNormalization { .. } => row("LayerNormalization", Normalization, [2, 3, 3]),
            Self::GroupNormalization { .. } => row("GroupNormalization", Normalization, [3, 3, 1]),
            Self::RmsNormalization { .. } => row("RMSNormalization", Normalization, [2, 2, 1]),
            Self::LpNormalization { .. } => row("LpNormalization", Normalization, [1, 1, 1]),
            Self::MeanVarianceNormalization { .. } => {
                row("MeanVarianceNormalization", Normalization, [1, 1, 1])
            }
            Self::Lrn { .. } => row("LRN", Normalization, [1, 1, 1]),
            Self::Softmax { kind, .. } => row(kind.name(), Normalization, [1, 1, 1]),
            Self::Pool(attributes) => match attributes.kind {
                PoolKind::Average => row("AveragePool", Sampling, [1, 1, 1]),
                PoolKind::Max => row("MaxPool", Sampling, [1, 1, 2]),
                PoolKind::Lp { .. } => row("LpPool", Sampling, [1, 1, 1]),
            },
            Self::GlobalPool { kind } => match kind {
                PoolKind::Average => row("GlobalAveragePool", Sampling, [1, 1, 1]),
                PoolKind::Max => row("GlobalMaxPool", Sampling, [1, 1, 1]),
                PoolKind::Lp { .. } => row("GlobalLpPool", Sampling, [1, 1, 1]),
            },
            Self::Resize(_) => row("Resize", Sampling, [1, 4, 1]),
            Self::GridSample { .. } => row("GridSample", Sampling, [2, 2, 1]),
            Self::RoiAlign(_) => row("RoiAlign", Sampling, [3, 3, 1]),
            Self::NonMaxSuppression { .. } => row("NonMaxSuppression", Sampling, [2, 5, 1]),
            Self::Reduce { kind, .. } => row(kind.name(), Reduction, [1, 2, 1]),
            Self::ArgReduce { kind, .. } => row(kind.name(), Reduction, [1, 1, 1]),
            Self::TopK { .. } => row("TopK", Reduction, [2, 2, 2]),
            Self::Cumulative { kind, .. } => row(kind.name(), Reduction, [2, 2, 1]),
            Self::SoftmaxCrossEntropyLoss(_) => row("SoftmaxCrossEntropyLoss", Reduction, [2, 3, 2]),
            Self::NegativeLogLikelihoodLoss(_) => row("NegativeLogLikelihoodLoss", Reduction, [2, 3, 1]),
            Self::NonZero => row("NonZero", Reduction, [1, 1, 1]),
            Self::Unique { .. } => row("Unique", Reduction, [1, 1, 4]),
            Self::Compress { .. } => row("Compress", Reduction, [2, 2, 1]),
            Self::Reshape { .. } => row("Reshape", Movement, [2, 2, 1]),
            Self::Flatten { .. } => row("Flatten", Movement, [1, 1, 1]),
            Self::Squeeze => row("Squeeze", Movement, [1, 2, 1]),
            Self::Unsqueeze => row("Unsqueeze", Movement, [2, 2, 1]),
            Self::Transpose { .. } => row("Transpose", Movement, [1, 1, 1]),
            Self::Concat { .. } => row("Concat", Movement, [1, ANY, 1]),
            Self::Split { .. } => row("Split", Movement, [1, 2, ANY]),
            Self::Slice => row("Slice", Movement, [3, 5, 1]),
            Self::Gather { .. } => row("Gather", Movement, [2, 2, 1]),
            Self::GatherElements { .. } => row("GatherElements", Movement, [2, 2, 1]),
            Self::GatherNd { .. } => row("GatherND", Movement, [2, 2, 1]),
            Self::ScatterElements { .. } => row("ScatterElements", Movement, [3, 3, 1]),
            Self::ScatterNd { .. } => row("ScatterND", Movement, [3, 3, 1]),
            Self::TensorScatter { .. } => row("TensorScatter", Movement, [2, 3, 1]),
            Self::Expand => row("Expand", Movement, [2, 2, 1]),
            Self::Tile => row("Tile", Movement, [2, 2, 1]),
            Self::Pad { .. } => row("Pad", Movement, [2, 4, 1]),
            Self::DepthToSpace { .. } => row("DepthToSpace", Movement, [1, 1, 1]),
            Self::SpaceToDepth { .. } => row("SpaceToDepth", Movement, [1, 1, 1]),
            Self::Trilu { .. } => row("Trilu", Movement, [1, 2, 1]),
            Self::ReverseSequence { .. } => row("ReverseSequence", Movement, [2, 2, 1]),
            Self::Shape { .. } => row("Shape", Generator, [1, 1, 1]),
            Self::Size => row("Size", Generator, [1, 1, 1]),
            Self::ConstantOfShape { .. } => row("ConstantOfShape", Generator, [1, 1, 1]),
            Self::Range => row("Range", Generator, [3, 3, 1]),
            Self::OneHot { .. } => row("OneHot", Generator, [3, 3, 1]),
            Self::EyeLike { .. } => row("EyeLike", Generator, [1, 1, 1]),
            Self::QuantizeLinear { .. } => row("QuantizeLinear", Quantization, [2, 3, 1]),
            Self::DequantizeLinear { .. } => row("DequantizeLinear", Quantization, [2, 3, 1]),
            Self::DynamicQuantizeLinear => row("DynamicQuantizeLinear", Quantization, [1, 1, 3]),
            Self::If { .. } => row("If", Control, [1, ANY, ANY]),
            Self::Loop { .. } => row("Loop", Control, [0, ANY, ANY]),
            Self::Foreign(foreign) => row(&foreign.op_type, Foreign, [0, ANY, ANY]),
        }
    }

    /// The name of the ONNX operator; of a foreign one, the name in its file.
    pub fn name(&self) -> &str {
        self.row().name
    }

    /// The family that the operator is of.
    pub fn class(&self) -> OpClass {
        self.row().class
    }

    /// Bounds on the inputs and outputs of nodes with this operator, as its documentation lists them.
    pub fn arity(&self) -> Arity {
        self.row().arity
    }
}
