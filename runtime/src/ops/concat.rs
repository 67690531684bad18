//! Concat and Split.

use super::args::{Infos, not_implemented};
use super::{Inputs, OpError};
use crate::info::Info;
use crate::output::Output;

pub(super) fn infer_concat(axis: i64, inputs: &Infos<'_>) -> Result<Vec<Info>, OpError> {
    let _ = (axis, inputs);
    Err(not_implemented("Concat"))
}

pub(super) fn concat(axis: i64, inputs: &Inputs<'_>, outputs: &mut [Output<'_>]) -> Result<(), OpError> {
    let _ = (axis, inputs, outputs);
    Err(not_implemented("Concat"))
}

pub(super) fn infer_split(
    axis: i64,
    num_outputs: Option<usize>,
    inputs: &Infos<'_>,
    outputs: usize,
) -> Result<Vec<Info>, OpError> {
    let _ = (axis, num_outputs, inputs, outputs);
    Err(not_implemented("Split"))
}

pub(super) fn split(
    axis: i64,
    num_outputs: Option<usize>,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    let _ = (axis, num_outputs, inputs, outputs);
    Err(not_implemented("Split"))
}
