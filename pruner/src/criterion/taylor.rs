//! Taylor expansions of the loss about a weight, or about a gate `z = 1` on a unit.
//!
//! `Σ a · ∂L/∂a` over the elements `a` of a unit is `∂L/∂z`; it is the same before and after a rectifier.

use rand::rngs::SmallRng;

use super::{Criterion, Layer, Normalize, OfUnits, OfWeights};
use crate::allocation::Scope;
use crate::gradients::objective::Against;
use crate::gradients::saliency::Gradients;

/// Mean over samples of `|(1/M) Σ a · ∂L/∂a|` over the `M` elements of a unit, divided by the Euclidean norm over the layer.
/// Molchanov et al., ICLR 2017, <https://arxiv.org/abs/1611.06440>.
#[derive(Debug)]
pub struct Taylor2016;

/// `|mean of (1/M) Σ a · ∂L/∂a|` over samples, of which those of either sign cancel, otherwise as [`Taylor2016`]: as
/// Gildenblat coded it, 2017, <https://github.com/jacobgil/pytorch-pruning>.
#[derive(Debug)]
pub struct TaylorSigned;

/// Mean over samples of `(z · ∂L/∂z)²`, of a gate on each unit; of a weight `(w · ∂L/∂w)²`. Molchanov et al., CVPR 2019,
/// <https://arxiv.org/abs/1906.10771>.
#[derive(Debug)]
pub struct TaylorFo;

impl Criterion for Taylor2016 {
    fn name(&self) -> &'static str {
        "taylor-2016"
    }

    fn description(&self) -> &'static str {
        "mean over samples of the size of a unit's activation times gradient; layers compete"
    }

    fn scope(&self) -> Scope {
        Scope::Global
    }

    fn of_units(&self) -> Option<OfUnits<'_>> {
        Some(OfUnits::Gates { against: Against::Noise, score: |gate| gate.size })
    }

    fn normalize(&self) -> Normalize {
        Normalize::L2
    }
}

impl Criterion for TaylorSigned {
    fn name(&self) -> &'static str {
        "taylor-signed"
    }

    fn description(&self) -> &'static str {
        "as taylor-2016, but signs of samples cancel, as Gildenblat coded it; layers compete"
    }

    fn scope(&self) -> Scope {
        Scope::Global
    }

    fn of_units(&self) -> Option<OfUnits<'_>> {
        Some(OfUnits::Gates { against: Against::Zero, score: |gate| gate.mean.abs() })
    }

    fn normalize(&self) -> Normalize {
        Normalize::L2
    }
}

impl Criterion for TaylorFo {
    fn name(&self) -> &'static str {
        "taylor-fo"
    }

    fn description(&self) -> &'static str {
        "mean square of weight, or gate, times gradient; layers compete"
    }

    fn scope(&self) -> Scope {
        Scope::Global
    }

    fn of_weights(&self) -> Option<&dyn OfWeights> {
        Some(self)
    }

    fn of_units(&self) -> Option<OfUnits<'_>> {
        Some(OfUnits::Gates { against: Against::Noise, score: |gate| gate.square })
    }

    fn normalize(&self) -> Normalize {
        Normalize::None
    }
}

impl OfWeights for TaylorFo {
    fn gradients(&self) -> Option<Gradients> {
        Some(Gradients::Squares)
    }

    fn elements(&self, layer: &Layer<'_>, _: &mut SmallRng) -> Vec<f32> {
        let square = &layer.gradients().square;
        layer.weights.iter().zip(square).map(|(w, square)| w * w * square).collect()
    }
}
