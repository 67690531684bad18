//! Same elements, another shape: Reshape, Flatten, Squeeze, Unsqueeze, Identity; and what a shape is: Shape, Size.

use poda_formats::{DataType, Tensor};

use super::args::{self, Infos, Known, known_integers, one, optional_integers, required, sizes};
use super::{Inputs, OpError};
use crate::info::Info;
use crate::output::Output;

/// The shape that Reshape gives to `data`: 0 takes the dimension of `data` (unless `allow_zero`), one -1 takes the rest.
fn reshaped(data: &[usize], target: &[i64], allow_zero: bool) -> Result<Vec<usize>, OpError> {
    let fail = |reason: &str| OpError::Invalid(format!("shape {data:?} cannot become {target:?}: {reason}"));
    let mut shape = Vec::with_capacity(target.len());
    let mut rest = None;
    for (i, &dim) in target.iter().enumerate() {
        shape.push(match dim {
            0 if !allow_zero => *data.get(i).ok_or_else(|| fail("no such dimension to copy"))?,
            -1 if rest.is_none() => {
                rest = Some(i);
                1
            }
            -1 => return Err(fail("more than one -1")),
            dim => usize::try_from(dim).map_err(|_| fail("a negative dimension"))?,
        });
    }
    let product = |dims: &[usize]| dims.iter().try_fold(1usize, |p, &d| p.checked_mul(d));
    let (Some(have), Some(known)) = (product(data), product(&shape)) else {
        return Err(fail("too many elements"));
    };
    match rest {
        Some(at) if known > 0 && have.is_multiple_of(known) => shape[at] = have / known,
        Some(_) => return Err(fail("the rest is not a whole number")),
        None if have != known => return Err(fail("the number of elements differs")),
        None => {}
    }
    Ok(shape)
}

fn flattened(data: &[usize], axis: i64) -> Result<Vec<usize>, OpError> {
    let rank = data.len();
    let axis = if axis == rank as i64 { rank } else { args::axis(axis, rank)? };
    Ok(vec![data[..axis].iter().product(), data[axis..].iter().product()])
}

fn squeezed(data: &[usize], axes: Option<&[i64]>) -> Result<Vec<usize>, OpError> {
    let Some(axes) = axes else { return Ok(data.iter().copied().filter(|&d| d != 1).collect()) };
    let axes = args::axes(axes, data.len())?;
    if let Some(&axis) = axes.iter().find(|&&a| data[a] != 1) {
        let reason = format!("axis {axis} cannot be squeezed");
        return Err(OpError::InputShape { index: 0, shape: data.to_vec(), reason });
    }
    Ok((0..data.len()).filter(|i| !axes.contains(i)).map(|i| data[i]).collect())
}

fn unsqueezed(data: &[usize], axes: &[i64]) -> Result<Vec<usize>, OpError> {
    let rank = data.len() + axes.len();
    let axes = args::axes(axes, rank)?;
    let mut dims = data.iter().copied();
    Ok((0..rank).map(|i| if axes.contains(&i) { 1 } else { dims.next().unwrap_or(1) }).collect())
}

/// Facts about a reshaped first input, whose new shape follows from its shape and the integers in the second input.
fn infer_reshaped(
    inputs: &Infos<'_>,
    shape: impl Fn(&[usize], Option<&[i64]>) -> Result<Vec<usize>, OpError>,
) -> Result<Vec<Info>, OpError> {
    let data = required(inputs, 0)?;
    let given = match known_integers(inputs, 1)? {
        Known::Later => return Ok(one(data.dtype, None)),
        Known::Absent => None,
        Known::Now(values) => Some(values),
    };
    let shape = data.shape.as_ref().map(|data| shape(data, given.as_deref())).transpose()?;
    Ok(one(data.dtype, shape))
}

fn run_reshaped(
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
    shape: impl Fn(&[usize], Option<&[i64]>) -> Result<Vec<usize>, OpError>,
) -> Result<(), OpError> {
    let data = required(inputs, 0)?;
    let shape = shape(data.shape(), optional_integers(inputs, 1)?.as_deref())?;
    outputs[0].alloc_bytes(data.dtype(), &shape)?.copy_from_slice(data.bytes());
    Ok(())
}

fn given(values: Option<&[i64]>) -> Result<&[i64], OpError> {
    values.ok_or(OpError::MissingInput { index: 1 })
}

pub(super) fn infer_reshape(allow_zero: bool, inputs: &Infos<'_>) -> Result<Vec<Info>, OpError> {
    let data = required(inputs, 0)?;
    if let (None, Known::Now(target)) = (&data.shape, known_integers(inputs, 1)?)
        && target.iter().all(|&d| d > 0 || (d == 0 && allow_zero))
    {
        return Ok(one(data.dtype, Some(sizes(&target)?)));
    }
    infer_reshaped(inputs, |data, target| reshaped(data, given(target)?, allow_zero))
}

pub(super) fn reshape(
    allow_zero: bool,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    run_reshaped(inputs, outputs, |data, target| reshaped(data, given(target)?, allow_zero))
}

pub(super) fn infer_flatten(axis: i64, inputs: &Infos<'_>) -> Result<Vec<Info>, OpError> {
    infer_reshaped(inputs, |data, _| flattened(data, axis))
}

pub(super) fn flatten(axis: i64, inputs: &Inputs<'_>, outputs: &mut [Output<'_>]) -> Result<(), OpError> {
    run_reshaped(inputs, outputs, |data, _| flattened(data, axis))
}

pub(super) fn infer_squeeze(inputs: &Infos<'_>) -> Result<Vec<Info>, OpError> {
    infer_reshaped(inputs, squeezed)
}

pub(super) fn squeeze(inputs: &Inputs<'_>, outputs: &mut [Output<'_>]) -> Result<(), OpError> {
    run_reshaped(inputs, outputs, squeezed)
}

pub(super) fn infer_unsqueeze(inputs: &Infos<'_>) -> Result<Vec<Info>, OpError> {
    infer_reshaped(inputs, |data, axes| unsqueezed(data, given(axes)?))
}

pub(super) fn unsqueeze(inputs: &Inputs<'_>, outputs: &mut [Output<'_>]) -> Result<(), OpError> {
    run_reshaped(inputs, outputs, |data, axes| unsqueezed(data, given(axes)?))
}

pub(super) fn infer_identity(inputs: &Infos<'_>) -> Result<Vec<Info>, OpError> {
    infer_reshaped(&inputs[..inputs.len().min(1)], |data, _| Ok(data.to_vec()))
}

pub(super) fn identity(inputs: &Inputs<'_>, outputs: &mut [Output<'_>]) -> Result<(), OpError> {
    run_reshaped(&inputs[..inputs.len().min(1)], outputs, |data, _| Ok(data.to_vec()))
}

/// The dimensions from `start` to `end`, each counted from either end and clamped.
fn dimensions(data: &[usize], start: i64, end: Option<i64>) -> Vec<i64> {
    let rank = data.len() as i64;
    let clamp = |at: i64| (if at < 0 { at.saturating_add(rank) } else { at }).clamp(0, rank) as usize;
    let (start, end) = (clamp(start), clamp(end.unwrap_or(rank)));
    data[start..end.max(start)].iter().map(|&d| d as i64).collect()
}

pub(super) fn infer_shape(start: i64, end: Option<i64>, inputs: &Infos<'_>) -> Result<Vec<Info>, OpError> {
    let data = required(inputs, 0)?;
    Ok(match &data.shape {
        None => one(DataType::I64, None),
        Some(shape) => {
            let dims = dimensions(shape, start, end);
            vec![Info::constant(Tensor::from_slice(&[dims.len()], &dims))]
        }
    })
}

pub(super) fn shape(
    start: i64,
    end: Option<i64>,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    let dims = dimensions(required(inputs, 0)?.shape(), start, end);
    outputs[0].alloc::<i64>(&[dims.len()])?.copy_from_slice(&dims);
    Ok(())
}

pub(super) fn infer_size(inputs: &Infos<'_>) -> Result<Vec<Info>, OpError> {
    Ok(match &required(inputs, 0)?.shape {
        None => one(DataType::I64, Some(Vec::new())),
        Some(shape) => vec![Info::constant(Tensor::scalar(shape.iter().product::<usize>() as i64))],
    })
}

pub(super) fn size(inputs: &Inputs<'_>, outputs: &mut [Output<'_>]) -> Result<(), OpError> {
    outputs[0].alloc::<i64>(&[])?[0] = required(inputs, 0)?.len() as i64;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reshape_copies_and_infers_dimensions() {
        type Case = (&'static [usize], &'static [i64], bool, Option<&'static [usize]>);
        let cases: [Case; 11] = [
            (&[2, 3, 4], &[0, -1], false, Some(&[2, 12])),
            (&[2, 3, 4], &[4, -1, 2], false, Some(&[4, 3, 2])),
            (&[6], &[], false, None),
            (&[1], &[], false, Some(&[])),
            (&[], &[1, 1], false, Some(&[1, 1])),
            (&[0, 3], &[3, 0], true, Some(&[3, 0])),
            (&[0, 3], &[-1, 3], false, Some(&[0, 3])),
            (&[0, 3], &[0, -1], false, None),
            (&[2, 3], &[-1, -1], false, None),
            (&[2, 3], &[2, 3, 0], false, None),
            (&[2, 3], &[-2, 3], false, None),
        ];
        for (data, target, allow_zero, expected) in cases {
            assert_eq!(
                reshaped(data, target, allow_zero).ok().as_deref(),
                expected,
                "{data:?} to {target:?}"
            );
        }
    }

    #[test]
    fn squeeze_and_unsqueeze_check_their_axes() {
        assert_eq!(squeezed(&[1, 3, 1], None), Ok(vec![3]));
        assert_eq!(squeezed(&[1, 3, 1], Some(&[-1])), Ok(vec![1, 3]));
        assert_eq!(squeezed(&[1, 3, 1], Some(&[])), Ok(vec![1, 3, 1]));
        assert!(squeezed(&[1, 3, 1], Some(&[1])).is_err());
        assert_eq!(unsqueezed(&[3, 4], &[0, -1]), Ok(vec![1, 3, 4, 1]));
        assert!(unsqueezed(&[3], &[0, 0]).is_err() && unsqueezed(&[3], &[2]).is_err());
        assert_eq!(flattened(&[2, 3, 4], 3), Ok(vec![24, 1]));
        assert_eq!(flattened(&[], 0), Ok(vec![1, 1]));
        assert_eq!(dimensions(&[2, 3, 4], -2, Some(9)), [3, 4]);
        assert_eq!(dimensions(&[2, 3, 4], 2, Some(1)), [0i64; 0]);
    }
}
