//! Products of quantised tensors: MatMulInteger, ConvInteger, QLinearMatMul, QLinearConv.

use poda_formats::op::ConvAttributes;

use super::args::{Infos, not_implemented};
use super::{Inputs, OpError};
use crate::info::Info;
use crate::output::Output;

pub(super) fn infer_matmul_integer(inputs: &Infos<'_>) -> Result<Vec<Info>, OpError> {
    let _ = inputs;
    Err(not_implemented("MatMulInteger"))
}

pub(super) fn matmul_integer(inputs: &Inputs<'_>, outputs: &mut [Output<'_>]) -> Result<(), OpError> {
    let _ = (inputs, outputs);
    Err(not_implemented("MatMulInteger"))
}

pub(super) fn infer_conv_integer(
    attributes: &ConvAttributes,
    inputs: &Infos<'_>,
) -> Result<Vec<Info>, OpError> {
    let _ = (attributes, inputs);
    Err(not_implemented("ConvInteger"))
}

pub(super) fn conv_integer(
    attributes: &ConvAttributes,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    let _ = (attributes, inputs, outputs);
    Err(not_implemented("ConvInteger"))
}

pub(super) fn infer_qlinear_matmul(inputs: &Infos<'_>) -> Result<Vec<Info>, OpError> {
    let _ = inputs;
    Err(not_implemented("QLinearMatMul"))
}

pub(super) fn qlinear_matmul(inputs: &Inputs<'_>, outputs: &mut [Output<'_>]) -> Result<(), OpError> {
    let _ = (inputs, outputs);
    Err(not_implemented("QLinearMatMul"))
}

pub(super) fn infer_qlinear_conv(
    attributes: &ConvAttributes,
    inputs: &Infos<'_>,
) -> Result<Vec<Info>, OpError> {
    let _ = (attributes, inputs);
    Err(not_implemented("QLinearConv"))
}

pub(super) fn qlinear_conv(
    attributes: &ConvAttributes,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    let _ = (attributes, inputs, outputs);
    Err(not_implemented("QLinearConv"))
}
