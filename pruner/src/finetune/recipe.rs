//! Fine-tuning as recipes and flags say it.

use serde::{Deserialize, Serialize};

use super::{FineTuneError, Optimizer, Options, Rate, RateShape};
use crate::gradients::loss::Loss;

/// A fine-tuning, described. Every field has a default.
///
/// ```toml
/// epochs = 3
/// rate = 0.001
/// teacher = true
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FineTuning {
    /// Passes over the samples.
    pub epochs: u64,
    /// Samples in a step.
    pub batch: usize,
    /// How gradients change weights.
    pub optimizer: OptimizerName,
    /// Greatest learning rate; by default 0.0003 with AdamW, 0.01 with SGD.
    pub rate: Option<f64>,
    /// How the rate falls after the warm-up.
    pub schedule: RateShape,
    /// Share of the run over which the rate rises from 0.
    pub warm_up: f64,
    /// Share of the weights that goes in each step, times the rate.
    pub weight_decay: f64,
    /// Greatest norm of all gradients together; longer ones are shortened to it.
    pub clip: Option<f64>,
    /// Penalty on absolute values of weights.
    pub l1: f64,
    /// Weights whose names fit stay as they are.
    pub freeze: Vec<String>,
    /// Batch normalisation keeps the statistics that it has.
    pub keep_statistics: bool,
    /// Of the order of samples.
    pub seed: u64,
    /// Share of the samples kept aside for validation, where there are no others for that; 0 for none.
    pub hold_out: f64,
    /// Value that holds the scores of classes, where the first output that could is another.
    pub scores: Option<String>,
    /// Learn from the outputs of the dense model.
    pub teacher: bool,
    /// How outputs are held against the teacher's.
    pub distill: Distillation,
    /// Of the softmax in [`Distillation::Kl`].
    pub temperature: f64,
    /// Inner values that are held against the teacher's of the same name.
    pub hidden: Vec<String>,
}

/// An [`Optimizer`] by name, with its usual constants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerName {
    /// [`Optimizer::ADAMW`]
    Adamw,
    /// [`Optimizer::SGD`]
    Sgd,
}

/// How outputs are held against a teacher's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Distillation {
    /// Mean squared difference.
    Mse,
    /// KL divergence of their softmax.
    Kl,
    /// One less the cosine.
    Cosine,
}

impl Default for FineTuning {
    fn default() -> Self {
        Self {
            epochs: 5,
            batch: 32,
            optimizer: OptimizerName::Adamw,
            rate: None,
            schedule: RateShape::Cosine,
            warm_up: 0.05,
            weight_decay: 0.0,
            clip: None,
            l1: 0.0,
            freeze: Vec::new(),
            keep_statistics: false,
            seed: 0,
            hold_out: 0.1,
            scores: None,
            teacher: false,
            distill: Distillation::Mse,
            temperature: 2.0,
            hidden: Vec::new(),
        }
    }
}

impl FineTuning {
    /// What [`finetune`](super::finetune()) takes.
    pub fn options(&self, threads: Option<usize>) -> Options {
        let (optimizer, usual) = match self.optimizer {
            OptimizerName::Adamw => (Optimizer::ADAMW, 3e-4),
            OptimizerName::Sgd => (Optimizer::SGD, 1e-2),
        };
        Options {
            epochs: self.epochs,
            batch: self.batch,
            optimizer: optimizer.with_weight_decay(self.weight_decay as f32),
            rate: Rate {
                peak: self.rate.unwrap_or(usual) as f32,
                shape: self.schedule,
                warm_up: self.warm_up,
            },
            clip: self.clip.map(|clip| clip as f32),
            l1: self.l1 as f32,
            seed: self.seed,
            freeze: self.freeze.clone(),
            batch_statistics: !self.keep_statistics,
            threads,
        }
    }

    /// The loss against a teacher.
    pub fn distillation(&self) -> Loss {
        match self.distill {
            Distillation::Mse => Loss::Mse,
            Distillation::Kl => Loss::Kl { temperature: self.temperature as f32 },
            Distillation::Cosine => Loss::Cosine,
        }
    }

    /// Checks what can be checked without a model.
    ///
    /// # Errors
    /// The first value that is out of range.
    pub fn validate(&self) -> Result<(), FineTuneError> {
        if !(0.0..1.0).contains(&self.hold_out) {
            return Err(FineTuneError::Options("hold_out is a share of the samples, from 0 to less than 1"));
        }
        if !self.temperature.is_finite() || self.temperature <= 0.0 {
            return Err(FineTuneError::Options("the temperature must be greater than 0"));
        }
        super::check_options(&self.options(None))
    }
}
