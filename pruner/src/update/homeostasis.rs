//! Neuronal regulation and zero sums: what neurons do when synapses go. Chechik, Meilijson & Ruppin, Neural Computation 10, 1998,
//! and 13, 2001.
//!
//! Regulation scales what is left of a neuron's inputs so that its mean field `F = Σ |w| E|x|` stays; by signs, so that the
//! fields of exciting and of inhibiting inputs stay each. Zero sums take the mean of what is left from each weight.

use super::{Job, UpdateError, WeightUpdate};
use crate::calibration::Needs;

/// `w ← w · F_dense / F`.
#[derive(Debug)]
pub struct Regulation;

/// The same for positive and negative weights each.
#[derive(Debug)]
pub struct SignedRegulation;

/// `w ← w − mean of an output's weights that stay`.
#[derive(Debug)]
pub struct ZeroSum;

impl WeightUpdate for Regulation {
    fn name(&self) -> &'static str {
        "regulation"
    }

    fn description(&self) -> &'static str {
        "scales what is left of an output so that its mean input stays"
    }

    fn needs(&self) -> Needs {
        Needs::Inputs
    }

    fn update(&self, job: &mut Job<'_>) -> Result<(), UpdateError> {
        regulate(job, |_| true);
        Ok(())
    }
}

impl WeightUpdate for SignedRegulation {
    fn name(&self) -> &'static str {
        "signed-regulation"
    }

    fn description(&self) -> &'static str {
        "as regulation, for positive and negative weights each"
    }

    fn needs(&self) -> Needs {
        Needs::Inputs
    }

    fn update(&self, job: &mut Job<'_>) -> Result<(), UpdateError> {
        regulate(job, |w| w > 0.0);
        regulate(job, |w| w < 0.0);
        Ok(())
    }
}

/// Scales the weights of each output that are of a kind.
fn regulate(job: &mut Job<'_>, of_kind: impl Fn(f32) -> bool) {
    let statistics = job.statistics.expect("what an update needs");
    let [rows, cols] = job.size;
    let all = job.weights.chunks_exact_mut(cols.max(1)).zip(job.dense.chunks_exact(cols.max(1)));
    for (row, (weights, dense)) in all.enumerate() {
        let inputs = &statistics.fitted.absolutes[statistics.group(row, rows) * cols..][..cols];
        let field = |weights: &[f32]| -> f64 {
            let fields = weights.iter().zip(inputs).filter(|(w, _)| of_kind(**w));
            fields.map(|(&w, x)| f64::from(w.abs()) * x).sum()
        };
        let (was, is) = (field(dense), field(weights));
        if is > 0.0 {
            let factor = (was / is) as f32;
            weights.iter_mut().filter(|w| of_kind(**w)).for_each(|w| *w *= factor);
        }
    }
}

impl WeightUpdate for ZeroSum {
    fn name(&self) -> &'static str {
        "zero-sum"
    }

    fn description(&self) -> &'static str {
        "takes the mean of what is left of an output from each weight"
    }

    fn needs(&self) -> Needs {
        Needs::Weights
    }

    fn update(&self, job: &mut Job<'_>) -> Result<(), UpdateError> {
        let cols = job.size[1].max(1);
        for (weights, kept) in job.weights.chunks_exact_mut(cols).zip(job.kept.chunks_exact(cols)) {
            let count = kept.iter().filter(|&&kept| kept).count().max(1);
            let mean = weights.iter().map(|&w| f64::from(w)).sum::<f64>() / count as f64;
            let staying = weights.iter_mut().zip(kept).filter(|(_, kept)| **kept);
            staying.for_each(|(w, _)| *w -= mean as f32);
        }
        Ok(())
    }
}
