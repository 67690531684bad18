//! Operators that move, select, join and split.

use super::Around;
use crate::dtype::DataType;
use crate::onnx::read::{Call, Unsupported};
use crate::onnx::write::Form;
use crate::op::{DepthToSpaceMode, Op, PadMode, ScatterReduction};

// Texts of attributes; the first is what one is that is left out.
const SCATTER_REDUCTIONS: [(&str, ScatterReduction); 5] = [
    ("none", ScatterReduction::None),
    ("add", ScatterReduction::Add),
    ("mul", ScatterReduction::Mul),
    ("max", ScatterReduction::Max),
    ("min", ScatterReduction::Min),
];
const DEPTH_MODES: [(&str, DepthToSpaceMode); 2] =
    [("DCR", DepthToSpaceMode::DepthColumnRow), ("CRD", DepthToSpaceMode::ColumnRowDepth)];

pub(super) fn read(call: &mut Call) -> Result<Option<Op>, Unsupported> {
    let axis = |call: &Call, default| call.attributes.int("axis", default);
    Ok(Some(match call.op_type {
        "Reshape" => {
            if !call.attributes.has("allowzero") && call.attributes.has("shape") {
                call.ints_to_input("shape", 1)?;
            }
            Op::Reshape { allow_zero: call.attributes.flag("allowzero", false)? }
        }
        "Flatten" => Op::Flatten { axis: axis(call, 1)? },
        "Squeeze" => {
            if call.version < 13 {
                call.at_most_inputs(1)?;
                call.ints_to_input("axes", 1)?;
            }
            Op::Squeeze
        }
        "Unsqueeze" => {
            if call.version < 13 {
                call.at_most_inputs(1)?;
                call.ints_to_input("axes", 1)?;
            }
            Op::Unsqueeze
        }
        "Transpose" => Op::Transpose { perm: call.attributes.sizes("perm")? },
        "Concat" => Op::Concat { axis: call.attributes.required_int("axis")? },
        "Split" => split(call)?,
        "Slice" => {
            if call.version < 10 {
                call.at_most_inputs(1)?;
                for (index, name) in [(1, "starts"), (2, "ends"), (3, "axes")] {
                    call.ints_to_input(name, index)?;
                }
            }
            Op::Slice
        }
        "Gather" => Op::Gather { axis: axis(call, 0)? },
        "GatherElements" => Op::GatherElements { axis: axis(call, 0)? },
        "GatherND" => Op::GatherNd { batch_dims: call.attributes.size("batch_dims", 0)? },
        "ScatterElements" => Op::ScatterElements { axis: axis(call, 0)?, reduction: reduction(call)? },
        "Scatter" => Op::ScatterElements { axis: axis(call, 0)?, reduction: ScatterReduction::None },
        "ScatterND" => Op::ScatterNd { reduction: reduction(call)? },
        "TensorScatter" => Op::TensorScatter {
            axis: axis(call, -2)?,
            circular: call.attributes.choice("mode", &[("linear", false), ("circular", true)])?,
        },
        "Expand" => Op::Expand,
        "Tile" if call.version >= 6 => Op::Tile,
        "Pad" => pad(call)?,
        "DepthToSpace" => Op::DepthToSpace {
            block_size: block_size(call)?,
            mode: call.attributes.choice("mode", &DEPTH_MODES)?,
        },
        "SpaceToDepth" => {
            call.attributes.choice("mode", &[("DCR", ())])?;
            Op::SpaceToDepth { block_size: block_size(call)? }
        }
        "Trilu" => Op::Trilu { upper: call.attributes.flag("upper", true)? },
        "ReverseSequence" => Op::ReverseSequence {
            batch_axis: call.attributes.int("batch_axis", 1)?,
            time_axis: call.attributes.int("time_axis", 0)?,
        },
        "Shape" => {
            Op::Shape { start: call.attributes.int("start", 0)?, end: call.attributes.optional_int("end")? }
        }
        "Size" => Op::Size,
        "Compress" => Op::Compress { axis: call.attributes.optional_int("axis")? },
        _ => return Ok(None),
    }))
}

/// The attributes of an operator of these.
pub(super) fn write(op: &Op, f: Form, around: &Around<'_>) -> Option<Form> {
    Some(match op {
        Op::Compress { axis } => {
            f.maybe(*axis, |f, axis| f.int("axis", axis)).since_if(28, around.has(DataType::BF16))
        }

        Op::Reshape { allow_zero } => f.flag("allowzero", *allow_zero),
        Op::Flatten { axis } | Op::Concat { axis } | Op::Gather { axis } | Op::GatherElements { axis } => {
            f.int("axis", *axis)
        }
        Op::Transpose { perm } => f.sizes("perm", perm),
        Op::Split { axis, num_outputs } => {
            let equal =
                around.node.input(1).is_none().then(|| num_outputs.unwrap_or(around.node.outputs.len()));
            f.int("axis", *axis).maybe(equal, |f, n| f.size("num_outputs", n))
        }
        Op::GatherNd { batch_dims } => f.size("batch_dims", *batch_dims),
        Op::ScatterElements { axis, reduction } => {
            f.int("axis", *axis).choice("reduction", &SCATTER_REDUCTIONS, reduction)
        }
        Op::ScatterNd { reduction } => f.choice("reduction", &SCATTER_REDUCTIONS, reduction),
        Op::TensorScatter { axis, circular } => {
            f.int("axis", *axis).string("mode", if *circular { "circular" } else { "linear" }).since(24)
        }
        Op::Pad { mode } => match mode {
            PadMode::Constant => f.string("mode", "constant"),
            PadMode::Reflect => f.string("mode", "reflect"),
            PadMode::Edge => f.string("mode", "edge"),
            PadMode::Wrap => f.string("mode", "wrap").since(19),
        },
        Op::DepthToSpace { block_size, mode } => {
            f.size("blocksize", *block_size).choice("mode", &DEPTH_MODES, mode)
        }
        Op::SpaceToDepth { block_size } => f.size("blocksize", *block_size),
        Op::Trilu { upper } => f.flag("upper", *upper),
        Op::ReverseSequence { batch_axis, time_axis } => f
            .int("batch_axis", *batch_axis)
            .int("time_axis", *time_axis)
            .since_if(28, around.has(DataType::BF16)),
        Op::Shape { start, end } => f.int("start", *start).maybe(*end, |f, end| f.int("end", end)),
        Op::Squeeze | Op::Unsqueeze | Op::Slice | Op::Expand | Op::Tile | Op::Size => f,
        _ => return None,
    })
}

fn reduction(call: &Call) -> Result<ScatterReduction, Unsupported> {
    call.attributes.choice("reduction", &SCATTER_REDUCTIONS)
}

fn block_size(call: &Call) -> Result<usize, Unsupported> {
    let size = call.attributes.required_int("blocksize")?;
    usize::try_from(size)
        .ok()
        .filter(|&size| size > 0)
        .ok_or(Unsupported::AttributeValue { name: "blocksize", value: size.to_string() })
}

/// Sizes were an attribute before opset 13; before 18 as many equal parts as outputs were the default.
fn split(call: &mut Call) -> Result<Op, Unsupported> {
    let axis = call.attributes.int("axis", 0)?;
    if call.version < 13 {
        call.at_most_inputs(1)?;
        call.ints_to_input("split", 1)?;
    }
    let parts = match call.attributes.optional_int("num_outputs")? {
        Some(parts) => Some(
            usize::try_from(parts)
                .ok()
                .filter(|&parts| parts > 0)
                .ok_or(Unsupported::AttributeValue { name: "num_outputs", value: parts.to_string() })?,
        ),
        None if call.input(1).is_none() => Some(call.outputs.len()),
        None => None,
    };
    match parts {
        Some(expected) if call.outputs.len() > expected => {
            Err(Unsupported::Outputs { expected, found: call.outputs.len() })
        }
        num_outputs => Ok(Op::Split { axis, num_outputs }),
    }
}

/// Amounts and value were attributes before opset 11.
fn pad(call: &mut Call) -> Result<Op, Unsupported> {
    let mode = call.attributes.choice(
        "mode",
        &[
            ("constant", PadMode::Constant),
            ("reflect", PadMode::Reflect),
            ("edge", PadMode::Edge),
            ("wrap", PadMode::Wrap),
        ],
    )?;
    if call.version < 11 {
        let x = call.required(0)?;
        call.at_most_inputs(1)?;
        call.ints_to_input("pads", 1)?;
        let value = call.attributes.float("value", 0.0)?;
        if value != 0.0 {
            let value = call.scalar_like("value", value, x);
            call.set_input(2, Some(value));
        }
    }
    Ok(Op::Pad { mode })
}
