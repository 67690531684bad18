//! Outputs whose size depends on the elements: NonZero, Unique, Compress.

use super::args::{Infos, not_implemented};
use super::{Inputs, OpError};
use crate::info::Info;
use crate::output::Output;

pub(super) fn infer_non_zero(inputs: &Infos<'_>) -> Result<Vec<Info>, OpError> {
    let _ = inputs;
    Err(not_implemented("NonZero"))
}

pub(super) fn non_zero(inputs: &Inputs<'_>, outputs: &mut [Output<'_>]) -> Result<(), OpError> {
    let _ = (inputs, outputs);
    Err(not_implemented("NonZero"))
}

pub(super) fn infer_unique(
    axis: Option<i64>,
    sorted: bool,
    inputs: &Infos<'_>,
    outputs: usize,
) -> Result<Vec<Info>, OpError> {
    let _ = (axis, sorted, inputs, outputs);
    Err(not_implemented("Unique"))
}

pub(super) fn unique(
    axis: Option<i64>,
    sorted: bool,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    let _ = (axis, sorted, inputs, outputs);
    Err(not_implemented("Unique"))
}

pub(super) fn infer_compress(axis: Option<i64>, inputs: &Infos<'_>) -> Result<Vec<Info>, OpError> {
    let _ = (axis, inputs);
    Err(not_implemented("Compress"))
}

pub(super) fn compress(
    axis: Option<i64>,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    let _ = (axis, inputs, outputs);
    Err(not_implemented("Compress"))
}
