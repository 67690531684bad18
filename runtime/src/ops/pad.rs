//! Pad.

use poda_formats::op::PadMode;

use super::args::{Infos, not_implemented};
use super::{Inputs, OpError};
use crate::info::Info;
use crate::output::Output;

pub(super) fn infer_pad(mode: PadMode, inputs: &Infos<'_>) -> Result<Vec<Info>, OpError> {
    let _ = (mode, inputs);
    Err(not_implemented("Pad"))
}

pub(super) fn pad(mode: PadMode, inputs: &Inputs<'_>, outputs: &mut [Output<'_>]) -> Result<(), OpError> {
    let _ = (mode, inputs, outputs);
    Err(not_implemented("Pad"))
}
