//! Training on the dense model's outputs, one piece of the model at a time, once its layers have been pruned and fitted.
//!
//! A layer by itself: AdaPrune, Hubara et al., NeurIPS 2021, <https://arxiv.org/abs/2102.08124>. Submodules, from one residual addition to
//! the next, hold what is nonlinear between their layers, so that these make up for each other: <https://arxiv.org/abs/2510.14444>.
//! What is a submodule the graph says ([`crate::submodule`]); the training is that of [`crate::finetune`].

use super::{Job, UpdateError, WeightUpdate};
use crate::calibration::Needs;
use crate::submodule::Extent;

/// All weights of such a piece together.
#[derive(Debug)]
pub struct Reconstruction(pub Extent);

impl WeightUpdate for Reconstruction {
    fn name(&self) -> &'static str {
        match self.0 {
            Extent::Layer => "adaprune",
            Extent::Submodule => "reconstruction",
        }
    }

    fn description(&self) -> &'static str {
        match self.0 {
            Extent::Layer => "trains each layer to give its dense outputs, after all other updates",
            Extent::Submodule => {
                "trains each submodule (attention, feed-forward, residual block) to give its dense outputs, after all other updates"
            }
        }
    }

    fn needs(&self) -> Needs {
        Needs::Weights
    }

    fn trains(&self) -> Option<Extent> {
        Some(self.0)
    }

    /// Nothing: pieces are trained once all their layers are there.
    fn update(&self, _: &mut Job<'_>) -> Result<(), UpdateError> {
        Ok(())
    }
}
