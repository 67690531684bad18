//! RIA: relative importance and activations. Zhang et al., ICLR 2024, "Plug-and-Play", <https://openreview.net/forum?id=Tr0lPx9woF>.

use rand::rngs::SmallRng;

use super::{Criterion, Layer, OfWeights};
use crate::calibration::Needs;

/// `|w| · (1 / Σ|row| + 1 / Σ|column|) · ‖x‖^½`.
#[derive(Debug)]
pub struct Ria;

impl Criterion for Ria {
    fn name(&self) -> &'static str {
        "ria"
    }

    fn description(&self) -> &'static str {
        "a weight's share of its output and of its input, times the root of the input's norm"
    }

    fn of_weights(&self) -> Option<&dyn OfWeights> {
        Some(self)
    }
}

impl OfWeights for Ria {
    fn needs(&self) -> Needs {
        Needs::Inputs
    }

    fn elements(&self, layer: &Layer<'_>, _: &mut SmallRng) -> Vec<f32> {
        let [rows, cols] = layer.size;
        let (mut of_rows, mut of_cols) = (vec![0.0; rows], vec![0.0; layer.groups() * cols]);
        for (at, &w) in layer.weights.iter().enumerate() {
            let (row, col) = (at / cols, at % cols);
            of_rows[row] += f64::from(w.abs());
            of_cols[layer.group(row) * cols + col] += f64::from(w.abs());
        }
        let scaled = layer.by_input(|w, input| f64::from(w.abs()) * input.square.sqrt().sqrt());
        let relative = |(at, score): (usize, f32)| {
            let (row, col) = (at / cols, at % cols);
            let share = 1.0 / of_rows[row] + 1.0 / of_cols[layer.group(row) * cols + col];
            if score > 0.0 { (f64::from(score) * share) as f32 } else { 0.0 }
        };
        scaled.into_iter().enumerate().map(relative).collect()
    }
}
