//! Where.

use crate::info::Info;
use crate::ops::args::{Infos, not_implemented};
use crate::ops::{Inputs, OpError};
use crate::output::Output;

pub(in crate::ops) fn infer_choose(inputs: &Infos<'_>) -> Result<Vec<Info>, OpError> {
    let _ = inputs;
    Err(not_implemented("Where"))
}

pub(in crate::ops) fn choose(inputs: &Inputs<'_>, outputs: &mut [Output<'_>]) -> Result<(), OpError> {
    let _ = (inputs, outputs);
    Err(not_implemented("Where"))
}
