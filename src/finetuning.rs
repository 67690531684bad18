//! Fine-tuning on the samples of files, as a [`FineTuning`] says: what `poda finetune` and the stages of recipes do.

use std::ops::ControlFlow;

use poda_formats::{Graph, Tensor};
use poda_pruner::finetune::{
    Checkpoint, DataError, FineTuneError, FineTuning, Progress, Report, Validation, finetune, reestimated,
};
use poda_pruner::gradients::loss::Loss;
use poda_pruner::stages::Trainer;
use poda_runtime::{Executable, Model, Options, PrepareError};

use crate::dataset::Dataset;
use crate::training::{Teacher, Training, TrainingError};

/// Why a model cannot be fine-tuned on samples.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum FineTuningError {
    #[error("{name}: {error}")]
    Samples { name: String, error: Box<TrainingError> },
    #[error(
        "{name}: nothing to learn from: add an array \"labels\" of class numbers or \"targets\" of the output's shape, or take \
         a teacher (--teacher DENSE; in recipes teacher = true)"
    )]
    Nothing { name: String },
    #[error("the teacher: {0}")]
    Teacher(Box<PrepareError>),
    #[error(transparent)]
    FineTune(#[from] FineTuneError),
}

/// Samples by the name of the file that they came from.
#[derive(Debug, Clone, Copy)]
pub struct Named<'a> {
    /// For errors.
    pub name: &'a str,
    /// The samples.
    pub data: &'a Dataset,
}

/// Fine-tunes models on samples.
pub struct FineTuner<'a> {
    train: Named<'a>,
    validation: Option<Named<'a>>,
    teacher: Option<Executable>,
    threads: Option<usize>,
}

/// Samples that models are scored on at once.
const SCORED: usize = 64;

impl<'a> FineTuner<'a> {
    /// On the samples of `train`; `validation` scores states, where these are not to be a share of the samples, unless
    /// `hold_out` is 0.
    pub fn new(train: Named<'a>, validation: Option<Named<'a>>, threads: Option<usize>) -> Self {
        Self { train, validation, teacher: None, threads }
    }

    /// With a teacher, for whoever asks for one.
    ///
    /// # Errors
    /// When it does not run.
    pub fn with_teacher(mut self, teacher: &Model) -> Result<Self, FineTuningError> {
        let options = Options { threads: self.threads, tune: false, ..Options::default() };
        let prepared = teacher.prepare(options).map_err(|error| FineTuningError::Teacher(Box::new(error)))?;
        self.teacher = Some(prepared);
        Ok(self)
    }

    /// Whether states are scored by accuracy.
    ///
    /// # Errors
    /// When samples do not fit.
    pub fn labelled(&self, graph: &Graph) -> Result<bool, FineTuningError> {
        let Named { name, data } = self.validation.unwrap_or(self.train);
        let samples = data.bind(graph).map_err(|error| failed(name)(error.into()))?;
        Ok(samples.labels().is_some())
    }

    /// Fine-tunes `graph`.
    ///
    /// # Errors
    /// When samples do not fit, there is nothing to learn from, or training fails.
    pub fn finetune(
        &self,
        graph: &Graph,
        how: &FineTuning,
        checkpoint: Option<&Checkpoint>,
        observe: &mut dyn FnMut(&Progress) -> ControlFlow<()>,
    ) -> Result<(Graph, Report), FineTuningError> {
        how.validate()?;
        let len = self.train.data.bind(graph).map_err(|error| failed(self.train.name)(error.into()))?.len();
        // Who keeps nothing aside wants the state after the last epoch.
        let by_others = self.validation.filter(|_| how.hold_out > 0.0);
        let held_out = if by_others.is_some() { 0.0 } else { how.hold_out };
        let held_out = (len as f64 * held_out).round() as usize;
        let training = self.training(self.train, graph, how, held_out)?;
        let validation = by_others.map(|named| self.training(named, graph, how, 0)).transpose()?;
        let score = |graph: &Graph| -> Result<f64, DataError> {
            Ok(match &validation {
                Some(validation) => validation.score_all(graph, SCORED)?,
                None => training.score(graph, SCORED)?,
            })
        };
        let validates = validation.is_some() || held_out > 0;
        let samples = self.train.data.bind(graph).map_err(|error| failed(self.train.name)(error.into()))?;
        let batch = samples.batch_size(how.batch).map_err(|error| failed(self.train.name)(error.into()))?;
        let options =
            FineTuning { batch: batch.min(training.samples()), ..how.clone() }.options(self.threads);
        let validation = validates.then_some(&score as Validation<'_>);
        let tuned = finetune(graph, &training, training.terms(), &options, validation, checkpoint, observe);
        let tuned = tuned.map(|(graph, mut report)| {
            let advice = match held_out {
                0 => "try another rate, more epochs or more samples".to_owned(),
                _ => format!(
                    "it was scored on {held_out} of the training samples, on which a model that had learnt them before looks \
                     better than it is; score on samples that it has not seen (--validation), on none (--hold-out 0; in \
                     recipes hold_out = 0.0), or try another rate"
                ),
            };
            report.notes.extend(report.kept_start().then_some(advice));
            (graph, report)
        });
        tuned.map_err(|error| match error {
            FineTuneError::Data(error) => {
                FineTuneError::Data(format!("{}: {error}", self.train.name).into()).into()
            }
            other => other.into(),
        })
    }

    /// Samples with what outputs are held against.
    fn training<'s>(
        &'s self,
        from: Named<'s>,
        graph: &'s Graph,
        how: &'s FineTuning,
        held_out: usize,
    ) -> Result<Training<'s>, FineTuningError> {
        let Named { name, data } = from;
        let failed = failed(name);
        let bind = |graph| data.bind(graph).map_err(TrainingError::from);
        let samples = bind(graph).map_err(&failed)?;
        let labelled = samples.labels().is_some();
        let mut training = Training::new(graph, samples, held_out).map_err(&failed)?;
        let teacher = self.teacher.as_ref().filter(|_| how.teacher);
        if let Some(teacher) = teacher {
            training = training.with_teacher(Teacher::new(teacher, bind(teacher.graph()).map_err(&failed)?));
        }
        let targets: Option<&Tensor> = data.array("targets");
        // Each of the two has its half.
        let share = if teacher.is_some() && (labelled || targets.is_some()) { 0.5 } else { 1.0 };
        let scores = how.scores.as_deref();
        if labelled {
            training.add_labels(scores, share).map_err(&failed)?;
        } else if let Some(targets) = targets {
            training.add_values(targets, scores, Loss::Mse, share).map_err(&failed)?;
        } else if teacher.is_none() {
            return Err(FineTuningError::Nothing { name: name.to_owned() });
        }
        if teacher.is_some() {
            training.add_teacher(None, how.distillation(), share).map_err(&failed)?;
            if !how.hidden.is_empty() {
                training.add_teacher(Some(&how.hidden), Loss::Mse, share).map_err(&failed)?;
            }
        }
        Ok(training)
    }
}

fn failed(name: &str) -> impl Fn(TrainingError) -> FineTuningError {
    move |error| FineTuningError::Samples { name: name.to_owned(), error: Box::new(error) }
}

impl Trainer for FineTuner<'_> {
    fn finetune(
        &self,
        graph: &Graph,
        how: &FineTuning,
        checkpoint: Option<&Checkpoint>,
        observe: &mut dyn FnMut(&Progress) -> ControlFlow<()>,
    ) -> Result<(Graph, Report), DataError> {
        Ok(Self::finetune(self, graph, how, checkpoint, observe)?)
    }

    fn reestimated(&self, graph: &Graph) -> Result<Graph, DataError> {
        let samples = self.train.data.bind(graph)?;
        let batch = samples.batch_size(SCORED)?;
        let training = Training::new(graph, samples, 0)?;
        Ok(reestimated(graph, &training, batch, self.threads)?)
    }
}
