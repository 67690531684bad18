//! Convolution.

use poda_formats::op::ConvAttributes;

use super::args::{Infos, not_implemented};
use super::{Inputs, OpError};
use crate::info::Info;
use crate::output::Output;

pub(super) fn infer_conv(attributes: &ConvAttributes, inputs: &Infos<'_>) -> Result<Vec<Info>, OpError> {
    let _ = (attributes, inputs);
    Err(not_implemented("Conv"))
}

pub(super) fn conv(
    attributes: &ConvAttributes,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    let _ = (attributes, inputs, outputs);
    Err(not_implemented("Conv"))
}
