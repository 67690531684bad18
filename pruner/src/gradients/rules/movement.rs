//! Operators that move elements: gradients go back to where the elements came from.

use poda_formats::ValueId;
use poda_formats::op::{DepthToSpaceMode, Op, PadMode};

use super::index::scatter_along;
use super::{Call, Inputs};
use crate::gradients::{Emit, Refusal};

/// The same elements in the same order.
pub(super) fn reshaped(e: &mut Emit, call: &Call<'_>) -> Inputs {
    let shape = e.shape(call.input(0)?)?;
    Ok(vec![Some(e.reshape(call.gradient()?, &shape)?)])
}

pub(super) fn transpose(e: &mut Emit, call: &Call<'_>) -> Inputs {
    let Op::Transpose { perm } = &call.node.op else { return Err(Refusal::NoRule) };
    let g = call.gradient()?;
    let rank = e.shape(g)?.len();
    let perm = if perm.is_empty() { (0..rank).rev().collect() } else { perm.clone() };
    let mut inverse = vec![0; rank];
    perm.iter().enumerate().for_each(|(to, &from)| inverse[from] = to);
    Ok(vec![Some(e.transpose(g, &inverse)?)])
}

pub(super) fn concat(e: &mut Emit, call: &Call<'_>) -> Inputs {
    let Op::Concat { axis } = call.node.op else { return Err(Refusal::NoRule) };
    let g = call.gradient()?;
    let axis = e.axis(g, axis)?;
    let mut start = 0;
    let mut made = Vec::with_capacity(call.node.inputs.len());
    for index in 0..call.node.inputs.len() {
        let input = call.input(index)?;
        let len = e.shape(input)?[axis];
        let wanted = e.wants(Some(input));
        made.push(if wanted { Some(e.slice(g, axis, start, len)?) } else { None });
        start += len;
    }
    Ok(made)
}

pub(super) fn split(e: &mut Emit, call: &Call<'_>) -> Inputs {
    let Op::Split { axis, .. } = call.node.op else { return Err(Refusal::NoRule) };
    let x = call.input(0)?;
    let mut parts = Vec::with_capacity(call.gradients.len());
    for (output, gradient) in call.node.outputs.iter().zip(call.gradients) {
        parts.push(match (gradient, output) {
            (Some(gradient), _) => *gradient,
            (None, Some(output)) => {
                let shape = e.shape(*output)?;
                e.zeros(&shape, x)?
            }
            (None, None) => return Err(Refusal::Unsupported("a part of it is left out")),
        });
    }
    Ok(vec![Some(e.node(Op::Concat { axis }, &parts)?)])
}

pub(super) fn slice(e: &mut Emit, call: &Call<'_>) -> Inputs {
    let (x, g) = (call.input(0)?, call.gradient()?);
    let (from, to) = (e.shape(x)?, e.shape(g)?);
    let starts = e.integers(call.node.input(1))?.unwrap_or_default();
    let axes = e.integers(call.node.input(3))?.unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = e.integers(call.node.input(4))?.unwrap_or_else(|| vec![1; starts.len()]);
    let mut pads = vec![0; 2 * from.len()];
    let mut gradient = g;
    for ((&start, &axis), &step) in starts.iter().zip(&axes).zip(&steps) {
        let axis = e.axis(x, axis)?;
        let (size, count) = (from[axis] as i64, to[axis] as i64);
        let start = if start < 0 { start + size } else { start };
        let start = if step < 0 { start.clamp(-1, size - 1) } else { start.clamp(0, size) };
        if step == 1 {
            (pads[axis], pads[from.len() + axis]) = (start, size - start - count);
        } else {
            let places: Vec<i64> = (0..count).map(|i| start + i * step).collect();
            gradient = scatter_along(e, gradient, axis, &places, from[axis])?;
        }
    }
    if pads.iter().any(|&pad| pad != 0) {
        let pads = e.ints(&pads);
        gradient = e.node(Op::Pad { mode: PadMode::Constant }, &[gradient, pads])?;
    }
    Ok(vec![Some(gradient)])
}

pub(super) fn expand(e: &mut Emit, call: &Call<'_>) -> Inputs {
    let shape = e.shape(call.input(0)?)?;
    Ok(vec![Some(e.sum_to(call.gradient()?, &shape)?)])
}

pub(super) fn tile(e: &mut Emit, call: &Call<'_>) -> Inputs {
    let (shape, g) = (e.shape(call.input(0)?)?, call.gradient()?);
    let whole = e.shape(g)?;
    let repeats = whole.iter().zip(&shape).map(|(&whole, &size)| whole.checked_div(size).unwrap_or(1));
    let apart: Vec<usize> = repeats.zip(&shape).flat_map(|(repeat, &size)| [repeat, size]).collect();
    let apart = e.reshape(g, &apart)?;
    let axes: Vec<usize> = (0..shape.len()).map(|axis| 2 * axis).collect();
    let sum = e.sum(apart, &axes)?;
    Ok(vec![Some(e.reshape(sum, &shape)?)])
}

/// What was padded with a number is cut off; what repeats elements adds to them.
pub(super) fn pad(e: &mut Emit, call: &Call<'_>) -> Inputs {
    let Op::Pad { mode } = call.node.op else { return Err(Refusal::NoRule) };
    if e.wants(call.node.input(2)) {
        return Err(Refusal::Unsupported("it flows into the number that fills"));
    }
    let (x, g) = (call.input(0)?, call.gradient()?);
    let shape = e.shape(x)?;
    let pads = e.integers(call.node.input(1))?.unwrap_or_default();
    let axes = e.integers(call.node.input(3))?.unwrap_or_else(|| (0..shape.len() as i64).collect());
    let mut all = vec![0; 2 * shape.len()];
    for (i, &axis) in axes.iter().enumerate() {
        let axis = e.axis(x, axis)?;
        (all[axis], all[shape.len() + axis]) = (pads[i], pads[axes.len() + i]);
    }
    if mode == PadMode::Constant {
        let pads = all.iter().map(|pad| -pad).collect::<Vec<_>>();
        let pads = e.ints(&pads);
        return Ok(vec![Some(e.node(Op::Pad { mode }, &[g, pads])?)]);
    }
    let mut gradient = g;
    for axis in 0..shape.len() {
        let (begin, end, size) = (all[axis], all[shape.len() + axis], shape[axis] as i64);
        if (begin, end) == (0, 0) {
            continue;
        }
        let places: Vec<i64> = (-begin..size + end)
            .map(|at| match mode {
                PadMode::Edge => at.clamp(0, size - 1),
                PadMode::Wrap => at.rem_euclid(size),
                PadMode::Reflect | PadMode::Constant => {
                    let at = at.rem_euclid((2 * size - 2).max(1));
                    if at < size { at } else { 2 * size - 2 - at }
                }
            })
            .collect();
        gradient = scatter_along(e, gradient, axis, &places, shape[axis])?;
    }
    Ok(vec![Some(gradient)])
}

pub(super) fn depth_to_space(e: &mut Emit, call: &Call<'_>) -> Inputs {
    let Op::DepthToSpace { block_size, mode } = call.node.op else { return Err(Refusal::NoRule) };
    let g = call.gradient()?;
    if mode == DepthToSpaceMode::DepthColumnRow {
        return Ok(vec![Some(e.node(Op::SpaceToDepth { block_size }, &[g])?)]);
    }
    let [n, c, h, w] = e.shape(g)?[..] else { return Err(Refusal::Unsupported("it is no image")) };
    let b = block_size;
    let apart = e.reshape(g, &[n, c, h / b, b, w / b, b])?;
    let back = e.transpose(apart, &[0, 1, 3, 5, 2, 4])?;
    Ok(vec![Some(e.reshape(back, &[n, c * b * b, h / b, w / b])?)])
}

pub(super) fn space_to_depth(e: &mut Emit, call: &Call<'_>) -> Inputs {
    let Op::SpaceToDepth { block_size } = call.node.op else { return Err(Refusal::NoRule) };
    let op = Op::DepthToSpace { block_size, mode: DepthToSpaceMode::DepthColumnRow };
    Ok(vec![Some(e.node(op, &[call.gradient()?])?)])
}

pub(super) fn trilu(e: &mut Emit, call: &Call<'_>) -> Inputs {
    let inputs: Vec<Option<ValueId>> = vec![Some(call.gradient()?), call.node.input(1)];
    Ok(vec![Some(e.node_of(call.node.op.clone(), inputs, 1)?[0])])
}

/// Its own inverse.
pub(super) fn reverse_sequence(e: &mut Emit, call: &Call<'_>) -> Inputs {
    Ok(vec![Some(e.node(call.node.op.clone(), &[call.gradient()?, call.input(1)?])?)])
}
