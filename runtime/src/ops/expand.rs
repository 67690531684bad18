//! Repetition: Expand and Tile.

use poda_formats::TensorView;

use super::args::{
    Infos, Known, broadcast, broadcast_strides, integers, known_integers, one, required, sizes, strides,
};
use super::number::with_width;
use super::{Inputs, OpError};
use crate::info::Info;
use crate::kernels::movement::{Axis, copy};
use crate::output::Output;

fn infer_by_sizes(
    inputs: &Infos<'_>,
    shape: impl Fn(&[usize], &[usize]) -> Result<Vec<usize>, OpError>,
) -> Result<Vec<Info>, OpError> {
    let data = required(inputs, 0)?;
    required(inputs, 1)?;
    let shape = match (&data.shape, known_integers(inputs, 1)?) {
        (Some(data), Known::Now(by)) => Some(shape(data, &sizes(&by)?)?),
        _ => None,
    };
    Ok(one(data.dtype, shape))
}

fn copy_to(
    data: TensorView<'_>,
    shape: &[usize],
    axes: &[Axis],
    output: &mut Output<'_>,
) -> Result<(), OpError> {
    let bytes = output.alloc_bytes(data.dtype(), shape)?;
    with_width!(data.dtype(), T => {
        copy::<T>(bytemuck::cast_slice_mut(bytes), axes, bytemuck::cast_slice(data.bytes()), 0);
    });
    Ok(())
}

pub(super) fn infer_expand(inputs: &Infos<'_>) -> Result<Vec<Info>, OpError> {
    infer_by_sizes(inputs, broadcast)
}

pub(super) fn expand(inputs: &Inputs<'_>, outputs: &mut [Output<'_>]) -> Result<(), OpError> {
    let data = required(inputs, 0)?;
    let target = sizes(&integers(required(inputs, 1)?, 1)?)?;
    let shape = broadcast(data.shape(), &target)?;
    copy_to(data, &shape, &broadcast_axes(data.shape(), &shape), &mut outputs[0])
}

/// The walk over an input that broadcasts to `shape`.
pub(super) fn broadcast_axes(input: &[usize], shape: &[usize]) -> Vec<Axis> {
    let strides = broadcast_strides(input, shape.len());
    shape.iter().zip(strides).map(|(&dim, s)| Axis { dim, stride: s as isize }).collect()
}

fn tiled(data: &[usize], repeats: &[usize]) -> Result<Vec<usize>, OpError> {
    if data.len() != repeats.len() {
        return Err(OpError::Invalid(format!("{} repeats for shape {data:?}", repeats.len())));
    }
    let tiled = data.iter().zip(repeats).map(|(&d, &r)| d.checked_mul(r)).collect::<Option<_>>();
    tiled.ok_or_else(|| OpError::Invalid(format!("shape {data:?} repeated {repeats:?} times is too large")))
}

pub(super) fn infer_tile(inputs: &Infos<'_>) -> Result<Vec<Info>, OpError> {
    infer_by_sizes(inputs, tiled)
}

pub(super) fn tile(inputs: &Inputs<'_>, outputs: &mut [Output<'_>]) -> Result<(), OpError> {
    let data = required(inputs, 0)?;
    let repeats = sizes(&integers(required(inputs, 1)?, 1)?)?;
    let shape = tiled(data.shape(), &repeats)?;
    let strides = strides(data.shape());
    let axes: Vec<Axis> = (0..data.rank())
        .flat_map(|i| {
            let again = Axis { dim: repeats[i], stride: 0 };
            [again, Axis { dim: data.shape()[i], stride: strides[i] as isize }]
        })
        .collect();
    copy_to(data, &shape, &axes, &mut outputs[0])
}
