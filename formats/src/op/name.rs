//! The ONNX names of operators.

use super::{
    ArgKind, Binary, CumulativeKind, Op, PoolKind, RecurrentKind, ReduceKind, SoftmaxKind, Unary, Variadic,
};

impl Op {
    /// The name of the ONNX operator; of a foreign one, the name in its file.
    pub fn name(&self) -> &str {
        match self {
            Self::Unary(unary) => unary.name(),
            Self::Binary(binary) => binary.name(),
            Self::Variadic(variadic) => variadic.name(),
            Self::Clip => "Clip",
            Self::Where => "Where",
            Self::Cast { .. } => "Cast",
            Self::CastLike => "CastLike",
            Self::Identity => "Identity",
            Self::MatMul => "MatMul",
            Self::Gemm { .. } => "Gemm",
            Self::Einsum { .. } => "Einsum",
            Self::Conv(_) => "Conv",
            Self::ConvTranspose { .. } => "ConvTranspose",
            Self::ConvGradient(_) => "ConvGradient",
            Self::MatMulInteger => "MatMulInteger",
            Self::ConvInteger(_) => "ConvInteger",
            Self::QLinearMatMul => "QLinearMatMul",
            Self::QLinearConv(_) => "QLinearConv",
            Self::Attention(_) => "Attention",
            Self::RotaryEmbedding { .. } => "RotaryEmbedding",
            Self::Recurrent(attributes) => match attributes.kind {
                RecurrentKind::Lstm { .. } => "LSTM",
                RecurrentKind::Gru { .. } => "GRU",
                RecurrentKind::Rnn => "RNN",
            },
            Self::BatchNormalization { .. } => "BatchNormalization",
            Self::InstanceNormalization { .. } => "InstanceNormalization",
            Self::LayerNormalization { .. } => "LayerNormalization",
            Self::GroupNormalization { .. } => "GroupNormalization",
            Self::RmsNormalization { .. } => "RMSNormalization",
            Self::LpNormalization { .. } => "LpNormalization",
            Self::MeanVarianceNormalization { .. } => "MeanVarianceNormalization",
            Self::Lrn { .. } => "LRN",
            Self::Softmax { kind, .. } => match kind {
                SoftmaxKind::Softmax => "Softmax",
                SoftmaxKind::LogSoftmax => "LogSoftmax",
                SoftmaxKind::Hardmax => "Hardmax",
            },
            Self::Pool(attributes) => match attributes.kind {
                PoolKind::Average => "AveragePool",
                PoolKind::Max => "MaxPool",
                PoolKind::Lp { .. } => "LpPool",
            },
            Self::GlobalPool { kind } => match kind {
                PoolKind::Average => "GlobalAveragePool",
                PoolKind::Max => "GlobalMaxPool",
                PoolKind::Lp { .. } => "GlobalLpPool",
            },
            Self::Resize(_) => "Resize",
            Self::GridSample { .. } => "GridSample",
            Self::RoiAlign(_) => "RoiAlign",
            Self::NonMaxSuppression { .. } => "NonMaxSuppression",
            Self::Reduce { kind, .. } => kind.name(),
            Self::ArgReduce { kind, .. } => match kind {
                ArgKind::Max => "ArgMax",
                ArgKind::Min => "ArgMin",
            },
            Self::TopK { .. } => "TopK",
            Self::Cumulative { kind, .. } => match kind {
                CumulativeKind::Sum => "CumSum",
                CumulativeKind::Prod => "CumProd",
            },
            Self::SoftmaxCrossEntropyLoss(_) => "SoftmaxCrossEntropyLoss",
            Self::NegativeLogLikelihoodLoss(_) => "NegativeLogLikelihoodLoss",
            Self::NonZero => "NonZero",
            Self::Unique { .. } => "Unique",
            Self::Compress { .. } => "Compress",
            Self::Reshape { .. } => "Reshape",
            Self::Flatten { .. } => "Flatten",
            Self::Squeeze => "Squeeze",
            Self::Unsqueeze => "Unsqueeze",
            Self::Transpose { .. } => "Transpose",
            Self::Concat { .. } => "Concat",
            Self::Split { .. } => "Split",
            Self::Slice => "Slice",
            Self::Gather { .. } => "Gather",
            Self::GatherElements { .. } => "GatherElements",
            Self::GatherNd { .. } => "GatherND",
            Self::ScatterElements { .. } => "ScatterElements",
            Self::ScatterNd { .. } => "ScatterND",
            Self::TensorScatter { .. } => "TensorScatter",
            Self::Expand => "Expand",
            Self::Tile => "Tile",
            Self::Pad { .. } => "Pad",
            Self::DepthToSpace { .. } => "DepthToSpace",
            Self::SpaceToDepth { .. } => "SpaceToDepth",
            Self::Trilu { .. } => "Trilu",
            Self::ReverseSequence { .. } => "ReverseSequence",
            Self::Shape { .. } => "Shape",
            Self::Size => "Size",
            Self::ConstantOfShape { .. } => "ConstantOfShape",
            Self::Range => "Range",
            Self::OneHot { .. } => "OneHot",
            Self::EyeLike { .. } => "EyeLike",
            Self::QuantizeLinear { .. } => "QuantizeLinear",
            Self::DequantizeLinear { .. } => "DequantizeLinear",
            Self::DynamicQuantizeLinear => "DynamicQuantizeLinear",
            Self::If { .. } => "If",
            Self::Loop { .. } => "Loop",
            Self::Foreign(foreign) => &foreign.op_type,
        }
    }
}

impl Unary {
    /// The name of the ONNX operator.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Abs => "Abs",
            Self::Acos => "Acos",
            Self::Acosh => "Acosh",
            Self::Asin => "Asin",
            Self::Asinh => "Asinh",
            Self::Atan => "Atan",
            Self::Atanh => "Atanh",
            Self::BitwiseNot => "BitwiseNot",
            Self::Ceil => "Ceil",
            Self::Celu { .. } => "Celu",
            Self::Cos => "Cos",
            Self::Cosh => "Cosh",
            Self::Elu { .. } => "Elu",
            Self::Erf => "Erf",
            Self::Exp => "Exp",
            Self::Floor => "Floor",
            Self::Gelu { .. } => "Gelu",
            Self::HardSigmoid { .. } => "HardSigmoid",
            Self::HardSwish => "HardSwish",
            Self::IsInf { .. } => "IsInf",
            Self::IsNan => "IsNaN",
            Self::LeakyRelu { .. } => "LeakyRelu",
            Self::Log => "Log",
            Self::Mish => "Mish",
            Self::Neg => "Neg",
            Self::Not => "Not",
            Self::Reciprocal => "Reciprocal",
            Self::Relu => "Relu",
            Self::Round => "Round",
            Self::Selu { .. } => "Selu",
            Self::Shrink { .. } => "Shrink",
            Self::Sigmoid => "Sigmoid",
            Self::Sign => "Sign",
            Self::Sin => "Sin",
            Self::Sinh => "Sinh",
            Self::Softplus => "Softplus",
            Self::Softsign => "Softsign",
            Self::Sqrt => "Sqrt",
            Self::Swish { .. } => "Swish",
            Self::Tan => "Tan",
            Self::Tanh => "Tanh",
            Self::ThresholdedRelu { .. } => "ThresholdedRelu",
        }
    }
}

impl Binary {
    /// The name of the ONNX operator.
    pub fn name(self) -> &'static str {
        match self {
            Self::Add => "Add",
            Self::Sub => "Sub",
            Self::Mul => "Mul",
            Self::Div => "Div",
            Self::Pow => "Pow",
            Self::Mod { .. } => "Mod",
            Self::And => "And",
            Self::Or => "Or",
            Self::Xor => "Xor",
            Self::BitwiseAnd => "BitwiseAnd",
            Self::BitwiseOr => "BitwiseOr",
            Self::BitwiseXor => "BitwiseXor",
            Self::BitShift { .. } => "BitShift",
            Self::Equal => "Equal",
            Self::Greater => "Greater",
            Self::GreaterOrEqual => "GreaterOrEqual",
            Self::Less => "Less",
            Self::LessOrEqual => "LessOrEqual",
            Self::PRelu => "PRelu",
        }
    }
}

impl Variadic {
    /// The name of the ONNX operator.
    pub fn name(self) -> &'static str {
        match self {
            Self::Max => "Max",
            Self::Min => "Min",
            Self::Sum => "Sum",
            Self::Mean => "Mean",
        }
    }
}

impl ReduceKind {
    /// The name of the ONNX operator.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sum => "ReduceSum",
            Self::Mean => "ReduceMean",
            Self::Max => "ReduceMax",
            Self::Min => "ReduceMin",
            Self::Prod => "ReduceProd",
            Self::L1 => "ReduceL1",
            Self::L2 => "ReduceL2",
            Self::LogSum => "ReduceLogSum",
            Self::LogSumExp => "ReduceLogSumExp",
            Self::SumSquare => "ReduceSumSquare",
        }
    }
}
