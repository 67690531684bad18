//! Products: convolutions, matrix products, attention and recurrent networks.

use crate::onnx::read::attributes::Unsupported;
use crate::onnx::read::call::Call;
use crate::op::{
    AttentionAttributes, ConvAttributes, Direction, Op, Padding, RecurrentAttributes, RecurrentKind,
};

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
        direction: attributes.choice(
            "direction",
            &[
                ("forward", Direction::Forward),
                ("reverse", Direction::Reverse),
                ("bidirectional", Direction::Bidirectional),
            ],
        )?,
        activations: attributes.strings("activations")?,
        activation_alpha: attributes.floats("activation_alpha")?.to_vec(),
        activation_beta: attributes.floats("activation_beta")?.to_vec(),
        clip: attributes.optional_float("clip")?,
        batch_first: attributes.flag("layout", false)?,
    }))
}
