//! Weights by what flows through them on average. Blalock et al., MLSys 2020, <https://arxiv.org/abs/2003.03033>: the layer-wise
//! baseline of ShrinkBench.

use rand::rngs::SmallRng;

use super::{Criterion, Layer, OfWeights};
use crate::calibration::Needs;

/// `|w| · E|x|`.
#[derive(Debug)]
pub struct Activation;

impl Criterion for Activation {
    fn name(&self) -> &'static str {
        "activation"
    }

    fn description(&self) -> &'static str {
        "size of a weight times the mean size of its input on the data"
    }

    fn of_weights(&self) -> Option<&dyn OfWeights> {
        Some(self)
    }
}

impl OfWeights for Activation {
    fn needs(&self) -> Needs {
        Needs::Inputs
    }

    fn elements(&self, layer: &Layer<'_>, _: &mut SmallRng) -> Vec<f32> {
        layer.by_input(|w, input| f64::from(w.abs()) * input.absolute)
    }
}
