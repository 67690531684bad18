//! Resize.

use poda_formats::op::ResizeAttributes;

use super::args::{Infos, not_implemented};
use super::{Inputs, OpError};
use crate::info::Info;
use crate::output::Output;

pub(super) fn infer_resize(attributes: &ResizeAttributes, inputs: &Infos<'_>) -> Result<Vec<Info>, OpError> {
    let _ = (attributes, inputs);
    Err(not_implemented("Resize"))
}

pub(super) fn resize(
    attributes: &ResizeAttributes,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    let _ = (attributes, inputs, outputs);
    Err(not_implemented("Resize"))
}
