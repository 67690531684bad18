//! Permutations of axes: Transpose, DepthToSpace, SpaceToDepth.

use poda_formats::TensorView;
use poda_formats::op::DepthToSpaceMode;

use super::args::{Infos, one, required, strides};
use super::number::with_width;
use super::{Inputs, OpError};
use crate::info::Info;
use crate::kernels::movement::{Axis, copy};
use crate::output::Output;

/// The permutation for a rank: empty `perm` reverses.
fn permutation(perm: &[usize], rank: usize) -> Result<Vec<usize>, OpError> {
    if perm.is_empty() {
        return Ok((0..rank).rev().collect());
    }
    let mut sorted = perm.to_vec();
    sorted.sort_unstable();
    if sorted.iter().copied().eq(0..rank) {
        Ok(perm.to_vec())
    } else {
        Err(OpError::Invalid(format!("{perm:?} is not a permutation of {rank} axes")))
    }
}

/// Writes `data`, seen with shape `seen` and its axes permuted, as `shape`.
fn permute(
    data: TensorView<'_>,
    seen: &[usize],
    perm: &[usize],
    shape: &[usize],
    output: &mut Output<'_>,
) -> Result<(), OpError> {
    let strides = strides(seen);
    let axes: Vec<Axis> = perm.iter().map(|&p| Axis { dim: seen[p], stride: strides[p] as isize }).collect();
    let bytes = output.alloc_bytes(data.dtype(), shape)?;
    with_width!(data.dtype(), T => {
        copy::<T>(bytemuck::cast_slice_mut(bytes), &axes, bytemuck::cast_slice(data.bytes()), 0);
    });
    Ok(())
}

pub(super) fn infer_transpose(perm: &[usize], inputs: &Infos<'_>) -> Result<Vec<Info>, OpError> {
    let data = required(inputs, 0)?;
    let Some(shape) = &data.shape else { return Ok(one(data.dtype, None)) };
    let perm = permutation(perm, shape.len())?;
    Ok(one(data.dtype, Some(perm.into_iter().map(|p| shape[p]).collect())))
}

pub(super) fn transpose(
    perm: &[usize],
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    let data = required(inputs, 0)?;
    let perm = permutation(perm, data.rank())?;
    let shape: Vec<usize> = perm.iter().map(|&p| data.shape()[p]).collect();
    permute(data, data.shape(), &perm, &shape, &mut outputs[0])
}

/// `[n, c, h, w]` of an image whose channels (or rows and columns) divide into blocks.
fn image(shape: &[usize], block: usize, divides: impl Fn([usize; 4]) -> bool) -> Result<[usize; 4], OpError> {
    match <[usize; 4]>::try_from(shape) {
        Ok(dims) if block > 0 && divides(dims) => Ok(dims),
        _ => {
            let reason = format!("not an image [n, c, h, w] that divides into blocks of {block} × {block}");
            Err(OpError::InputShape { index: 0, shape: shape.to_vec(), reason })
        }
    }
}

fn deep_image(shape: &[usize], block: usize) -> Result<[usize; 4], OpError> {
    image(shape, block, |[_, c, _, _]| block.checked_mul(block).is_some_and(|b| c.is_multiple_of(b)))
}

fn wide_image(shape: &[usize], block: usize) -> Result<[usize; 4], OpError> {
    image(shape, block, |[_, _, h, w]| h.is_multiple_of(block) && w.is_multiple_of(block))
}

fn infer_image(
    inputs: &Infos<'_>,
    shape: impl Fn(&[usize]) -> Result<[usize; 4], OpError>,
) -> Result<Vec<Info>, OpError> {
    let data = required(inputs, 0)?;
    let shape = data.shape.as_ref().map(|data| shape(data).map(Vec::from)).transpose()?;
    Ok(one(data.dtype, shape))
}

pub(super) fn infer_depth_to_space(
    block_size: usize,
    _: DepthToSpaceMode,
    inputs: &Infos<'_>,
) -> Result<Vec<Info>, OpError> {
    infer_image(inputs, |shape| {
        let [n, c, h, w] = deep_image(shape, block_size)?;
        Ok([n, c / (block_size * block_size), h * block_size, w * block_size])
    })
}

pub(super) fn depth_to_space(
    block_size: usize,
    mode: DepthToSpaceMode,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    let data = required(inputs, 0)?;
    let [n, c, h, w] = deep_image(data.shape(), block_size)?;
    let (b, c) = (block_size, c / (block_size * block_size));
    let (seen, perm) = match mode {
        DepthToSpaceMode::DepthColumnRow => ([n, b, b, c, h, w], [0, 3, 4, 1, 5, 2]),
        DepthToSpaceMode::ColumnRowDepth => ([n, c, b, b, h, w], [0, 1, 4, 2, 5, 3]),
    };
    permute(data, &seen, &perm, &[n, c, h * b, w * b], &mut outputs[0])
}

pub(super) fn infer_space_to_depth(block_size: usize, inputs: &Infos<'_>) -> Result<Vec<Info>, OpError> {
    infer_image(inputs, |shape| {
        let [n, c, h, w] = wide_image(shape, block_size)?;
        Ok([n, c * block_size * block_size, h / block_size, w / block_size])
    })
}

pub(super) fn space_to_depth(
    block_size: usize,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    let data = required(inputs, 0)?;
    let [n, c, h, w] = wide_image(data.shape(), block_size)?;
    let (b, h, w) = (block_size, h / block_size, w / block_size);
    permute(data, &[n, c, h, b, w, b], &[0, 3, 5, 1, 2, 4], &[n, c * b * b, h, w], &mut outputs[0])
}
