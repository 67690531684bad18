//! Han's threshold: `q · σ` of a layer's weights, with one `q` for the model. Han et al., NIPS 2015,
//! <https://arxiv.org/abs/1506.02626>.

use rand::rngs::SmallRng;

use super::{Criterion, Layer, OfWeights};
use crate::allocation::Scope;

/// `|w| / σ(W)`: layers compete, so that the cut is the `q` that the share asked for takes.
#[derive(Debug)]
pub struct Han;

impl Criterion for Han {
    fn name(&self) -> &'static str {
        "han"
    }

    fn description(&self) -> &'static str {
        "size of a weight in standard deviations of its layer's; layers compete"
    }

    fn scope(&self) -> Scope {
        Scope::Global
    }

    fn of_weights(&self) -> Option<&dyn OfWeights> {
        Some(self)
    }
}

impl OfWeights for Han {
    fn elements(&self, layer: &Layer<'_>, _: &mut SmallRng) -> Vec<f32> {
        let count = layer.weights.len().max(1) as f64;
        let mean = layer.weights.iter().map(|&w| f64::from(w)).sum::<f64>() / count;
        let square = layer.weights.iter().map(|&w| (f64::from(w) - mean).powi(2)).sum::<f64>() / count;
        let scale = if square > 0.0 { 1.0 / square.sqrt() } else { 0.0 };
        layer.weights.iter().map(|w| (f64::from(w.abs()) * scale) as f32).collect()
    }
}
