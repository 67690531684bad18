//! Slice and ReverseSequence.

use poda_formats::op::slice_elements;

use super::args::{self, Infos, Known, integers, known_integers, one, optional_integers, required, strides};
use super::number::with_width;
use super::{Inputs, OpError};
use crate::info::Info;
use crate::kernels::movement::{Axis, copy};
use crate::output::Output;

/// The steps that Slice takes along one axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Steps {
    /// The first; 0 when there are none.
    first: usize,
    count: usize,
    by: i64,
}

impl Steps {
    fn new(dim: usize, start: i64, end: i64, by: i64) -> Result<Self, OpError> {
        let (first, count) = slice_elements(dim, start, end, by)
            .ok_or_else(|| OpError::Invalid("slice in steps of 0".to_owned()))?;
        Ok(Self { first, count, by })
    }
}

/// The steps along each axis of `data`.
fn sliced(
    data: &[usize],
    starts: &[i64],
    ends: &[i64],
    axes: Option<&[i64]>,
    steps: Option<&[i64]>,
) -> Result<Vec<Steps>, OpError> {
    let count = starts.len();
    if ends.len() != count || [axes, steps].iter().flatten().any(|v| v.len() != count) {
        return Err(OpError::Invalid(format!(
            "slice with starts {starts:?}, ends {ends:?}, axes {axes:?} and steps {steps:?} of different lengths"
        )));
    }
    let axes = match axes {
        Some(axes) => args::axes(axes, data.len())?,
        None if count <= data.len() => (0..count).collect(),
        None => return Err(OpError::Invalid(format!("{count} starts for shape {data:?}"))),
    };
    let mut all: Vec<Steps> = data.iter().map(|&dim| Steps { first: 0, count: dim, by: 1 }).collect();
    for (i, axis) in axes.into_iter().enumerate() {
        all[axis] = Steps::new(data[axis], starts[i], ends[i], steps.map_or(1, |s| s[i]))?;
    }
    Ok(all)
}

pub(super) fn infer_slice(inputs: &Infos<'_>) -> Result<Vec<Info>, OpError> {
    let data = required(inputs, 0)?;
    required(inputs, 2)?;
    let [starts, ends, axes, steps] = [1, 2, 3, 4].map(|i| known_integers(inputs, i));
    let (Known::Now(starts), Known::Now(ends)) = (starts?, ends?) else { return Ok(one(data.dtype, None)) };
    let given = |known: Known| match known {
        Known::Absent => Some(None),
        Known::Later => None,
        Known::Now(values) => Some(Some(values)),
    };
    let (Some(axes), Some(steps), Some(shape)) = (given(axes?), given(steps?), &data.shape) else {
        return Ok(one(data.dtype, None));
    };
    let steps = sliced(shape, &starts, &ends, axes.as_deref(), steps.as_deref())?;
    Ok(one(data.dtype, Some(steps.iter().map(|s| s.count).collect())))
}

pub(super) fn slice(inputs: &Inputs<'_>, outputs: &mut [Output<'_>]) -> Result<(), OpError> {
    let data = required(inputs, 0)?;
    let starts = integers(required(inputs, 1)?, 1)?;
    let ends = integers(required(inputs, 2)?, 2)?;
    let axes = optional_integers(inputs, 3)?;
    let steps = optional_integers(inputs, 4)?;
    let steps = sliced(data.shape(), &starts, &ends, axes.as_deref(), steps.as_deref())?;

    let strides = strides(data.shape());
    let start = steps.iter().zip(&strides).map(|(s, stride)| s.first * stride).sum();
    // A step longer than the axis is taken at most once; its stride is never used.
    let stride = |by: i64, stride: usize| (by as isize).saturating_mul(stride as isize);
    let walk: Vec<Axis> =
        steps.iter().zip(&strides).map(|(s, &by)| Axis { dim: s.count, stride: stride(s.by, by) }).collect();
    let shape: Vec<usize> = steps.iter().map(|s| s.count).collect();
    let bytes = outputs[0].alloc_bytes(data.dtype(), &shape)?;
    with_width!(data.dtype(), T => {
        copy::<T>(bytemuck::cast_slice_mut(bytes), &walk, bytemuck::cast_slice(data.bytes()), start);
    });
    Ok(())
}

pub(super) fn infer_reverse_sequence(_: i64, _: i64, inputs: &Infos<'_>) -> Result<Vec<Info>, OpError> {
    let data = required(inputs, 0)?;
    Ok(one(data.dtype, data.shape.clone()))
}

pub(super) fn reverse_sequence(
    batch_axis: i64,
    time_axis: i64,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    let data = required(inputs, 0)?;
    let lengths = integers(required(inputs, 1)?, 1)?;
    let (batch, time) = (args::axis(batch_axis, data.rank())?, args::axis(time_axis, data.rank())?);
    if batch + time != 1 {
        return Err(OpError::Invalid(format!("batch axis {batch} and time axis {time} are not 0 and 1")));
    }
    let (batches, times) = (data.shape()[batch], data.shape()[time]);
    let bound = times as i64;
    if let Some(&value) = lengths.iter().find(|&&l| !(0..=bound).contains(&l)) {
        return Err(OpError::OutOfRange { name: "sequence length", value, bound });
    }
    if lengths.len() != batches {
        return Err(OpError::Invalid(format!("{} sequence lengths for {batches} sequences", lengths.len())));
    }
    let block = data.shape()[2..].iter().product::<usize>() * data.dtype().size();
    let (batch_step, time_step) = if batch == 0 { (times * block, block) } else { (block, batches * block) };
    let bytes = outputs[0].alloc_bytes(data.dtype(), data.shape())?;
    for (b, &length) in lengths.iter().enumerate() {
        let length = length as usize;
        for t in 0..times {
            let from = if t < length { length - 1 - t } else { t };
            let from = &data.bytes()[b * batch_step + from * time_step..][..block];
            bytes[b * batch_step + t * time_step..][..block].copy_from_slice(from);
        }
    }
    Ok(())
}
