//! Writing at computed places: ScatterElements, ScatterND, TensorScatter.

use poda_formats::TensorView;
use poda_formats::op::ScatterReduction;

use super::args::{self, Infos, integers, one, optional_integers, required, unsupported_type};
use super::gather::{check_elements, element_places, tuple_places, tuples};
use super::number::{Number, by_way_of_f32, with_number};
use super::{Inputs, OpError};
use crate::info::Info;
use crate::output::Output;

/// Facts about an output that is the first input with some elements changed.
fn infer_updated(inputs: &Infos<'_>) -> Result<Vec<Info>, OpError> {
    let data = required(inputs, 0)?;
    Ok(one(data.dtype, data.shape.clone()))
}

/// A copy of `data` whose runs of `run` elements at `places` become those of `updates`, in order.
fn update(
    reduction: ScatterReduction,
    data: TensorView<'_>,
    updates: TensorView<'_>,
    places: &[usize],
    run: usize,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    let dtype = data.dtype();
    if updates.dtype() != dtype {
        return Err(OpError::InputType { index: 2, expected: dtype.name(), found: updates.dtype() });
    }
    let bytes = outputs[0].alloc_bytes(dtype, data.shape())?;
    bytes.copy_from_slice(data.bytes());
    if run == 0 {
        return Ok(());
    }
    if reduction == ScatterReduction::None {
        let size = dtype.size();
        for (&place, from) in places.iter().zip(updates.bytes().chunks_exact(run * size)) {
            bytes[place * size..][..run * size].copy_from_slice(from);
        }
        return Ok(());
    }
    with_number!(dtype, T => {
        let output = bytemuck::cast_slice_mut::<u8, T>(bytes);
        let updates = updates.as_slice::<T>()?;
        match reduction {
            ScatterReduction::None => {}
            ScatterReduction::Add => reduce(output, updates, places, run, T::add),
            ScatterReduction::Mul => reduce(output, updates, places, run, T::mul),
            ScatterReduction::Max => reduce(output, updates, places, run, T::larger),
            ScatterReduction::Min => reduce(output, updates, places, run, T::smaller),
        }
        Ok(())
    }, else => Err(unsupported_type(reduction, dtype)))
}

fn reduce<T: Number>(
    output: &mut [T],
    updates: &[T],
    places: &[usize],
    run: usize,
    combine: impl Fn(T, T) -> T,
) {
    for (&place, from) in places.iter().zip(updates.chunks_exact(run)) {
        for (to, &from) in output[place..place + run].iter_mut().zip(from) {
            *to = combine(*to, from);
        }
    }
}

fn check_updates(updates: TensorView<'_>, expected: &[usize]) -> Result<(), OpError> {
    if updates.shape() == expected {
        return Ok(());
    }
    let reason = format!("expected {expected:?}");
    Err(OpError::InputShape { index: 2, shape: updates.shape().to_vec(), reason })
}

pub(super) fn infer_scatter_elements(
    axis: i64,
    _: ScatterReduction,
    inputs: &Infos<'_>,
) -> Result<Vec<Info>, OpError> {
    if let (Some(data), Some(indices)) = (&required(inputs, 0)?.shape, &required(inputs, 1)?.shape) {
        check_elements(data, indices, args::axis(axis, data.len())?)?;
    }
    infer_updated(inputs)
}

pub(super) fn scatter_elements(
    axis: i64,
    reduction: ScatterReduction,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    by_way_of_f32(inputs, outputs, |inputs, outputs| {
        let (data, indices, updates) = (required(inputs, 0)?, required(inputs, 1)?, required(inputs, 2)?);
        let axis = args::axis(axis, data.rank())?;
        check_elements(data.shape(), indices.shape(), axis)?;
        check_updates(updates, indices.shape())?;
        let places = element_places(data.shape(), indices.shape(), &integers(indices, 1)?, axis)?;
        update(reduction, data, updates, &places, 1, outputs)
    })
}

pub(super) fn infer_scatter_nd(_: ScatterReduction, inputs: &Infos<'_>) -> Result<Vec<Info>, OpError> {
    if let (Some(data), Some(indices)) = (&required(inputs, 0)?.shape, &required(inputs, 1)?.shape) {
        tuples(data, indices, 0)?;
    }
    infer_updated(inputs)
}

pub(super) fn scatter_nd(
    reduction: ScatterReduction,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    by_way_of_f32(inputs, outputs, |inputs, outputs| {
        let (data, indices, updates) = (required(inputs, 0)?, required(inputs, 1)?, required(inputs, 2)?);
        let (tuple, slice) = tuples(data.shape(), indices.shape(), 0)?;
        let outer = &indices.shape()[..indices.rank() - 1];
        check_updates(updates, &[outer, slice].concat())?;
        let count = outer.iter().product();
        let places = tuple_places(data.shape(), &integers(indices, 1)?, tuple, count, 0)?;
        update(reduction, data, updates, &places, slice.iter().product(), outputs)
    })
}

pub(super) fn infer_tensor_scatter(_: i64, _: bool, inputs: &Infos<'_>) -> Result<Vec<Info>, OpError> {
    infer_updated(inputs)
}

/// Writes `update` `[batch, …, steps, …]` into a copy of the cache `[batch, …, capacity, …]`, for each batch from its
/// own index on.
pub(super) fn tensor_scatter(
    axis: i64,
    circular: bool,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    let (cache, update) = (required(inputs, 0)?, required(inputs, 1)?);
    let (shape, axis) = (cache.shape(), args::axis(axis, cache.rank())?);
    let fits =
        update.rank() == shape.len() && (0..shape.len()).all(|i| i == axis || update.shape()[i] == shape[i]);
    if axis == 0 || !fits || update.dtype() != cache.dtype() {
        return Err(OpError::Invalid(format!(
            "an update {:?} of {} does not go into a cache {shape:?} of {} along axis {axis}",
            update.shape(),
            update.dtype(),
            cache.dtype()
        )));
    }
    let (batches, capacity, steps) = (shape[0], shape[axis], update.shape()[axis]);
    let firsts = optional_integers(inputs, 2)?.unwrap_or_else(|| vec![0; batches]);
    if firsts.len() != batches {
        return Err(OpError::Invalid(format!("{} write indices for {batches} batches", firsts.len())));
    }
    let bytes = outputs[0].alloc_bytes(cache.dtype(), shape)?;
    bytes.copy_from_slice(cache.bytes());
    let outer: usize = shape[1..axis].iter().product();
    let run = shape[axis + 1..].iter().product::<usize>() * cache.dtype().size();
    for (i, from) in update.bytes().chunks_exact(run.max(1)).enumerate() {
        let (row, step) = (i / steps, i % steps);
        let at = firsts[row / outer].saturating_add(step as i64);
        let place = if circular { at.rem_euclid(capacity.max(1) as i64) } else { at };
        if !(0..capacity as i64).contains(&place) {
            return Err(OpError::OutOfRange { name: "write index", value: at, bound: capacity as i64 });
        }
        bytes[(row * capacity + place as usize) * run..][..run].copy_from_slice(from);
    }
    Ok(())
}
