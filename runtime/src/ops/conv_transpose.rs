//! Transposed convolution.

use poda_formats::op::ConvAttributes;

use super::args::{Infos, not_implemented};
use super::{Inputs, OpError};
use crate::info::Info;
use crate::output::Output;

pub(super) fn infer_conv_transpose(
    attributes: &ConvAttributes,
    output_padding: &[usize],
    output_shape: &[usize],
    inputs: &Infos<'_>,
) -> Result<Vec<Info>, OpError> {
    let _ = (attributes, output_padding, output_shape, inputs);
    Err(not_implemented("ConvTranspose"))
}

pub(super) fn conv_transpose(
    attributes: &ConvAttributes,
    output_padding: &[usize],
    output_shape: &[usize],
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    let _ = (attributes, output_padding, output_shape, inputs, outputs);
    Err(not_implemented("ConvTranspose"))
}
