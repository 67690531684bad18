//! Reductions, losses, searches and sorts.

use super::Around;
use crate::dtype::DataType;
use crate::onnx::read::{Call, Unsupported};
use crate::onnx::write::Form;
use crate::op::{ArgKind, CumulativeKind, LossAttributes, LossReduction, Op, ReduceKind};

/// Of losses; the first is the default.
const REDUCTIONS: [(&str, LossReduction); 3] =
    [("mean", LossReduction::Mean), ("sum", LossReduction::Sum), ("none", LossReduction::None)];

pub(super) fn read(call: &mut Call) -> Result<Option<Op>, Unsupported> {
    let kind = match call.op_type {
        "ReduceSum" => ReduceKind::Sum,
        "ReduceMean" => ReduceKind::Mean,
        "ReduceMax" => ReduceKind::Max,
        "ReduceMin" => ReduceKind::Min,
        "ReduceProd" => ReduceKind::Prod,
        "ReduceL1" => ReduceKind::L1,
        "ReduceL2" => ReduceKind::L2,
        "ReduceLogSum" => ReduceKind::LogSum,
        "ReduceLogSumExp" => ReduceKind::LogSumExp,
        "ReduceSumSquare" => ReduceKind::SumSquare,
        _ => return search(call),
    };
    reduce(call, kind).map(Some)
}

/// The attributes of an operator of these.
pub(super) fn write(op: &Op, f: Form, around: &Around<'_>) -> Option<Form> {
    Some(match op {
        Op::SoftmaxCrossEntropyLoss(loss) | Op::NegativeLogLikelihoodLoss(loss) => f
            .choice("reduction", &REDUCTIONS, &loss.reduction)
            .maybe(loss.ignore_index, |f, index| f.int("ignore_index", index)),
        Op::Reduce { kind, keep_dims, noop_with_empty_axes } => {
            let ordered = matches!(kind, ReduceKind::Max | ReduceKind::Min);
            f.flag("keepdims", *keep_dims)
                .flag("noop_with_empty_axes", *noop_with_empty_axes)
                .since_if(20, ordered && around.has(DataType::Bool))
        }
        Op::ArgReduce { kind: _, axis, keep_dims, select_last_index } => {
            f.int("axis", *axis).flag("keepdims", *keep_dims).flag("select_last_index", *select_last_index)
        }
        Op::TopK { axis, largest, sorted } => f
            .int("axis", *axis)
            .flag("largest", *largest)
            .flag("sorted", *sorted)
            .since_if(24, around.has(DataType::BF16)),
        Op::Cumulative { kind, exclusive, reverse } => f
            .flag("exclusive", *exclusive)
            .flag("reverse", *reverse)
            .since_if(26, *kind == CumulativeKind::Prod),
        Op::Unique { axis, sorted } => f
            .maybe(*axis, |f, axis| f.int("axis", axis))
            .flag("sorted", *sorted)
            .since_if(28, around.has(DataType::BF16)),
        Op::NonZero => f,
        _ => return None,
    })
}

/// Axes were an attribute before opset 18 (13 for sums).
fn reduce(call: &mut Call, kind: ReduceKind) -> Result<Op, Unsupported> {
    let inputs_since = if kind == ReduceKind::Sum { 13 } else { 18 };
    if call.version < inputs_since {
        call.at_most_inputs(1)?;
        if call.attributes.ints("axes")?.is_some_and(|axes| !axes.is_empty()) {
            call.ints_to_input("axes", 1)?;
        }
    }
    Ok(Op::Reduce {
        kind,
        keep_dims: call.attributes.flag("keepdims", true)?,
        noop_with_empty_axes: call.attributes.flag("noop_with_empty_axes", false)?,
    })
}

fn loss(call: &Call) -> Result<LossAttributes, Unsupported> {
    let reduction = call.attributes.choice("reduction", &REDUCTIONS)?;
    let ignore_index = call.attributes.has("ignore_index").then(|| call.attributes.int("ignore_index", 0));
    Ok(LossAttributes { reduction, ignore_index: ignore_index.transpose()? })
}

fn search(call: &mut Call) -> Result<Option<Op>, Unsupported> {
    Ok(Some(match call.op_type {
        "ArgMax" => arg(call, ArgKind::Max)?,
        "ArgMin" => arg(call, ArgKind::Min)?,
        "TopK" => {
            if call.version < 10 {
                call.at_most_inputs(1)?;
                let k = call.attributes.required_int("k")?;
                let k = call.vector("k", &[k]);
                call.set_input(1, Some(k));
            }
            Op::TopK {
                axis: call.attributes.int("axis", -1)?,
                largest: call.attributes.flag("largest", true)?,
                sorted: call.attributes.flag("sorted", true)?,
            }
        }
        "CumSum" => cumulative(call, CumulativeKind::Sum)?,
        "CumProd" => cumulative(call, CumulativeKind::Prod)?,
        "SoftmaxCrossEntropyLoss" => Op::SoftmaxCrossEntropyLoss(loss(call)?),
        "NegativeLogLikelihoodLoss" => Op::NegativeLogLikelihoodLoss(loss(call)?),
        "NonZero" => Op::NonZero,
        "Unique" => Op::Unique {
            axis: call.attributes.optional_int("axis")?,
            sorted: call.attributes.flag("sorted", true)?,
        },
        _ => return Ok(None),
    }))
}

fn arg(call: &Call, kind: ArgKind) -> Result<Op, Unsupported> {
    Ok(Op::ArgReduce {
        kind,
        axis: call.attributes.int("axis", 0)?,
        keep_dims: call.attributes.flag("keepdims", true)?,
        select_last_index: call.attributes.flag("select_last_index", false)?,
    })
}

fn cumulative(call: &Call, kind: CumulativeKind) -> Result<Op, Unsupported> {
    Ok(Op::Cumulative {
        kind,
        exclusive: call.attributes.flag("exclusive", false)?,
        reverse: call.attributes.flag("reverse", false)?,
    })
}
