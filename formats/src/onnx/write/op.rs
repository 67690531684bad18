//! Each operator's attributes in ONNX's words: the mirror of the reader's tables.

use prost::Message;

use super::WriteError;
use super::attributes::Form;
use crate::dtype::DataType;
use crate::graph::{Dim, Graph, Node};
use crate::onnx::proto::{AttributeProto, GraphProto, data_type_code};
use crate::op::{
    AspectRatioPolicy, Binary, ConvAttributes, CoordinateTransform, CumulativeKind, DepthToSpaceMode,
    Direction, GridSampleMode, GridSamplePadding, LossReduction, NearestRounding, Op, PadMode, Padding,
    PoolAttributes, PoolKind, RecurrentAttributes, RecurrentKind, ReduceKind, ResizeAttributes, ResizeMode,
    ScatterReduction, Unary,
};

/// The operator of `node` with its attributes; `bodies` are those of [`Op::bodies`].
pub(super) fn form(graph: &Graph, node: &Node, bodies: Vec<GraphProto>) -> Result<Form, WriteError> {
    let types: Vec<DataType> =
        node.inputs.iter().chain(&node.outputs).flatten().filter_map(|&id| graph.value(id).dtype).collect();
    let has = |dtype| types.contains(&dtype);
    let bf16 = has(DataType::BF16);
    let half = bf16 || has(DataType::F16);
    let wide = has(DataType::I16) || has(DataType::U16);
    let f = Form::new(node.op.name());
    let f = match &node.op {
        Op::Variadic(_)
        | Op::Clip
        | Op::Where
        | Op::CastLike
        | Op::Identity
        | Op::MatMul
        | Op::MatMulInteger
        | Op::NonZero
        | Op::Squeeze
        | Op::Unsqueeze
        | Op::Slice
        | Op::Expand
        | Op::Tile
        | Op::Size
        | Op::DynamicQuantizeLinear => f,
        Op::Unary(op) => unary(f, *op, half),
        Op::Binary(op) => binary(f, *op, &types),
        Op::Cast { to } => f.int("to", data_type_code(*to).into()),

        Op::Gemm { alpha, beta, trans_a, trans_b } => {
            f.float("alpha", *alpha).float("beta", *beta).flag("transA", *trans_a).flag("transB", *trans_b)
        }
        Op::Einsum { equation } => f.string("equation", equation).since_if(28, bf16),
        Op::Conv(attributes) | Op::ConvInteger(attributes) | Op::QLinearConv(attributes) => {
            conv(f, attributes)
        }
        Op::ConvTranspose { conv: attributes, output_padding, output_shape } => {
            conv(f, attributes).sizes("output_padding", output_padding).sizes("output_shape", output_shape)
        }
        Op::ConvGradient(_) => {
            return Err(WriteError::NotOnnx { node: node.name.clone(), op: node.op.name().to_owned() });
        }
        Op::QLinearMatMul => f.since_if(21, half),
        Op::Attention(a) => f
            .flag("is_causal", a.is_causal)
            .positive("q_num_heads", a.q_num_heads)
            .positive("kv_num_heads", a.kv_num_heads)
            .maybe(a.scale, |f, scale| f.float("scale", scale))
            .float("softcap", a.softcap)
            .int("qk_matmul_output_mode", a.qk_matmul_output_mode.into())
            .since(23)
            .since_if(24, node.input(6).is_some()),
        Op::RotaryEmbedding { interleaved, num_heads, rotary_embedding_dim } => f
            .flag("interleaved", *interleaved)
            .positive("num_heads", *num_heads)
            .size("rotary_embedding_dim", *rotary_embedding_dim)
            .since(23),
        Op::Recurrent(attributes) => recurrent(f, attributes),

        Op::BatchNormalization { epsilon } | Op::InstanceNormalization { epsilon } => {
            f.float("epsilon", *epsilon)
        }
        Op::LayerNormalization { axis, epsilon } => f.int("axis", *axis).float("epsilon", *epsilon),
        Op::GroupNormalization { num_groups, epsilon } => {
            f.size("num_groups", *num_groups).float("epsilon", *epsilon).since(21)
        }
        Op::RmsNormalization { axis, epsilon } => f.int("axis", *axis).float("epsilon", *epsilon).since(23),
        Op::LpNormalization { axis, p } => f.int("axis", *axis).int("p", (*p).into()),
        Op::MeanVarianceNormalization { axes } => f.ints("axes", axes),
        Op::Lrn { size, alpha, beta, bias } => {
            f.size("size", *size).float("alpha", *alpha).float("beta", *beta).float("bias", *bias)
        }
        Op::Softmax { kind: _, axis } => f.int("axis", *axis),

        Op::Pool(attributes) => {
            let image = node.input(0).and_then(|id| graph.value(id).shape.as_deref());
            pool(f, attributes).since_if(22, newer_pool(attributes, image))
        }
        Op::GlobalPool { kind } => match kind {
            PoolKind::Average | PoolKind::Max => f,
            PoolKind::Lp { p } => f.int("p", (*p).into()),
        },
        Op::Resize(attributes) => resize(f, attributes),
        Op::GridSample { mode, padding, align_corners } => f
            .string(
                "mode",
                match mode {
                    GridSampleMode::Nearest => "nearest",
                    GridSampleMode::Linear => "linear",
                    GridSampleMode::Cubic => "cubic",
                },
            )
            .string(
                "padding_mode",
                match padding {
                    GridSamplePadding::Zeros => "zeros",
                    GridSamplePadding::Border => "border",
                    GridSamplePadding::Reflection => "reflection",
                },
            )
            .flag("align_corners", *align_corners)
            .since(20),
        Op::RoiAlign(roi) => f
            .string("mode", if roi.max { "max" } else { "avg" })
            .string(
                "coordinate_transformation_mode",
                if roi.half_pixel { "half_pixel" } else { "output_half_pixel" },
            )
            .size("output_height", roi.output_height)
            .size("output_width", roi.output_width)
            .size("sampling_ratio", roi.sampling_ratio)
            .float("spatial_scale", roi.spatial_scale),
        Op::NonMaxSuppression { center_point_box } => f.flag("center_point_box", *center_point_box),

        Op::SoftmaxCrossEntropyLoss(loss) | Op::NegativeLogLikelihoodLoss(loss) => f
            .string(
                "reduction",
                match loss.reduction {
                    LossReduction::None => "none",
                    LossReduction::Sum => "sum",
                    LossReduction::Mean => "mean",
                },
            )
            .maybe(loss.ignore_index, |f, index| f.int("ignore_index", index)),
        Op::Reduce { kind, keep_dims, noop_with_empty_axes } => {
            let ordered = matches!(kind, ReduceKind::Max | ReduceKind::Min);
            f.flag("keepdims", *keep_dims)
                .flag("noop_with_empty_axes", *noop_with_empty_axes)
                .since_if(20, ordered && has(DataType::Bool))
        }
        Op::ArgReduce { kind: _, axis, keep_dims, select_last_index } => {
            f.int("axis", *axis).flag("keepdims", *keep_dims).flag("select_last_index", *select_last_index)
        }
        Op::TopK { axis, largest, sorted } => {
            f.int("axis", *axis).flag("largest", *largest).flag("sorted", *sorted).since_if(24, bf16)
        }
        Op::Cumulative { kind, exclusive, reverse } => f
            .flag("exclusive", *exclusive)
            .flag("reverse", *reverse)
            .since_if(26, *kind == CumulativeKind::Prod),
        Op::Unique { axis, sorted } => {
            f.maybe(*axis, |f, axis| f.int("axis", axis)).flag("sorted", *sorted).since_if(28, bf16)
        }
        Op::Compress { axis } => f.maybe(*axis, |f, axis| f.int("axis", axis)).since_if(28, bf16),

        Op::Reshape { allow_zero } => f.flag("allowzero", *allow_zero),
        Op::Flatten { axis } | Op::Concat { axis } | Op::Gather { axis } | Op::GatherElements { axis } => {
            f.int("axis", *axis)
        }
        Op::Transpose { perm } => f.sizes("perm", perm),
        Op::Split { axis, num_outputs } => {
            let equal = node.input(1).is_none().then(|| num_outputs.unwrap_or(node.outputs.len()));
            f.int("axis", *axis).maybe(equal, |f, n| f.size("num_outputs", n))
        }
        Op::GatherNd { batch_dims } => f.size("batch_dims", *batch_dims),
        Op::ScatterElements { axis, reduction } => {
            f.int("axis", *axis).string("reduction", scatter(*reduction))
        }
        Op::ScatterNd { reduction } => f.string("reduction", scatter(*reduction)),
        Op::TensorScatter { axis, circular } => {
            f.int("axis", *axis).string("mode", if *circular { "circular" } else { "linear" }).since(24)
        }
        Op::Pad { mode } => match mode {
            PadMode::Constant => f.string("mode", "constant"),
            PadMode::Reflect => f.string("mode", "reflect"),
            PadMode::Edge => f.string("mode", "edge"),
            PadMode::Wrap => f.string("mode", "wrap").since(19),
        },
        Op::DepthToSpace { block_size, mode } => f.size("blocksize", *block_size).string(
            "mode",
            match mode {
                DepthToSpaceMode::DepthColumnRow => "DCR",
                DepthToSpaceMode::ColumnRowDepth => "CRD",
            },
        ),
        Op::SpaceToDepth { block_size } => f.size("blocksize", *block_size),
        Op::Trilu { upper } => f.flag("upper", *upper),
        Op::ReverseSequence { batch_axis, time_axis } => {
            f.int("batch_axis", *batch_axis).int("time_axis", *time_axis).since_if(28, bf16)
        }
        Op::Shape { start, end } => f.int("start", *start).maybe(*end, |f, end| f.int("end", end)),

        Op::ConstantOfShape { value } => f.scalar("value", value),
        Op::Range => f.since_if(27, half),
        Op::OneHot { axis } => f.int("axis", *axis).since_if(28, bf16),
        Op::EyeLike { dtype, k } => {
            f.maybe(*dtype, |f, to| f.int("dtype", data_type_code(to).into())).int("k", *k)
        }

        Op::QuantizeLinear { axis, block_size, saturate, to } => f
            .int("axis", *axis)
            .positive("block_size", *block_size)
            .maybe((!saturate).then_some(false), |f, saturate| f.flag("saturate", saturate))
            .maybe(*to, |f, to| f.int("output_dtype", data_type_code(to).into()))
            .since_if(19, half || !saturate)
            .since_if(21, wide || *block_size > 0 || to.is_some()),
        Op::DequantizeLinear { axis, block_size } => f
            .int("axis", *axis)
            .positive("block_size", *block_size)
            .since_if(19, half)
            .since_if(21, wide || *block_size > 0),

        Op::If { .. } => ["then_branch", "else_branch"]
            .into_iter()
            .zip(bodies)
            .fold(f, |f, (name, body)| f.graph(name, body)),
        Op::Loop { .. } => bodies.into_iter().fold(f, |f, body| f.graph("body", body)),
        Op::Foreign(foreign) => {
            let attributes = foreign.attributes.iter().map(|bytes| AttributeProto::decode(&bytes[..]));
            let attributes = attributes
                .collect::<Result<_, _>>()
                .map_err(|error| WriteError::Attribute { node: node.name.clone(), error })?;
            let (domain, op_type) = (foreign.domain.clone(), foreign.op_type.clone());
            return Ok(Form { domain, op_type, opset: foreign.opset, attributes });
        }
    };
    // Most operators that lacked bf16 have it since 22.
    Ok(f.since_if(22, bf16))
}

fn unary(f: Form, unary: Unary, half: bool) -> Form {
    match unary {
        Unary::Abs
        | Unary::Acos
        | Unary::Acosh
        | Unary::Asin
        | Unary::Asinh
        | Unary::Atan
        | Unary::Atanh
        | Unary::BitwiseNot
        | Unary::Ceil
        | Unary::Cos
        | Unary::Cosh
        | Unary::Erf
        | Unary::Exp
        | Unary::Floor
        | Unary::HardSwish
        | Unary::IsNan
        | Unary::Log
        | Unary::Mish
        | Unary::Neg
        | Unary::Not
        | Unary::Reciprocal
        | Unary::Relu
        | Unary::Round
        | Unary::Sigmoid
        | Unary::Sign
        | Unary::Sin
        | Unary::Sinh
        | Unary::Softplus
        | Unary::Softsign
        | Unary::Sqrt
        | Unary::Tan
        | Unary::Tanh => f,
        Unary::Celu { alpha } => f.float("alpha", alpha).since_if(28, half),
        Unary::Elu { alpha } | Unary::LeakyRelu { alpha } | Unary::ThresholdedRelu { alpha } => {
            f.float("alpha", alpha)
        }
        Unary::Gelu { approximate } => {
            f.string("approximate", if approximate { "tanh" } else { "none" }).since(20)
        }
        Unary::HardSigmoid { alpha, beta } => f.float("alpha", alpha).float("beta", beta),
        Unary::IsInf { negative, positive } => {
            f.flag("detect_negative", negative).flag("detect_positive", positive).since_if(20, half)
        }
        Unary::Selu { alpha, gamma } => f.float("alpha", alpha).float("gamma", gamma),
        Unary::Shrink { bias, lambda } => f.float("bias", bias).float("lambd", lambda),
        Unary::Swish { alpha } => f.float("alpha", alpha).since(24),
    }
}

fn binary(f: Form, binary: Binary, types: &[DataType]) -> Form {
    match binary {
        Binary::Add
        | Binary::Sub
        | Binary::Mul
        | Binary::Div
        | Binary::Pow
        | Binary::And
        | Binary::Or
        | Binary::Xor
        | Binary::BitwiseAnd
        | Binary::BitwiseOr
        | Binary::BitwiseXor
        | Binary::Equal
        | Binary::Greater
        | Binary::GreaterOrEqual
        | Binary::Less
        | Binary::LessOrEqual
        | Binary::PRelu => f,
        Binary::Mod { fmod } => {
            f.flag("fmod", fmod).since_if(28, !fmod && types.iter().any(|dtype| dtype.is_float()))
        }
        Binary::BitShift { left } => {
            let signed = [DataType::I8, DataType::I16, DataType::I32, DataType::I64];
            f.string("direction", if left { "LEFT" } else { "RIGHT" })
                .since_if(28, types.iter().any(|dtype| signed.contains(dtype)))
        }
    }
}

fn conv(f: Form, conv: &ConvAttributes) -> Form {
    f.size("group", conv.group)
        .sizes("kernel_shape", &conv.kernel)
        .sizes("strides", &conv.strides)
        .sizes("dilations", &conv.dilations)
        .padding(&conv.padding)
}

fn pool(f: Form, pool: &PoolAttributes) -> Form {
    let dilated = pool.dilations.iter().any(|&d| d != 1);
    let f = match pool.kind {
        PoolKind::Average if dilated => f.sizes("dilations", &pool.dilations).since(19),
        PoolKind::Average => f,
        PoolKind::Max => f.sizes("dilations", &pool.dilations).flag("storage_order", pool.column_major),
        PoolKind::Lp { p } => f.sizes("dilations", &pool.dilations).int("p", p.into()),
    };
    let average = pool.kind == PoolKind::Average;
    f.sizes("kernel_shape", &pool.kernel)
        .sizes("strides", &pool.strides)
        .padding(&pool.padding)
        .flag("ceil_mode", pool.ceil_mode)
        .maybe(average.then_some(pool.count_include_pad), |f, include| f.flag("count_include_pad", include))
}

/// Whether older operator sets than 22 mean, or may mean, something else: they place windows differently that begin beyond
/// an image (of this declared shape) and its first padding, and some ask for less than no padding.
fn newer_pool(pool: &PoolAttributes, image: Option<&[Dim]>) -> bool {
    let of = |list: &[usize], axis: usize| list.get(axis).copied().unwrap_or(1);
    let strided = (0..pool.kernel.len()).any(|axis| of(&pool.strides, axis) > pool.kernel[axis]);
    let dilated = pool.dilations.iter().any(|&d| d != 1);
    let (padded, same) = match &pool.padding {
        Padding::Explicit(pads) => (pads.iter().any(|&pad| pad != 0), false),
        Padding::Valid => (false, false),
        Padding::SameUpper | Padding::SameLower => (true, true),
    };
    let sizes = image.unwrap_or_default().iter().skip(2).zip(&pool.kernel);
    let small = sizes.into_iter().any(|(size, kernel)| matches!(size, Dim::Fixed(size) if size < kernel));
    same && strided || small || pool.ceil_mode && (strided || padded || dilated)
}

fn recurrent(f: Form, recurrent: &RecurrentAttributes) -> Form {
    match recurrent.kind {
        RecurrentKind::Lstm { input_forget } => f.flag("input_forget", input_forget),
        RecurrentKind::Gru { linear_before_reset } => f.flag("linear_before_reset", linear_before_reset),
        RecurrentKind::Rnn => f,
    }
    .size("hidden_size", recurrent.hidden_size)
    .string(
        "direction",
        match recurrent.direction {
            Direction::Forward => "forward",
            Direction::Reverse => "reverse",
            Direction::Bidirectional => "bidirectional",
        },
    )
    .strings("activations", &recurrent.activations)
    .floats("activation_alpha", &recurrent.activation_alpha)
    .floats("activation_beta", &recurrent.activation_beta)
    .maybe(recurrent.clip, |f, clip| f.float("clip", clip))
    .flag("layout", recurrent.batch_first)
}

fn resize(f: Form, resize: &ResizeAttributes) -> Form {
    f.string(
        "mode",
        match resize.mode {
            ResizeMode::Nearest => "nearest",
            ResizeMode::Linear => "linear",
            ResizeMode::Cubic => "cubic",
        },
    )
    .string(
        "coordinate_transformation_mode",
        match resize.coordinates {
            CoordinateTransform::HalfPixel => "half_pixel",
            CoordinateTransform::HalfPixelSymmetric => "half_pixel_symmetric",
            CoordinateTransform::PytorchHalfPixel => "pytorch_half_pixel",
            CoordinateTransform::AlignCorners => "align_corners",
            CoordinateTransform::Asymmetric => "asymmetric",
            CoordinateTransform::TfCropAndResize => "tf_crop_and_resize",
        },
    )
    .since_if(19, resize.coordinates == CoordinateTransform::HalfPixelSymmetric)
    .string(
        "nearest_mode",
        match resize.nearest {
            NearestRounding::RoundPreferFloor => "round_prefer_floor",
            NearestRounding::RoundPreferCeil => "round_prefer_ceil",
            NearestRounding::Floor => "floor",
            NearestRounding::Ceil => "ceil",
        },
    )
    .flag("antialias", resize.antialias)
    .ints("axes", &resize.axes)
    .float("cubic_coeff_a", resize.cubic_coeff_a)
    .flag("exclude_outside", resize.exclude_outside)
    .float("extrapolation_value", resize.extrapolation_value)
    .string(
        "keep_aspect_ratio_policy",
        match resize.keep_aspect_ratio {
            AspectRatioPolicy::Stretch => "stretch",
            AspectRatioPolicy::NotLarger => "not_larger",
            AspectRatioPolicy::NotSmaller => "not_smaller",
        },
    )
}

fn scatter(reduction: ScatterReduction) -> &'static str {
    match reduction {
        ScatterReduction::None => "none",
        ScatterReduction::Add => "add",
        ScatterReduction::Mul => "mul",
        ScatterReduction::Max => "max",
        ScatterReduction::Min => "min",
    }
}
