//! Elements at computed places: what was read from a place is added up there, what was written to it is read.

use poda_formats::ValueId;
use poda_formats::op::{Op, ScatterReduction};

use super::{Call, Inputs};
use crate::gradients::{Emit, Refusal};

/// Adds the slices of `x` along an axis to those of zeros, `size` along it, at `places`.
pub(super) fn scatter_along(
    e: &mut Emit,
    x: ValueId,
    axis: usize,
    places: &[i64],
    size: usize,
) -> Result<ValueId, Refusal> {
    let places = e.ints(places);
    let mut shape = e.shape(x)?;
    shape[axis] = size;
    table(e, x, places, axis, &shape)
}

/// The gradient of a table of `shape` from that of what `indices` chose along an axis.
fn table(
    e: &mut Emit,
    g: ValueId,
    indices: ValueId,
    axis: usize,
    shape: &[usize],
) -> Result<ValueId, Refusal> {
    let index_shape = e.shape(indices)?;
    let (rank, count) = (index_shape.len(), index_shape.iter().product::<usize>());
    // What was chosen comes first, then the axes before it, then those after.
    let perm: Vec<usize> =
        (axis..axis + rank).chain(0..axis).chain(axis + rank..shape.len() - 1 + rank).collect();
    let rest: Vec<usize> = shape[..axis].iter().chain(&shape[axis + 1..]).copied().collect();
    let g = e.transpose(g, &perm)?;
    let updates = e.reshape(g, &[&[count], &rest[..]].concat())?;
    let zeros = e.zeros(&[&shape[axis..=axis], &rest[..]].concat(), g)?;
    let indices = e.reshape(indices, &[count, 1])?;
    let sum = e.node(Op::ScatterNd { reduction: ScatterReduction::Add }, &[zeros, indices, updates])?;
    let back: Vec<usize> = (1..=axis).chain([0]).chain(axis + 1..shape.len()).collect();
    e.transpose(sum, &back)
}

pub(super) fn gather(e: &mut Emit, call: &Call<'_>) -> Inputs {
    let Op::Gather { axis } = call.node.op else { return Err(Refusal::NoRule) };
    let (x, indices, g) = (call.input(0)?, call.input(1)?, call.gradient()?);
    let (shape, axis) = (e.shape(x)?, e.axis(x, axis)?);
    Ok(vec![Some(table(e, g, indices, axis, &shape)?)])
}

pub(super) fn gather_elements(e: &mut Emit, call: &Call<'_>) -> Inputs {
    let Op::GatherElements { axis } = call.node.op else { return Err(Refusal::NoRule) };
    let (x, indices, g) = (call.input(0)?, call.input(1)?, call.gradient()?);
    let shape = e.shape(x)?;
    let zeros = e.zeros(&shape, g)?;
    let scatter = Op::ScatterElements { axis, reduction: ScatterReduction::Add };
    Ok(vec![Some(e.node(scatter, &[zeros, indices, g])?)])
}

pub(super) fn gather_nd(e: &mut Emit, call: &Call<'_>) -> Inputs {
    let Op::GatherNd { batch_dims: 0 } = call.node.op else {
        return Err(Refusal::Unsupported("batch_dims is not 0"));
    };
    let (x, indices, g) = (call.input(0)?, call.input(1)?, call.gradient()?);
    let shape = e.shape(x)?;
    let zeros = e.zeros(&shape, g)?;
    Ok(vec![Some(e.node(Op::ScatterNd { reduction: ScatterReduction::Add }, &[zeros, indices, g])?)])
}

fn scatter(e: &mut Emit, call: &Call<'_>, reduction: ScatterReduction, read: Op) -> Inputs {
    let (indices, updates, g) = (call.input(1)?, call.input(2)?, call.gradient()?);
    let overwritten = match reduction {
        ScatterReduction::None => true,
        ScatterReduction::Add => false,
        ScatterReduction::Mul | ScatterReduction::Max | ScatterReduction::Min => {
            return Err(Refusal::Unsupported("it multiplies or compares what it writes"));
        }
    };
    let mut made = vec![Some(g), None, None];
    if overwritten && e.wants(call.node.input(0)) {
        let shape = e.shape(updates)?;
        let zeros = e.zeros(&shape, g)?;
        made[0] = Some(e.node(call.node.op.clone(), &[g, indices, zeros])?);
    }
    if e.wants(Some(updates)) {
        made[2] = Some(e.node(read, &[g, indices])?);
    }
    Ok(made)
}

pub(super) fn scatter_elements(e: &mut Emit, call: &Call<'_>) -> Inputs {
    let Op::ScatterElements { axis, reduction } = call.node.op else { return Err(Refusal::NoRule) };
    scatter(e, call, reduction, Op::GatherElements { axis })
}

pub(super) fn scatter_nd(e: &mut Emit, call: &Call<'_>) -> Inputs {
    let Op::ScatterNd { reduction } = call.node.op else { return Err(Refusal::NoRule) };
    scatter(e, call, reduction, Op::GatherNd { batch_dims: 0 })
}
