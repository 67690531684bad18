//! First-order saliency: how much the loss would change, to first order, without a weight.

use rand::rngs::SmallRng;

use super::{Criterion, Layer, OfWeights};
use crate::allocation::Scope;
use crate::gradients::saliency::Gradients;

/// `|w · ∂L/∂w|` with the gradient over all samples, compared within a layer: the layer-wise gradient baseline of Blalock et al.,
/// MLSys 2020, <https://arxiv.org/abs/2003.03033>. For a unit `Σ|w · ∂L/∂w|`: the group Taylor of Fang et al., CVPR 2023.
#[derive(Debug)]
pub struct Gradient;

/// Connection sensitivity: as [`Gradient`], with all layers in one ranking. Lee et al., "SNIP", ICLR 2019,
/// <https://arxiv.org/abs/1810.02340>, who take it before training; also the global gradient baseline of Blalock et al.
#[derive(Debug)]
pub struct Snip;

impl Criterion for Gradient {
    fn name(&self) -> &'static str {
        "gradient"
    }

    fn description(&self) -> &'static str {
        "size of a weight times the gradient of the loss"
    }

    fn of_weights(&self) -> Option<&dyn OfWeights> {
        Some(self)
    }
}

impl OfWeights for Gradient {
    fn gradients(&self) -> Option<Gradients> {
        Some(Gradients::Mean)
    }

    fn elements(&self, layer: &Layer<'_>, _: &mut SmallRng) -> Vec<f32> {
        let mean = &layer.gradients().mean;
        layer.weights.iter().zip(mean).map(|(w, g)| (w * g).abs()).collect()
    }
}

impl Criterion for Snip {
    fn name(&self) -> &'static str {
        "snip"
    }

    fn description(&self) -> &'static str {
        "as gradient; layers compete"
    }

    fn scope(&self) -> Scope {
        Scope::Global
    }

    fn of_weights(&self) -> Option<&dyn OfWeights> {
        Some(&Gradient)
    }
}
