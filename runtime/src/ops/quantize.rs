//! QuantizeLinear, DequantizeLinear and DynamicQuantizeLinear.

use poda_formats::DataType;

use super::args::{Infos, not_implemented};
use super::{Inputs, OpError};
use crate::info::Info;
use crate::output::Output;

pub(super) fn infer_quantize_linear(
    axis: i64,
    block_size: usize,
    saturate: bool,
    to: Option<DataType>,
    inputs: &Infos<'_>,
) -> Result<Vec<Info>, OpError> {
    let _ = (axis, block_size, saturate, to, inputs);
    Err(not_implemented("QuantizeLinear"))
}

pub(super) fn quantize_linear(
    axis: i64,
    block_size: usize,
    saturate: bool,
    to: Option<DataType>,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    let _ = (axis, block_size, saturate, to, inputs, outputs);
    Err(not_implemented("QuantizeLinear"))
}

pub(super) fn infer_dequantize_linear(
    axis: i64,
    block_size: usize,
    inputs: &Infos<'_>,
) -> Result<Vec<Info>, OpError> {
    let _ = (axis, block_size, inputs);
    Err(not_implemented("DequantizeLinear"))
}

pub(super) fn dequantize_linear(
    axis: i64,
    block_size: usize,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    let _ = (axis, block_size, inputs, outputs);
    Err(not_implemented("DequantizeLinear"))
}

pub(super) fn infer_dynamic_quantize_linear(inputs: &Infos<'_>) -> Result<Vec<Info>, OpError> {
    let _ = inputs;
    Err(not_implemented("DynamicQuantizeLinear"))
}

pub(super) fn dynamic_quantize_linear(
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    let _ = (inputs, outputs);
    Err(not_implemented("DynamicQuantizeLinear"))
}
