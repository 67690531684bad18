//! The attributes that operators have.

use serde::{Deserialize, Serialize};

use crate::dtype::DataType;
use crate::tensor::Tensor;

/// Functions of one input, element by element.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Unary {
    Abs,
    Acos,
    Acosh,
    Asin,
    Asinh,
    Atan,
    Atanh,
    BitwiseNot,
    Ceil,
    Celu {
        #[serde(with = "crate::float")]
        alpha: f32,
    },
    Cos,
    Cosh,
    Elu {
        #[serde(with = "crate::float")]
        alpha: f32,
    },
    Erf,
    Exp,
    Floor,
    /// `x · Φ(x)`, by erf or by the tanh approximation.
    Gelu {
        approximate: bool,
    },
    HardSigmoid {
        #[serde(with = "crate::float")]
        alpha: f32,
        #[serde(with = "crate::float")]
        beta: f32,
    },
    HardSwish,
    IsInf {
        negative: bool,
        positive: bool,
    },
    IsNan,
    LeakyRelu {
        #[serde(with = "crate::float")]
        alpha: f32,
    },
    Log,
    Mish,
    Neg,
    Not,
    Reciprocal,
    Relu,
    Round,
    Selu {
        #[serde(with = "crate::float")]
        alpha: f32,
        #[serde(with = "crate::float")]
        gamma: f32,
    },
    Shrink {
        #[serde(with = "crate::float")]
        bias: f32,
        #[serde(with = "crate::float")]
        lambda: f32,
    },
    Sigmoid,
    Sign,
    Sin,
    Sinh,
    Softplus,
    Softsign,
    Sqrt,
    /// `x · sigmoid(alpha · x)`; SiLU for `alpha = 1`.
    Swish {
        #[serde(with = "crate::float")]
        alpha: f32,
    },
    Tan,
    Tanh,
    ThresholdedRelu {
        #[serde(with = "crate::float")]
        alpha: f32,
    },
}

/// Functions of two inputs, with broadcasting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Binary {
    Add,
    Sub,
    Mul,
    Div,
    Pow,
    /// `fmod` true: sign of the dividend (C's `fmod`); false: sign of the divisor.
    Mod {
        fmod: bool,
    },
    And,
    Or,
    Xor,
    BitwiseAnd,
    BitwiseOr,
    BitwiseXor,
    BitShift {
        left: bool,
    },
    Equal,
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
    /// `x` where `x >= 0`, `slope · x` elsewhere; the second input broadcasts to the first only.
    PRelu,
}

/// Functions of one or more inputs, with broadcasting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Variadic {
    Max,
    Min,
    Sum,
    Mean,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum SoftmaxKind {
    Softmax,
    LogSoftmax,
    Hardmax,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum ReduceKind {
    Sum,
    Mean,
    Max,
    Min,
    Prod,
    L1,
    L2,
    LogSum,
    LogSumExp,
    SumSquare,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum ArgKind {
    Max,
    Min,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum CumulativeKind {
    Sum,
    Prod,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum ScatterReduction {
    None,
    Add,
    Mul,
    Max,
    Min,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum PadMode {
    Constant,
    Reflect,
    Edge,
    Wrap,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum DepthToSpaceMode {
    DepthColumnRow,
    ColumnRowDepth,
}

/// What becomes of the losses of single samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum LossReduction {
    None,
    Sum,
    /// Divided by the weights of the labels that count.
    Mean,
}

/// Attributes of losses by class numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct LossAttributes {
    pub reduction: LossReduction,
    /// The label of what does not count.
    pub ignore_index: Option<i64>,
}

/// How padding of a window operator is chosen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Padding {
    /// Per spatial axis all begins, then all ends, as ONNX `pads`. Empty means zeros. May be negative.
    Explicit(Vec<i64>),
    SameUpper,
    SameLower,
    Valid,
}

/// Attributes of convolutions. Empty vectors mean: `kernel` from the weight's shape, `strides` and `dilations` of 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct ConvAttributes {
    pub group: usize,
    pub kernel: Vec<usize>,
    pub strides: Vec<usize>,
    pub dilations: Vec<usize>,
    pub padding: Padding,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum PoolKind {
    Average,
    Max,
    Lp { p: u32 },
}

/// Attributes of pooling; empty vectors as in [`ConvAttributes`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct PoolAttributes {
    pub kind: PoolKind,
    pub kernel: Vec<usize>,
    pub strides: Vec<usize>,
    pub dilations: Vec<usize>,
    pub padding: Padding,
    pub ceil_mode: bool,
    /// Average pooling only.
    pub count_include_pad: bool,
    /// Max pooling with indices only: whether these count in column-major order.
    pub column_major: bool,
}

/// Attributes of the operator Attention; 0 heads means: from a rank-4 input.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct AttentionAttributes {
    pub is_causal: bool,
    pub q_num_heads: usize,
    pub kv_num_heads: usize,
    /// `1 / sqrt(head size)` when absent.
    #[serde(with = "crate::float::optional")]
    pub scale: Option<f32>,
    /// 0 means none.
    #[serde(with = "crate::float")]
    pub softcap: f32,
    pub qk_matmul_output_mode: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum RecurrentKind {
    Lstm { input_forget: bool },
    Gru { linear_before_reset: bool },
    Rnn,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Direction {
    Forward,
    Reverse,
    Bidirectional,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct RecurrentAttributes {
    pub kind: RecurrentKind,
    pub hidden_size: usize,
    pub direction: Direction,
    /// Names as in ONNX; empty means the defaults.
    pub activations: Vec<String>,
    #[serde(with = "crate::float::list")]
    pub activation_alpha: Vec<f32>,
    #[serde(with = "crate::float::list")]
    pub activation_beta: Vec<f32>,
    #[serde(with = "crate::float::optional")]
    pub clip: Option<f32>,
    /// Inputs and outputs are `[batch, sequence, …]` instead of `[sequence, batch, …]`.
    pub batch_first: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum ResizeMode {
    Nearest,
    Linear,
    Cubic,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum CoordinateTransform {
    HalfPixel,
    HalfPixelSymmetric,
    PytorchHalfPixel,
    AlignCorners,
    Asymmetric,
    TfCropAndResize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum NearestRounding {
    RoundPreferFloor,
    RoundPreferCeil,
    Floor,
    Ceil,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum AspectRatioPolicy {
    Stretch,
    NotLarger,
    NotSmaller,
}

/// Inputs of the operator: data, roi?, scales?, sizes?.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct ResizeAttributes {
    pub mode: ResizeMode,
    pub coordinates: CoordinateTransform,
    pub nearest: NearestRounding,
    pub antialias: bool,
    /// Empty means all axes in order.
    pub axes: Vec<i64>,
    #[serde(with = "crate::float")]
    pub cubic_coeff_a: f32,
    pub exclude_outside: bool,
    #[serde(with = "crate::float")]
    pub extrapolation_value: f32,
    pub keep_aspect_ratio: AspectRatioPolicy,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum GridSampleMode {
    Nearest,
    Linear,
    Cubic,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum GridSamplePadding {
    Zeros,
    Border,
    Reflection,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct RoiAlignAttributes {
    pub max: bool,
    pub half_pixel: bool,
    pub output_height: usize,
    pub output_width: usize,
    pub sampling_ratio: usize,
    #[serde(with = "crate::float")]
    pub spatial_scale: f32,
}

/// A single number of any element type: its little-endian bytes in the low end of `bits`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScalarValue {
    /// The type of the number.
    pub dtype: DataType,
    /// Its bytes, the first in the lowest 8 bits.
    pub bits: u64,
}

impl ScalarValue {
    /// The single element of `tensor`, or `None` when it has none or several.
    pub fn from_tensor(tensor: &Tensor) -> Option<Self> {
        if tensor.len() != 1 {
            return None;
        }
        let mut bytes = [0; 8];
        bytes[..tensor.bytes().len()].copy_from_slice(tensor.bytes());
        Some(Self { dtype: tensor.dtype(), bits: u64::from_le_bytes(bytes) })
    }

    /// The little-endian bytes of the number.
    pub fn bytes(&self) -> Vec<u8> {
        self.bits.to_le_bytes()[..self.dtype.size()].to_vec()
    }
}

/// An operator that Poda does not implement, as the file has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForeignOp {
    /// Operator domain; empty for ONNX's own.
    pub domain: String,
    /// Operator name.
    pub op_type: String,
    /// Version of the domain's operator set that the file imports.
    pub opset: i64,
    /// Why it is not in the set: unknown name, an attribute value without support, ….
    pub reason: String,
    /// Each attribute as an encoded ONNX `AttributeProto`.
    pub attributes: Vec<Vec<u8>>,
    /// How many of the node's last inputs are not the operator's own but values that graphs among `attributes` refer
    /// to by name.
    pub captures: usize,
}
