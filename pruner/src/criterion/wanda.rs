//! Wanda: weights by what they carry. Sun et al., ICLR 2024, <https://arxiv.org/abs/2306.11695>.

use rand::rngs::SmallRng;

use super::{Criterion, Layer, OfWeights};
use crate::allocation::Scope;
use crate::calibration::Needs;

/// `|w| · ‖x‖₂`, compared within each output, as the paper does.
#[derive(Debug)]
pub struct Wanda;

impl Criterion for Wanda {
    fn name(&self) -> &'static str {
        "wanda"
    }

    fn description(&self) -> &'static str {
        "size of a weight times the norm of its input on the data"
    }

    fn scope(&self) -> Scope {
        Scope::Row
    }

    fn of_weights(&self) -> Option<&dyn OfWeights> {
        Some(self)
    }
}

impl OfWeights for Wanda {
    fn needs(&self) -> Needs {
        Needs::Inputs
    }

    fn elements(&self, layer: &Layer<'_>, _: &mut SmallRng) -> Vec<f32> {
        layer.by_input(|w, input| f64::from(w.abs()) * input.square.sqrt())
    }
}
