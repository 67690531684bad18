//! Generators of tensors, and quantisation.

use super::Around;
use crate::dtype::DataType;
use crate::onnx::proto::data_type_code;
use crate::onnx::read::{Call, Unsupported};
use crate::onnx::write::Form;
use crate::op::{Op, ScalarValue};

pub(super) fn read(call: &mut Call) -> Result<Option<Op>, Unsupported> {
    let attributes = &call.attributes;
    Ok(Some(match call.op_type {
        "ConstantOfShape" => Op::ConstantOfShape { value: fill_value(call)? },
        "Range" => {
            attributes.ignore(&["stash_type"]);
            Op::Range
        }
        "OneHot" => Op::OneHot { axis: attributes.int("axis", -1)? },
        "EyeLike" => Op::EyeLike { dtype: attributes.data_type("dtype")?, k: attributes.int("k", 0)? },
        "QuantizeLinear" => {
            attributes.ignore(&["precision"]);
            Op::QuantizeLinear {
                axis: attributes.int("axis", 1)?,
                block_size: attributes.size("block_size", 0)?,
                saturate: attributes.flag("saturate", true)?,
                to: attributes.data_type("output_dtype")?,
            }
        }
        "DequantizeLinear" => {
            let to = attributes.data_type("output_dtype")?;
            let scale = call.required(1)?;
            if let Some(to) = to
                && call.builder.facts(scale).dtype != Some(to)
            {
                return Err(Unsupported::AttributeValue { name: "output_dtype", value: to.to_string() });
            }
            Op::DequantizeLinear {
                axis: attributes.int("axis", 1)?,
                block_size: attributes.size("block_size", 0)?,
            }
        }
        "DynamicQuantizeLinear" => Op::DynamicQuantizeLinear,
        _ => return Ok(None),
    }))
}

/// The attributes of an operator of these.
pub(super) fn write(op: &Op, f: Form, around: &Around<'_>) -> Option<Form> {
    Some(match op {
        Op::ConstantOfShape { value } => f.scalar("value", value),
        Op::Range => f.since_if(27, around.half()),
        Op::OneHot { axis } => f.int("axis", *axis).since_if(28, around.has(DataType::BF16)),
        Op::EyeLike { dtype, k } => {
            f.maybe(*dtype, |f, to| f.int("dtype", data_type_code(to).into())).int("k", *k)
        }

        Op::QuantizeLinear { axis, block_size, saturate, to } => f
            .int("axis", *axis)
            .positive("block_size", *block_size)
            .maybe((!saturate).then_some(false), |f, saturate| f.flag("saturate", saturate))
            .maybe(*to, |f, to| f.int("output_dtype", data_type_code(to).into()))
            .since_if(19, around.half() || !saturate)
            .since_if(21, around.wide() || *block_size > 0 || to.is_some()),
        Op::DequantizeLinear { axis, block_size } => f
            .int("axis", *axis)
            .positive("block_size", *block_size)
            .since_if(19, around.half())
            .since_if(21, around.wide() || *block_size > 0),
        Op::DynamicQuantizeLinear => f,
        _ => return None,
    })
}

/// The element to fill with, which the file gives as a tensor of one; a zero of f32 when absent.
fn fill_value(call: &mut Call) -> Result<ScalarValue, Unsupported> {
    let Some(proto) = call.attributes.tensor("value")? else {
        return Ok(ScalarValue { dtype: DataType::F32, bits: 0 });
    };
    let unusable = |problem: String| Unsupported::AttributeValue { name: "value", value: problem };
    let tensor = call.weights.tensor(proto).map_err(|problem| unusable(problem.to_string()))?;
    ScalarValue::from_tensor(&tensor)
        .ok_or_else(|| unusable(format!("a tensor of shape {:?}", tensor.shape())))
}
