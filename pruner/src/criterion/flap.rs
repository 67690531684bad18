//! FLAP: how much a unit fluctuates where it is read. An et al., AAAI 2024, <https://arxiv.org/abs/2312.11983>.
//!
//! What a unit is worth on average goes into the bias of the layers that read it (the update `bias`, a default), so that only its
//! variance is lost.

use super::{Criterion, Layer, Normalize, OfMatrices, OfUnits, Side};
use crate::allocation::Scope;
use crate::calibration::Needs;

/// `Σ_j Var(x_j) · ‖W_:j‖₂²` over the inputs `j` that a unit is, standardised within each layer; layers compete.
#[derive(Debug)]
pub struct Flap;

impl Criterion for Flap {
    fn name(&self) -> &'static str {
        "flap"
    }

    fn description(&self) -> &'static str {
        "variance of a unit times the weights that read it, standardised; layers compete"
    }

    fn scope(&self) -> Scope {
        Scope::Global
    }

    fn of_units(&self) -> Option<OfUnits<'_>> {
        Some(OfUnits::Matrices(self))
    }

    fn normalize(&self) -> Normalize {
        Normalize::Standard
    }
}

impl OfMatrices for Flap {
    fn needs(&self) -> Needs {
        Needs::Inputs
    }

    fn side(&self) -> Side {
        Side::Inputs
    }

    fn sets(&self, layer: &Layer<'_>, sets: &[Vec<usize>]) -> Vec<f64> {
        let cols = layer.size[1];
        let lost =
            layer.by_input(|w, input| f64::from(w).powi(2) * (input.square - input.mean.powi(2)).max(0.0));
        let mut of_cols = vec![0.0; cols];
        for row in lost.chunks_exact(cols.max(1)) {
            of_cols.iter_mut().zip(row).for_each(|(sum, &v)| *sum += f64::from(v));
        }
        sets.iter().map(|set| set.iter().map(|&col| of_cols[col]).sum()).collect()
    }
}
