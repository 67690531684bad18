//! Reductions, losses, searches and sorts.

use crate::onnx::read::attributes::Unsupported;
use crate::onnx::read::call::Call;
use crate::op::{ArgKind, CumulativeKind, LossAttributes, LossReduction, Op, ReduceKind};

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
    const REDUCTIONS: [(&str, LossReduction); 3] =
        [("mean", LossReduction::Mean), ("sum", LossReduction::Sum), ("none", LossReduction::None)];
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
