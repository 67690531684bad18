//! Max, Min, Sum and Mean of one or more inputs, and Clip.

use poda_formats::op::Variadic;

use crate::info::Info;
use crate::ops::args::{Infos, not_implemented};
use crate::ops::{Inputs, OpError};
use crate::output::Output;

pub(in crate::ops) fn infer_variadic(function: Variadic, inputs: &Infos<'_>) -> Result<Vec<Info>, OpError> {
    let _ = (function, inputs);
    Err(not_implemented("Variadic"))
}

pub(in crate::ops) fn variadic(
    function: Variadic,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    let _ = (function, inputs, outputs);
    Err(not_implemented("Variadic"))
}

pub(in crate::ops) fn infer_clip(inputs: &Infos<'_>) -> Result<Vec<Info>, OpError> {
    let _ = inputs;
    Err(not_implemented("Clip"))
}

pub(in crate::ops) fn clip(inputs: &Inputs<'_>, outputs: &mut [Output<'_>]) -> Result<(), OpError> {
    let _ = (inputs, outputs);
    Err(not_implemented("Clip"))
}
