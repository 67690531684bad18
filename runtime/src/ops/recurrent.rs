//! LSTM, GRU and RNN.

use poda_formats::op::RecurrentAttributes;

use super::args::{Infos, not_implemented};
use super::{Inputs, OpError};
use crate::info::Info;
use crate::output::Output;

pub(super) fn infer_recurrent(
    attributes: &RecurrentAttributes,
    inputs: &Infos<'_>,
    outputs: usize,
) -> Result<Vec<Info>, OpError> {
    let _ = (attributes, inputs, outputs);
    Err(not_implemented("Recurrent"))
}

pub(super) fn recurrent(
    attributes: &RecurrentAttributes,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    let _ = (attributes, inputs, outputs);
    Err(not_implemented("Recurrent"))
}
