//! Functions of two inputs, with broadcasting.

use poda_formats::op::Binary;

use crate::info::Info;
use crate::ops::args::{Infos, not_implemented};
use crate::ops::{Inputs, OpError};
use crate::output::Output;

pub(in crate::ops) fn infer_binary(function: Binary, inputs: &Infos<'_>) -> Result<Vec<Info>, OpError> {
    let _ = (function, inputs);
    Err(not_implemented("Binary"))
}

pub(in crate::ops) fn binary(
    function: Binary,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    let _ = (function, inputs, outputs);
    Err(not_implemented("Binary"))
}
