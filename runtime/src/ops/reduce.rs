//! Reductions along axes.

use poda_formats::op::ReduceKind;

use super::args::{Infos, not_implemented};
use super::{Inputs, OpError};
use crate::info::Info;
use crate::output::Output;

pub(super) fn infer_reduce(
    kind: ReduceKind,
    keep_dims: bool,
    noop_with_empty_axes: bool,
    inputs: &Infos<'_>,
) -> Result<Vec<Info>, OpError> {
    let _ = (kind, keep_dims, noop_with_empty_axes, inputs);
    Err(not_implemented("Reduce"))
}

pub(super) fn reduce(
    kind: ReduceKind,
    keep_dims: bool,
    noop_with_empty_axes: bool,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    let _ = (kind, keep_dims, noop_with_empty_axes, inputs, outputs);
    Err(not_implemented("Reduce"))
}
