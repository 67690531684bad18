//! Einsum.

use super::args::{Infos, not_implemented};
use super::{Inputs, OpError};
use crate::info::Info;
use crate::output::Output;

pub(super) fn infer_einsum(equation: &str, inputs: &Infos<'_>) -> Result<Vec<Info>, OpError> {
    let _ = (equation, inputs);
    Err(not_implemented("Einsum"))
}

pub(super) fn einsum(equation: &str, inputs: &Inputs<'_>, outputs: &mut [Output<'_>]) -> Result<(), OpError> {
    let _ = (equation, inputs, outputs);
    Err(not_implemented("Einsum"))
}
