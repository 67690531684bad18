//! Outputs whose size depends on the elements: NonZero, Unique, Compress.

use std::cmp::Ordering;

use poda_formats::{Boolean, DataType};

use super::args::{self, Infos, around, one, required};
use super::number::{order_keys, with_width};
use super::{Inputs, OpError};
use crate::info::Info;
use crate::output::Output;

pub(super) fn infer_non_zero(inputs: &Infos<'_>) -> Result<Vec<Info>, OpError> {
    required(inputs, 0)?;
    Ok(one(DataType::I64, None))
}

pub(super) fn non_zero(inputs: &Inputs<'_>, outputs: &mut [Output<'_>]) -> Result<(), OpError> {
    let data = required(inputs, 0)?;
    // A zero is all zero bits, but for the sign of a float.
    let sign_bits = u32::from(data.dtype().is_float());
    let places: Vec<usize> = with_width!(data.dtype(), T => {
        let elements = bytemuck::cast_slice::<u8, T>(data.bytes()).iter().enumerate();
        elements.filter(|&(_, &bits)| bits << sign_bits != 0).map(|(i, _)| i).collect()
    });
    // A scalar counts as a vector of one element.
    let shape = if data.rank() == 0 { &[1][..] } else { data.shape() };
    let output = outputs[0].alloc::<i64>(&[shape.len(), places.len()])?;
    if places.is_empty() {
        return Ok(());
    }
    let mut rest = places.clone();
    for (&dim, row) in shape.iter().zip(output.chunks_exact_mut(places.len())).rev() {
        for (to, rest) in row.iter_mut().zip(&mut rest) {
            *to = (*rest % dim) as i64;
            *rest /= dim;
        }
    }
    Ok(())
}

pub(super) fn infer_compress(_: Option<i64>, inputs: &Infos<'_>) -> Result<Vec<Info>, OpError> {
    required(inputs, 1)?;
    Ok(one(required(inputs, 0)?.dtype, None))
}

pub(super) fn compress(
    axis: Option<i64>,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    let (data, condition) = (required(inputs, 0)?, required(inputs, 1)?);
    let (mut shape, axis) = along(data.shape(), axis)?;
    let [_, dim, inner] = around(&shape, axis);
    let condition = condition.as_slice::<Boolean>()?;
    if condition.len() > dim {
        return Err(OpError::Invalid(format!("{} conditions for {dim} steps", condition.len())));
    }
    let kept: Vec<usize> = (0..condition.len()).filter(|&i| condition[i].get()).collect();
    shape[axis] = kept.len();
    copy_steps(
        data.bytes(),
        outputs[0].alloc_bytes(data.dtype(), &shape)?,
        dim,
        inner * data.dtype().size(),
        &kept,
    );
    Ok(())
}

/// The shape that an optional axis belongs to: without one, data is seen as a vector.
fn along(data: &[usize], axis: Option<i64>) -> Result<(Vec<usize>, usize), OpError> {
    match axis {
        Some(axis) => Ok((data.to_vec(), args::axis(axis, data.len())?)),
        None => Ok((vec![data.iter().product()], 0)),
    }
}

/// Copies the steps `kept` of an axis of `dim` steps of `step` bytes.
fn copy_steps(from: &[u8], to: &mut [u8], dim: usize, step: usize, kept: &[usize]) {
    if to.is_empty() {
        return;
    }
    for (from, to) in from.chunks_exact(dim * step).zip(to.chunks_exact_mut(kept.len() * step)) {
        for (&at, to) in kept.iter().zip(to.chunks_exact_mut(step)) {
            to.copy_from_slice(&from[at * step..][..step]);
        }
    }
}

pub(super) fn infer_unique(
    _: Option<i64>,
    _: bool,
    inputs: &Infos<'_>,
    outputs: usize,
) -> Result<Vec<Info>, OpError> {
    let dtype = required(inputs, 0)?.dtype;
    Ok((0..outputs).map(|i| Info::dynamic(if i == 0 { dtype } else { DataType::I64 })).collect())
}

/// Outputs: the different steps along the axis, the index at which each occurs first, for each step the place of its
/// equal in the output, and how often each occurs.
pub(super) fn unique(
    axis: Option<i64>,
    sorted: bool,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    let data = required(inputs, 0)?;
    let (mut shape, axis) = along(data.shape(), axis)?;
    let around = around(&shape, axis);
    let groups = group(&order_keys(data)?, around, sorted);
    let first: Vec<usize> = groups.iter().map(|group| group[0]).collect();
    let mut outputs = outputs.iter_mut();
    if let Some(values) = outputs.next().filter(|o| o.is_used()) {
        shape[axis] = first.len();
        let step = around[2] * data.dtype().size();
        copy_steps(data.bytes(), values.alloc_bytes(data.dtype(), &shape)?, around[1], step, &first);
    }
    let mut inverse = vec![0; around[1]];
    for (place, group) in groups.iter().enumerate() {
        group.iter().for_each(|&i| inverse[i] = place);
    }
    let counts = groups.iter().map(Vec::len).collect();
    for (output, numbers) in outputs.zip([first, inverse, counts]) {
        if output.is_used() {
            for (to, from) in output.alloc::<i64>(&[numbers.len()])?.iter_mut().zip(numbers) {
                *to = from as i64;
            }
        }
    }
    Ok(())
}

/// The indices of equal steps, ascending within a group; groups sorted by value or by first occurrence.
fn group(keys: &[u64], [outer, dim, inner]: [usize; 3], sorted: bool) -> Vec<Vec<usize>> {
    let step = |at: usize| (0..outer).flat_map(move |o| &keys[(o * dim + at) * inner..][..inner]);
    let compare = |a: usize, b: usize| -> Ordering { step(a).cmp(step(b)) };
    let mut order: Vec<usize> = (0..dim).collect();
    order.sort_by(|&a, &b| compare(a, b));
    let mut groups: Vec<Vec<usize>> =
        order.chunk_by(|&a, &b| compare(a, b).is_eq()).map(<[usize]>::to_vec).collect();
    if !sorted {
        groups.sort_by_key(|group| group[0]);
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_steps_are_grouped() {
        let data = [2, 1, 1, 3, 4, 3];
        assert_eq!(group(&data, [1, 6, 1], true), [vec![1, 2], vec![0], vec![3, 5], vec![4]]);
        assert_eq!(group(&data, [1, 6, 1], false), [vec![0], vec![1, 2], vec![3, 5], vec![4]]);
        // Columns of [[2, 1, 1], [3, 4, 3]] and of [[1, 0, 1], [3, 0, 3]].
        assert_eq!(group(&data, [2, 3, 1], true), [vec![2], vec![1], vec![0]]);
        assert_eq!(group(&[1, 0, 1, 3, 0, 3], [2, 3, 1], true), [vec![1], vec![0, 2]]);
        assert_eq!(group(&[], [1, 0, 1], true), [[0usize; 0]; 0]);
    }
}
