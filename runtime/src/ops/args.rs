//! What operators have in common: reading inputs, axes, small integer vectors, and broadcasting.

use poda_formats::{DataType, TensorView};

use super::{OpError, left_out, number};
use crate::info::Info;

/// Facts about the inputs of an operator; omitted optional inputs are `None`.
pub(super) type Infos<'a> = [Option<&'a Info>];

/// Input `index`, which the operator needs. For `Inputs` and for [`Infos`].
pub(super) fn required<T: Copy>(inputs: &[Option<T>], index: usize) -> Result<T, OpError> {
    optional(inputs, index).ok_or(OpError::MissingInput { index })
}

/// Input `index`, if given. For `Inputs` and for [`Infos`].
pub(super) fn optional<T: Copy>(inputs: &[Option<T>], index: usize) -> Option<T> {
    inputs.get(index).copied().flatten()
}

/// The only output's facts when its shape follows from `shape`, which is `None` as long as something is unknown.
pub(super) fn one(dtype: DataType, shape: Option<Vec<usize>>) -> Vec<Info> {
    vec![Info { dtype, shape, value: None }]
}

/// The error of an operator that is not defined, or not implemented, for a type.
pub(super) fn unsupported_type(op: impl std::fmt::Debug, dtype: DataType) -> OpError {
    let op = format!("{op:?}");
    if !number::computes(dtype) {
        return left_out(&format!("{op} of {dtype}"), "types");
    }
    OpError::Unsupported { op, reason: format!("it is not defined for {dtype}") }
}

/// `axis` counted from the front: `-rank..rank` becomes `0..rank`.
pub(super) fn axis(axis: i64, rank: usize) -> Result<usize, OpError> {
    let bound = rank as i64;
    let from_front = if axis < 0 { axis.saturating_add(bound) } else { axis };
    if (0..bound).contains(&from_front) {
        Ok(from_front as usize)
    } else {
        Err(OpError::OutOfRange { name: "axis", value: axis, bound })
    }
}

/// Several axes counted from the front, in the given order.
///
/// # Errors
/// When one is out of range or named twice.
pub(super) fn axes(given: &[i64], rank: usize) -> Result<Vec<usize>, OpError> {
    let mut seen = vec![false; rank];
    let mut from_front = Vec::with_capacity(given.len());
    for &a in given {
        let at = axis(a, rank)?;
        if std::mem::replace(&mut seen[at], true) {
            return Err(OpError::Invalid(format!("axis {a} of {given:?} is named twice")));
        }
        from_front.push(at);
    }
    Ok(from_front)
}

/// The elements of input `index`, which holds i32 or i64: shapes, axes, counts, indices.
pub(super) fn integers(view: TensorView<'_>, index: usize) -> Result<Vec<i64>, OpError> {
    match view.dtype() {
        DataType::I64 => Ok(view.as_slice::<i64>()?.to_vec()),
        DataType::I32 => Ok(view.as_slice::<i32>()?.iter().map(|&v| i64::from(v)).collect()),
        found => Err(OpError::InputType { index, expected: "i32 or i64", found }),
    }
}

/// The elements of optional input `index`, as [`integers`].
pub(super) fn optional_integers(
    inputs: &[Option<TensorView<'_>>],
    index: usize,
) -> Result<Option<Vec<i64>>, OpError> {
    optional(inputs, index).map(|view| integers(view, index)).transpose()
}

/// What is known, before a run, of an optional small integer input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Known {
    /// Not given.
    Absent,
    /// Given; its elements depend on the run.
    Later,
    /// Given, with these elements.
    Now(Vec<i64>),
}

/// What is known of the elements of input `index`.
pub(super) fn known_integers(inputs: &Infos<'_>, index: usize) -> Result<Known, OpError> {
    let Some(info) = optional(inputs, index) else { return Ok(Known::Absent) };
    match &info.value {
        Some(value) => Ok(Known::Now(integers(value.view(), index)?)),
        None if matches!(info.dtype, DataType::I32 | DataType::I64) => Ok(Known::Later),
        None => Err(OpError::InputType { index, expected: "i32 or i64", found: info.dtype }),
    }
}

/// Sizes as `usize`.
///
/// # Errors
/// When one is negative.
pub(super) fn sizes(values: &[i64]) -> Result<Vec<usize>, OpError> {
    let size = |&v: &i64| usize::try_from(v);
    values
        .iter()
        .map(size)
        .collect::<Result<_, _>>()
        .map_err(|_| OpError::Invalid(format!("{values:?} holds a negative size")))
}

/// The shape to which `left` and `right` broadcast.
pub(super) fn broadcast(left: &[usize], right: &[usize]) -> Result<Vec<usize>, OpError> {
    let rank = left.len().max(right.len());
    let at = |shape: &[usize], i: usize| (i + shape.len()).checked_sub(rank).map_or(1, |i| shape[i]);
    (0..rank)
        .map(|i| match (at(left, i), at(right, i)) {
            (l, r) if l == r => Ok(l),
            (1, r) => Ok(r),
            (l, 1) => Ok(l),
            _ => Err(OpError::Broadcast { left: left.to_vec(), right: right.to_vec() }),
        })
        .collect()
}

/// The shape to which all inputs broadcast, or `None` while one of their shapes is unknown.
pub(super) fn broadcast_infos(inputs: &[&Info]) -> Result<Option<Vec<usize>>, OpError> {
    let mut shape = Vec::new();
    for info in inputs {
        let Some(other) = &info.shape else { return Ok(None) };
        shape = broadcast(&shape, other)?;
    }
    Ok(Some(shape))
}

/// Row-major strides of `shape`, in elements, as seen from a broadcast shape of rank `rank`: 0 along axes that repeat.
pub(super) fn broadcast_strides(shape: &[usize], rank: usize) -> Vec<usize> {
    let mut strides = vec![0; rank];
    let mut stride = 1;
    for (i, &dim) in shape.iter().enumerate().rev() {
        strides[rank - shape.len() + i] = if dim == 1 { 0 } else { stride };
        stride *= dim;
    }
    strides
}

/// Row-major strides of `shape`, in elements.
pub(super) fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i] * shape[i];
    }
    strides
}

/// Elements before, along and after `axis`: `[outer, dim, inner]`.
pub(super) fn around(shape: &[usize], axis: usize) -> [usize; 3] {
    [shape[..axis].iter().product(), shape[axis], shape[axis + 1..].iter().product()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_broadcast_from_the_right() {
        type Case = (&'static [usize], &'static [usize], Option<&'static [usize]>);
        let cases: [Case; 7] = [
            (&[], &[], Some(&[])),
            (&[], &[0], Some(&[0])),
            (&[1], &[0], Some(&[0])),
            (&[3, 1], &[4], Some(&[3, 4])),
            (&[2, 3, 4], &[3, 1], Some(&[2, 3, 4])),
            (&[2], &[3], None),
            (&[2], &[0], None),
        ];
        for (left, right, expected) in cases {
            assert_eq!(broadcast(left, right).ok().as_deref(), expected, "{left:?} {right:?}");
            assert_eq!(broadcast(right, left).ok().as_deref(), expected, "{right:?} {left:?}");
        }
        assert_eq!(broadcast_strides(&[3, 1, 5], 4), [0, 5, 0, 1]);
    }

    #[test]
    fn axes_count_from_either_end_once() {
        assert_eq!(axis(-1, 3), Ok(2));
        assert!(
            axis(3, 3).is_err() && axis(-4, 3).is_err() && axis(0, 0).is_err() && axis(i64::MIN, 2).is_err()
        );
        assert_eq!(axes(&[1, -3], 3), Ok(vec![1, 0]));
        assert!(axes(&[1, -2], 3).is_err());
    }
}
