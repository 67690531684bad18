//! Softmax, LogSoftmax and Hardmax.

use poda_formats::op::SoftmaxKind;

use super::args::{Infos, not_implemented};
use super::{Inputs, OpError};
use crate::info::Info;
use crate::output::Output;

pub(super) fn infer_softmax(kind: SoftmaxKind, axis: i64, inputs: &Infos<'_>) -> Result<Vec<Info>, OpError> {
    let _ = (kind, axis, inputs);
    Err(not_implemented("Softmax"))
}

pub(super) fn softmax(
    kind: SoftmaxKind,
    axis: i64,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    let _ = (kind, axis, inputs, outputs);
    Err(not_implemented("Softmax"))
}
