//! Filters near the geometric median: what the others can stand in for. He et al., "FPGM", CVPR 2019,
//! <https://arxiv.org/abs/1811.00250>.

use super::{Criterion, Layer, OfMatrices, OfUnits, Side};

/// `Σ_j ‖F_i − F_j‖₂` over the units `j` that the same matrix makes.
#[derive(Debug)]
pub struct Fpgm;

impl Criterion for Fpgm {
    fn name(&self) -> &'static str {
        "fpgm"
    }

    fn description(&self) -> &'static str {
        "sum of the distances of a unit's weights from the other units'"
    }

    fn of_units(&self) -> Option<OfUnits<'_>> {
        Some(OfUnits::Matrices(self))
    }
}

impl OfMatrices for Fpgm {
    fn side(&self) -> Side {
        Side::Outputs
    }

    fn sets(&self, layer: &Layer<'_>, sets: &[Vec<usize>]) -> Vec<f64> {
        let cols = layer.size[1];
        let row = |row: usize| &layer.weights[row * cols..][..cols];
        // Units have as many rows each, in the same order.
        let square = |a: &[usize], b: &[usize]| -> f64 {
            let pairs = a.iter().zip(b).flat_map(|(&a, &b)| row(a).iter().zip(row(b)));
            pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum()
        };
        let mut all = vec![0.0; sets.len()];
        for (i, a) in sets.iter().enumerate() {
            for (j, b) in sets.iter().enumerate().skip(i + 1) {
                let distance = square(a, b).sqrt();
                all[i] += distance;
                all[j] += distance;
            }
        }
        all
    }
}
