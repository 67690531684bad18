//! oBERT: optimal brain surgery with the Fisher information in blocks along the diagonal. Kurtic et al., EMNLP 2022,
//! <https://arxiv.org/abs/2203.07259>.

use rand::rngs::SmallRng;

use super::{Criterion, Layer, OfWeights};
use crate::allocation::Scope;
use crate::gradients::saliency::Gradients;

/// `w² / 2[F⁻¹]`, with `F = λI + mean(g gᵀ)` in blocks of 50 weights in a row.
#[derive(Debug)]
pub struct Obert;

impl Criterion for Obert {
    fn name(&self) -> &'static str {
        "obert"
    }

    fn description(&self) -> &'static str {
        "what the loss loses when the weights beside it make up for a weight; layers compete"
    }

    fn scope(&self) -> Scope {
        Scope::Global
    }

    fn of_weights(&self) -> Option<&dyn OfWeights> {
        Some(self)
    }
}

impl OfWeights for Obert {
    fn gradients(&self) -> Option<Gradients> {
        Some(Gradients::Blocks { size: 50, damping: 1e-7 })
    }

    fn elements(&self, layer: &Layer<'_>, _: &mut SmallRng) -> Vec<f32> {
        let inverse = layer.gradients().inverse.as_deref().expect("blocks were asked for");
        layer.weights.iter().zip(inverse).map(|(w, inverse)| 0.5 * w * w / inverse).collect()
    }
}
