//! Sampling at computed places: GridSample and RoiAlign.

use poda_formats::op::{GridSampleMode, GridSamplePadding, RoiAlignAttributes};

use super::args::{Infos, not_implemented};
use super::{Inputs, OpError};
use crate::info::Info;
use crate::output::Output;

pub(super) fn infer_grid_sample(
    mode: GridSampleMode,
    padding: GridSamplePadding,
    align_corners: bool,
    inputs: &Infos<'_>,
) -> Result<Vec<Info>, OpError> {
    let _ = (mode, padding, align_corners, inputs);
    Err(not_implemented("GridSample"))
}

pub(super) fn grid_sample(
    mode: GridSampleMode,
    padding: GridSamplePadding,
    align_corners: bool,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    let _ = (mode, padding, align_corners, inputs, outputs);
    Err(not_implemented("GridSample"))
}

pub(super) fn infer_roi_align(
    attributes: &RoiAlignAttributes,
    inputs: &Infos<'_>,
) -> Result<Vec<Info>, OpError> {
    let _ = (attributes, inputs);
    Err(not_implemented("RoiAlign"))
}

pub(super) fn roi_align(
    attributes: &RoiAlignAttributes,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    let _ = (attributes, inputs, outputs);
    Err(not_implemented("RoiAlign"))
}
