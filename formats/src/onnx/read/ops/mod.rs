//! From ONNX operators of any version to [`Op`], by family. Each family gives `None` for names that are not its own.

mod convolution;
mod elementwise;
mod generate;
mod microsoft;
mod ml;
mod movement;
mod normalization;
mod quantised;
mod reduction;
mod sampling;
mod sequence;

use super::attributes::Unsupported;
use super::call::Call;
use crate::op::Op;

/// The operator of a node in ONNX's own domain. Inputs are rewritten and helper nodes added where the file's opset has
/// another form than the newest.
pub(super) fn standard(call: &mut Call) -> Result<Op, Unsupported> {
    type Family = fn(&mut Call) -> Result<Option<Op>, Unsupported>;
    const FAMILIES: [Family; 7] = [
        elementwise::read,
        movement::read,
        convolution::read,
        normalization::read,
        reduction::read,
        sampling::read,
        generate::read,
    ];
    for family in FAMILIES {
        if let Some(op) = family(call)? {
            return Ok(op);
        }
    }
    Err(Unsupported::Operator)
}

pub(super) use microsoft::read as microsoft;
pub(super) use ml::read as ml;
pub(super) use sequence::{Sequence, read as sequence};
