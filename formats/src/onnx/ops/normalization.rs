//! Normalisations and softmax.

use super::Around;
use crate::onnx::read::{Call, Unsupported};
use crate::onnx::write::Form;
use crate::op::{Binary, Op, SoftmaxKind};

pub(super) fn read(call: &mut Call) -> Result<Option<Op>, Unsupported> {
    let attributes = &call.attributes;
    let epsilon = attributes.float("epsilon", 1e-5);
    // Poda accumulates in f32 or better, whatever is asked for.
    Ok(Some(match call.op_type {
        "BatchNormalization" => batch_normalization(call, epsilon?)?,
        "InstanceNormalization" => Op::InstanceNormalization { epsilon: epsilon? },
        // ONNX Runtime writes SimplifiedLayerNormalization into ONNX's own domain.
        "LayerNormalization" => {
            attributes.ignore(&["stash_type"]);
            Op::LayerNormalization { axis: attributes.int("axis", -1)?, epsilon: epsilon? }
        }
        "RMSNormalization" | "SimplifiedLayerNormalization" => {
            attributes.ignore(&["stash_type"]);
            if call.outputs.len() > 1 {
                return Err(Unsupported::Outputs { expected: 1, found: call.outputs.len() });
            }
            Op::RmsNormalization { axis: attributes.int("axis", -1)?, epsilon: epsilon? }
        }
        "GroupNormalization" => group_normalization(call, epsilon?)?,
        "LpNormalization" => Op::LpNormalization {
            axis: attributes.int("axis", -1)?,
            p: match attributes.int("p", 2)? {
                p @ 1..=2 => p as u32,
                p => return Err(Unsupported::AttributeValue { name: "p", value: p.to_string() }),
            },
        },
        "MeanVarianceNormalization" => Op::MeanVarianceNormalization {
            axes: attributes.ints("axes")?.map_or_else(|| vec![0, 2, 3], <[i64]>::to_vec),
        },
        "LRN" => Op::Lrn {
            size: match attributes.size("size", 0)? {
                0 => return Err(Unsupported::MissingAttribute { name: "size" }),
                size => size,
            },
            alpha: attributes.float("alpha", 1e-4)?,
            beta: attributes.float("beta", 0.75)?,
            bias: attributes.float("bias", 1.0)?,
        },
        "Softmax" => softmax(call, SoftmaxKind::Softmax)?,
        "LogSoftmax" => softmax(call, SoftmaxKind::LogSoftmax)?,
        "Hardmax" => softmax(call, SoftmaxKind::Hardmax)?,
        _ => return Ok(None),
    }))
}

/// The attributes of an operator of these.
pub(super) fn write(op: &Op, f: Form, _: &Around<'_>) -> Option<Form> {
    Some(match op {
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
        _ => return None,
    })
}

fn batch_normalization(call: &mut Call, epsilon: f32) -> Result<Op, Unsupported> {
    call.attributes.ignore(&["momentum"]);
    if call.version < 7 && !call.attributes.flag("is_test", false)? {
        return Err(Unsupported::Training);
    }
    if !call.attributes.flag("spatial", true)? {
        return Err(Unsupported::AttributeValue { name: "spatial", value: "0".into() });
    }
    if call.attributes.flag("training_mode", false)? {
        return Err(Unsupported::Training);
    }
    // Running statistics, which only training has; a use of one is refused as a value that nobody makes.
    call.outputs.truncate(1);
    Ok(Op::BatchNormalization { epsilon })
}

/// Before opset 21 scale and bias had one element for each group: repeat each for the channels of its group.
fn group_normalization(call: &mut Call, epsilon: f32) -> Result<Op, Unsupported> {
    call.attributes.ignore(&["stash_type"]);
    let groups = call.attributes.required_int("num_groups")?;
    let num_groups = usize::try_from(groups)
        .ok()
        .filter(|&groups| groups > 0)
        .ok_or(Unsupported::AttributeValue { name: "num_groups", value: groups.to_string() })?;
    if call.version < 21 {
        let x = call.required(0)?;
        let channels = call.emit(Op::Shape { start: 1, end: Some(2) }, &[Some(x)], "channels");
        let groups = call.vector("groups", &[groups]);
        let per_group = call.emit(Op::Binary(Binary::Div), &[Some(channels), Some(groups)], "per_group");
        let shape = call.emit(Op::Concat { axis: 0 }, &[Some(groups), Some(per_group)], "group_shape");
        let last = call.vector("last", &[1_i64]);
        let flat = call.vector("flat", &[-1_i64]);
        for (index, name) in [(1, "scale"), (2, "bias")] {
            let column =
                call.emit(Op::Unsqueeze, &[call.input(index), Some(last)], &format!("{name}_column"));
            let wide = call.emit(Op::Expand, &[Some(column), Some(shape)], &format!("{name}_wide"));
            let reshape = Op::Reshape { allow_zero: false };
            let each = call.emit(reshape, &[Some(wide), Some(flat)], &format!("{name}_each"));
            call.set_input(index, Some(each));
        }
    }
    Ok(Op::GroupNormalization { num_groups, epsilon })
}

/// Before opset 13, softmax went over all axes from `axis` on, as if they were one.
fn softmax(call: &mut Call, kind: SoftmaxKind) -> Result<Op, Unsupported> {
    if call.version >= 13 {
        return Ok(Op::Softmax { kind, axis: call.attributes.int("axis", -1)? });
    }
    let axis = call.attributes.int("axis", 1)?;
    let x = call.required(0)?;
    let last = call.builder.facts(x).rank.is_some_and(|rank| rank as i64 == axis + 1);
    if axis == -1 || last {
        return Ok(Op::Softmax { kind, axis: -1 });
    }
    let shape = call.emit(Op::Shape { start: 0, end: None }, &[Some(x)], "shape");
    let flat = call.emit(Op::Flatten { axis }, &[Some(x)], "flat");
    let softmax = call.emit(Op::Softmax { kind, axis: -1 }, &[Some(flat)], "softmax");
    call.inputs = vec![Some(softmax), Some(shape)];
    // A flattened dimension of 0 must stay 0.
    Ok(Op::Reshape { allow_zero: true })
}
