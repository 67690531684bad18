//! Random: the baseline that every other criterion must beat.

use rand::RngExt;
use rand::rngs::SmallRng;

use super::{Criterion, Layer, OfWeights};

/// Uniform in 0..1, for weights and for units.
#[derive(Debug)]
pub struct Random;

impl Criterion for Random {
    fn name(&self) -> &'static str {
        "random"
    }

    fn description(&self) -> &'static str {
        "uniformly random, from the seed: the baseline"
    }

    fn of_weights(&self) -> Option<&dyn OfWeights> {
        Some(self)
    }
}

impl OfWeights for Random {
    fn elements(&self, layer: &Layer<'_>, random: &mut SmallRng) -> Vec<f32> {
        layer.weights.iter().map(|_| random.random()).collect()
    }

    fn slice(&self, _: f64, random: &mut SmallRng) -> f64 {
        random.random()
    }
}
