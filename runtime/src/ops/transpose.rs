//! Permutations of axes: Transpose, DepthToSpace, SpaceToDepth.

use poda_formats::op::DepthToSpaceMode;

use super::args::{Infos, not_implemented};
use super::{Inputs, OpError};
use crate::info::Info;
use crate::output::Output;

pub(super) fn infer_transpose(perm: &[usize], inputs: &Infos<'_>) -> Result<Vec<Info>, OpError> {
    let _ = (perm, inputs);
    Err(not_implemented("Transpose"))
}

pub(super) fn transpose(
    perm: &[usize],
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    let _ = (perm, inputs, outputs);
    Err(not_implemented("Transpose"))
}

pub(super) fn infer_depth_to_space(
    block_size: usize,
    mode: DepthToSpaceMode,
    inputs: &Infos<'_>,
) -> Result<Vec<Info>, OpError> {
    let _ = (block_size, mode, inputs);
    Err(not_implemented("DepthToSpace"))
}

pub(super) fn depth_to_space(
    block_size: usize,
    mode: DepthToSpaceMode,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    let _ = (block_size, mode, inputs, outputs);
    Err(not_implemented("DepthToSpace"))
}

pub(super) fn infer_space_to_depth(block_size: usize, inputs: &Infos<'_>) -> Result<Vec<Info>, OpError> {
    let _ = (block_size, inputs);
    Err(not_implemented("SpaceToDepth"))
}

pub(super) fn space_to_depth(
    block_size: usize,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    let _ = (block_size, inputs, outputs);
    Err(not_implemented("SpaceToDepth"))
}
