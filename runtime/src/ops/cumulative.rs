//! CumSum and CumProd.

use poda_formats::op::CumulativeKind;

use super::args::{Infos, not_implemented};
use super::{Inputs, OpError};
use crate::info::Info;
use crate::output::Output;

pub(super) fn infer_cumulative(
    kind: CumulativeKind,
    exclusive: bool,
    reverse: bool,
    inputs: &Infos<'_>,
) -> Result<Vec<Info>, OpError> {
    let _ = (kind, exclusive, reverse, inputs);
    Err(not_implemented("Cumulative"))
}

pub(super) fn cumulative(
    kind: CumulativeKind,
    exclusive: bool,
    reverse: bool,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    let _ = (kind, exclusive, reverse, inputs, outputs);
    Err(not_implemented("Cumulative"))
}
