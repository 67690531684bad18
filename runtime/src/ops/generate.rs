//! Tensors made from few numbers: ConstantOfShape, Range, OneHot, EyeLike, Trilu.

use poda_formats::DataType;
use poda_formats::op::ScalarValue;

use super::args::{Infos, not_implemented};
use super::{Inputs, OpError};
use crate::info::Info;
use crate::output::Output;

pub(super) fn infer_constant_of_shape(value: ScalarValue, inputs: &Infos<'_>) -> Result<Vec<Info>, OpError> {
    let _ = (value, inputs);
    Err(not_implemented("ConstantOfShape"))
}

pub(super) fn constant_of_shape(
    value: ScalarValue,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    let _ = (value, inputs, outputs);
    Err(not_implemented("ConstantOfShape"))
}

pub(super) fn infer_range(inputs: &Infos<'_>) -> Result<Vec<Info>, OpError> {
    let _ = inputs;
    Err(not_implemented("Range"))
}

pub(super) fn range(inputs: &Inputs<'_>, outputs: &mut [Output<'_>]) -> Result<(), OpError> {
    let _ = (inputs, outputs);
    Err(not_implemented("Range"))
}

pub(super) fn infer_one_hot(axis: i64, inputs: &Infos<'_>) -> Result<Vec<Info>, OpError> {
    let _ = (axis, inputs);
    Err(not_implemented("OneHot"))
}

pub(super) fn one_hot(axis: i64, inputs: &Inputs<'_>, outputs: &mut [Output<'_>]) -> Result<(), OpError> {
    let _ = (axis, inputs, outputs);
    Err(not_implemented("OneHot"))
}

pub(super) fn infer_eye_like(
    dtype: Option<DataType>,
    k: i64,
    inputs: &Infos<'_>,
) -> Result<Vec<Info>, OpError> {
    let _ = (dtype, k, inputs);
    Err(not_implemented("EyeLike"))
}

pub(super) fn eye_like(
    dtype: Option<DataType>,
    k: i64,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    let _ = (dtype, k, inputs, outputs);
    Err(not_implemented("EyeLike"))
}

pub(super) fn infer_trilu(upper: bool, inputs: &Infos<'_>) -> Result<Vec<Info>, OpError> {
    let _ = (upper, inputs);
    Err(not_implemented("Trilu"))
}

pub(super) fn trilu(upper: bool, inputs: &Inputs<'_>, outputs: &mut [Output<'_>]) -> Result<(), OpError> {
    let _ = (upper, inputs, outputs);
    Err(not_implemented("Trilu"))
}
