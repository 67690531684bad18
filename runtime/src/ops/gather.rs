//! Reading at computed places: Gather, GatherElements, GatherND.

use super::args::{self, Infos, around, integers, one, required, strides};
use super::number::with_width;
use super::{Inputs, OpError};
use crate::info::Info;
use crate::output::Output;
use crate::threads::share::{cost, for_rows};

/// An index counted from the front.
pub(super) fn index(value: i64, dim: usize) -> Result<usize, OpError> {
    let bound = dim as i64;
    let from_front = if value < 0 { value.saturating_add(bound) } else { value };
    if (0..bound).contains(&from_front) {
        Ok(from_front as usize)
    } else {
        Err(OpError::OutOfRange { name: "index", value, bound })
    }
}

fn infer_by_shapes(
    inputs: &Infos<'_>,
    shape: impl Fn(&[usize], &[usize]) -> Result<Vec<usize>, OpError>,
) -> Result<Vec<Info>, OpError> {
    let (data, indices) = (required(inputs, 0)?, required(inputs, 1)?);
    let shape = match (&data.shape, &indices.shape) {
        (Some(data), Some(indices)) => Some(shape(data, indices)?),
        _ => None,
    };
    Ok(one(data.dtype, shape))
}

fn gathered(data: &[usize], indices: &[usize], axis: i64) -> Result<Vec<usize>, OpError> {
    let axis = args::axis(axis, data.len())?;
    Ok([&data[..axis], indices, &data[axis + 1..]].concat())
}

pub(super) fn infer_gather(axis: i64, inputs: &Infos<'_>) -> Result<Vec<Info>, OpError> {
    infer_by_shapes(inputs, |data, indices| gathered(data, indices, axis))
}

pub(super) fn gather(axis: i64, inputs: &Inputs<'_>, outputs: &mut [Output<'_>]) -> Result<(), OpError> {
    let (data, indices) = (required(inputs, 0)?, required(inputs, 1)?);
    let shape = gathered(data.shape(), indices.shape(), axis)?;
    let axis = args::axis(axis, data.rank())?;
    let [_, dim, inner] = around(data.shape(), axis);
    let indices = integers(indices, 1)?.into_iter().map(|i| index(i, dim)).collect::<Result<Vec<_>, _>>()?;
    let bytes = outputs[0].alloc_bytes(data.dtype(), &shape)?;
    if bytes.is_empty() {
        return Ok(());
    }
    if inner == 1 {
        with_width!(data.dtype(), T => {
            let data = bytemuck::cast_slice::<u8, T>(data.bytes());
            let output = bytemuck::cast_slice_mut::<u8, T>(bytes);
            for_rows(output, indices.len(), cost::ARITHMETIC, |i, output| {
                let data = &data[i * dim..][..dim];
                output.iter_mut().zip(&indices).for_each(|(to, &at)| *to = data[at]);
            });
        });
        return Ok(());
    }
    let run = inner * data.dtype().size();
    let data = data.bytes();
    let read = |i: usize, to: &mut [u8]| {
        let (outer, at) = (i / indices.len(), indices[i % indices.len()]);
        to.copy_from_slice(&data[(outer * dim + at) * run..][..run]);
    };
    for_rows(bytes, run, cost::COPY / 4, read);
    Ok(())
}

/// Checks that `indices` lie within `data` along every axis but `axis`.
pub(super) fn check_elements(data: &[usize], indices: &[usize], axis: usize) -> Result<(), OpError> {
    if indices.len() == data.len() && (0..data.len()).all(|i| i == axis || indices[i] <= data[i]) {
        return Ok(());
    }
    let reason = format!("it does not lie within {data:?} along axes other than {axis}");
    Err(OpError::InputShape { index: 1, shape: indices.to_vec(), reason })
}

/// For each element of `indices`, in order, the place in `data` that it names along `axis`.
pub(super) fn element_places(
    data: &[usize],
    shape: &[usize],
    indices: &[i64],
    axis: usize,
) -> Result<Vec<usize>, OpError> {
    let strides = strides(data);
    let mut at = vec![0; shape.len()];
    let mut places = Vec::with_capacity(indices.len());
    for &value in indices {
        let fixed: usize = (0..at.len()).filter(|&i| i != axis).map(|i| at[i] * strides[i]).sum();
        places.push(fixed + index(value, data[axis])? * strides[axis]);
        for i in (0..at.len()).rev() {
            at[i] += 1;
            if at[i] < shape[i] {
                break;
            }
            at[i] = 0;
        }
    }
    Ok(places)
}

pub(super) fn infer_gather_elements(axis: i64, inputs: &Infos<'_>) -> Result<Vec<Info>, OpError> {
    infer_by_shapes(inputs, |data, indices| {
        check_elements(data, indices, args::axis(axis, data.len())?)?;
        Ok(indices.to_vec())
    })
}

pub(super) fn gather_elements(
    axis: i64,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    let (data, indices) = (required(inputs, 0)?, required(inputs, 1)?);
    let axis = args::axis(axis, data.rank())?;
    check_elements(data.shape(), indices.shape(), axis)?;
    let places = element_places(data.shape(), indices.shape(), &integers(indices, 1)?, axis)?;
    let bytes = outputs[0].alloc_bytes(data.dtype(), indices.shape())?;
    with_width!(data.dtype(), T => {
        let data = bytemuck::cast_slice::<u8, T>(data.bytes());
        for (to, at) in bytemuck::cast_slice_mut::<u8, T>(bytes).iter_mut().zip(places) {
            *to = data[at];
        }
    });
    Ok(())
}

/// How index tuples of `indices[…, k]` cut `data`: the number of batch axes, the tuple length `k`, and the shape of the
/// slice that a tuple names.
pub(super) fn tuples<'a>(
    data: &'a [usize],
    indices: &[usize],
    batch_dims: usize,
) -> Result<(usize, &'a [usize]), OpError> {
    let fail = |reason: String| OpError::InputShape { index: 1, shape: indices.to_vec(), reason };
    let Some((&tuple, outer)) = indices.split_last() else {
        return Err(fail("indices have no axis of tuples".to_owned()));
    };
    if batch_dims > outer.len() || batch_dims > data.len() || outer[..batch_dims] != data[..batch_dims] {
        return Err(fail(format!("its first {batch_dims} axes are not those of {data:?}")));
    }
    match data.get(batch_dims.saturating_add(tuple)..) {
        Some(slice) => Ok((tuple, slice)),
        None => Err(fail(format!("tuples of {tuple} do not index {data:?} after {batch_dims} batch axes"))),
    }
}

/// For each tuple the place in `data`, in elements, of the slice that it names.
pub(super) fn tuple_places(
    data: &[usize],
    indices: &[i64],
    tuple: usize,
    count: usize,
    batch_dims: usize,
) -> Result<Vec<usize>, OpError> {
    let strides = strides(data);
    let batches: usize = data[..batch_dims].iter().product();
    let batch_len: usize = data[batch_dims..].iter().product();
    let per_batch = count.checked_div(batches).unwrap_or(0);
    (0..count)
        .map(|i| {
            let mut place = i / per_batch.max(1) * batch_len;
            for (j, &value) in indices[i * tuple..(i + 1) * tuple].iter().enumerate() {
                place += index(value, data[batch_dims + j])? * strides[batch_dims + j];
            }
            Ok(place)
        })
        .collect()
}

pub(super) fn infer_gather_nd(batch_dims: usize, inputs: &Infos<'_>) -> Result<Vec<Info>, OpError> {
    infer_by_shapes(inputs, |data, indices| {
        let (_, slice) = tuples(data, indices, batch_dims)?;
        Ok([&indices[..indices.len() - 1], slice].concat())
    })
}

pub(super) fn gather_nd(
    batch_dims: usize,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    let (data, indices) = (required(inputs, 0)?, required(inputs, 1)?);
    let (tuple, slice) = tuples(data.shape(), indices.shape(), batch_dims)?;
    let outer = &indices.shape()[..indices.rank() - 1];
    let count = outer.iter().product();
    let places = tuple_places(data.shape(), &integers(indices, 1)?, tuple, count, batch_dims)?;
    let bytes = outputs[0].alloc_bytes(data.dtype(), &[outer, slice].concat())?;
    let size = data.dtype().size();
    let run = slice.iter().product::<usize>() * size;
    if run > 0 {
        for (to, at) in bytes.chunks_exact_mut(run).zip(places) {
            to.copy_from_slice(&data.bytes()[at * size..][..run]);
        }
    }
    Ok(())
}
