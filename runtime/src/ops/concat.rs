//! Concat and Split: whole runs are copied.

use super::args::{self, Infos, Known, around, known_integers, one, optional_integers, required, sizes};
use super::{Inputs, OpError};
use crate::info::Info;
use crate::kernels::movement::copy_rows;
use crate::output::Output;

fn concatenated(shapes: &[&[usize]], axis: i64) -> Result<Vec<usize>, OpError> {
    let mut shape = shapes[0].to_vec();
    let axis = args::axis(axis, shape.len())?;
    for (index, other) in shapes.iter().enumerate().skip(1) {
        let fits = other.len() == shape.len() && (0..shape.len()).all(|i| i == axis || other[i] == shape[i]);
        if !fits {
            let reason = format!("it does not join {:?} along axis {axis}", shapes[0]);
            return Err(OpError::InputShape { index, shape: other.to_vec(), reason });
        }
        shape[axis] += other[axis];
    }
    Ok(shape)
}

pub(super) fn infer_concat(axis: i64, inputs: &Infos<'_>) -> Result<Vec<Info>, OpError> {
    let dtype = required(inputs, 0)?.dtype;
    let shapes: Option<Vec<&[usize]>> = inputs.iter().flatten().map(|info| info.shape.as_deref()).collect();
    Ok(one(dtype, shapes.map(|shapes| concatenated(&shapes, axis)).transpose()?))
}

pub(super) fn concat(axis: i64, inputs: &Inputs<'_>, outputs: &mut [Output<'_>]) -> Result<(), OpError> {
    let dtype = required(inputs, 0)?.dtype();
    let inputs: Vec<_> = inputs.iter().flatten().collect();
    if let Some(index) = inputs.iter().position(|view| view.dtype() != dtype) {
        let found = inputs[index].dtype();
        return Err(OpError::InputType { index, expected: "the type of the first input", found });
    }
    let shapes: Vec<&[usize]> = inputs.iter().map(|view| view.shape()).collect();
    let shape = concatenated(&shapes, axis)?;
    let axis = args::axis(axis, shape.len())?;
    let output = outputs[0].alloc_bytes(dtype, &shape)?;
    let row = shape[axis..].iter().product::<usize>() * dtype.size();
    let (rows, mut start) = (shape[..axis].iter().product(), 0);
    for view in inputs {
        let run = view.shape()[axis..].iter().product::<usize>() * dtype.size();
        copy_rows([rows, run], output, [start, row], view.bytes(), [0, run]);
        start += run;
    }
    Ok(())
}

/// The lengths of the first `outputs` parts of an axis of `dim` steps, which has as many as it has outputs unless
/// `num_outputs` says otherwise.
fn parts(
    dim: usize,
    split: Option<&[i64]>,
    num_outputs: Option<usize>,
    outputs: usize,
) -> Result<Vec<usize>, OpError> {
    let count = num_outputs.unwrap_or(outputs);
    if count < outputs {
        return Err(OpError::Invalid(format!("a split into {count} parts has {outputs} outputs")));
    }
    if let Some(split) = split {
        let parts = sizes(split)?;
        if parts.len() != count || parts.iter().try_fold(0usize, |s, &p| s.checked_add(p)) != Some(dim) {
            return Err(OpError::Invalid(format!(
                "{dim} steps do not split into {split:?} for {count} outputs"
            )));
        }
        return Ok(parts);
    }
    let chunk = dim.div_ceil(count.max(1));
    Ok((0..outputs).map(|i| chunk.min(dim.saturating_sub(i * chunk))).collect())
}

pub(super) fn infer_split(
    axis: i64,
    num_outputs: Option<usize>,
    inputs: &Infos<'_>,
    outputs: usize,
) -> Result<Vec<Info>, OpError> {
    let data = required(inputs, 0)?;
    let split = match known_integers(inputs, 1)? {
        Known::Later => return Ok(vec![Info::dynamic(data.dtype); outputs]),
        Known::Absent => None,
        Known::Now(values) => Some(values),
    };
    let Some(shape) = &data.shape else { return Ok(vec![Info::dynamic(data.dtype); outputs]) };
    let axis = args::axis(axis, shape.len())?;
    let parts = parts(shape[axis], split.as_deref(), num_outputs, outputs)?;
    let part = |&part| {
        let mut shape = shape.clone();
        shape[axis] = part;
        Info::new(data.dtype, shape)
    };
    Ok(parts.iter().take(outputs).map(part).collect())
}

pub(super) fn split(
    axis: i64,
    num_outputs: Option<usize>,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    let data = required(inputs, 0)?;
    let axis = args::axis(axis, data.rank())?;
    let split = optional_integers(inputs, 1)?;
    let [outer, dim, inner] = around(data.shape(), axis);
    let parts = parts(dim, split.as_deref(), num_outputs, outputs.len())?;
    let (step, mut start) = (inner * data.dtype().size(), 0);
    for (output, part) in outputs.iter_mut().zip(parts) {
        if output.is_used() {
            let mut shape = data.shape().to_vec();
            shape[axis] = part;
            let bytes = output.alloc_bytes(data.dtype(), &shape)?;
            let run = part * step;
            copy_rows([outer, run], bytes, [0, run], data.bytes(), [start * step, dim * step]);
        }
        start += part;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_the_axis() {
        assert_eq!(parts(7, None, None, 3), Ok(vec![3, 3, 1]));
        assert_eq!(parts(2, None, Some(3), 3), Ok(vec![1, 1, 0]));
        assert_eq!(parts(0, None, None, 2), Ok(vec![0, 0]));
        assert_eq!(parts(5, Some(&[0, 5]), None, 2), Ok(vec![0, 5]));
        assert!(parts(5, Some(&[2, 2]), None, 2).is_err());
        assert!(parts(5, Some(&[6, -1]), None, 2).is_err());
        assert!(parts(5, Some(&[5]), None, 2).is_err());
        // Only those that have an output are made, however many there are said to be.
        assert_eq!(parts(7, None, Some(1 << 62), 2), Ok(vec![1, 1]));
        assert!(parts(7, None, Some(1), 2).is_err());
    }
}
