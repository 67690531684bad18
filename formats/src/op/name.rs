//! The ONNX names of kinds of operators.

use super::{ArgKind, Binary, CumulativeKind, ReduceKind, SoftmaxKind, Unary, Variadic};

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

impl SoftmaxKind {
    /// The name of the ONNX operator.
    pub fn name(self) -> &'static str {
        match self {
            Self::Softmax => "Softmax",
            Self::LogSoftmax => "LogSoftmax",
            Self::Hardmax => "Hardmax",
        }
    }
}

impl ArgKind {
    /// The name of the ONNX operator.
    pub fn name(self) -> &'static str {
        match self {
            Self::Max => "ArgMax",
            Self::Min => "ArgMin",
        }
    }
}

impl CumulativeKind {
    /// The name of the ONNX operator.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sum => "CumSum",
            Self::Prod => "CumProd",
        }
    }
}
