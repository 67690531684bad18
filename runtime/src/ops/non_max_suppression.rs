//! NonMaxSuppression.

use super::args::{Infos, not_implemented};
use super::{Inputs, OpError};
use crate::info::Info;
use crate::output::Output;

pub(super) fn infer_non_max_suppression(
    center_point_box: bool,
    inputs: &Infos<'_>,
) -> Result<Vec<Info>, OpError> {
    let _ = (center_point_box, inputs);
    Err(not_implemented("NonMaxSuppression"))
}

pub(super) fn non_max_suppression(
    center_point_box: bool,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    let _ = (center_point_box, inputs, outputs);
    Err(not_implemented("NonMaxSuppression"))
}
