//! ONNX Runtime's contributed operators (`com.microsoft`) that a few of ours spell out.
//!
//! Documentation: <https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md>.

use crate::graph::ValueId;
use crate::onnx::read::{Call, Unsupported};
use crate::op::{Binary, Op, Unary};

pub(in crate::onnx) fn read(call: &mut Call) -> Result<Op, Unsupported> {
    match call.op_type {
        "Gelu" => Ok(Op::Unary(Unary::Gelu { approximate: false })),
        "FastGelu" => add_then_gelu(call, true),
        "BiasGelu" => add_then_gelu(call, false),
        "QuickGelu" => Ok(Op::Unary(Unary::Swish { alpha: call.attributes.float("alpha", 1.702)? })),
        "FusedMatMul" => fused_matmul(call),
        "FusedConv" => fused_conv(call),
        "SkipLayerNormalization" => skip_normalization(call, false),
        "SkipSimplifiedLayerNormalization" => skip_normalization(call, true),
        "DequantizeLinear" | "QuantizeLinear" => super::standard(call),
        _ => super::quantised::read(call)?.ok_or(Unsupported::Operator),
    }
}

fn add(call: &mut Call, a: Option<ValueId>, b: Option<ValueId>, suffix: &str) -> ValueId {
    call.emit(Op::Binary(Binary::Add), &[a, b], suffix)
}

fn add_then_gelu(call: &mut Call, approximate: bool) -> Result<Op, Unsupported> {
    call.at_most_inputs(2)?;
    let mut x = call.required(0)?;
    if let Some(bias) = call.input(1) {
        x = add(call, Some(x), Some(bias), "biased");
    }
    call.inputs = vec![Some(x)];
    Ok(Op::Unary(Unary::Gelu { approximate }))
}

/// `alpha · A' · B'`, where `'` may swap the last two axes.
fn fused_matmul(call: &mut Call) -> Result<Op, Unsupported> {
    for name in ["transBatchA", "transBatchB"] {
        if call.attributes.flag(name, false)? {
            return Err(Unsupported::AttributeValue { name, value: "1".into() });
        }
    }
    let alpha = call.attributes.float("alpha", 1.0)?;
    for (index, name) in [(0, "transA"), (1, "transB")] {
        if call.attributes.flag(name, false)? {
            let x = call.required(index)?;
            let rank = call.builder.facts(x).rank.filter(|&rank| rank >= 2);
            let rank = rank.ok_or(Unsupported::AttributeValue { name, value: "1 on unknown rank".into() })?;
            let mut perm: Vec<usize> = (0..rank).collect();
            perm.swap(rank - 2, rank - 1);
            let swapped = call.emit(Op::Transpose { perm }, &[Some(x)], name);
            call.set_input(index, Some(swapped));
        }
    }
    #[allow(clippy::float_cmp)] // Exactly 1 is what leaves the product alone.
    if alpha == 1.0 {
        return Ok(Op::MatMul);
    }
    let inputs = call.inputs.clone();
    let product = call.emit(Op::MatMul, &inputs, "product");
    let alpha = call.scalar_like("alpha", alpha, product);
    call.inputs = vec![Some(product), Some(alpha)];
    Ok(Op::Binary(Binary::Mul))
}

/// A convolution, plus a fourth input if there is one, then an activation.
fn fused_conv(call: &mut Call) -> Result<Op, Unsupported> {
    let parameters = call.attributes.floats("activation_params")?;
    let parameter = |index: usize, default: f32| parameters.get(index).copied().unwrap_or(default);
    let activation = match call.attributes.optional_string("activation")? {
        None | Some("") => Op::Identity,
        Some("Relu") => Op::Unary(Unary::Relu),
        Some("Sigmoid") => Op::Unary(Unary::Sigmoid),
        Some("Tanh") => Op::Unary(Unary::Tanh),
        Some("LeakyRelu") => Op::Unary(Unary::LeakyRelu { alpha: parameter(0, 0.01) }),
        Some("HardSigmoid") => {
            Op::Unary(Unary::HardSigmoid { alpha: parameter(0, 0.2), beta: parameter(1, 0.5) })
        }
        Some("Clip") => Op::Clip,
        Some(other) => {
            return Err(Unsupported::AttributeValue { name: "activation", value: format!("{other:?}") });
        }
    };
    call.at_most_inputs(4)?;
    let inputs: Vec<_> = (0..3).map(|index| call.input(index)).collect();
    let sum = call.input(3);
    let conv = Op::Conv(super::convolution::conv(call)?);
    let present = if inputs[2].is_some() { 3 } else { 2 };
    let mut y = call.emit(conv, &inputs[..present], "conv");
    if sum.is_some() {
        y = add(call, Some(y), sum, "sum");
    }
    call.inputs = vec![Some(y)];
    if let (Op::Clip, [min, max]) = (&activation, parameters) {
        let (min, max) = (call.scalar_like("min", *min, y), call.scalar_like("max", *max, y));
        call.inputs.extend([Some(min), Some(max)]);
    }
    Ok(activation)
}

/// Inputs: x, skip, gamma, beta? (not when simplified), bias?. Outputs: y, mean, deviation, sum.
fn skip_normalization(call: &mut Call, simplified: bool) -> Result<Op, Unsupported> {
    let epsilon = call.attributes.float("epsilon", 1e-12)?;
    let (x, skip, gamma) = (call.required(0)?, call.required(1)?, call.required(2)?);
    let (beta, bias) = if simplified { (None, call.input(3)) } else { (call.input(3), call.input(4)) };
    let output = |call: &Call, index: usize| call.outputs.get(index).copied().flatten();
    if output(call, 1).is_some() || output(call, 2).is_some() {
        return Err(Unsupported::Outputs { expected: 1, found: call.outputs.len() });
    }
    let mut sum = match bias {
        Some(bias) => add(call, Some(x), Some(bias), "biased"),
        None => x,
    };
    let sum_output = output(call, 3);
    sum = match sum_output {
        None => add(call, Some(sum), Some(skip), "sum"),
        Some(id) => {
            let name = format!("{}_sum", call.label);
            let inputs = vec![Some(sum), Some(skip)];
            let op = Op::Binary(Binary::Add);
            call.builder.add_node(crate::graph::Node { name, op, inputs, outputs: vec![Some(id)] });
            id
        }
    };
    call.outputs.truncate(1);
    if simplified {
        call.inputs = vec![Some(sum), Some(gamma)];
        return Ok(Op::RmsNormalization { axis: -1, epsilon });
    }
    call.inputs = vec![Some(sum), Some(gamma)];
    if beta.is_some() {
        call.set_input(2, beta);
    }
    Ok(Op::LayerNormalization { axis: -1, epsilon })
}
