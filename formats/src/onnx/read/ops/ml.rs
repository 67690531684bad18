//! Operators of `ai.onnx.ml` that a few of ours spell out: what scikit-learn's exporters put around a network.
//!
//! Specification: <https://onnx.ai/onnx/operators/index.html#ai-onnx-ml>.

use crate::dtype::DataType;
use crate::onnx::read::attributes::Unsupported;
use crate::onnx::read::call::Call;
use crate::op::{Binary, Op};

pub(in crate::onnx::read) fn read(call: &mut Call) -> Result<Op, Unsupported> {
    match call.op_type {
        "ArrayFeatureExtractor" => Ok(Op::Gather { axis: -1 }),
        "Scaler" => scaler(call),
        _ => Err(Unsupported::Operator),
    }
}

/// `(x - offset) · scale`, in f32.
fn scaler(call: &mut Call) -> Result<Op, Unsupported> {
    call.at_most_inputs(1)?;
    let mut x = call.required(0)?;
    if call.builder.facts(x).dtype != Some(DataType::F32) {
        x = call.emit(Op::Cast { to: DataType::F32 }, &[Some(x)], "cast");
    }
    let (offset, scale) = (call.attributes.floats("offset")?, call.attributes.floats("scale")?);
    let offset = call.vector("offset", if offset.is_empty() { &[0.0] } else { offset });
    let scale = call.vector("scale", if scale.is_empty() { &[1.0] } else { scale });
    let centred = call.emit(Op::Binary(Binary::Sub), &[Some(x), Some(offset)], "centred");
    call.inputs = vec![Some(centred), Some(scale)];
    Ok(Op::Binary(Binary::Mul))
}
