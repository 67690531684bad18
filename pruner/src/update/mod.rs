//! What becomes of the weights that stay, once others have gone.
//!
//! Updates are applied in the order given, each to what the one before it left. All but a few keep the mask; those that move
//! it keep as many weights, within the [`Freedom`] that the granularity leaves.

mod admm;
mod bias;
mod homeostasis;
mod least_squares;
mod obs;
mod reconstruction;
mod sparse_gpt;
mod swaps;

pub use admm::{Admm, Alps};
pub use bias::Bias;
pub(crate) use bias::BiasPlace;
pub use homeostasis::{Regulation, SignedRegulation, ZeroSum};
pub use least_squares::LeastSquares;
pub(crate) use least_squares::damped;
pub use obs::ExactObs;
pub use reconstruction::Reconstruction;
pub use sparse_gpt::{SparseGpt, SparseGptFixed};
pub use swaps::SparseSwaps;

#[cfg(test)]
use crate::calibration::rows_times;
use crate::calibration::{Needs, Statistics};
use crate::submodule::Extent;

/// A layer while its weights change: the matrix `[outputs, inputs]` of a product.
#[derive(Debug)]
pub struct Job<'a> {
    /// Outputs and inputs.
    pub size: [usize; 2],
    /// The weights before anything went.
    pub dense: &'a [f32],
    /// The weights now; zero where they are not kept.
    pub weights: Vec<f32>,
    /// Which weights stay.
    pub kept: Vec<bool>,
    /// Within what the mask may move.
    pub freedom: Freedom,
    /// Of the layer's inputs; there wherever the update needs more than weights.
    pub statistics: Option<&'a Statistics>,
    /// What is added to the diagonal of a Gram matrix, as a share of its mean.
    pub damping: f64,
}

/// Within what a weight may take another's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freedom {
    /// Its output.
    Row,
    /// Its layer.
    Layer,
    /// Its group of this many inputs of an output.
    Group(usize),
    /// Nothing: blocks stay or go whole.
    None,
}

/// A way to change the weights that stay.
pub trait WeightUpdate: std::fmt::Debug + Sync {
    /// As given on the command line and in recipes.
    fn name(&self) -> &'static str;

    /// One line for help texts.
    fn description(&self) -> &'static str;

    /// What must be known of a layer.
    fn needs(&self) -> Needs;

    /// Whether what lost inputs brought on average goes into the bias.
    fn shifts_bias(&self) -> bool {
        false
    }

    /// What is trained together once every layer has been updated; `None` where nothing is.
    fn trains(&self) -> Option<Extent> {
        None
    }

    /// Changes `job.weights`, and perhaps `job.kept`.
    ///
    /// # Errors
    /// When a system of equations has no solution, or the mask may not move.
    fn update(&self, job: &mut Job<'_>) -> Result<(), UpdateError>;
}

/// Why weights cannot be changed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum UpdateError {
    #[error(
        "the equations for output {row} have no solution, even with {damping:.1e} of the mean on the diagonal"
    )]
    Singular { row: usize, damping: f64 },
    #[error("{update} moves single weights, but blocks stay or go whole")]
    Blocks { update: &'static str },
}

/// Every update.
pub static UPDATES: &[&dyn WeightUpdate] = &[
    &LeastSquares,
    &Bias,
    &SparseSwaps,
    &SparseGpt,
    &SparseGptFixed,
    &Admm,
    &Alps,
    &ExactObs,
    &Regulation,
    &SignedRegulation,
    &ZeroSum,
    &Reconstruction(Extent::Layer),
    &Reconstruction(Extent::Submodule),
];

/// The update with this name.
pub fn find(name: &str) -> Option<&'static dyn WeightUpdate> {
    UPDATES.iter().copied().find(|update| update.name() == name)
}

impl<'a> Job<'a> {
    /// A layer that has lost what is not in `kept`.
    pub fn new(
        size: [usize; 2],
        dense: &'a [f32],
        kept: Vec<bool>,
        freedom: Freedom,
        statistics: Option<&'a Statistics>,
        damping: f64,
    ) -> Self {
        let weights = dense.iter().zip(&kept).map(|(&w, &kept)| if kept { w } else { 0.0 }).collect();
        Self { size, dense, weights, kept, freedom, statistics, damping }
    }

    /// How far the outputs are from those of the dense weights, squared, as a share of the outputs squared.
    /// `None` where the statistics do not tell.
    pub fn error(&self) -> Option<f64> {
        let delta: Vec<f32> = self.dense.iter().zip(&self.weights).map(|(a, b)| a - b).collect();
        let (of_delta, all) = (self.statistics?.squared(&delta)?, self.statistics?.squared(self.dense)?);
        Some(if all > 0.0 { of_delta.max(0.0) / all } else { 0.0 })
    }
}

#[cfg(test)]
mod tests;
