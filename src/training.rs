//! Samples for fine-tuning: batches of a [`Dataset`](crate::dataset::Dataset) with what outputs are held against: class
//! numbers, values, or what another model (the teacher) makes of the same samples.

use poda_formats::{Graph, Tensor, ValueId};
use poda_pruner::finetune::{Batch, Data, DataError, Term, shuffled};
use poda_pruner::gradients::loss::Loss;
use poda_runtime::{Executable, Options, PrepareError, RunError, RunOptions, analysis};

use crate::dataset::{DatasetError, Samples};
use crate::feeds::views;
use crate::score::{DistanceSum, ScoreError};

/// Why samples cannot be trained on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum TrainingError {
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    #[error("{0} has no value {1:?}; outputs are {2:?}")]
    NoSuchValue(&'static str, String, Vec<String>),
    #[error(
        "{name:?} is {shape:?}; scores [samples, classes] of floats are expected: name a value with --scores"
    )]
    Scores { name: String, shape: Vec<usize> },
    #[error("sample {sample} has the label {label}, but {name:?} has {classes} classes")]
    Label { sample: usize, label: i64, name: String, classes: usize },
    #[error("array \"targets\" has shape {found:?}; {name:?} gives {expected:?} for {samples} samples")]
    Targets { found: Vec<usize>, name: String, expected: Vec<usize>, samples: usize },
    #[error("the model's {ours:?} is {found:?}, the teacher's {expected:?}")]
    Teacher { ours: String, found: Vec<usize>, expected: Vec<usize> },
    #[error("{samples} samples are too few to keep {held_out} of them aside for validation")]
    HeldOut { samples: usize, held_out: usize },
    #[error(transparent)]
    Prepare(Box<PrepareError>),
    #[error(transparent)]
    Run(Box<RunError>),
    #[error(transparent)]
    Score(#[from] ScoreError),
}

impl From<PrepareError> for TrainingError {
    fn from(error: PrepareError) -> Self {
        Self::Prepare(Box::new(error))
    }
}

impl From<RunError> for TrainingError {
    fn from(error: RunError) -> Self {
        Self::Run(Box::new(error))
    }
}

/// The same samples are kept aside in every run.
const HELD_OUT_SEED: u64 = 0x0005_eed0;

/// Where a term's targets come from.
enum Source<'a> {
    Labels,
    Values(&'a Tensor),
    /// This of the teacher's results.
    Teacher(usize),
}

/// Samples bound to a model, some of them for training, the others kept aside.
pub struct Training<'a> {
    graph: &'a Graph,
    samples: Samples<'a>,
    /// Numbers of the samples, shuffled: they may be sorted by class.
    order: Vec<usize>,
    /// How many of these are for training; the rest is kept aside.
    count: usize,
    teacher: Option<Teacher<'a>>,
    terms: Vec<Term>,
    sources: Vec<Source<'a>>,
    /// The results of the model for one batch, for their shapes.
    tried: Vec<Tensor>,
    tried_size: usize,
}

/// Another model, which is fed the same samples.
pub struct Teacher<'a> {
    /// Ready to run.
    pub executable: &'a Executable,
    /// The samples as it takes them.
    pub samples: Samples<'a>,
    /// Its results that are asked for.
    wanted: Vec<ValueId>,
}

impl<'a> Teacher<'a> {
    /// A teacher that is asked nothing yet.
    pub fn new(executable: &'a Executable, samples: Samples<'a>) -> Self {
        Self { executable, samples, wanted: Vec::new() }
    }

    /// The number of a value among the results.
    fn ask(&mut self, id: ValueId) -> usize {
        match self.wanted.iter().position(|&wanted| wanted == id) {
            Some(index) => index,
            None => {
                self.wanted.push(id);
                self.wanted.len() - 1
            }
        }
    }

    fn results(&self, samples: &[usize]) -> Result<Vec<Tensor>, TrainingError> {
        let feeds = self.samples.feeds_of(samples)?;
        let options = RunOptions { extra: &self.wanted, ..RunOptions::default() };
        let results = self.executable.run_with(&views(&feeds), &options)?;
        let outputs = self.executable.graph().outputs.len();
        Ok(results.into_iter().skip(outputs).map(|(_, tensor)| tensor).collect())
    }
}

impl<'a> Training<'a> {
    /// Of all samples but `held_out` of them.
    ///
    /// # Errors
    /// When there are no more than that.
    pub fn new(graph: &'a Graph, samples: Samples<'a>, held_out: usize) -> Result<Self, TrainingError> {
        let all = samples.len();
        let count = all.checked_sub(held_out).filter(|&count| count > 0);
        let count = count.ok_or(TrainingError::HeldOut { samples: all, held_out })?;
        let (terms, sources) = (Vec::new(), Vec::new());
        let order = shuffled(all, HELD_OUT_SEED, 0);
        Ok(Self {
            graph,
            samples,
            order,
            count,
            teacher: None,
            terms,
            sources,
            tried: Vec::new(),
            tried_size: 0,
        })
    }

    /// With a teacher.
    #[must_use]
    pub fn with_teacher(mut self, teacher: Teacher<'a>) -> Self {
        self.teacher = Some(teacher);
        self
    }

    /// The parts of the loss.
    pub fn terms(&self) -> &[Term] {
        &self.terms
    }

    /// Samples for training.
    pub fn samples(&self) -> usize {
        self.count
    }

    /// Holds scores against the class numbers of the samples: the value `name`, or the first output that holds such.
    ///
    /// # Errors
    /// When there are no labels, no such value, or a label is no class.
    pub fn add_labels(&mut self, name: Option<&str>, factor: f32) -> Result<(), TrainingError> {
        self.samples.labels().ok_or(DatasetError::NoLabels)?;
        let values = match name {
            Some(name) => vec![self.find(name)?],
            None => self.graph.outputs.clone(),
        };
        let tried = self.shapes(&values)?;
        let size = self.tried_size;
        let fits = |tensor: &Tensor| {
            tensor.dtype().is_float()
                && tensor.rank() == 2
                && tensor.shape()[0] == size
                && tensor.shape()[1] > 1
        };
        let Some(index) = tried.iter().position(fits) else {
            let name = values.first().map_or_else(String::new, |&id| self.graph.value(id).name.clone());
            let shape = tried.first().map_or_else(Vec::new, |tensor| tensor.shape().to_vec());
            return Err(TrainingError::Scores { name, shape });
        };
        let classes = tried[index].shape()[1];
        let labels = self.samples.labels().unwrap_or_default();
        let wrong = |&(_, &label): &(usize, &i64)| usize::try_from(label).is_ok_and(|label| label < classes);
        if let Some((sample, &label)) = labels.iter().enumerate().find(|found| !wrong(found)) {
            let name = self.graph.value(values[index]).name.clone();
            return Err(TrainingError::Label { sample, label, name, classes });
        }
        self.terms.push(Term { loss: Loss::CrossEntropy, output: values[index], factor });
        self.sources.push(Source::Labels);
        Ok(())
    }

    /// Holds an output against an array of values, samples along the first axis: the value `name`, or the first output.
    ///
    /// # Errors
    /// When the shapes differ.
    pub fn add_values(
        &mut self,
        values: &'a Tensor,
        name: Option<&str>,
        loss: Loss,
        factor: f32,
    ) -> Result<(), TrainingError> {
        let first = || self.graph.outputs.first().copied().ok_or(DatasetError::Empty);
        let output = name.map_or_else(|| first().map_err(Into::into), |name| self.find(name))?;
        let tried = self.shapes(&[output])?;
        let samples = self.samples.len();
        let fits = values.shape().first() == Some(&samples) && values.shape()[1..] == tried[0].shape()[1..];
        if !fits {
            let name = self.graph.value(output).name.clone();
            let (found, expected) = (values.shape().to_vec(), tried[0].shape().to_vec());
            return Err(TrainingError::Targets { found, name, expected, samples });
        }
        self.terms.push(Term { loss, output, factor });
        self.sources.push(Source::Values(values));
        Ok(())
    }

    /// Holds all outputs, or these values, against the teacher's of the same names (or places, of outputs).
    ///
    /// # Errors
    /// When the teacher has no such values, or they have other shapes.
    pub fn add_teacher(
        &mut self,
        names: Option<&[String]>,
        loss: Loss,
        factor: f32,
    ) -> Result<(), TrainingError> {
        let Some(mut teacher) = self.teacher.take() else { return Ok(()) };
        let theirs = teacher.executable.graph();
        let pairs: Vec<(ValueId, ValueId)> = match names {
            None => {
                let same = |(i, &id): (usize, &ValueId)| {
                    let name = &self.graph.value(id).name;
                    let named = theirs.outputs.iter().find(|&&id| theirs.value(id).name == *name);
                    let other = named.or_else(|| theirs.outputs.get(i)).copied();
                    other.map(|other| (id, other)).ok_or_else(|| missing("the teacher", name, theirs))
                };
                self.graph.outputs.iter().enumerate().map(same).collect::<Result<_, _>>()?
            }
            Some(names) => {
                let both = |name: &String| {
                    let theirs = theirs.find(name).ok_or_else(|| missing("the teacher", name, theirs))?;
                    Ok((self.find(name)?, theirs))
                };
                names.iter().map(both).collect::<Result<_, TrainingError>>()?
            }
        };
        let ours: Vec<ValueId> = pairs.iter().map(|&(id, _)| id).collect();
        let tried = self.shapes(&ours)?;
        let asked: Vec<usize> = pairs.iter().map(|&(_, theirs)| teacher.ask(theirs)).collect();
        let expected = teacher.results(&self.first())?;
        let float = |tensor: &Tensor| tensor.dtype().is_float();
        let count = tried.iter().filter(|tensor| float(tensor)).count().max(1);
        for ((&id, &index), tensor) in ours.iter().zip(&asked).zip(&tried) {
            let theirs = &expected[index];
            if theirs.shape() != tensor.shape() {
                let ours = self.graph.value(id).name.clone();
                let (found, expected) = (tensor.shape().to_vec(), theirs.shape().to_vec());
                return Err(TrainingError::Teacher { ours, found, expected });
            }
            if float(tensor) {
                self.terms.push(Term { loss, output: id, factor: factor / count as f32 });
                self.sources.push(Source::Teacher(index));
            }
        }
        self.teacher = Some(teacher);
        Ok(())
    }

    fn find(&self, name: &str) -> Result<ValueId, TrainingError> {
        self.graph.find(name).ok_or_else(|| missing("the model", name, self.graph))
    }

    /// The first samples, as many as a batch that is tried has.
    fn first(&self) -> Vec<usize> {
        (0..self.tried_size.max(1)).collect()
    }

    /// What these values are for a small batch.
    fn shapes(&mut self, values: &[ValueId]) -> Result<Vec<Tensor>, TrainingError> {
        self.tried_size = self.samples.batch_size(2)?;
        let feeds = self.samples.feeds_of(&self.first())?;
        let shapes = feeds.iter().map(|(name, tensor)| (name.clone(), tensor.shape().to_vec())).collect();
        let facts = analysis::analyze(self.graph, &shapes);
        let known = values.iter().map(|&id| {
            let info = facts.info(id)?;
            Some(Tensor::zeros(info.dtype, info.shape.as_ref()?))
        });
        if let Some(known) = known.collect::<Option<Vec<_>>>() {
            self.tried = known;
            return Ok(self.tried.clone());
        }
        let model = poda_runtime::Model::from_graph(self.graph.clone()).map_err(PrepareError::from)?;
        let executable = model.prepare(Options { tune: false, ..Options::default() })?;
        let options = RunOptions { extra: values, ..RunOptions::default() };
        let outputs = executable.run_with(&views(&feeds), &options)?;
        Ok(outputs.into_iter().skip(self.graph.outputs.len()).map(|(_, tensor)| tensor).collect())
    }

    fn targets(&self, samples: &[usize]) -> Result<Vec<Tensor>, TrainingError> {
        let taught = self.teacher.as_ref().map(|teacher| teacher.results(samples)).transpose()?;
        let target = |source: &Source<'_>| match source {
            Source::Labels => {
                let labels = self.samples.labels().unwrap_or_default();
                let chosen: Vec<i64> = samples.iter().map(|&sample| labels[sample]).collect();
                Tensor::from_slice(&[samples.len()], &chosen)
            }
            Source::Values(values) => rows(values, samples),
            Source::Teacher(index) => taught.as_ref().expect("asked of a teacher")[*index].clone(),
        };
        Ok(self.sources.iter().map(target).collect())
    }

    /// Scores a model on the samples kept aside, higher is better: accuracy where there are labels, else the mean cosine to
    /// what the outputs are held against.
    ///
    /// # Errors
    /// When a run fails.
    pub fn score(&self, graph: &Graph, batch: usize) -> Result<f64, TrainingError> {
        self.score_of(graph, batch, &self.order[self.count..])
    }

    /// As [`Training::score`], on all samples.
    ///
    /// # Errors
    /// When a run fails.
    pub fn score_all(&self, graph: &Graph, batch: usize) -> Result<f64, TrainingError> {
        self.score_of(graph, batch, &self.order)
    }

    fn score_of(&self, graph: &Graph, batch: usize, samples: &[usize]) -> Result<f64, TrainingError> {
        let model = poda_runtime::Model::from_graph(graph.clone()).map_err(PrepareError::from)?;
        let executable = model.prepare(Options { tune: false, ..Options::default() })?;
        let batch = self.samples.batch_size(batch)?;
        let (mut right, mut scored) = (0_u64, 0_u64);
        let mut distances: Vec<DistanceSum> = self.terms.iter().map(|_| DistanceSum::default()).collect();
        let wanted: Vec<ValueId> = self.terms.iter().map(|term| term.output).collect();
        for samples in samples.chunks(batch) {
            // A model of a fixed batch takes no fewer; what is too much is not scored.
            let mut fed = samples.to_vec();
            fed.resize(batch, samples[samples.len() - 1]);
            let feeds = self.samples.feeds_of(&fed)?;
            let options = RunOptions { extra: &wanted, ..RunOptions::default() };
            let outputs = executable.run_with(&views(&feeds), &options)?;
            let found = outputs.into_iter().skip(graph.outputs.len()).map(|(_, tensor)| tensor);
            for (((found, target), term), sum) in
                found.zip(self.targets(&fed)?).zip(&self.terms).zip(&mut distances)
            {
                if term.loss != Loss::CrossEntropy {
                    // What mixes samples is compared as a whole.
                    let apart = if found.len().is_multiple_of(fed.len()) { fed.len() } else { 1 };
                    sum.add(&found, &target, apart)?;
                    continue;
                }
                let classes = found.len() / fed.len();
                let labels = target.as_slice::<i64>().map_err(ScoreError::from)?;
                let scores = crate::score::numbers(&found)?;
                for (scores, &label) in scores.chunks_exact(classes).zip(labels).take(samples.len()) {
                    let best = (0..classes).rev().max_by(|&a, &b| scores[a].total_cmp(&scores[b]));
                    right += u64::from(best == usize::try_from(label).ok());
                    scored += 1;
                }
            }
        }
        if scored > 0 {
            return Ok(right as f64 / scored as f64);
        }
        let total: f64 = distances.iter().map(|sum| sum.finish().mean_cosine).sum();
        Ok(total / distances.len().max(1) as f64)
    }
}

fn missing(whose: &'static str, name: &str, graph: &Graph) -> TrainingError {
    let outputs = graph.outputs.iter().map(|&id| graph.value(id).name.clone()).collect();
    TrainingError::NoSuchValue(whose, name.to_owned(), outputs)
}

/// These rows of the first axis.
fn rows(array: &Tensor, samples: &[usize]) -> Tensor {
    let row = array.bytes().len() / array.shape()[0].max(1);
    let bytes: Vec<u8> =
        samples.iter().flat_map(|&i| array.bytes()[i * row..][..row].iter().copied()).collect();
    let shape = [&[samples.len()], &array.shape()[1..]].concat();
    let storage = poda_formats::storage::Storage::owned(poda_formats::storage::AlignedBytes::copy_of(&bytes));
    Tensor::new(array.dtype(), shape, storage).expect("whole rows of a tensor")
}

impl Data for Training<'_> {
    fn len(&self) -> usize {
        self.count
    }

    fn batch(&self, samples: &[usize]) -> Result<Batch, DataError> {
        let samples: Vec<usize> = samples.iter().map(|&sample| self.order[sample]).collect();
        let feeds = self.samples.feeds_of(&samples)?;
        Ok(Batch { feeds, targets: self.targets(&samples)? })
    }
}
