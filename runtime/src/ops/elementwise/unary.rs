//! Functions of one input, element by element.

use poda_formats::op::Unary;

use crate::info::Info;
use crate::ops::args::{Infos, not_implemented};
use crate::ops::{Inputs, OpError};
use crate::output::Output;

pub(in crate::ops) fn infer_unary(function: Unary, inputs: &Infos<'_>) -> Result<Vec<Info>, OpError> {
    let _ = (function, inputs);
    Err(not_implemented("Unary"))
}

pub(in crate::ops) fn unary(
    function: Unary,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    let _ = (function, inputs, outputs);
    Err(not_implemented("Unary"))
}
