//! What a loss holds a model's outputs against, for criteria that ask for its gradient, or for what becomes of it.
//!
//! With class numbers it is the cross-entropy of the first output that is scores `[samples, classes]`. Without, it is the mean
//! squared difference of every float output, in units of its own mean square, from a target ([`Against`]).

use poda_formats::{Graph, Tensor, ValueId};
use poda_runtime::{Executable, Model, Options, RunOptions};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::loss::Loss;
use crate::calibration::{CalibrationError, Example, Samples};
use crate::check::Failure;
use crate::finetune::{Batch, FineTuneError, Term};

/// What outputs are held against where there are no labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Against {
    /// Zero: the loss is what the outputs are, squared. For gradients that are added up with their signs.
    Zero,
    /// The dense outputs, and a number for each element of them that is 1 or −1 at random. The mean gradient is zero, but its mean
    /// square is the diagonal of the Gauss-Newton matrix of the distance to the dense outputs (Hutchinson, 1990): for
    /// gradients whose size counts.
    Noise,
    /// The dense outputs: for what becomes of the loss.
    Dense,
}

/// Why no loss can be had of samples.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum ObjectiveError {
    #[error(transparent)]
    Samples(#[from] CalibrationError),
    #[error(
        "no output is scores of floats [samples, classes], which labels are held against; leave the labels out"
    )]
    NoScores,
    #[error("no output is a float, so that there is nothing to take a loss of")]
    NoFloats,
    #[error("the label {label} is no class: {output:?} has {classes}")]
    Label { label: i64, output: String, classes: usize },
    #[error(transparent)]
    Gradient(#[from] FineTuneError),
    #[error(
        "the loss has no gradient at {name:?}: nothing uses it, or integers lie between; leave it alone (exclude), or take a \
         criterion that needs no gradients"
    )]
    NotReached { name: String },
}

/// A loss for a model and its samples.
#[derive(Debug)]
pub(crate) struct Objective {
    executable: Executable,
    terms: Vec<Term>,
    against: Against,
    classes: Option<usize>,
    /// Root of the mean square of each term's output.
    scales: Vec<f32>,
    seed: u64,
}

impl Objective {
    /// Of what the first example says: whether there are labels, and what outputs are. Labels go before `against`.
    pub(crate) fn new(
        graph: &Graph,
        samples: &dyn Samples,
        against: Against,
        seed: u64,
    ) -> Result<Self, ObjectiveError> {
        let failed = |failure: Failure| CalibrationError::Run { failure };
        let options = Options { tune: false, ..Options::default() };
        let model = Model::from_graph(graph.clone()).map_err(|error| failed(error.into()))?;
        let executable = model.prepare(options).map_err(|error| failed(error.into()))?;
        let mut this =
            Self { executable, terms: Vec::new(), against, classes: None, scales: Vec::new(), seed };
        let batch = (0..samples.batches()).find(|&batch| !samples.held_out(batch));
        let examples = batch.map(|batch| samples.examples(batch, 1).map_err(CalibrationError::Samples));
        let examples = examples.transpose()?.unwrap_or_default();
        let first = examples.first().ok_or(CalibrationError::Empty)?;
        let outputs = this.run(first, &graph.outputs)?;
        let floats = |(_, tensor): &(&ValueId, &Tensor)| tensor.dtype().is_float() && !tensor.is_empty();
        let outputs: Vec<(&ValueId, &Tensor)> = graph.outputs.iter().zip(&outputs).filter(floats).collect();
        if let Some(labels) = &first.labels {
            let scores =
                |shape: &[usize]| matches!(shape, [n, classes] if *n == labels.len() && *classes > 1);
            let found = outputs.iter().find(|(_, tensor)| scores(tensor.shape()));
            let &(&output, tensor) = found.ok_or(ObjectiveError::NoScores)?;
            this.classes = Some(tensor.shape()[1]);
            this.terms.push(Term { loss: Loss::CrossEntropy, output, factor: 1.0 });
            return Ok(this);
        }
        for (&output, tensor) in outputs {
            let square: f64 = values(tensor).iter().map(|&v| f64::from(v).powi(2)).sum();
            let square = square / tensor.len() as f64;
            let scale = if square > 0.0 { square.sqrt() } else { 1.0 };
            this.scales.push(scale as f32);
            this.terms.push(Term { loss: Loss::Mse, output, factor: scale.powi(-2) as f32 });
        }
        if this.terms.is_empty() { Err(ObjectiveError::NoFloats) } else { Ok(this) }
    }

    /// The parts of the loss.
    pub(crate) fn terms(&self) -> &[Term] {
        &self.terms
    }

    /// An example with what its outputs are held against.
    pub(crate) fn batch(&self, example: Example, number: usize) -> Result<Batch, ObjectiveError> {
        if let Some(classes) = self.classes {
            let labels = example.labels.ok_or(ObjectiveError::NoScores)?;
            let known = |label: i64| usize::try_from(label).is_ok_and(|label| label < classes);
            let all = labels.as_slice::<i64>().unwrap_or_default();
            if let Some(&label) = all.iter().find(|&&label| !known(label)) {
                let output = self.executable.graph().value(self.terms[0].output).name.clone();
                return Err(ObjectiveError::Label { label, output, classes });
            }
            return Ok(Batch { feeds: example.feeds, targets: vec![labels] });
        }
        let wanted: Vec<ValueId> = self.terms.iter().map(|term| term.output).collect();
        let outputs = self.run(&example, &wanted)?;
        let mut random = SmallRng::seed_from_u64(self.seed ^ (number as u64) << 20);
        let mut target = |(tensor, &scale): (&Tensor, &f32)| {
            let mut values = values(tensor);
            match self.against {
                Against::Zero => values.fill(0.0),
                Against::Dense => {}
                Against::Noise => {
                    values.iter_mut().for_each(|v| *v += if random.random() { scale } else { -scale });
                }
            }
            Tensor::from_slice(tensor.shape(), &values)
        };
        let targets = outputs.iter().zip(&self.scales).map(&mut target).collect();
        Ok(Batch { feeds: example.feeds, targets })
    }

    fn run(&self, example: &Example, wanted: &[ValueId]) -> Result<Vec<Tensor>, CalibrationError> {
        let feeds: Vec<_> =
            example.feeds.iter().map(|(name, tensor)| (name.as_str(), tensor.view())).collect();
        let options = RunOptions { extra: wanted, ..RunOptions::default() };
        let outputs = self.executable.run_with(&feeds, &options);
        let outputs = outputs.map_err(|error| CalibrationError::Run { failure: error.into() })?;
        let own = outputs.len() - wanted.len();
        Ok(outputs.into_iter().skip(own).map(|(_, tensor)| tensor).collect())
    }
}

fn values(tensor: &Tensor) -> Vec<f32> {
    crate::criterion::float_values(tensor).unwrap_or_default()
}
