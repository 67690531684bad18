//! Searches and sorts along one axis: ArgMax, ArgMin, TopK.

use poda_formats::op::ArgKind;

use super::args::{Infos, not_implemented};
use super::{Inputs, OpError};
use crate::info::Info;
use crate::output::Output;

pub(super) fn infer_arg_reduce(
    kind: ArgKind,
    axis: i64,
    keep_dims: bool,
    select_last_index: bool,
    inputs: &Infos<'_>,
) -> Result<Vec<Info>, OpError> {
    let _ = (kind, axis, keep_dims, select_last_index, inputs);
    Err(not_implemented("ArgReduce"))
}

pub(super) fn arg_reduce(
    kind: ArgKind,
    axis: i64,
    keep_dims: bool,
    select_last_index: bool,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    let _ = (kind, axis, keep_dims, select_last_index, inputs, outputs);
    Err(not_implemented("ArgReduce"))
}

pub(super) fn infer_top_k(
    axis: i64,
    largest: bool,
    sorted: bool,
    inputs: &Infos<'_>,
) -> Result<Vec<Info>, OpError> {
    let _ = (axis, largest, sorted, inputs);
    Err(not_implemented("TopK"))
}

pub(super) fn top_k(
    axis: i64,
    largest: bool,
    sorted: bool,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    let _ = (axis, largest, sorted, inputs, outputs);
    Err(not_implemented("TopK"))
}
