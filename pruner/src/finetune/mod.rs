//! Fine-tuning: gradient descent on what pruning left, with its zeros kept.
//!
//! [`finetune`] runs epochs of mini-batches through the ordinary executor ([`crate::gradients`]). Zeros of weights with two
//! axes or more are the mask and stay zero after every step; biases are free. Batch normalisation uses the statistics of its
//! batch in training; those of inference are estimated again from training samples before each validation. The state that
//! scored best on validation is what comes out.
//!
//! A run with a [`Checkpoint`] writes its state now and then and continues from it, to the same bits as one that was never
//! interrupted: samples are shuffled by seed and epoch, kernels chosen by rule, sums made in a fixed order.

mod checkpoint;
mod optimizer;
pub(crate) mod part;
mod rate;
mod recipe;
mod state;
mod statistics;
pub(crate) mod step;
#[cfg(test)]
pub(crate) mod tests;

use std::ops::ControlFlow;
use std::path::PathBuf;

use poda_formats::safetensors::SafeTensorsError;
use poda_formats::{Graph, GraphError, Tensor, ValueId};
use poda_runtime::{PrepareError, RunError};
use serde::{Deserialize, Serialize};

use crate::gradients::GradientError;
use crate::gradients::loss::Loss;
use crate::names::{self, NamesError};
use crate::quantised;

pub use checkpoint::Checkpoint;
pub use optimizer::Optimizer;
pub use rate::{Rate, RateShape};
pub use recipe::{Distillation, FineTuning, OptimizerName};
use state::State;
pub(crate) use state::candidates;
pub use state::shuffled;
use step::Step;

/// How to fine-tune.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Options {
    /// Passes over the samples.
    pub epochs: u64,
    /// Samples in a step.
    pub batch: usize,
    /// How gradients change weights.
    pub optimizer: Optimizer,
    /// How fast.
    pub rate: Rate,
    /// Greatest norm of all gradients together; longer ones are shortened to it.
    pub clip: Option<f32>,
    /// Penalty on absolute values of weights with two axes or more.
    pub l1: f32,
    /// Of the order of samples.
    pub seed: u64,
    /// Weights whose names fit stay as they are; see [`crate::names`].
    pub freeze: Vec<String>,
    /// Whether batch normalisation takes its statistics from the batch while training.
    pub batch_statistics: bool,
    /// Threads; `None` follows the CPUs that the process may use.
    pub threads: Option<usize>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            epochs: 5,
            batch: 32,
            optimizer: Optimizer::ADAMW,
            rate: Rate { peak: 1e-3, shape: RateShape::Cosine, warm_up: 0.05 },
            clip: None,
            l1: 0.0,
            seed: 0,
            freeze: Vec::new(),
            batch_statistics: true,
            threads: None,
        }
    }
}

/// A part of the loss: an output, or any value of the graph, held against a target of each [`Batch`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Term {
    /// How they are compared.
    pub loss: Loss,
    /// The value.
    pub output: ValueId,
    /// What the loss is multiplied by.
    pub factor: f32,
}

/// Samples for one step.
#[derive(Debug, Clone)]
pub struct Batch {
    /// What the model is fed, by name.
    pub feeds: Vec<(String, Tensor)>,
    /// One for each [`Term`].
    pub targets: Vec<Tensor>,
}

/// Whatever goes wrong with samples.
pub type DataError = Box<dyn std::error::Error + Send + Sync>;

/// Scores a model on samples that it is not trained on; higher is better.
pub type Validation<'a> = &'a dyn Fn(&Graph) -> Result<f64, DataError>;

/// Training samples.
pub trait Data {
    /// How many there are.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Those with these numbers.
    ///
    /// # Errors
    /// When they cannot be had.
    fn batch(&self, samples: &[usize]) -> Result<Batch, DataError>;
}

/// How far a run is, after a step or an epoch.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Progress {
    /// Steps done.
    pub step: u64,
    /// Steps in all.
    pub steps: u64,
    /// Epochs done.
    pub epoch: u64,
    /// Mean loss: of the epoch so far, or of the whole epoch that has ended.
    pub loss: f64,
    /// The learning rate.
    pub rate: f32,
    /// Validation score, where an epoch has ended.
    pub score: Option<f64>,
    /// The best so far.
    pub best: Option<f64>,
}

/// What an epoch came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Epoch {
    /// Mean loss over its steps.
    pub loss: f64,
    /// Validation score after it.
    pub score: Option<f64>,
}

/// What a run did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Names of the weights that were trained.
    pub trained: Vec<String>,
    /// Elements that were trained, without those that stay zero.
    pub parameters: usize,
    /// Elements that stay zero.
    pub zeros: usize,
    /// Score before.
    pub before: Option<f64>,
    /// The best score, which is that of the result.
    pub best: Option<f64>,
    /// The epoch after which it was best; 0 before the first.
    pub best_epoch: u64,
    /// Every epoch.
    pub epochs: Vec<Epoch>,
    /// The step at which an earlier run was continued.
    pub resumed: Option<u64>,
    /// Why it ended early.
    pub stopped: Option<String>,
    /// What whoever reads it should know.
    #[serde(default)]
    pub notes: Vec<String>,
}

impl Report {
    /// Whether there were epochs, and the start scored as well as the best of them: then it is the result.
    pub fn kept_start(&self) -> bool {
        self.before.is_some() && self.best_epoch == 0 && !self.epochs.is_empty()
    }
}

/// Why a model cannot be fine-tuned.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum FineTuneError {
    #[error("there is nothing to hold outputs against")]
    NoLoss,
    #[error("there are no samples")]
    NoSamples,
    #[error("{0}")]
    Options(&'static str),
    #[error("no weight is trained: {reason}")]
    NoWeights { reason: String },
    #[error("weight {name:?} holds numbers that are none (NaN or infinity)")]
    NotFinite { name: String },
    #[error(
        "the loss is {loss} at step {step}, before any epoch has ended: try a lower rate than {rate}, or look for \
         numbers in the samples that are none"
    )]
    Diverged { loss: f32, step: u64, rate: f32 },
    #[error(
        "{path:?} is of another run ({what}): remove it, or give the model, samples and options of that run"
    )]
    OtherRun { path: PathBuf, what: &'static str },
    #[error("{path:?}: {error}")]
    Read { path: PathBuf, error: SafeTensorsError },
    #[error("{path:?}: {error}")]
    Write { path: PathBuf, error: std::io::Error },
    #[error("{path:?} is damaged: {what}")]
    Damaged { path: PathBuf, what: String },
    #[error(transparent)]
    Gradient(Box<GradientError>),
    #[error(transparent)]
    Names(#[from] NamesError),
    #[error(transparent)]
    Graph(#[from] GraphError),
    #[error(transparent)]
    Prepare(Box<PrepareError>),
    #[error(transparent)]
    Run(Box<RunError>),
    #[error("validation: {0}")]
    Validation(#[source] DataError),
    #[error("samples: {0}")]
    Data(#[source] DataError),
    #[error("interrupted at step {step} of {steps}")]
    Stopped { step: u64, steps: u64 },
}

impl From<GradientError> for FineTuneError {
    fn from(error: GradientError) -> Self {
        Self::Gradient(Box::new(error))
    }
}

impl From<PrepareError> for FineTuneError {
    fn from(error: PrepareError) -> Self {
        Self::Prepare(Box::new(error))
    }
}

impl From<RunError> for FineTuneError {
    fn from(error: RunError) -> Self {
        Self::Run(Box::new(error))
    }
}

/// Fine-tunes `graph`; gives it with other weights. `validation` scores a model, higher is better. The observer may break the
/// run off, which leaves a checkpoint.
///
/// # Errors
/// When the loss depends on no weight, an operator has no gradient, samples do not fit, or numbers grow beyond all bounds.
pub fn finetune(
    graph: &Graph,
    data: &dyn Data,
    terms: &[Term],
    options: &Options,
    validation: Option<Validation<'_>>,
    checkpoint: Option<&Checkpoint>,
    observe: &mut dyn FnMut(&Progress) -> ControlFlow<()>,
) -> Result<(Graph, Report), FineTuneError> {
    check(data, terms, options)?;
    names::all_fit(&[graph], &options.freeze)?;
    let (graph, quantised) = &quantised::separate(graph);
    let size = options.batch.min(data.len());
    let first: Vec<usize> = (0..size).collect();
    let batch = data.batch(&first).map_err(FineTuneError::Data)?;
    let weights = trained(graph, terms, &batch, options)?;
    let mut state = State::new(graph, &weights, options)?;
    let resumed = checkpoint.map(|c| c.load(&mut state, options, data.len())).transpose()?.flatten();
    let step = Step::new(graph, &weights, terms, &batch, options.batch_statistics, options.threads)?;
    let mut run = Run { graph, data, options, validation, checkpoint, step, state, size };
    let stopped = run.epochs(observe)?;
    let Run { state, .. } = run;
    let report = state.report(resumed, stopped);
    Ok((quantised.restore(&state.best_graph(graph))?, report))
}

/// `graph` with mean and variance of each batch normalisation estimated again, from up to 1024 samples in batches of `batch`.
///
/// # Errors
/// When samples do not fit, or a run fails.
pub fn reestimated(
    graph: &Graph,
    data: &dyn Data,
    batch: usize,
    threads: Option<usize>,
) -> Result<Graph, FineTuneError> {
    let mut graph = graph.clone();
    statistics::reestimate(&mut graph, data, batch.clamp(1, data.len().max(1)), threads)?;
    Ok(graph)
}

fn check(data: &dyn Data, terms: &[Term], options: &Options) -> Result<(), FineTuneError> {
    if data.is_empty() {
        return Err(FineTuneError::NoSamples);
    }
    if terms.is_empty() {
        return Err(FineTuneError::NoLoss);
    }
    check_options(options)
}

fn check_options(options: &Options) -> Result<(), FineTuneError> {
    let Options { batch, rate, clip, l1, .. } = options;
    let positive = |v: f32| v.is_finite() && v > 0.0;
    match () {
        () if *batch == 0 => Err(FineTuneError::Options("a batch has at least one sample")),
        () if !positive(rate.peak) => Err(FineTuneError::Options("the learning rate must be greater than 0")),
        () if !(0.0..1.0).contains(&rate.warm_up) => {
            Err(FineTuneError::Options("the warm-up is a share of the run, from 0 to less than 1"))
        }
        () if clip.is_some_and(|clip| !positive(clip)) => {
            Err(FineTuneError::Options("the greatest norm of gradients must be greater than 0"))
        }
        () if !(l1.is_finite() && *l1 >= 0.0) => Err(FineTuneError::Options("the penalty must be 0 or more")),
        () => Ok(()),
    }
}

/// Weights that can be trained and that the loss depends on.
pub(crate) fn trained(
    graph: &Graph,
    terms: &[Term],
    batch: &Batch,
    options: &Options,
) -> Result<Vec<ValueId>, FineTuneError> {
    let candidates = state::candidates(graph, &options.freeze);
    if candidates.is_empty() {
        let reason = "the model has no f32 weights, or all are frozen".to_owned();
        return Err(FineTuneError::NoWeights { reason });
    }
    let reached = step::reached(graph, &candidates, terms, batch)?;
    if reached.is_empty() {
        let integers = graph.nodes.iter().find(|node| {
            use poda_formats::op::Op;
            matches!(node.op, Op::QuantizeLinear { .. } | Op::DynamicQuantizeLinear | Op::ArgReduce { .. })
        });
        let reason = integers.map_or_else(
            || "the loss depends on none of them".to_owned(),
            |node| {
                format!(
                    "nothing flows back through the integers of node {:?} ({})",
                    node.name,
                    node.op.name()
                )
            },
        );
        return Err(FineTuneError::NoWeights { reason });
    }
    Ok(reached)
}

/// A run under way.
struct Run<'a> {
    graph: &'a Graph,
    data: &'a dyn Data,
    options: &'a Options,
    validation: Option<Validation<'a>>,
    checkpoint: Option<&'a Checkpoint>,
    step: Step,
    state: State,
    /// Samples in a step.
    size: usize,
}

impl Run<'_> {
    /// Runs what is left; gives the reason for which it ended early.
    fn epochs(
        &mut self,
        observe: &mut dyn FnMut(&Progress) -> ControlFlow<()>,
    ) -> Result<Option<String>, FineTuneError> {
        let per_epoch = (self.data.len() / self.size) as u64;
        let steps = per_epoch * self.options.epochs;
        if self.state.step == 0 && self.state.before.is_none() {
            self.state.before = self.score(self.graph)?;
            self.state.best_score = self.state.before;
        }
        while self.state.step < steps {
            let epoch = self.state.step / per_epoch;
            let order = state::shuffled(self.data.len(), self.options.seed, epoch);
            let start = self.state.step % per_epoch;
            for (at, samples) in order.chunks_exact(self.size).enumerate().skip(start as usize) {
                let batch = self.data.batch(samples).map_err(FineTuneError::Data)?;
                let rate = self.options.rate.at(self.state.step, steps);
                let loss = self.step.run(
                    &batch,
                    &self.state.shapes,
                    &self.state.weights,
                    &mut self.state.gradients,
                )?;
                if !loss.is_finite() || !self.state.update(self.options, rate) {
                    return self.diverged(loss, rate).map(Some);
                }
                self.state.loss += f64::from(loss);
                self.state.step += 1;
                let done = (at + 1) as u64;
                let mean = self.state.loss / done as f64;
                let mut progress = Progress {
                    step: self.state.step,
                    steps,
                    epoch,
                    loss: mean,
                    rate,
                    score: None,
                    best: self.state.best_score,
                };
                if done == per_epoch {
                    self.end_epoch(mean)?;
                    progress.epoch += 1;
                    progress.score = self.state.epochs.last().and_then(|epoch| epoch.score);
                    progress.best = self.state.best_score;
                }
                let go_on = observe(&progress);
                let ends = done == per_epoch || go_on.is_break();
                if let Some(checkpoint) = self.checkpoint
                    && (ends || checkpoint.is_due())
                {
                    checkpoint.save(&self.state, self.options, self.data.len())?;
                }
                if go_on.is_break() {
                    return Err(FineTuneError::Stopped { step: self.state.step, steps });
                }
            }
        }
        Ok(None)
    }

    fn score(&self, graph: &Graph) -> Result<Option<f64>, FineTuneError> {
        self.validation.map(|validation| validation(graph)).transpose().map_err(FineTuneError::Validation)
    }

    /// Estimates statistics, scores, and keeps the state if it is the best.
    fn end_epoch(&mut self, loss: f64) -> Result<(), FineTuneError> {
        let mut graph = self.state.graph(self.graph);
        if self.options.batch_statistics {
            statistics::reestimate(&mut graph, self.data, self.size, self.options.threads)?;
        }
        let score = self.score(&graph)?;
        self.state.end_epoch(loss, score, &graph);
        Ok(())
    }

    /// The last good state is what an epoch ended with.
    fn diverged(&self, loss: f32, rate: f32) -> Result<String, FineTuneError> {
        let step = self.state.step;
        if self.state.epochs.is_empty() {
            return Err(FineTuneError::Diverged { loss, step, rate });
        }
        let what = if loss.is_finite() {
            "gradients are not finite".to_owned()
        } else {
            format!("the loss is {loss}")
        };
        Ok(format!(
            "{what} at step {step}; the result is the best state before; try a lower rate than {rate}"
        ))
    }
}
