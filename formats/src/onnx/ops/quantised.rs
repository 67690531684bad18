//! ONNX Runtime's quantised operators (`com.microsoft`) beside the standard ones: the operator on floats, between
//! DequantizeLinear and QuantizeLinear. (Running rounds as they do; the planner joins the pairs.)

use crate::graph::ValueId;
use crate::onnx::read::{Call, Unsupported};
use crate::op::{Binary, Op, PoolKind, SoftmaxKind, Unary};

pub(super) fn read(call: &mut Call) -> Result<Option<Op>, Unsupported> {
    Ok(Some(match call.op_type {
        "QGemm" => gemm(call)?,
        "QLinearAdd" => binary(call, Binary::Add)?,
        "QLinearMul" => binary(call, Binary::Mul)?,
        "QLinearSigmoid" => unary(call, Op::Unary(Unary::Sigmoid))?,
        "QLinearLeakyRelu" => {
            let alpha = call.attributes.float("alpha", 0.01)?;
            unary(call, Op::Unary(Unary::LeakyRelu { alpha }))?
        }
        "QLinearGlobalAveragePool" => {
            if call.attributes.flag("channels_last", false)? {
                return Err(Unsupported::AttributeValue { name: "channels_last", value: "1".into() });
            }
            unary(call, Op::GlobalPool { kind: PoolKind::Average })?
        }
        "QLinearSoftmax" => softmax(call)?,
        "QLinearConcat" => concat(call)?,
        _ => return Ok(None),
    }))
}

/// Input `index` as floats; its scale and zero point follow it.
fn floats(call: &mut Call, index: usize, axis: i64, suffix: &str) -> Result<ValueId, Unsupported> {
    let inputs = [Some(call.required(index)?), Some(call.required(index + 1)?), call.input(index + 2)];
    Ok(call.emit(Op::DequantizeLinear { axis, block_size: 0 }, &inputs, suffix))
}

/// The operator that gives `y` with the scale and zero point that are inputs `index` and the next.
fn quantized(call: &mut Call, y: ValueId, index: usize) -> Result<Op, Unsupported> {
    call.inputs = vec![Some(y), Some(call.required(index)?), call.input(index + 1)];
    Ok(Op::QuantizeLinear { axis: 0, block_size: 0, saturate: true, to: None })
}

/// Inputs: A, B and their scales and zero points, those of the result.
fn binary(call: &mut Call, function: Binary) -> Result<Op, Unsupported> {
    call.at_most_inputs(8)?;
    let (a, b) = (floats(call, 0, 0, "a")?, floats(call, 3, 0, "b")?);
    let y = call.emit(Op::Binary(function), &[Some(a), Some(b)], "y");
    quantized(call, y, 6)
}

/// Inputs: X with scale and zero point, those of the result.
fn unary(call: &mut Call, op: Op) -> Result<Op, Unsupported> {
    call.at_most_inputs(5)?;
    let x = floats(call, 0, 0, "x")?;
    let y = call.emit(op, &[Some(x)], "y");
    quantized(call, y, 3)
}

/// Inputs: X with scale and zero point, those of the result. `opset` is that of the Softmax that it stands for.
fn softmax(call: &mut Call) -> Result<Op, Unsupported> {
    let opset = call.attributes.required_int("opset")?;
    let axis = call.attributes.int("axis", -1)?;
    let x = call.required(0)?;
    // Before opset 13 it went over all axes from `axis` on: the same only for the last one.
    let last = axis == -1 || call.builder.facts(x).rank.is_some_and(|rank| rank as i64 == axis + 1);
    if opset < 13 && !last {
        return Err(Unsupported::AttributeValue { name: "axis", value: format!("{axis} of opset {opset}") });
    }
    unary(call, Op::Softmax { kind: SoftmaxKind::Softmax, axis })
}

/// Inputs: scale and zero point of the result, then each X with its own.
fn concat(call: &mut Call) -> Result<Op, Unsupported> {
    let axis = call.attributes.required_int("axis")?;
    let parts = (2..call.inputs.len()).step_by(3);
    let parts =
        parts.map(|i| floats(call, i, 0, &format!("x{i}")).map(Some)).collect::<Result<Vec<_>, _>>()?;
    let y = call.emit(Op::Concat { axis }, &parts, "y");
    quantized(call, y, 0)
}

/// Inputs: A and B with scales and zero points, C? (i32, in steps of both scales), and scale and zero point of the result;
/// without these it is f32.
fn gemm(call: &mut Call) -> Result<Op, Unsupported> {
    call.at_most_inputs(9)?;
    let alpha = call.attributes.float("alpha", 1.0)?;
    #[allow(clippy::float_cmp, reason = "exactly 1 is what leaves C's steps alone")]
    if alpha != 1.0 {
        return Err(Unsupported::AttributeValue { name: "alpha", value: alpha.to_string() });
    }
    let (trans_a, trans_b) = (call.attributes.flag("transA", false)?, call.attributes.flag("transB", false)?);
    let scales = [Some(call.required(1)?), Some(call.required(4)?)];
    // B may have a scale for each output.
    let (a, b) = (floats(call, 0, 0, "a")?, floats(call, 3, i64::from(!trans_b), "b")?);
    let mut inputs = vec![Some(a), Some(b)];
    if let Some(c) = call.input(6) {
        let step = call.emit(Op::Binary(Binary::Mul), &scales, "step");
        let inputs_of_c = [Some(c), Some(step)];
        inputs.push(Some(call.emit(Op::DequantizeLinear { axis: -1, block_size: 0 }, &inputs_of_c, "c")));
    }
    let op = Op::Gemm { alpha, beta: 1.0, trans_a, trans_b };
    if call.input(7).is_none() {
        call.inputs = inputs;
        return Ok(op);
    }
    let y = call.emit(op, &inputs, "y");
    quantized(call, y, 7)
}
