//! Tensors made from few numbers: ConstantOfShape, Range, OneHot, EyeLike; and Trilu.

use poda_formats::op::ScalarValue;
use poda_formats::{DataType, TensorView};

use super::args::{
    self, Infos, Known, around, integers, known_integers, one, optional_integers, required, sizes,
    unsupported_type,
};
use super::cast::converted;
use super::number::{Number, by_way_of_f32, with_number, with_width};
use super::{Inputs, OpError};
use crate::info::Info;
use crate::output::Output;

pub(super) fn infer_constant_of_shape(value: ScalarValue, inputs: &Infos<'_>) -> Result<Vec<Info>, OpError> {
    required(inputs, 0)?;
    let shape = match known_integers(inputs, 0)? {
        Known::Now(shape) => Some(sizes(&shape)?),
        Known::Absent | Known::Later => None,
    };
    Ok(one(value.dtype, shape))
}

pub(super) fn constant_of_shape(
    value: ScalarValue,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    let shape = sizes(&integers(required(inputs, 0)?, 0)?)?;
    let bytes = outputs[0].alloc_bytes(value.dtype, &shape)?;
    let value_bytes = value.bytes();
    with_width!(value.dtype, T => {
        bytemuck::cast_slice_mut::<u8, T>(bytes).fill(bytemuck::pod_read_unaligned(&value_bytes));
    });
    Ok(())
}

/// The number of steps from `start` to `limit`: `ceil((limit - start) / delta)`, at least 0.
fn steps<T: Number>(start: T, limit: T, delta: T) -> Result<usize, OpError> {
    let exact = |value: T| converted::<i64>(TensorView::from_slice(&[], &[value])).map(|v| i128::from(v[0]));
    let bad = || OpError::Invalid(format!("no range from {start:?} to {limit:?} in steps of {delta:?}"));
    let steps = if T::DTYPE.is_float() {
        let steps = ((limit.to_f64() - start.to_f64()) / delta.to_f64()).ceil();
        // 2⁵³ and more steps cannot be counted, nor held.
        if delta == T::ZERO || steps.is_nan() || steps >= 9e15 {
            return Err(bad());
        }
        steps.max(0.0) as i128
    } else {
        let (start, limit, delta) = (exact(start)?, exact(limit)?, exact(delta)?);
        let distance = limit - start;
        let whole = distance.checked_div(delta).ok_or_else(bad)?;
        whole + i128::from(whole * delta != distance && (distance < 0) == (delta < 0))
    };
    usize::try_from(steps.max(0)).map_err(|_| bad())
}

fn scalar<T: Number>(view: TensorView<'_>, index: usize) -> Result<T, OpError> {
    match *view.as_slice::<T>()? {
        [value] => Ok(value),
        _ => {
            let reason = "not one element".to_owned();
            Err(OpError::InputShape { index, shape: view.shape().to_vec(), reason })
        }
    }
}

fn range_of<T: Number>(inputs: [TensorView<'_>; 3]) -> Result<(T, T, usize), OpError> {
    let [start, limit, delta] = inputs;
    let (start, limit, delta) = (scalar::<T>(start, 0)?, scalar::<T>(limit, 1)?, scalar::<T>(delta, 2)?);
    Ok((start, delta, steps(start, limit, delta)?))
}

pub(super) fn infer_range(inputs: &Infos<'_>) -> Result<Vec<Info>, OpError> {
    let infos = [required(inputs, 0)?, required(inputs, 1)?, required(inputs, 2)?];
    let dtype = infos[0].dtype;
    let [Some(start), Some(limit), Some(delta)] = infos.map(|info| info.value.as_ref()) else {
        return Ok(one(dtype, None));
    };
    let views = [start.view(), limit.view(), delta.view()];
    with_number!(dtype, T => Ok(one(dtype, Some(vec![range_of::<T>(views)?.2]))), else => Ok(one(dtype, None)))
}

pub(super) fn range(inputs: &Inputs<'_>, outputs: &mut [Output<'_>]) -> Result<(), OpError> {
    by_way_of_f32(inputs, outputs, |inputs, outputs| {
        let views = [required(inputs, 0)?, required(inputs, 1)?, required(inputs, 2)?];
        let dtype = views[0].dtype();
        with_number!(dtype, T => {
            let (start, delta, steps) = range_of::<T>(views)?;
            for (to, i) in outputs[0].alloc::<T>(&[steps])?.iter_mut().zip(0..) {
                *to = start.add(T::from_i64(i).mul(delta));
            }
            Ok(())
        }, else => Err(unsupported_type("Range", dtype)))
    })
}

/// The shape of OneHot, and where its new axis is.
fn hot_shape(indices: &[usize], axis: i64, depth: i64) -> Result<(Vec<usize>, usize), OpError> {
    let axis = args::axis(axis, indices.len() + 1)?;
    let mut shape = indices.to_vec();
    shape.insert(axis, sizes(&[depth])?[0]);
    Ok((shape, axis))
}

fn depth(view: TensorView<'_>) -> Result<i64, OpError> {
    match *converted::<i64>(view)? {
        [depth] => Ok(depth),
        ref other => Err(OpError::Invalid(format!("depth is {other:?}, expected one number"))),
    }
}

pub(super) fn infer_one_hot(axis: i64, inputs: &Infos<'_>) -> Result<Vec<Info>, OpError> {
    let (indices, given, values) = (required(inputs, 0)?, required(inputs, 1)?, required(inputs, 2)?);
    let (Some(indices), Some(given)) = (&indices.shape, &given.value) else {
        return Ok(one(values.dtype, None));
    };
    Ok(one(values.dtype, Some(hot_shape(indices, axis, depth(given.view())?)?.0)))
}

pub(super) fn one_hot(axis: i64, inputs: &Inputs<'_>, outputs: &mut [Output<'_>]) -> Result<(), OpError> {
    let (indices, values) = (required(inputs, 0)?, required(inputs, 2)?);
    let depth = depth(required(inputs, 1)?)?;
    let (shape, axis) = hot_shape(indices.shape(), axis, depth)?;
    if values.len() != 2 {
        let reason = "not two elements".to_owned();
        return Err(OpError::InputShape { index: 2, shape: values.shape().to_vec(), reason });
    }
    let indices = converted::<i64>(indices)?;
    let [_, dim, inner] = around(&shape, axis);
    let bytes = outputs[0].alloc_bytes(values.dtype(), &shape)?;
    with_width!(values.dtype(), T => {
        let values = bytemuck::cast_slice::<u8, T>(values.bytes());
        let output = bytemuck::cast_slice_mut::<u8, T>(bytes);
        output.fill(values[0]);
        for (i, &index) in indices.iter().enumerate() {
            let index = if index < 0 { index.saturating_add(depth) } else { index };
            if (0..depth).contains(&index) {
                output[(i / inner * dim + index as usize) * inner + i % inner] = values[1];
            }
        }
    });
    Ok(())
}

fn matrix(shape: &[usize]) -> Result<[usize; 2], OpError> {
    <[usize; 2]>::try_from(shape).map_err(|_| OpError::InputShape {
        index: 0,
        shape: shape.to_vec(),
        reason: "not a matrix".to_owned(),
    })
}

pub(super) fn infer_eye_like(
    dtype: Option<DataType>,
    _: i64,
    inputs: &Infos<'_>,
) -> Result<Vec<Info>, OpError> {
    let data = required(inputs, 0)?;
    if let Some(shape) = &data.shape {
        matrix(shape)?;
    }
    Ok(one(dtype.unwrap_or(data.dtype), data.shape.clone()))
}

pub(super) fn eye_like(
    dtype: Option<DataType>,
    k: i64,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    let data = required(inputs, 0)?;
    let dtype = dtype.unwrap_or(data.dtype());
    let [rows, cols] = matrix(data.shape())?;
    // Ones on the diagonal, in a type that converts to every other.
    let mut ones = vec![0u8; rows * cols];
    for row in 0..rows as i64 {
        let col = row.saturating_add(k);
        if (0..cols as i64).contains(&col) {
            ones[row as usize * cols + col as usize] = 1;
        }
    }
    super::cast::cast(dtype, &[Some(TensorView::from_slice(data.shape(), &ones))], outputs)
}

pub(super) fn infer_trilu(_: bool, inputs: &Infos<'_>) -> Result<Vec<Info>, OpError> {
    let data = required(inputs, 0)?;
    Ok(one(data.dtype, data.shape.clone()))
}

pub(super) fn trilu(upper: bool, inputs: &Inputs<'_>, outputs: &mut [Output<'_>]) -> Result<(), OpError> {
    let data = required(inputs, 0)?;
    let k = match optional_integers(inputs, 1)?.as_deref() {
        None => 0,
        Some(&[k]) => k,
        Some(k) => return Err(OpError::Invalid(format!("k is {k:?}, expected one number"))),
    };
    let &[.., rows, cols] = data.shape() else {
        let reason = "not a matrix or several".to_owned();
        return Err(OpError::InputShape { index: 0, shape: data.shape().to_vec(), reason });
    };
    let size = data.dtype().size();
    let bytes = outputs[0].alloc_bytes(data.dtype(), data.shape())?;
    if bytes.is_empty() {
        return Ok(());
    }
    let lines = bytes.chunks_exact_mut(cols * size).zip(data.bytes().chunks_exact(cols * size));
    for (i, (to, from)) in lines.enumerate() {
        let row = (i % rows) as i64;
        // The first element that belongs to the upper part; the lower part holds the diagonal too.
        let edge =
            row.saturating_add(k).saturating_add(i64::from(!upper)).clamp(0, cols as i64) as usize * size;
        let (kept, cleared) = if upper { (edge..to.len(), 0..edge) } else { (0..edge, edge..to.len()) };
        to[kept.clone()].copy_from_slice(&from[kept]);
        to[cleared].fill(0);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_count_their_steps() {
        for (start, limit, delta, expected) in [
            (0, 5, 1, 5),
            (0, 5, 2, 3),
            (5, 0, -2, 3),
            (0, 5, -1, 0),
            (5, 0, 1, 0),
            (3, 3, 7, 0),
            (0, 6, 3, 2),
        ] {
            assert_eq!(steps(start, limit, delta), Ok(expected), "{start} to {limit} by {delta}");
            let [start, limit, delta] = [start, limit, delta].map(f64::from);
            assert_eq!(steps(start, limit, delta), Ok(expected), "{start} to {limit} by {delta}");
        }
        assert_eq!(steps(i64::MIN, i64::MAX, 1), Ok(usize::MAX));
        assert!(steps(0, 1, 0).is_err() && steps(0.0, f32::NAN, 1.0).is_err());
        assert!(steps(0.0, f64::INFINITY, 1.0).is_err());
    }
}
