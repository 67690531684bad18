//! Products: convolutions, matrix products, attention and recurrent networks.

use super::Around;
use crate::dtype::DataType;
use crate::onnx::read::{Call, Unsupported};
use crate::onnx::write::Form;
use crate::op::{
    AttentionAttributes, ConvAttributes, Direction, Op, Padding, RecurrentAttributes, RecurrentKind,
};

/// Of recurrent networks.
const DIRECTIONS: [(&str, Direction); 3] = [
    ("forward", Direction::Forward),
    ("reverse", Direction::Reverse),
    ("bidirectional", Direction::Bidirectional),
];

pub(super) fn read(call: &mut Call) -> Result<Option<Op>, Unsupported> {
    let attributes = &call.attributes;
    Ok(Some(match call.op_type {
        "MatMul" => Op::MatMul,
        "Gemm" => {
            if call.version < 7 {
                attributes.ignore(&["broadcast"]); // C broadcasts to the product in any case.
            }
            Op::Gemm {
                alpha: attributes.float("alpha", 1.0)?,
                beta: attributes.float("beta", 1.0)?,
                trans_a: attributes.flag("transA", false)?,
                trans_b: attributes.flag("transB", false)?,
            }
        }
        "Einsum" => {
            let equation = attributes.optional_string("equation")?;
            let equation = equation.ok_or(Unsupported::MissingAttribute { name: "equation" })?;
            Op::Einsum { equation: equation.to_owned() }
        }
        "Conv" => Op::Conv(conv(call)?),
        "ConvTranspose" => Op::ConvTranspose {
            conv: conv(call)?,
            output_padding: attributes.sizes("output_padding")?,
            output_shape: attributes.sizes("output_shape")?,
        },
        "MatMulInteger" => Op::MatMulInteger,
        "ConvInteger" => Op::ConvInteger(conv(call)?),
        "QLinearMatMul" => Op::QLinearMatMul,
        "QLinearConv" => Op::QLinearConv(conv(call)?),
        "Attention" => Op::Attention(attention(call)?),
        "RotaryEmbedding" => Op::RotaryEmbedding {
            interleaved: attributes.flag("interleaved", false)?,
            num_heads: attributes.size("num_heads", 0)?,
            rotary_embedding_dim: attributes.size("rotary_embedding_dim", 0)?,
        },
        "LSTM" => {
            let input_forget = attributes.flag("input_forget", false)?;
            recurrent(call, RecurrentKind::Lstm { input_forget })?
        }
        "GRU" => {
            let linear_before_reset = attributes.flag("linear_before_reset", false)?;
            recurrent(call, RecurrentKind::Gru { linear_before_reset })?
        }
        "RNN" => recurrent(call, RecurrentKind::Rnn)?,
        _ => return Ok(None),
    }))
}

/// The attributes of an operator of these.
pub(super) fn write(op: &Op, f: Form, around: &Around<'_>) -> Option<Form> {
    Some(match op {
        Op::MatMul | Op::MatMulInteger => f,
        Op::Gemm { alpha, beta, trans_a, trans_b } => {
            f.float("alpha", *alpha).float("beta", *beta).flag("transA", *trans_a).flag("transB", *trans_b)
        }
        Op::Einsum { equation } => f.string("equation", equation).since_if(28, around.has(DataType::BF16)),
        Op::Conv(attributes) | Op::ConvInteger(attributes) | Op::QLinearConv(attributes) => {
            write_conv(f, attributes)
        }
        Op::ConvTranspose { conv: attributes, output_padding, output_shape } => write_conv(f, attributes)
            .sizes("output_padding", output_padding)
            .sizes("output_shape", output_shape),
        Op::QLinearMatMul => f.since_if(21, around.half()),
        Op::Attention(a) => f
            .flag("is_causal", a.is_causal)
            .positive("q_num_heads", a.q_num_heads)
            .positive("kv_num_heads", a.kv_num_heads)
            .maybe(a.scale, |f, scale| f.float("scale", scale))
            .float("softcap", a.softcap)
            .int("qk_matmul_output_mode", a.qk_matmul_output_mode.into())
            .since(23)
            .since_if(24, around.node.input(6).is_some()),
        Op::RotaryEmbedding { interleaved, num_heads, rotary_embedding_dim } => f
            .flag("interleaved", *interleaved)
            .positive("num_heads", *num_heads)
            .size("rotary_embedding_dim", *rotary_embedding_dim)
            .since(23),
        Op::Recurrent(attributes) => write_recurrent(f, attributes),
        _ => return None,
    })
}

fn write_conv(f: Form, conv: &ConvAttributes) -> Form {
    f.size("group", conv.group)
        .sizes("kernel_shape", &conv.kernel)
        .sizes("strides", &conv.strides)
        .sizes("dilations", &conv.dilations)
        .padding(&conv.padding)
}

fn write_recurrent(f: Form, recurrent: &RecurrentAttributes) -> Form {
    match recurrent.kind {
        RecurrentKind::Lstm { input_forget } => f.flag("input_forget", input_forget),
        RecurrentKind::Gru { linear_before_reset } => f.flag("linear_before_reset", linear_before_reset),
        RecurrentKind::Rnn => f,
    }
    .size("hidden_size", recurrent.hidden_size)
    .choice("direction", &DIRECTIONS, &recurrent.direction)
    .strings("activations", &recurrent.activations)
    .floats("activation_alpha", &recurrent.activation_alpha)
    .floats("activation_beta", &recurrent.activation_beta)
    .maybe(recurrent.clip, |f, clip| f.float("clip", clip))
    .flag("layout", recurrent.batch_first)
}

/// Attributes of a convolution.
pub(super) fn conv(call: &Call) -> Result<ConvAttributes, Unsupported> {
    let group = call.attributes.size("group", 1)?;
    if group == 0 {
        return Err(Unsupported::AttributeValue { name: "group", value: "0".into() });
    }
    Ok(ConvAttributes {
        group,
        kernel: call.attributes.sizes("kernel_shape")?,
        strides: positive(call, "strides")?,
        dilations: positive(call, "dilations")?,
        padding: padding(call)?,
    })
}

/// Sizes of which none may be 0.
pub(super) fn positive(call: &Call, name: &'static str) -> Result<Vec<usize>, Unsupported> {
    let sizes = call.attributes.sizes(name)?;
    if sizes.contains(&0) {
        return Err(Unsupported::AttributeValue { name, value: format!("{sizes:?}") });
    }
    Ok(sizes)
}

/// The padding of a window operator.
pub(super) fn padding(call: &Call) -> Result<Padding, Unsupported> {
    let pads = call.attributes.ints("pads")?.unwrap_or(&[]);
    if pads.len() % 2 == 1 {
        return Err(Unsupported::AttributeValue { name: "pads", value: format!("{pads:?}") });
    }
    let explicit = Padding::Explicit(pads.to_vec());
    call.attributes.choice(
        "auto_pad",
        &[
            ("NOTSET", explicit.clone()),
            ("", explicit),
            ("SAME_UPPER", Padding::SameUpper),
            ("SAME_LOWER", Padding::SameLower),
            ("VALID", Padding::Valid),
        ],
    )
}

fn attention(call: &Call) -> Result<AttentionAttributes, Unsupported> {
    let attributes = &call.attributes;
    // Poda's softmax is f32 or better, whatever is asked for.
    attributes.ignore(&["softmax_precision"]);
    for name in ["left_window_size", "right_window_size"] {
        let window = attributes.int(name, -1)?;
        if window != -1 {
            return Err(Unsupported::AttributeValue { name, value: window.to_string() });
        }
    }
    Ok(AttentionAttributes {
        is_causal: attributes.flag("is_causal", false)?,
        q_num_heads: attributes.size("q_num_heads", 0)?,
        kv_num_heads: attributes.size("kv_num_heads", 0)?,
        scale: attributes.optional_float("scale")?,
        softcap: attributes.float("softcap", 0.0)?,
        qk_matmul_output_mode: match attributes.int("qk_matmul_output_mode", 0)? {
            mode @ 0..=3 => mode as u32,
            mode => {
                return Err(Unsupported::AttributeValue {
                    name: "qk_matmul_output_mode",
                    value: mode.to_string(),
                });
            }
        },
    })
}

fn recurrent(call: &Call, kind: RecurrentKind) -> Result<Op, Unsupported> {
    let attributes = &call.attributes;
    let recurrence = call.required(2)?;
    // The recurrence weight is `[directions, gates * hidden, hidden]`.
    let hidden = call.builder.graph.weight(recurrence).and_then(|r| r.shape().get(2).copied());
    let hidden_size = match (attributes.size("hidden_size", 0)?, hidden) {
        (0, Some(hidden)) => hidden,
        (0, None) => return Err(Unsupported::MissingAttribute { name: "hidden_size" }),
        (size, _) => size,
    };
    Ok(Op::Recurrent(RecurrentAttributes {
        kind,
        hidden_size,
        direction: attributes.choice("direction", &DIRECTIONS)?,
        activations: attributes.strings("activations")?,
        activation_alpha: attributes.floats("activation_alpha")?.to_vec(),
        activation_beta: attributes.floats("activation_beta")?.to_vec(),
        clip: attributes.optional_float("clip")?,
        batch_first: attributes.flag("layout", false)?,
    }))
}
