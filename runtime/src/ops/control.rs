//! Control flow: If and Loop.

use poda_formats::Graph;

use super::args::{Infos, not_implemented};
use super::{Inputs, OpError};
use crate::info::Info;
use crate::output::Output;

pub(super) fn infer_if_else(
    then_branch: &Graph,
    else_branch: &Graph,
    inputs: &Infos<'_>,
    outputs: usize,
) -> Result<Vec<Info>, OpError> {
    let _ = (then_branch, else_branch, inputs, outputs);
    Err(not_implemented("If"))
}

pub(super) fn if_else(
    then_branch: &Graph,
    else_branch: &Graph,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    let _ = (then_branch, else_branch, inputs, outputs);
    Err(not_implemented("If"))
}

pub(super) fn infer_loop_body(
    body: &Graph,
    carried: usize,
    inputs: &Infos<'_>,
    outputs: usize,
) -> Result<Vec<Info>, OpError> {
    let _ = (body, carried, inputs, outputs);
    Err(not_implemented("Loop"))
}

pub(super) fn loop_body(
    body: &Graph,
    carried: usize,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    let _ = (body, carried, inputs, outputs);
    Err(not_implemented("Loop"))
}
