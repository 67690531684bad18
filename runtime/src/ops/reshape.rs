//! Same elements, another shape: Reshape, Flatten, Squeeze, Unsqueeze, Identity; and what a shape is: Shape, Size.

use super::args::{Infos, not_implemented};
use super::{Inputs, OpError};
use crate::info::Info;
use crate::output::Output;

pub(super) fn infer_reshape(allow_zero: bool, inputs: &Infos<'_>) -> Result<Vec<Info>, OpError> {
    let _ = (allow_zero, inputs);
    Err(not_implemented("Reshape"))
}

pub(super) fn reshape(
    allow_zero: bool,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    let _ = (allow_zero, inputs, outputs);
    Err(not_implemented("Reshape"))
}

pub(super) fn infer_flatten(axis: i64, inputs: &Infos<'_>) -> Result<Vec<Info>, OpError> {
    let _ = (axis, inputs);
    Err(not_implemented("Flatten"))
}

pub(super) fn flatten(axis: i64, inputs: &Inputs<'_>, outputs: &mut [Output<'_>]) -> Result<(), OpError> {
    let _ = (axis, inputs, outputs);
    Err(not_implemented("Flatten"))
}

pub(super) fn infer_squeeze(inputs: &Infos<'_>) -> Result<Vec<Info>, OpError> {
    let _ = inputs;
    Err(not_implemented("Squeeze"))
}

pub(super) fn squeeze(inputs: &Inputs<'_>, outputs: &mut [Output<'_>]) -> Result<(), OpError> {
    let _ = (inputs, outputs);
    Err(not_implemented("Squeeze"))
}

pub(super) fn infer_unsqueeze(inputs: &Infos<'_>) -> Result<Vec<Info>, OpError> {
    let _ = inputs;
    Err(not_implemented("Unsqueeze"))
}

pub(super) fn unsqueeze(inputs: &Inputs<'_>, outputs: &mut [Output<'_>]) -> Result<(), OpError> {
    let _ = (inputs, outputs);
    Err(not_implemented("Unsqueeze"))
}

pub(super) fn infer_identity(inputs: &Infos<'_>) -> Result<Vec<Info>, OpError> {
    let _ = inputs;
    Err(not_implemented("Identity"))
}

pub(super) fn identity(inputs: &Inputs<'_>, outputs: &mut [Output<'_>]) -> Result<(), OpError> {
    let _ = (inputs, outputs);
    Err(not_implemented("Identity"))
}

pub(super) fn infer_shape(start: i64, end: Option<i64>, inputs: &Infos<'_>) -> Result<Vec<Info>, OpError> {
    let _ = (start, end, inputs);
    Err(not_implemented("Shape"))
}

pub(super) fn shape(
    start: i64,
    end: Option<i64>,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    let _ = (start, end, inputs, outputs);
    Err(not_implemented("Shape"))
}

pub(super) fn infer_size(inputs: &Infos<'_>) -> Result<Vec<Info>, OpError> {
    let _ = inputs;
    Err(not_implemented("Size"))
}

pub(super) fn size(inputs: &Inputs<'_>, outputs: &mut [Output<'_>]) -> Result<(), OpError> {
    let _ = (inputs, outputs);
    Err(not_implemented("Size"))
}
