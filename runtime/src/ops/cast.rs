//! Conversions between element types: Cast and CastLike.

use poda_formats::DataType;

use super::args::{Infos, not_implemented};
use super::{Inputs, OpError};
use crate::info::Info;
use crate::output::Output;

pub(super) fn infer_cast(to: DataType, inputs: &Infos<'_>) -> Result<Vec<Info>, OpError> {
    let _ = (to, inputs);
    Err(not_implemented("Cast"))
}

pub(super) fn cast(to: DataType, inputs: &Inputs<'_>, outputs: &mut [Output<'_>]) -> Result<(), OpError> {
    let _ = (to, inputs, outputs);
    Err(not_implemented("Cast"))
}

pub(super) fn infer_cast_like(inputs: &Infos<'_>) -> Result<Vec<Info>, OpError> {
    let _ = inputs;
    Err(not_implemented("CastLike"))
}

pub(super) fn cast_like(inputs: &Inputs<'_>, outputs: &mut [Output<'_>]) -> Result<(), OpError> {
    let _ = (inputs, outputs);
    Err(not_implemented("CastLike"))
}
