//! Slice and ReverseSequence.

use super::args::{Infos, not_implemented};
use super::{Inputs, OpError};
use crate::info::Info;
use crate::output::Output;

pub(super) fn infer_slice(inputs: &Infos<'_>) -> Result<Vec<Info>, OpError> {
    let _ = inputs;
    Err(not_implemented("Slice"))
}

pub(super) fn slice(inputs: &Inputs<'_>, outputs: &mut [Output<'_>]) -> Result<(), OpError> {
    let _ = (inputs, outputs);
    Err(not_implemented("Slice"))
}

pub(super) fn infer_reverse_sequence(
    batch_axis: i64,
    time_axis: i64,
    inputs: &Infos<'_>,
) -> Result<Vec<Info>, OpError> {
    let _ = (batch_axis, time_axis, inputs);
    Err(not_implemented("ReverseSequence"))
}

pub(super) fn reverse_sequence(
    batch_axis: i64,
    time_axis: i64,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    let _ = (batch_axis, time_axis, inputs, outputs);
    Err(not_implemented("ReverseSequence"))
}
