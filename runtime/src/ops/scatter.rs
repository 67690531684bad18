//! Writing at computed places: ScatterElements, ScatterND, TensorScatter.

use poda_formats::op::ScatterReduction;

use super::args::{Infos, not_implemented};
use super::{Inputs, OpError};
use crate::info::Info;
use crate::output::Output;

pub(super) fn infer_scatter_elements(
    axis: i64,
    reduction: ScatterReduction,
    inputs: &Infos<'_>,
) -> Result<Vec<Info>, OpError> {
    let _ = (axis, reduction, inputs);
    Err(not_implemented("ScatterElements"))
}

pub(super) fn scatter_elements(
    axis: i64,
    reduction: ScatterReduction,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    let _ = (axis, reduction, inputs, outputs);
    Err(not_implemented("ScatterElements"))
}

pub(super) fn infer_scatter_nd(
    reduction: ScatterReduction,
    inputs: &Infos<'_>,
) -> Result<Vec<Info>, OpError> {
    let _ = (reduction, inputs);
    Err(not_implemented("ScatterND"))
}

pub(super) fn scatter_nd(
    reduction: ScatterReduction,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    let _ = (reduction, inputs, outputs);
    Err(not_implemented("ScatterND"))
}

pub(super) fn infer_tensor_scatter(
    axis: i64,
    circular: bool,
    inputs: &Infos<'_>,
) -> Result<Vec<Info>, OpError> {
    let _ = (axis, circular, inputs);
    Err(not_implemented("TensorScatter"))
}

pub(super) fn tensor_scatter(
    axis: i64,
    circular: bool,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    let _ = (axis, circular, inputs, outputs);
    Err(not_implemented("TensorScatter"))
}
