//! What only the caller can measure of a candidate: it has the data, the metric and the clock.

use poda_formats::Graph;
use serde::{Deserialize, Serialize};

/// Why a candidate cannot be measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum JudgeError {
    #[error("{measure} needs {what}")]
    Needs { what: &'static str, measure: &'static str },
    #[error("the model cannot be measured: {0}")]
    Failed(Box<dyn std::error::Error + Send + Sync>),
}

impl JudgeError {
    /// Whatever went wrong meanwhile.
    pub fn failed(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Failed(error.into())
    }
}

/// How near outputs are to the dense model's, over samples. Of several outputs, the one that is farthest.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Fidelity {
    /// Samples compared.
    pub samples: u64,
    /// Mean over samples of the cosine of both outputs.
    pub mean_cosine: f64,
    /// The least of these cosines.
    pub worst_cosine: f64,
    /// Mean over samples of ‖pruned − dense‖ / ‖dense‖.
    pub relative_error: f64,
    /// Share of samples whose greatest output is the dense model's too: of a classifier, those that keep their class.
    pub agreement: f64,
}

/// How similarities of embeddings go with a reference, pair by pair.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Correlation {
    /// Pairs of samples compared.
    pub pairs: u64,
    /// Pearson's correlation of both similarities.
    pub pearson: f64,
    /// Spearman's: Pearson's of their ranks.
    pub spearman: f64,
}

/// Measures candidates. A function of a graph is a judge of scores alone.
pub trait Judge {
    /// A score on labels, of classes or of pairs of samples; higher is better.
    ///
    /// # Errors
    /// When there are no labels, or the model does not run.
    fn score(&self, graph: &Graph) -> Result<f64, JudgeError>;

    /// How near the outputs are to the dense model's.
    ///
    /// # Errors
    /// When there are no samples, or the model does not run.
    fn fidelity(&self, graph: &Graph) -> Result<Fidelity, JudgeError> {
        let _ = graph;
        Err(JudgeError::Needs { what: "samples", measure: "closeness to the dense model" })
    }

    /// How similarities of embeddings go with those in the data where there are some, else with the dense model's.
    ///
    /// # Errors
    /// When there are no samples, outputs are no embeddings, or the model does not run.
    fn similarity(&self, graph: &Graph) -> Result<Correlation, JudgeError> {
        let _ = graph;
        Err(JudgeError::Needs { what: "samples", measure: "correlation of similarities" })
    }

    /// Median latency of a run on this machine, ms.
    ///
    /// # Errors
    /// When there is no clock to measure it by, or the model does not run.
    fn latency(&self, graph: &Graph) -> Result<f64, JudgeError> {
        let _ = graph;
        Err(JudgeError::Needs { what: "a judge with a clock", measure: "latency" })
    }

    /// How many times faster than the dense model on this machine. Both run in turns: a machine is not now as fast as it was some
    /// candidates ago.
    ///
    /// # Errors
    /// As of [`Judge::latency`].
    fn speedup(&self, graph: &Graph) -> Result<f64, JudgeError> {
        let _ = graph;
        Err(JudgeError::Needs { what: "a judge with a clock", measure: "speedup" })
    }
}

impl<F> Judge for F
where
    F: Fn(&Graph) -> Result<f64, Box<dyn std::error::Error + Send + Sync>>,
{
    fn score(&self, graph: &Graph) -> Result<f64, JudgeError> {
        self(graph).map_err(JudgeError::Failed)
    }
}
