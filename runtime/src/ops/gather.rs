//! Reading at computed places: Gather, GatherElements, GatherND.

use super::args::{Infos, not_implemented};
use super::{Inputs, OpError};
use crate::info::Info;
use crate::output::Output;

pub(super) fn infer_gather(axis: i64, inputs: &Infos<'_>) -> Result<Vec<Info>, OpError> {
    let _ = (axis, inputs);
    Err(not_implemented("Gather"))
}

pub(super) fn gather(axis: i64, inputs: &Inputs<'_>, outputs: &mut [Output<'_>]) -> Result<(), OpError> {
    let _ = (axis, inputs, outputs);
    Err(not_implemented("Gather"))
}

pub(super) fn infer_gather_elements(axis: i64, inputs: &Infos<'_>) -> Result<Vec<Info>, OpError> {
    let _ = (axis, inputs);
    Err(not_implemented("GatherElements"))
}

pub(super) fn gather_elements(
    axis: i64,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    let _ = (axis, inputs, outputs);
    Err(not_implemented("GatherElements"))
}

pub(super) fn infer_gather_nd(batch_dims: usize, inputs: &Infos<'_>) -> Result<Vec<Info>, OpError> {
    let _ = (batch_dims, inputs);
    Err(not_implemented("GatherND"))
}

pub(super) fn gather_nd(
    batch_dims: usize,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    let _ = (batch_dims, inputs, outputs);
    Err(not_implemented("GatherND"))
}
