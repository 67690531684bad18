//! Optimal brain damage. LeCun, Denker and Solla, NIPS 1989.

use rand::rngs::SmallRng;

use super::{Criterion, Layer, OfWeights};
use crate::allocation::Scope;
use crate::gradients::saliency::Gradients;

/// `½ h w²`, with the mean square of the gradient for the curvature `h`. For a unit the sum: the group Hessian of Fang et al.,
/// CVPR 2023, <https://arxiv.org/abs/2301.12900>.
#[derive(Debug)]
pub struct Obd;

impl Criterion for Obd {
    fn name(&self) -> &'static str {
        "obd"
    }

    fn description(&self) -> &'static str {
        "square of a weight times the loss's curvature along it; layers compete"
    }

    fn scope(&self) -> Scope {
        Scope::Global
    }

    fn of_weights(&self) -> Option<&dyn OfWeights> {
        Some(self)
    }
}

impl OfWeights for Obd {
    fn gradients(&self) -> Option<Gradients> {
        Some(Gradients::Squares)
    }

    fn elements(&self, layer: &Layer<'_>, _: &mut SmallRng) -> Vec<f32> {
        let square = &layer.gradients().square;
        layer.weights.iter().zip(square).map(|(w, h)| 0.5 * w * w * h).collect()
    }
}
