//! Operators: for each what its outputs look like ([`infer`]) and what they are ([`run`]).
//!
//! A file holds one family. Both functions are one exhaustive match on [`Op`], so the compiler names every operator that
//! lacks an implementation. Hot operators (products, convolution, attention, …) are lowered by the plan to steps with
//! packed weights; what is here is their general form, which also folds constants.

mod args;
mod attention;
mod cast;
mod concat;
pub(crate) mod control;
mod conv;
mod conv_gradient;
pub(crate) mod conv_transpose;
mod cumulative;
pub(crate) mod einsum;
pub(crate) mod elementwise;
mod expand;
mod facts;
mod gather;
mod generate;
pub(crate) mod geometry;
mod inference;
mod integer;
mod loss;
mod matmul;
mod non_max_suppression;
mod norm;
mod number;
mod pad;
pub mod patches;
mod pool;
pub(crate) mod quantize;
mod real;
pub(crate) mod recurrent;
mod reduce;
mod reshape;
mod resize;
mod sample;
mod scatter;
mod search;
mod select;
mod slice;
mod softmax;
#[cfg(test)]
pub(crate) mod testing;
mod transpose;

#[cfg(test)]
mod tests;

use poda_formats::op::{ForeignOp, Op};
use poda_formats::{DataType, TensorView};

use crate::info::Info;
use crate::output::Output;

pub use inference::Analysis;
pub(crate) use inference::analyze_from;

/// Why an operator cannot be applied to its inputs.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum OpError {
    #[error("{op} is not supported: {reason}")]
    Unsupported { op: String, reason: String },
    #[error("input {index} is missing")]
    MissingInput { index: usize },
    #[error("input {index} is {found}, expected {expected}")]
    InputType { index: usize, expected: &'static str, found: DataType },
    #[error("input {index} has shape {shape:?}: {reason}")]
    InputShape { index: usize, shape: Vec<usize>, reason: String },
    #[error("shapes {left:?} and {right:?} do not broadcast")]
    Broadcast { left: Vec<usize>, right: Vec<usize> },
    #[error("{name} {value} is out of range for {bound}")]
    OutOfRange { name: &'static str, value: i64, bound: i64 },
    #[error("{0}")]
    Invalid(String),
    #[error("the plan expects {planned:?}, the operator gives {found:?}")]
    Plan { planned: (DataType, Vec<usize>), found: (DataType, Vec<usize>) },
    #[error("shape {shape:?} of {dtype} has more bytes than memory can address")]
    TooLarge { dtype: DataType, shape: Vec<usize> },
    #[error("an output that nobody asked for was written")]
    UnusedOutput,
    #[error(transparent)]
    Tensor(#[from] poda_formats::tensor::TensorError),
}

/// Inputs of an operator during a run; omitted optional inputs are `None`.
pub type Inputs<'a> = [Option<TensorView<'a>>];

/// What an operator of a family gives, unless this build leaves the family out (a feature of that name): its code is then not linked.
macro_rules! family {
    ($family:literal, $op:expr, $result:expr) => {
        if cfg!(feature = $family) { $result } else { Err(left_out($op.name(), $family)) }
    };
}

/// Facts about the outputs of `op`, from facts about its inputs. `outputs` is the number that the node has.
///
/// When every input's elements are known the caller folds the node by [`run`]; this function need only give `value`s
/// where they follow from shapes alone (Shape, Size).
///
/// # Errors
/// When the operator is not supported or its inputs do not fit.
pub fn infer(op: &Op, inputs: &[Option<&Info>], outputs: usize) -> Result<Vec<Info>, OpError> {
    if let Some(input) = inputs.iter().flatten().find(|info| !number::computes(info.dtype)) {
        return Err(left_out(&format!("{} of {}", op.name(), input.dtype), "types"));
    }
    match op {
        Op::Unary(function) => elementwise::unary::infer_unary(*function, inputs),
        Op::Binary(function) => elementwise::binary::infer_binary(*function, inputs),
        Op::Variadic(function) => elementwise::variadic::infer_variadic(*function, inputs),
        Op::Clip => elementwise::variadic::infer_clip(inputs),
        Op::Where => elementwise::choose::infer_choose(inputs),
        Op::Cast { to } => cast::infer_cast(*to, inputs),
        Op::CastLike => cast::infer_cast_like(inputs),
        Op::Identity => reshape::infer_identity(inputs),
        Op::MatMul => matmul::infer_matmul(inputs),
        Op::Gemm { alpha, beta, trans_a, trans_b } => {
            matmul::infer_gemm(*alpha, *beta, *trans_a, *trans_b, inputs)
        }
        Op::Einsum { equation } => family!("sequences", op, einsum::infer_einsum(equation, inputs)),
        Op::Conv(attributes) => conv::infer_conv(attributes, inputs),
        Op::ConvTranspose { conv, output_padding, output_shape } => {
            conv_transpose::infer_conv_transpose(conv, output_padding, output_shape, inputs)
        }
        Op::ConvGradient(attributes) => {
            family!("training", op, conv_gradient::infer_conv_gradient(attributes, inputs))
        }
        Op::MatMulInteger => family!("quantized", op, integer::infer_matmul_integer(inputs)),
        Op::ConvInteger(attributes) => {
            family!("quantized", op, integer::infer_conv_integer(attributes, inputs))
        }
        Op::QLinearMatMul => family!("quantized", op, integer::infer_qlinear_matmul(inputs)),
        Op::QLinearConv(attributes) => {
            family!("quantized", op, integer::infer_qlinear_conv(attributes, inputs))
        }
        Op::Attention(attributes) => {
            family!("sequences", op, attention::infer_attention(attributes, inputs, outputs))
        }
        Op::RotaryEmbedding { interleaved, num_heads, rotary_embedding_dim } => family!(
            "sequences",
            op,
            attention::infer_rotary_embedding(*interleaved, *num_heads, *rotary_embedding_dim, inputs)
        ),
        Op::Recurrent(attributes) => {
            family!("sequences", op, recurrent::infer_recurrent(attributes, inputs, outputs))
        }
        Op::BatchNormalization { epsilon } => norm::infer_batch_normalization(*epsilon, inputs),
        Op::InstanceNormalization { epsilon } => norm::infer_instance_normalization(*epsilon, inputs),
        Op::LayerNormalization { axis, epsilon } => {
            norm::infer_layer_normalization(*axis, *epsilon, inputs, outputs)
        }
        Op::GroupNormalization { num_groups, epsilon } => {
            norm::infer_group_normalization(*num_groups, *epsilon, inputs)
        }
        Op::RmsNormalization { axis, epsilon } => norm::infer_rms_normalization(*axis, *epsilon, inputs),
        Op::LpNormalization { axis, p } => norm::infer_lp_normalization(*axis, *p, inputs),
        Op::MeanVarianceNormalization { axes } => norm::infer_mean_variance_normalization(axes, inputs),
        Op::Lrn { size, alpha, beta, bias } => norm::infer_lrn(*size, *alpha, *beta, *bias, inputs),
        Op::Softmax { kind, axis } => softmax::infer_softmax(*kind, *axis, inputs),
        Op::Pool(attributes) => pool::infer_pool(attributes, inputs, outputs),
        Op::GlobalPool { kind } => pool::infer_global_pool(*kind, inputs),
        Op::Resize(attributes) => family!("images", op, resize::infer_resize(attributes, inputs)),
        Op::GridSample { mode, padding, align_corners } => {
            family!("images", op, sample::infer_grid_sample(*mode, *padding, *align_corners, inputs))
        }
        Op::RoiAlign(attributes) => family!("images", op, sample::infer_roi_align(attributes, inputs)),
        Op::NonMaxSuppression { center_point_box } => {
            family!("images", op, non_max_suppression::infer_non_max_suppression(*center_point_box, inputs))
        }
        Op::Reduce { kind, keep_dims, noop_with_empty_axes } => {
            reduce::infer_reduce(*kind, *keep_dims, *noop_with_empty_axes, inputs)
        }
        Op::ArgReduce { kind, axis, keep_dims, select_last_index } => family!(
            "selection",
            op,
            search::infer_arg_reduce(*kind, *axis, *keep_dims, *select_last_index, inputs)
        ),
        Op::TopK { axis, largest, sorted } => {
            family!("selection", op, search::infer_top_k(*axis, *largest, *sorted, inputs))
        }
        Op::Cumulative { kind, exclusive, reverse } => {
            family!("sequences", op, cumulative::infer_cumulative(*kind, *exclusive, *reverse, inputs))
        }
        Op::SoftmaxCrossEntropyLoss(loss) => {
            family!("training", op, loss::infer_cross_entropy(*loss, inputs, outputs))
        }
        Op::NegativeLogLikelihoodLoss(loss) => {
            family!("training", op, loss::infer_negative_log_likelihood(*loss, inputs))
        }
        Op::NonZero => family!("selection", op, select::infer_non_zero(inputs)),
        Op::Unique { axis, sorted } => {
            family!("selection", op, select::infer_unique(*axis, *sorted, inputs, outputs))
        }
        Op::Compress { axis } => family!("selection", op, select::infer_compress(*axis, inputs)),
        Op::Reshape { allow_zero } => reshape::infer_reshape(*allow_zero, inputs),
        Op::Flatten { axis } => reshape::infer_flatten(*axis, inputs),
        Op::Squeeze => reshape::infer_squeeze(inputs),
        Op::Unsqueeze => reshape::infer_unsqueeze(inputs),
        Op::Transpose { perm } => transpose::infer_transpose(perm, inputs),
        Op::Concat { axis } => concat::infer_concat(*axis, inputs),
        Op::Split { axis, num_outputs } => concat::infer_split(*axis, *num_outputs, inputs, outputs),
        Op::Slice => slice::infer_slice(inputs),
        Op::Gather { axis } => gather::infer_gather(*axis, inputs),
        Op::GatherElements { axis } => family!("selection", op, gather::infer_gather_elements(*axis, inputs)),
        Op::GatherNd { batch_dims } => family!("selection", op, gather::infer_gather_nd(*batch_dims, inputs)),
        Op::ScatterElements { axis, reduction } => {
            family!("selection", op, scatter::infer_scatter_elements(*axis, *reduction, inputs))
        }
        Op::ScatterNd { reduction } => {
            family!("selection", op, scatter::infer_scatter_nd(*reduction, inputs))
        }
        Op::TensorScatter { axis, circular } => {
            family!("selection", op, scatter::infer_tensor_scatter(*axis, *circular, inputs))
        }
        Op::Expand => expand::infer_expand(inputs),
        Op::Tile => expand::infer_tile(inputs),
        Op::Pad { mode } => pad::infer_pad(*mode, inputs),
        Op::DepthToSpace { block_size, mode } => transpose::infer_depth_to_space(*block_size, *mode, inputs),
        Op::SpaceToDepth { block_size } => transpose::infer_space_to_depth(*block_size, inputs),
        Op::Trilu { upper } => family!("selection", op, generate::infer_trilu(*upper, inputs)),
        Op::ReverseSequence { batch_axis, time_axis } => {
            family!("sequences", op, slice::infer_reverse_sequence(*batch_axis, *time_axis, inputs))
        }
        Op::Shape { start, end } => reshape::infer_shape(*start, *end, inputs),
        Op::Size => reshape::infer_size(inputs),
        Op::ConstantOfShape { value } => generate::infer_constant_of_shape(*value, inputs),
        Op::Range => family!("selection", op, generate::infer_range(inputs)),
        Op::OneHot { axis } => family!("selection", op, generate::infer_one_hot(*axis, inputs)),
        Op::EyeLike { dtype, k } => family!("selection", op, generate::infer_eye_like(*dtype, *k, inputs)),
        Op::QuantizeLinear { axis, block_size, saturate, to } => family!(
            "quantized",
            op,
            quantize::infer_quantize_linear(*axis, *block_size, *saturate, *to, inputs)
        ),
        Op::DequantizeLinear { axis, block_size } => {
            family!("quantized", op, quantize::infer_dequantize_linear(*axis, *block_size, inputs))
        }
        Op::DynamicQuantizeLinear => {
            family!("quantized", op, quantize::infer_dynamic_quantize_linear(inputs))
        }
        Op::If { then_branch, else_branch } => {
            family!("control-flow", op, control::infer_if_else(then_branch, else_branch, inputs, outputs))
        }
        Op::Loop { body, carried } => {
            family!("control-flow", op, control::infer_loop_body(body, *carried, inputs, outputs))
        }
        Op::Foreign(foreign) => Err(refuse(foreign)),
    }
}

/// Computes the outputs of `op`. Heavy operators split their work over the threads that are installed.
///
/// # Errors
/// When the operator is not supported or its inputs do not fit.
pub fn run(op: &Op, inputs: &Inputs<'_>, outputs: &mut [Output<'_>]) -> Result<(), OpError> {
    match op {
        Op::Unary(function) => elementwise::unary::unary(*function, inputs, outputs),
        Op::Binary(function) => elementwise::binary::binary(*function, inputs, outputs),
        Op::Variadic(function) => elementwise::variadic::variadic(*function, inputs, outputs),
        Op::Clip => elementwise::variadic::clip(inputs, outputs),
        Op::Where => elementwise::choose::choose(inputs, outputs),
        Op::Cast { to } => cast::cast(*to, inputs, outputs),
        Op::CastLike => cast::cast_like(inputs, outputs),
        Op::Identity => reshape::identity(inputs, outputs),
        Op::MatMul => matmul::matmul(inputs, outputs),
        Op::Gemm { alpha, beta, trans_a, trans_b } => {
            matmul::gemm(*alpha, *beta, *trans_a, *trans_b, inputs, outputs)
        }
        Op::Einsum { equation } => family!("sequences", op, einsum::einsum(equation, inputs, outputs)),
        Op::Conv(attributes) => conv::conv(attributes, inputs, outputs),
        Op::ConvTranspose { conv, output_padding, output_shape } => {
            conv_transpose::conv_transpose(conv, output_padding, output_shape, inputs, outputs)
        }
        Op::ConvGradient(attributes) => {
            family!("training", op, conv_gradient::conv_gradient(attributes, inputs, outputs))
        }
        Op::MatMulInteger => family!("quantized", op, integer::matmul_integer(inputs, outputs)),
        Op::ConvInteger(attributes) => {
            family!("quantized", op, integer::conv_integer(attributes, inputs, outputs))
        }
        Op::QLinearMatMul => family!("quantized", op, integer::qlinear_matmul(inputs, outputs)),
        Op::QLinearConv(attributes) => {
            family!("quantized", op, integer::qlinear_conv(attributes, inputs, outputs))
        }
        Op::Attention(attributes) => {
            family!("sequences", op, attention::attention(attributes, inputs, outputs))
        }
        Op::RotaryEmbedding { interleaved, num_heads, rotary_embedding_dim } => family!(
            "sequences",
            op,
            attention::rotary_embedding(*interleaved, *num_heads, *rotary_embedding_dim, inputs, outputs)
        ),
        Op::Recurrent(attributes) => {
            family!("sequences", op, recurrent::recurrent(attributes, inputs, outputs))
        }
        Op::BatchNormalization { epsilon } => norm::batch_normalization(*epsilon, inputs, outputs),
        Op::InstanceNormalization { epsilon } => norm::instance_normalization(*epsilon, inputs, outputs),
        Op::LayerNormalization { axis, epsilon } => {
            norm::layer_normalization(*axis, *epsilon, inputs, outputs)
        }
        Op::GroupNormalization { num_groups, epsilon } => {
            norm::group_normalization(*num_groups, *epsilon, inputs, outputs)
        }
        Op::RmsNormalization { axis, epsilon } => norm::rms_normalization(*axis, *epsilon, inputs, outputs),
        Op::LpNormalization { axis, p } => norm::lp_normalization(*axis, *p, inputs, outputs),
        Op::MeanVarianceNormalization { axes } => norm::mean_variance_normalization(axes, inputs, outputs),
        Op::Lrn { size, alpha, beta, bias } => norm::lrn(*size, *alpha, *beta, *bias, inputs, outputs),
        Op::Softmax { kind, axis } => softmax::softmax(*kind, *axis, inputs, outputs),
        Op::Pool(attributes) => pool::pool(attributes, inputs, outputs),
        Op::GlobalPool { kind } => pool::global_pool(*kind, inputs, outputs),
        Op::Resize(attributes) => family!("images", op, resize::resize(attributes, inputs, outputs)),
        Op::GridSample { mode, padding, align_corners } => {
            family!("images", op, sample::grid_sample(*mode, *padding, *align_corners, inputs, outputs))
        }
        Op::RoiAlign(attributes) => family!("images", op, sample::roi_align(attributes, inputs, outputs)),
        Op::NonMaxSuppression { center_point_box } => family!(
            "images",
            op,
            non_max_suppression::non_max_suppression(*center_point_box, inputs, outputs)
        ),
        Op::Reduce { kind, keep_dims, noop_with_empty_axes } => {
            reduce::reduce(*kind, *keep_dims, *noop_with_empty_axes, inputs, outputs)
        }
        Op::ArgReduce { kind, axis, keep_dims, select_last_index } => family!(
            "selection",
            op,
            search::arg_reduce(*kind, *axis, *keep_dims, *select_last_index, inputs, outputs)
        ),
        Op::TopK { axis, largest, sorted } => {
            family!("selection", op, search::top_k(*axis, *largest, *sorted, inputs, outputs))
        }
        Op::Cumulative { kind, exclusive, reverse } => {
            family!("sequences", op, cumulative::cumulative(*kind, *exclusive, *reverse, inputs, outputs))
        }
        Op::SoftmaxCrossEntropyLoss(loss) => {
            family!("training", op, loss::cross_entropy(*loss, inputs, outputs))
        }
        Op::NegativeLogLikelihoodLoss(loss) => {
            family!("training", op, loss::negative_log_likelihood(*loss, inputs, outputs))
        }
        Op::NonZero => family!("selection", op, select::non_zero(inputs, outputs)),
        Op::Unique { axis, sorted } => {
            family!("selection", op, select::unique(*axis, *sorted, inputs, outputs))
        }
        Op::Compress { axis } => family!("selection", op, select::compress(*axis, inputs, outputs)),
        Op::Reshape { allow_zero } => reshape::reshape(*allow_zero, inputs, outputs),
        Op::Flatten { axis } => reshape::flatten(*axis, inputs, outputs),
        Op::Squeeze => reshape::squeeze(inputs, outputs),
        Op::Unsqueeze => reshape::unsqueeze(inputs, outputs),
        Op::Transpose { perm } => transpose::transpose(perm, inputs, outputs),
        Op::Concat { axis } => concat::concat(*axis, inputs, outputs),
        Op::Split { axis, num_outputs } => concat::split(*axis, *num_outputs, inputs, outputs),
        Op::Slice => slice::slice(inputs, outputs),
        Op::Gather { axis } => gather::gather(*axis, inputs, outputs),
        Op::GatherElements { axis } => {
            family!("selection", op, gather::gather_elements(*axis, inputs, outputs))
        }
        Op::GatherNd { batch_dims } => {
            family!("selection", op, gather::gather_nd(*batch_dims, inputs, outputs))
        }
        Op::ScatterElements { axis, reduction } => {
            family!("selection", op, scatter::scatter_elements(*axis, *reduction, inputs, outputs))
        }
        Op::ScatterNd { reduction } => {
            family!("selection", op, scatter::scatter_nd(*reduction, inputs, outputs))
        }
        Op::TensorScatter { axis, circular } => {
            family!("selection", op, scatter::tensor_scatter(*axis, *circular, inputs, outputs))
        }
        Op::Expand => expand::expand(inputs, outputs),
        Op::Tile => expand::tile(inputs, outputs),
        Op::Pad { mode } => pad::pad(*mode, inputs, outputs),
        Op::DepthToSpace { block_size, mode } => {
            transpose::depth_to_space(*block_size, *mode, inputs, outputs)
        }
        Op::SpaceToDepth { block_size } => transpose::space_to_depth(*block_size, inputs, outputs),
        Op::Trilu { upper } => family!("selection", op, generate::trilu(*upper, inputs, outputs)),
        Op::ReverseSequence { batch_axis, time_axis } => {
            family!("sequences", op, slice::reverse_sequence(*batch_axis, *time_axis, inputs, outputs))
        }
        Op::Shape { start, end } => reshape::shape(*start, *end, inputs, outputs),
        Op::Size => reshape::size(inputs, outputs),
        Op::ConstantOfShape { value } => generate::constant_of_shape(*value, inputs, outputs),
        Op::Range => family!("selection", op, generate::range(inputs, outputs)),
        Op::OneHot { axis } => family!("selection", op, generate::one_hot(*axis, inputs, outputs)),
        Op::EyeLike { dtype, k } => family!("selection", op, generate::eye_like(*dtype, *k, inputs, outputs)),
        Op::QuantizeLinear { axis, block_size, saturate, to } => family!(
            "quantized",
            op,
            quantize::quantize_linear(*axis, *block_size, *saturate, *to, inputs, outputs)
        ),
        Op::DequantizeLinear { axis, block_size } => {
            family!("quantized", op, quantize::dequantize_linear(*axis, *block_size, inputs, outputs))
        }
        Op::DynamicQuantizeLinear => {
            family!("quantized", op, quantize::dynamic_quantize_linear(inputs, outputs))
        }
        Op::If { then_branch, else_branch } => family!(
            "control-flow",
            op,
            control::if_else(&control::Once(then_branch), &control::Once(else_branch), inputs, outputs)
        ),
        Op::Loop { body, carried } => family!(
            "control-flow",
            op,
            control::loop_body(&control::Body::new(body)?, body, *carried, inputs, outputs)
        ),
        Op::Foreign(foreign) => Err(refuse(foreign)),
    }
}

/// What a build that leaves out so much says of an operator.
fn left_out(op: &str, feature: &str) -> OpError {
    OpError::Unsupported {
        op: op.to_owned(),
        reason: format!("this build of Poda is without its feature {feature:?}"),
    }
}

fn refuse(op: &ForeignOp) -> OpError {
    let domain = if op.domain.is_empty() { "ai.onnx" } else { &op.domain };
    OpError::Unsupported {
        op: format!("{} ({domain}, opset {})", op.op_type, op.opset),
        reason: op.reason.clone(),
    }
}

/// Runs `f`; a panic inside becomes an error, so that no model or feed can take the process down.
pub(crate) fn guard<R>(f: impl FnOnce() -> Result<R, OpError>) -> Result<R, OpError> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)).unwrap_or_else(|panic| {
        let message = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
        let message = message.or_else(|| panic.downcast_ref::<String>().cloned());
        Err(OpError::Invalid(format!("internal error: {}", message.unwrap_or_default())))
    })
}
