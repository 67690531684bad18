//! The closed set of operators, with typed attributes.
//!
//! Semantics are those of ONNX in its newest form: what later opsets moved from attributes to inputs (axes, starts,
//! pads, `min`, `max`, …) are inputs here, and the reader rewrites older forms. Operators that differ only in the
//! scalar function applied share a variant. A match on `Op` never ends in `_ =>`, so that the compiler lists every
//! place a new operator touches.
//!
//! Specification: <https://onnx.ai/onnx/operators/>.

mod attributes;
mod class;
pub mod einsum;
mod name;
mod products;
mod slice;

pub use attributes::*;
pub use class::OpClass;
pub use products::{AxisRole, MatrixForm, Product};
pub use slice::slice_elements;

use serde::{Deserialize, Serialize};

use class::OpClass::{
    Attention, Control, Elementwise, Foreign, Generator, Movement, Normalization, Product as Products,
    Quantization, Reduction, Sampling,
};

use crate::dtype::DataType;
use crate::graph::Graph;

/// An operator and its attributes. Inputs and outputs are those of the ONNX operator of the same name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Op {
    // Elementwise.
    Unary(Unary),
    Binary(Binary),
    Variadic(Variadic),
    /// Inputs: data, min?, max?.
    Clip,
    /// Inputs: condition, x, y.
    Where,
    Cast {
        to: DataType,
    },
    CastLike,
    Identity,

    // Products.
    MatMul,
    /// `alpha · A' · B' + beta · C`.
    Gemm {
        #[serde(with = "crate::float")]
        alpha: f32,
        #[serde(with = "crate::float")]
        beta: f32,
        trans_a: bool,
        trans_b: bool,
    },
    Einsum {
        equation: String,
    },
    Conv(ConvAttributes),
    ConvTranspose {
        conv: ConvAttributes,
        output_padding: Vec<usize>,
        output_shape: Vec<usize>,
    },
    /// Gradient of a convolution with respect to its weight `[filters, channels / group, kernel…]`, whose `kernel` is
    /// given: for training; in no file format but the artifact. Inputs: x, gradient of the result.
    ConvGradient(ConvAttributes),
    MatMulInteger,
    ConvInteger(ConvAttributes),
    /// Inputs: a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero.
    QLinearMatMul,
    /// Inputs: x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, bias?.
    QLinearConv(ConvAttributes),
    /// Opset 23. Inputs: Q, K, V, mask?, past_key?, past_value?, nonpad_kv_seqlen?.
    Attention(AttentionAttributes),
    /// Opset 23. Inputs: X, cos_cache, sin_cache, position_ids?.
    RotaryEmbedding {
        interleaved: bool,
        num_heads: usize,
        rotary_embedding_dim: usize,
    },
    /// LSTM, GRU and RNN. Inputs: X, W, R, B?, sequence_lens?, initial_h?, and for LSTM initial_c?, P?.
    Recurrent(RecurrentAttributes),

    // Normalisation.
    /// Inference form, one output. Inputs: X `[n, c, …]`, scale, bias, mean, variance, all `[c]`.
    BatchNormalization {
        #[serde(with = "crate::float")]
        epsilon: f32,
    },
    InstanceNormalization {
        #[serde(with = "crate::float")]
        epsilon: f32,
    },
    /// Inputs: X, scale, bias?. Outputs: Y, mean?, inverse standard deviation?.
    LayerNormalization {
        axis: i64,
        #[serde(with = "crate::float")]
        epsilon: f32,
    },
    /// Scale and bias are `[c]` (opset 21); older `[num_groups]` forms are rewritten at the door.
    GroupNormalization {
        num_groups: usize,
        #[serde(with = "crate::float")]
        epsilon: f32,
    },
    RmsNormalization {
        axis: i64,
        #[serde(with = "crate::float")]
        epsilon: f32,
    },
    LpNormalization {
        axis: i64,
        p: u32,
    },
    MeanVarianceNormalization {
        axes: Vec<i64>,
    },
    Lrn {
        size: usize,
        #[serde(with = "crate::float")]
        alpha: f32,
        #[serde(with = "crate::float")]
        beta: f32,
        #[serde(with = "crate::float")]
        bias: f32,
    },
    Softmax {
        kind: SoftmaxKind,
        axis: i64,
    },

    // Pooling and sampling.
    Pool(PoolAttributes),
    GlobalPool {
        kind: PoolKind,
    },
    Resize(ResizeAttributes),
    GridSample {
        mode: GridSampleMode,
        padding: GridSamplePadding,
        align_corners: bool,
    },
    RoiAlign(RoiAlignAttributes),
    NonMaxSuppression {
        center_point_box: bool,
    },

    // Reductions, searches, sorts.
    /// Inputs: data, axes?.
    Reduce {
        kind: ReduceKind,
        keep_dims: bool,
        noop_with_empty_axes: bool,
    },
    ArgReduce {
        kind: ArgKind,
        axis: i64,
        keep_dims: bool,
        select_last_index: bool,
    },
    TopK {
        axis: i64,
        largest: bool,
        sorted: bool,
    },
    /// CumSum and CumProd. Inputs: data, axis.
    Cumulative {
        kind: CumulativeKind,
        exclusive: bool,
        reverse: bool,
    },
    /// Inputs: scores `[n, classes, …]`, labels `[n, …]`, weights of the classes? Outputs: loss, logarithms of the softmax?
    SoftmaxCrossEntropyLoss(LossAttributes),
    /// As [`Op::SoftmaxCrossEntropyLoss`], of logarithms of probabilities. Output: loss.
    NegativeLogLikelihoodLoss(LossAttributes),
    NonZero,
    Unique {
        axis: Option<i64>,
        sorted: bool,
    },
    Compress {
        axis: Option<i64>,
    },

    // Shape and data movement.
    /// Inputs: data, shape.
    Reshape {
        allow_zero: bool,
    },
    Flatten {
        axis: i64,
    },
    /// Inputs: data, axes?.
    Squeeze,
    /// Inputs: data, axes.
    Unsqueeze,
    /// Empty `perm` reverses the dimensions.
    Transpose {
        perm: Vec<usize>,
    },
    Concat {
        axis: i64,
    },
    /// Inputs: data, split?.
    Split {
        axis: i64,
        num_outputs: Option<usize>,
    },
    /// Inputs: data, starts, ends, axes?, steps?.
    Slice,
    Gather {
        axis: i64,
    },
    GatherElements {
        axis: i64,
    },
    GatherNd {
        batch_dims: usize,
    },
    ScatterElements {
        axis: i64,
        reduction: ScatterReduction,
    },
    ScatterNd {
        reduction: ScatterReduction,
    },
    /// Opset 24. Inputs: past_cache, update, write_indices?.
    TensorScatter {
        axis: i64,
        circular: bool,
    },
    /// Inputs: data, shape.
    Expand,
    /// Inputs: data, repeats.
    Tile,
    /// Inputs: data, pads, value?, axes?.
    Pad {
        mode: PadMode,
    },
    DepthToSpace {
        block_size: usize,
        mode: DepthToSpaceMode,
    },
    SpaceToDepth {
        block_size: usize,
    },
    /// Inputs: data, k?.
    Trilu {
        upper: bool,
    },
    ReverseSequence {
        batch_axis: i64,
        time_axis: i64,
    },
    Shape {
        start: i64,
        end: Option<i64>,
    },
    Size,

    // Generators.
    /// Input: shape. `value` has one element.
    ConstantOfShape {
        value: ScalarValue,
    },
    /// Inputs: start, limit, delta.
    Range,
    /// Inputs: indices, depth, values `[off, on]`.
    OneHot {
        axis: i64,
    },
    EyeLike {
        dtype: Option<DataType>,
        k: i64,
    },

    // Quantisation.
    QuantizeLinear {
        axis: i64,
        block_size: usize,
        saturate: bool,
        to: Option<DataType>,
    },
    DequantizeLinear {
        axis: i64,
        block_size: usize,
    },
    DynamicQuantizeLinear,

    // Control flow. Each body's formal inputs are listed in the variant's doc; what a body captures from outside is
    // passed explicitly as further inputs of the node, the same ones to each body, after the operator's own.
    /// Inputs: condition, captures…. Bodies take the captures.
    If {
        then_branch: Box<Graph>,
        else_branch: Box<Graph>,
    },
    /// Inputs: trip count?, condition?, `carried` loop-carried values, captures…. The body takes iteration number,
    /// condition, carried values, captures, and gives condition, carried values, scan outputs.
    Loop {
        body: Box<Graph>,
        carried: usize,
    },

    /// An operator outside this set. It is kept as read so that it can be inspected and written back; it cannot run.
    Foreign(ForeignOp),
}

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
    /// Its row.
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
            Self::MatMul => row("MatMul", Products, [2, 2, 1]),
            Self::Gemm { .. } => row("Gemm", Products, [2, 3, 1]),
            Self::Einsum { .. } => row("Einsum", Products, [1, ANY, 1]),
            Self::Conv(_) => row("Conv", Products, [2, 3, 1]),
            Self::ConvTranspose { .. } => row("ConvTranspose", Products, [2, 3, 1]),
            Self::ConvGradient(_) => row("ConvGradient", Products, [2, 2, 1]),
            Self::MatMulInteger => row("MatMulInteger", Products, [2, 4, 1]),
            Self::ConvInteger(_) => row("ConvInteger", Products, [2, 4, 1]),
            Self::QLinearMatMul => row("QLinearMatMul", Products, [8, 8, 1]),
            Self::QLinearConv(_) => row("QLinearConv", Products, [8, 9, 1]),
            Self::Attention(_) => row("Attention", Attention, [3, 7, 4]),
            Self::RotaryEmbedding { .. } => row("RotaryEmbedding", Attention, [3, 4, 1]),
            Self::Recurrent(attributes) => match attributes.kind {
                RecurrentKind::Lstm { .. } => row("LSTM", Products, [3, 8, 3]),
                RecurrentKind::Gru { .. } => row("GRU", Products, [3, 6, 2]),
                RecurrentKind::Rnn => row("RNN", Products, [3, 6, 2]),
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

    /// The bodies of control flow.
    pub fn bodies(&self) -> Vec<&Graph> {
        if let Self::If { then_branch, else_branch } = self {
            vec![then_branch, else_branch]
        } else if let Self::Loop { body, .. } = self {
            vec![body]
        } else {
            Vec::new()
        }
    }

    /// The bodies of control flow, to change.
    pub fn bodies_mut(&mut self) -> Vec<&mut Graph> {
        if let Self::If { then_branch, else_branch } = self {
            vec![then_branch, else_branch]
        } else if let Self::Loop { body, .. } = self {
            vec![body]
        } else {
            Vec::new()
        }
    }
}
