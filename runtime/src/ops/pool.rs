//! Pooling.

use poda_formats::op::{PoolAttributes, PoolKind};

use super::args::{Infos, not_implemented};
use super::{Inputs, OpError};
use crate::info::Info;
use crate::output::Output;

pub(super) fn infer_pool(
    attributes: &PoolAttributes,
    inputs: &Infos<'_>,
    outputs: usize,
) -> Result<Vec<Info>, OpError> {
    let _ = (attributes, inputs, outputs);
    Err(not_implemented("Pool"))
}

pub(super) fn pool(
    attributes: &PoolAttributes,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    let _ = (attributes, inputs, outputs);
    Err(not_implemented("Pool"))
}

pub(super) fn infer_global_pool(kind: PoolKind, inputs: &Infos<'_>) -> Result<Vec<Info>, OpError> {
    let _ = (kind, inputs);
    Err(not_implemented("GlobalPool"))
}

pub(super) fn global_pool(
    kind: PoolKind,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    let _ = (kind, inputs, outputs);
    Err(not_implemented("GlobalPool"))
}
