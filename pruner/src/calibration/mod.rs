//! Statistics of what flows through a model, from unlabelled samples.
//!
//! [`Samples`] come in batches and stream through the model part by part ([`Stream`]), on the activations of the already
//! pruned prefix, so that memory holds the statistics of one layer and little more. What a layer's weights are multiplied with
//! ([`inputs`]) is summed up in [`Statistics`]; a tenth of the samples is kept aside, to say how well weights do on what they
//! were not fitted to.

pub mod inputs;
mod statistics;
mod stream;
#[cfg(test)]
pub(crate) mod testing;

pub use inputs::{Rows, Use, uses};
#[cfg(test)]
pub(crate) use statistics::squared;
pub use statistics::{Collector, Moments, Statistics, Twin};
pub(crate) use statistics::{inner, rows_times, rows_times_transposed};
pub(crate) use stream::part;
pub use stream::{Lane, Shown, Stream, run};

use poda_formats::Tensor;
use poda_runtime::ops::OpError;

use crate::check::Failure;
use crate::criterion::float_values;

/// What a model is fed, by name.
pub type Feeds = Vec<(String, Tensor)>;

/// An error of whoever gives the samples.
pub type SamplesError = Box<dyn std::error::Error + Send + Sync>;

/// Unlabelled samples, in batches that the model takes. Each batch may be asked for several times.
pub trait Samples {
    /// How many batches there are.
    fn batches(&self) -> usize;

    /// What the model is fed for one.
    ///
    /// # Errors
    /// When it cannot be read.
    fn feeds(&self, batch: usize) -> Result<Feeds, SamplesError>;

    /// Whether a batch is kept aside, to be judged by.
    fn held_out(&self, batch: usize) -> bool;

    /// The samples of a batch, `size` at a time where the model leaves that open, with their labels where there are some. Who
    /// cannot take a batch apart gives it whole.
    ///
    /// # Errors
    /// When they cannot be read.
    fn examples(&self, batch: usize, size: usize) -> Result<Vec<Example>, SamplesError> {
        let _ = size;
        Ok(vec![Example { feeds: self.feeds(batch)?, labels: None }])
    }
}

/// Samples that the model takes together.
#[derive(Debug, Clone)]
pub struct Example {
    /// What the model is fed.
    pub feeds: Feeds,
    /// Class numbers i64 `[samples]`.
    pub labels: Option<Tensor>,
}

/// Every example of `size` samples that are not kept aside, with its number.
pub(crate) fn each_example<E: From<CalibrationError>>(
    samples: &dyn Samples,
    size: usize,
    visit: &mut dyn FnMut(usize, Example) -> Result<(), E>,
) -> Result<(), E> {
    let mut number = 0;
    for batch in (0..samples.batches()).filter(|&batch| !samples.held_out(batch)) {
        for example in samples.examples(batch, size).map_err(CalibrationError::Samples)? {
            all_finite(&example.feeds, batch)?;
            visit(number, example)?;
            number += 1;
        }
    }
    if number == 0 { Err(CalibrationError::Empty.into()) } else { Ok(()) }
}

/// What is to be known of a layer, from least to most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Needs {
    /// Its weights.
    #[default]
    Weights,
    /// Norms and means of its inputs.
    Inputs,
    /// The Gram matrix of its inputs.
    Gram,
}

/// Why samples give no statistics.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum CalibrationError {
    #[error("calibration data: {0}")]
    Samples(SamplesError),
    #[error("calibration data: no samples to fit weights to")]
    Empty,
    #[error("calibration data: nothing for input {name:?}")]
    NoInput { name: String },
    #[error(
        "calibration data: batch {batch} of input {name:?} has {count} NaN or infinite elements of {len}"
    )]
    NotFinite { name: String, batch: usize, count: usize, len: usize },
    #[error(
        "the inputs of weight {weight:?} are not finite on the calibration data; leave it alone (exclude), or mend the model"
    )]
    Infinite { weight: String },
    #[error(
        "what weight {weight:?} is multiplied with is no matrix of floats with as many inputs; leave it alone (exclude)"
    )]
    Rows { weight: String },
    #[error(
        "what weight {weight:?} is multiplied with has other sizes in the pruned model than in the dense one; fit it to its own inputs (--inputs pruned), or leave it alone (exclude)"
    )]
    Sizes { weight: String },
    #[error("value {name:?} does not arise when the model runs; please report this model")]
    NoValue { name: String },
    #[error("the model does not run on the calibration data: {failure}")]
    Run { failure: Failure },
    #[error("weight {weight:?} does not take what it is fed: {source}")]
    Product { weight: String, source: OpError },
}

/// Refuses NaN and infinities.
fn all_finite(feeds: &Feeds, batch: usize) -> Result<(), CalibrationError> {
    for (name, tensor) in feeds {
        let Some(values) = float_values(tensor) else { continue };
        let count = values.iter().filter(|v| !v.is_finite()).count();
        if count > 0 {
            return Err(CalibrationError::NotFinite { name: name.clone(), batch, count, len: values.len() });
        }
    }
    Ok(())
}
