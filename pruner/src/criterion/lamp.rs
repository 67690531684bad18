//! LAMP: a weight's square as a share of those that would outlive it. Lee et al., ICLR 2021, <https://arxiv.org/abs/2010.07611>.

use rand::rngs::SmallRng;

use super::{Criterion, Layer, OfWeights};
use crate::allocation::Scope;

/// `w² / Σ v²` over the weights `v` of the layer that are not smaller: layers compete.
#[derive(Debug)]
pub struct Lamp;

impl Criterion for Lamp {
    fn name(&self) -> &'static str {
        "lamp"
    }

    fn description(&self) -> &'static str {
        "square of a weight as a share of its layer's that are not smaller; layers compete"
    }

    fn scope(&self) -> Scope {
        Scope::Global
    }

    fn of_weights(&self) -> Option<&dyn OfWeights> {
        Some(self)
    }
}

impl OfWeights for Lamp {
    fn elements(&self, layer: &Layer<'_>, _: &mut SmallRng) -> Vec<f32> {
        let mut order: Vec<usize> = (0..layer.weights.len()).collect();
        order.sort_by(|&a, &b| layer.weights[b].abs().total_cmp(&layer.weights[a].abs()));
        let (mut scores, mut sum) = (vec![0.0; order.len()], 0.0);
        for at in order {
            let square = f64::from(layer.weights[at]).powi(2);
            sum += square;
            scores[at] = if square > 0.0 { (square / sum) as f32 } else { 0.0 };
        }
        scores
    }
}
