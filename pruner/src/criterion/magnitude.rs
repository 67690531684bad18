//! Magnitude: small weights matter least. Blalock et al., MLSys 2020, <https://arxiv.org/abs/2003.03033>; for channels
//! Li et al., ICLR 2017, <https://arxiv.org/abs/1608.08710>.

use rand::rngs::SmallRng;

use super::{Criterion, Layer, OfWeights};

/// `|w|`; for a unit `Σ|w|`.
#[derive(Debug)]
pub struct L1;

/// `w²`; for a unit `√Σw²`. Single weights rank as by [`L1`].
#[derive(Debug)]
pub struct L2;

impl Criterion for L1 {
    fn name(&self) -> &'static str {
        "magnitude-l1"
    }

    fn description(&self) -> &'static str {
        "sum of the absolute values of a unit's weights"
    }

    fn of_weights(&self) -> Option<&dyn OfWeights> {
        Some(self)
    }
}

impl OfWeights for L1 {
    fn elements(&self, layer: &Layer<'_>, _: &mut SmallRng) -> Vec<f32> {
        layer.weights.iter().map(|w| w.abs()).collect()
    }
}

impl Criterion for L2 {
    fn name(&self) -> &'static str {
        "magnitude-l2"
    }

    fn description(&self) -> &'static str {
        "Euclidean norm of a unit's weights"
    }

    fn of_weights(&self) -> Option<&dyn OfWeights> {
        Some(self)
    }
}

impl OfWeights for L2 {
    fn elements(&self, layer: &Layer<'_>, _: &mut SmallRng) -> Vec<f32> {
        layer.weights.iter().map(|w| w * w).collect()
    }

    fn slice(&self, sum: f64, _: &mut SmallRng) -> f64 {
        sum.sqrt()
    }
}
