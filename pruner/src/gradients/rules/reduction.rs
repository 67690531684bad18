//! Reductions: each element's share in the result.

use poda_formats::ValueId;
use poda_formats::op::{Binary, CumulativeKind, Op, ReduceKind, ScatterReduction, Unary};

use super::{Call, Inputs};
use crate::gradients::{Emit, Refusal};

pub(super) fn reduce(e: &mut Emit, call: &Call<'_>) -> Inputs {
    let Op::Reduce { kind, noop_with_empty_axes, .. } = call.node.op else { return Err(Refusal::NoRule) };
    let (x, y, g) = (call.input(0)?, call.output()?, call.gradient()?);
    let shape = e.shape(x)?;
    let given = e.integers(call.node.input(1))?.unwrap_or_default();
    let axes: Vec<usize> = match &given[..] {
        [] if noop_with_empty_axes => Vec::new(),
        [] => (0..shape.len()).collect(),
        given => given.iter().map(|&axis| e.axis(x, axis)).collect::<Result<_, _>>()?,
    };
    let kept: Vec<usize> =
        shape.iter().enumerate().map(|(axis, &size)| if axes.contains(&axis) { 1 } else { size }).collect();
    let (y, g) = (e.reshape(y, &kept)?, e.reshape(g, &kept)?);
    let count: usize = axes.iter().map(|&axis| shape[axis]).product();
    let gradient = match kind {
        ReduceKind::Sum => e.expand(g, &shape)?,
        ReduceKind::Mean => {
            let g = e.scale(g, 1.0 / count.max(1) as f64)?;
            e.expand(g, &shape)?
        }
        // Equal greatest (or least) elements share.
        ReduceKind::Max | ReduceKind::Min => share_of_equal(e, x, y, g, &axes)?,
        ReduceKind::Prod => {
            let product = e.mul(g, y)?;
            e.div(product, x)?
        }
        ReduceKind::L1 => {
            let sign = e.unary(Unary::Sign, x)?;
            e.mul(g, sign)?
        }
        ReduceKind::L2 => {
            let factor = e.div(g, y)?;
            e.mul(factor, x)?
        }
        ReduceKind::LogSum => {
            let sum = e.unary(Unary::Exp, y)?;
            let g = e.div(g, sum)?;
            e.expand(g, &shape)?
        }
        ReduceKind::LogSumExp => {
            let difference = e.sub(x, y)?;
            let share = e.unary(Unary::Exp, difference)?;
            e.mul(g, share)?
        }
        ReduceKind::SumSquare => {
            let twice = e.scale(g, 2.0)?;
            e.mul(twice, x)?
        }
    };
    Ok(vec![Some(gradient)])
}

/// `g`, spread evenly over the elements of `x` that equal `y`.
pub(super) fn share_of_equal(
    e: &mut Emit,
    x: ValueId,
    y: ValueId,
    g: ValueId,
    axes: &[usize],
) -> Result<ValueId, Refusal> {
    let equal = e.node(Op::Binary(Binary::Equal), &[x, y])?;
    let to = e.dtype(x)?;
    let equal = e.node(Op::Cast { to }, &[equal])?;
    let count = e.sum(equal, axes)?;
    let g = e.div(g, count)?;
    e.mul(equal, g)
}

/// The gradient of what was chosen goes to its place.
pub(super) fn top_k(e: &mut Emit, call: &Call<'_>) -> Inputs {
    let Op::TopK { axis, .. } = call.node.op else { return Err(Refusal::NoRule) };
    let (x, g) = (call.input(0)?, call.gradient()?);
    let indices = call.node.output(1).ok_or(Refusal::Unsupported("its indices are left out"))?;
    let shape = e.shape(x)?;
    let zeros = e.zeros(&shape, x)?;
    let scatter = Op::ScatterElements { axis, reduction: ScatterReduction::Add };
    Ok(vec![Some(e.node(scatter, &[zeros, indices, g])?)])
}

/// The sum the other way.
pub(super) fn cumulative(e: &mut Emit, call: &Call<'_>) -> Inputs {
    let Op::Cumulative { kind, exclusive, reverse } = call.node.op else { return Err(Refusal::NoRule) };
    if kind != CumulativeKind::Sum {
        return Err(Refusal::Unsupported("running products are not differentiated"));
    }
    let (axis, g) = (call.input(1)?, call.gradient()?);
    let op = Op::Cumulative { kind, exclusive, reverse: !reverse };
    Ok(vec![Some(e.node(op, &[g, axis])?)])
}
