//! Samples to run a model on: arrays by name, cut into the batches that the model takes.
//!
//! Samples lie along the first axis of each array, wherever the model has its batch ([`Batching`]). Every sample is run:
//! where the model fixes the batch, the last one is filled up with repetitions, whose results are dropped.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use poda_formats::storage::{AlignedBytes, Storage};
use poda_formats::tensor::TensorError;
use poda_formats::{Dim, Graph, Tensor};
use poda_runtime::{Executable, RunError};

use crate::arrays::{self, ArraysError};
use crate::batching::Batching;
use crate::score::{Accuracy, AccuracySum, ScoreError, integers, numbers};
use crate::shapes::Shapes;

/// Why samples do not fit a model, or a run of them failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum DatasetError {
    #[error(transparent)]
    Arrays(#[from] ArraysError),
    #[error("no array for input {input:?}; there are {found:?}")]
    Missing { input: String, found: Vec<String> },
    #[error(
        "array {input:?} has shape {found:?}, samples along the first axis; the model takes {expected} for {input:?}"
    )]
    Shape { input: String, found: Vec<usize>, expected: String },
    #[error("array {name:?} has {found} samples, {first:?} has {expected}")]
    Samples { name: String, found: usize, first: String, expected: usize },
    #[error("there are no samples")]
    Empty,
    #[error("no array has an axis of samples: all of them are as the model declares its inputs")]
    NoSamples,
    #[error("there is no array named \"labels\"")]
    NoLabels,
    #[error("labels have shape {found:?}; one class number for each of {samples} samples is expected")]
    Labels { found: Vec<usize>, samples: usize },
    #[error("labels: {0}")]
    LabelValues(ScoreError),
    #[error(
        "similarities have shape {found:?}; of {samples} samples, [{samples}, {samples}] is expected, or [{pairs}] for the pairs \
         (0, 1), (0, 2), …, (1, 2), …"
    )]
    Similarities { found: Vec<usize>, samples: usize, pairs: usize },
    #[error(
        "the model runs {batch} samples at once, but array {input:?} is another for each: \
         one input of the model has no axis for samples"
    )]
    Mixed { input: String, batch: usize },
    #[error("output {output:?} has shape {found:?} in one run and {first:?} in another")]
    Varies { output: String, first: Vec<usize>, found: Vec<usize> },
    #[error("no output can be scored against labels, which takes [samples, classes]: {outputs}")]
    NoScores { outputs: String },
    #[error("the model has no output {name:?}")]
    NoSuchOutput { name: String },
    #[error(transparent)]
    Score(#[from] ScoreError),
    #[error(transparent)]
    Run(Box<RunError>),
    #[error(transparent)]
    Tensor(#[from] TensorError),
}

impl From<RunError> for DatasetError {
    fn from(error: RunError) -> Self {
        Self::Run(Box::new(error))
    }
}

/// Arrays `[samples, …]` by name, with perhaps `labels` `[samples]`, and `similarities` of all pairs of samples.
#[derive(Debug, Clone)]
pub struct Dataset {
    arrays: BTreeMap<String, Tensor>,
}

impl Dataset {
    /// From an `.npz` file; see [`Dataset::bind`] for the names of its arrays.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, DatasetError> {
        Ok(Self::new(arrays::read(path)?))
    }

    /// Adds the samples of `other`, which must be of the same names, types and shapes; gives it back where they are not.
    #[cfg(feature = "prune")]
    pub(crate) fn append(&mut self, other: Self) -> Option<Self> {
        let alike = |(a, b): ((&String, &Tensor), (&String, &Tensor))| {
            let shapes = a.1.shape().get(1..).is_some_and(|shape| Some(shape) == b.1.shape().get(1..));
            a.0 == b.0 && shapes && a.1.dtype() == b.1.dtype()
        };
        let same = self.arrays.len() == other.arrays.len();
        if !same || !self.arrays.iter().zip(&other.arrays).all(alike) {
            return Some(other);
        }
        for (array, more) in self.arrays.values_mut().zip(other.arrays.values()) {
            let mut shape = array.shape().to_vec();
            shape[0] += more.shape()[0];
            let joined = tensor(array, shape, &[array.bytes(), more.bytes()].concat());
            *array = joined.expect("the bytes of both");
        }
        None
    }

    /// From arrays by name.
    pub fn new(arrays: BTreeMap<String, Tensor>) -> Self {
        Self { arrays }
    }

    /// The array with this name.
    pub fn array(&self, name: &str) -> Option<&Tensor> {
        self.arrays.get(name)
    }

    /// Finds an array for each input of the graph: of its name; for a model with one input also one called `input`, or the
    /// only one beside the labels. Labels are class numbers in an array `labels`, or similarities of pairs in an array
    /// `similarities`: `[samples, samples]`, of which what is above the diagonal counts, or that row by row; NaN where nobody knows.
    ///
    /// # Errors
    /// When arrays are missing, or their shapes fit neither the model nor each other.
    pub fn bind<'a>(&'a self, graph: &'a Graph) -> Result<Samples<'a>, DatasetError> {
        let is_input = |name: &str| graph.inputs.iter().any(|&id| graph.value(id).name == name);
        let beside = |name: &str| self.arrays.get(name).filter(|_| !is_input(name));
        let (labels, similarities) = (beside("labels"), beside("similarities"));
        let is_label = |name: &str| matches!(name, "labels" | "similarities") && !is_input(name);
        let others = || self.arrays.iter().filter(|(name, _)| !is_label(name));
        let array = |input: &str| {
            let only =
                || (graph.inputs.len() == 1 && others().count() == 1).then(|| others().next()).flatten();
            let usual = || others().find(|(name, _)| graph.inputs.len() == 1 && *name == "input");
            others().find(|(name, _)| *name == input).or_else(usual).or_else(only)
        };
        let mut inputs = Vec::new();
        let mut used = Vec::new();
        for &id in &graph.inputs {
            let input = graph.value(id).name.clone();
            let Some((name, array)) = array(&input) else {
                return Err(DatasetError::Missing {
                    input,
                    found: others().map(|(n, _)| n.clone()).collect(),
                });
            };
            used.push(name);
            inputs.push(Input {
                name: input,
                array,
                declared: graph.value(id).shape.as_deref(),
                kind: Kind::Same,
            });
        }
        let unused =
            others().filter(|(name, _)| !used.contains(name)).map(|(name, _)| name.clone()).collect();
        let batching = Batching::find(graph, &|axes, size| {
            let shape = |(input, axis): (&Input<'_>, &Option<usize>)| {
                let shape = match input.kind(*axis)? {
                    Kind::Same => input.array.shape().to_vec(),
                    Kind::Each => input.array.shape()[1..].to_vec(),
                    Kind::Batched(axis) => input.batch_shape(axis, size),
                };
                Some((input.name.clone(), shape))
            };
            inputs.iter().zip(axes).map(shape).collect::<Option<Shapes>>()
        });
        for (input, axis) in inputs.iter_mut().zip(&batching.inputs) {
            let shape = |input: &Input<'_>| DatasetError::Shape {
                input: input.name.clone(),
                found: input.array.shape().to_vec(),
                expected: input.declared.map_or_else(|| "another".to_owned(), |dims| format!("{dims:?}")),
            };
            input.kind = input.kind(*axis).ok_or_else(|| shape(input))?;
        }
        let samples = count(&inputs)?;
        let labels = labels.map(|labels| read_labels(labels, samples)).transpose()?;
        let similarities = similarities.map(|array| read_similarities(array, samples)).transpose()?;
        let outputs = graph.outputs.iter().map(|&id| graph.value(id).name.clone()).collect();
        Ok(Samples { inputs, labels, similarities, unused, count: samples, batching, outputs })
    }
}

/// Samples that all arrays have.
fn count(inputs: &[Input<'_>]) -> Result<usize, DatasetError> {
    let mut counts = inputs.iter().filter(|input| input.kind != Kind::Same);
    let first = counts.next().ok_or(DatasetError::NoSamples)?;
    let expected = first.array.shape()[0];
    if let Some(other) = counts.find(|input| input.array.shape()[0] != expected) {
        let (name, first) = (other.name.clone(), first.name.clone());
        return Err(DatasetError::Samples { name, found: other.array.shape()[0], first, expected });
    }
    if expected == 0 { Err(DatasetError::Empty) } else { Ok(expected) }
}

fn read_labels(labels: &Tensor, samples: usize) -> Result<Vec<i64>, DatasetError> {
    if !matches!(labels.shape(), [n] | [n, 1] if *n == samples) {
        return Err(DatasetError::Labels { found: labels.shape().to_vec(), samples });
    }
    integers(labels).map_err(DatasetError::LabelValues)
}

/// Similarities of the pairs (0, 1), (0, 2), …, (1, 2), …
fn read_similarities(array: &Tensor, samples: usize) -> Result<Vec<f64>, DatasetError> {
    let pairs = samples * (samples - 1) / 2;
    let values = numbers(array)?;
    match array.shape() {
        [n] if *n == pairs => Ok(values),
        [n, m] if [*n, *m] == [samples; 2] => Ok((0..samples)
            .flat_map(|row| values[row * samples + row + 1..(row + 1) * samples].to_vec())
            .collect()),
        found => Err(DatasetError::Similarities { found: found.to_vec(), samples, pairs }),
    }
}

/// What an array is to an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The input itself, for every run.
    Same,
    /// `[samples, …]`, one for a run.
    Each,
    /// `[samples, …]`, several for a run, which has them along this axis.
    Batched(usize),
}

#[derive(Debug)]
struct Input<'a> {
    name: String,
    array: &'a Tensor,
    declared: Option<&'a [Dim]>,
    kind: Kind,
}

impl Input<'_> {
    /// What the array is, if samples are supposed to lie along such an axis of the input; `None` if it cannot be that.
    fn kind(&self, axis: Option<usize>) -> Option<Kind> {
        let rank = self.declared.map_or(self.array.rank(), <[Dim]>::len);
        // The declared sizes, but that of the batch, must be those of the array.
        let fits = |shape: &[usize], batch: Option<usize>| {
            let fixed = self.declared.into_iter().flatten().zip(shape).enumerate();
            fixed.into_iter().all(|(axis, (dim, size))| match dim {
                Dim::Fixed(fixed) => fixed == size || batch == Some(axis),
                Dim::Symbol(_) => true,
            })
        };
        match axis {
            Some(axis) => {
                let whole = self.array.rank() == rank && axis < rank;
                (whole && fits(&self.batch_shape(axis, 1), Some(axis))).then_some(Kind::Batched(axis))
            }
            None if self.array.rank() == rank => fits(self.array.shape(), None).then_some(Kind::Same),
            None => {
                let each = self.array.rank() == rank + 1 && fits(&self.array.shape()[1..], None);
                each.then_some(Kind::Each)
            }
        }
    }

    /// The shape of `size` samples, which lie along `axis`.
    fn batch_shape(&self, axis: usize, size: usize) -> Vec<usize> {
        let mut shape = self.array.shape()[1..].to_vec();
        shape.insert(axis, size);
        shape
    }

    /// What a run of these samples is fed; beyond the last sample, that one again.
    fn feed(&self, samples: &[usize]) -> Result<Tensor, TensorError> {
        let shape = self.array.shape();
        let sample = |index: usize| {
            let bytes = self.array.bytes().len() / shape[0];
            &self.array.bytes()[index.min(shape[0] - 1) * bytes..][..bytes]
        };
        match self.kind {
            Kind::Same => Ok(self.array.clone()),
            Kind::Each => tensor(self.array, shape[1..].to_vec(), sample(samples[0])),
            Kind::Batched(axis) => {
                let batch = samples.len();
                let samples: Vec<u8> =
                    samples.iter().flat_map(|&index| sample(index).iter().copied()).collect();
                let before: usize = shape[1..][..axis].iter().product();
                let moved = swap(&samples, batch, before);
                tensor(self.array, self.batch_shape(axis, batch), &moved)
            }
        }
    }
}

fn tensor(like: &Tensor, shape: Vec<usize>, bytes: &[u8]) -> Result<Tensor, TensorError> {
    Tensor::new(like.dtype(), shape, Storage::owned(AlignedBytes::copy_of(bytes)))
}

/// `[a, b, …]` as `[b, a, …]`.
fn swap(bytes: &[u8], a: usize, b: usize) -> Vec<u8> {
    let block = bytes.len() / (a * b).max(1);
    if a <= 1 || b <= 1 || block == 0 {
        return bytes.to_vec();
    }
    let mut out = Vec::with_capacity(bytes.len());
    for second in 0..b {
        for first in 0..a {
            out.extend_from_slice(&bytes[(first * b + second) * block..][..block]);
        }
    }
    out
}

/// Samples that fit the inputs of a model.
#[derive(Debug)]
pub struct Samples<'a> {
    inputs: Vec<Input<'a>>,
    labels: Option<Vec<i64>>,
    similarities: Option<Vec<f64>>,
    unused: Vec<String>,
    count: usize,
    batching: Batching,
    outputs: Vec<String>,
}

impl Samples<'_> {
    /// Number of samples.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Never: a set without samples is refused.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The labels, if there are any.
    pub fn labels(&self) -> Option<&[i64]> {
        self.labels.as_deref()
    }

    /// Similarities of the pairs (0, 1), (0, 2), …, (1, 2), …, if there are any.
    pub fn similarities(&self) -> Option<&[f64]> {
        self.similarities.as_deref()
    }

    /// Whether anything says what should come out.
    pub fn are_labelled(&self) -> bool {
        self.labels.is_some() || self.similarities.is_some()
    }

    /// What is fed to an input, `[samples, …]`; `None` where all samples share it.
    pub fn input(&self, name: &str) -> Option<&Tensor> {
        let input = self.inputs.iter().find(|input| input.name == name && input.kind != Kind::Same)?;
        Some(input.array)
    }

    /// Arrays that are for no input.
    pub fn unused(&self) -> &[String] {
        &self.unused
    }

    /// Samples per run: what the model fixes, or `wanted` where there are as many.
    ///
    /// # Errors
    /// When the model takes several at once but one of its inputs only one.
    pub fn batch_size(&self, wanted: usize) -> Result<usize, DatasetError> {
        let each = self.inputs.iter().find(|input| input.kind == Kind::Each);
        match (each, self.batching.fixed) {
            (Some(input), Some(batch)) if batch > 1 => {
                Err(DatasetError::Mixed { input: input.name.clone(), batch })
            }
            (Some(_), _) => Ok(1),
            (None, fixed) => Ok(fixed.unwrap_or(wanted.min(self.count)).max(1)),
        }
    }

    /// Whether the model fixes how many samples it runs at once.
    pub fn is_fixed(&self) -> bool {
        self.batching.fixed.is_some()
    }

    /// What the model is fed for `batch` samples from `start` on, by name.
    ///
    /// # Errors
    /// When memory does not hold it.
    pub fn feeds(&self, start: usize, batch: usize) -> Result<Vec<(String, Tensor)>, DatasetError> {
        self.feeds_of(&(start..start + batch).collect::<Vec<_>>())
    }

    /// What the model is fed for the samples with these numbers, as many as [`Samples::batch_size`] allows. Where the model
    /// fixes the batch, the last one is repeated until it is full.
    ///
    /// # Errors
    /// When memory does not hold it.
    pub fn feeds_of(&self, samples: &[usize]) -> Result<Vec<(String, Tensor)>, DatasetError> {
        let mut samples = samples.to_vec();
        if let (Some(&last), Some(batch)) = (samples.last(), self.batching.fixed) {
            samples.resize(samples.len().max(batch), last);
        }
        self.inputs.iter().map(|input| Ok((input.name.clone(), input.feed(&samples)?))).collect()
    }

    /// Runs the model on a range of samples, `batch` at once; gives each output with its samples first, `[samples · k, …]`.
    /// Of an output in which samples cannot be told apart, the whole of each run: `[runs, …]`.
    ///
    /// # Errors
    /// When a run fails.
    pub fn outputs(
        &self,
        executable: &Executable,
        batch: usize,
        range: Range<usize>,
    ) -> Result<Vec<(String, Tensor)>, DatasetError> {
        let mut all: Vec<Parts> = Vec::new();
        for start in range.clone().step_by(batch) {
            let wanted = batch.min(range.end - start);
            // Where the batch is open, a short last one is run as it is.
            let run = self.batching.fixed.map_or(wanted, |_| batch);
            let feeds = self.feeds(start, run)?;
            let outputs = executable.run(&crate::feeds::views(&feeds))?;
            for (index, (name, output)) in outputs.into_iter().enumerate() {
                let axis = self.batching.outputs.get(index).copied().flatten();
                let (shape, bytes) = samples_first(&output, axis, run, wanted);
                if all.len() == index {
                    all.push(Parts { name, like: output, shape, bytes: Vec::new(), leading: 0 });
                    all[index].leading = all[index].shape[0];
                    all[index].bytes = bytes;
                    continue;
                }
                let parts = &mut all[index];
                if parts.shape[1..] != shape[1..] {
                    return Err(DatasetError::Varies {
                        output: name,
                        first: parts.shape.clone(),
                        found: shape,
                    });
                }
                parts.leading += shape[0];
                parts.bytes.extend(bytes);
            }
        }
        all.into_iter().map(Parts::finish).collect()
    }

    /// Whether results of samples can be told apart in an output.
    pub fn splits(&self, output: usize) -> bool {
        !self.batching.is_batched() || self.batching.outputs.get(output).copied().flatten().is_some()
    }

    /// Accuracy against the labels of the output `name`, or of the first that holds scores: `[samples, classes]` of numbers,
    /// or class numbers `[samples]`.
    ///
    /// # Errors
    /// When there are no labels or no such output, or a run fails.
    pub fn accuracy(
        &self,
        executable: &Executable,
        wanted: usize,
        name: Option<&str>,
    ) -> Result<Accuracy, DatasetError> {
        let labels = self.labels().ok_or(DatasetError::NoLabels)?;
        let batch = self.batch_size(wanted)?;
        let mut sum = AccuracySum::default();
        let mut scored: Option<usize> = None;
        for start in (0..self.count).step_by(batch) {
            let range = start..(start + batch).min(self.count);
            let outputs = self.outputs(executable, batch, range.clone())?;
            let index = match scored {
                Some(index) => index,
                None => *scored.insert(self.scores(&outputs, range.len(), name)?),
            };
            sum.add(&outputs[index].1, &labels[range])?;
        }
        let output = scored.and_then(|index| self.outputs.get(index).cloned()).unwrap_or_default();
        Ok(sum.finish(output))
    }

    /// The output that holds scores of `samples`.
    fn scores(
        &self,
        outputs: &[(String, Tensor)],
        samples: usize,
        name: Option<&str>,
    ) -> Result<usize, DatasetError> {
        if let Some(name) = name.filter(|name| outputs.iter().all(|(output, _)| output != name)) {
            return Err(DatasetError::NoSuchOutput { name: name.to_owned() });
        }
        let asked = |index: &usize| name.is_none_or(|name| outputs[*index].0 == name);
        let fits = |index: &usize, classes: bool| {
            let tensor = &outputs[*index].1;
            self.splits(*index)
                && tensor.shape()[0] == samples
                && match tensor.len() / samples {
                    1 => !classes && !tensor.dtype().is_float(),
                    _ => classes && tensor.shape()[1..].iter().filter(|&&dim| dim != 1).count() == 1,
                }
        };
        let all = || (0..outputs.len()).filter(asked);
        all().find(|index| fits(index, true)).or_else(|| all().find(|index| fits(index, false))).ok_or_else(
            || {
                let shape = |(index, (name, tensor)): (usize, &(String, Tensor))| {
                    let whole = if self.splits(index) { "" } else { ", samples not told apart" };
                    format!("{name:?} is {} {:?}{whole}", tensor.dtype(), tensor.shape())
                };
                let outputs = outputs.iter().enumerate().map(shape).collect::<Vec<_>>().join(", ");
                DatasetError::NoScores { outputs }
            },
        )
    }
}

/// An output of several runs, one after the other.
struct Parts {
    name: String,
    like: Tensor,
    shape: Vec<usize>,
    bytes: Vec<u8>,
    leading: usize,
}

impl Parts {
    fn finish(mut self) -> Result<(String, Tensor), DatasetError> {
        self.shape[0] = self.leading;
        Ok((self.name, tensor(&self.like, self.shape, &self.bytes)?))
    }
}

/// The output of a run of `batch` samples along `axis`, of which the first `wanted` count: shape and bytes with the samples
/// first, or the whole as `[1, …]`.
fn samples_first(output: &Tensor, axis: Option<usize>, batch: usize, wanted: usize) -> (Vec<usize>, Vec<u8>) {
    let whole = || ([&[1], output.shape()].concat(), output.bytes().to_vec());
    let Some(axis) = axis.filter(|&axis| output.shape().get(axis).is_some_and(|d| d.is_multiple_of(batch)))
    else {
        return whole();
    };
    let shape = output.shape();
    let before: usize = shape[..axis].iter().product();
    let mut bytes = swap(output.bytes(), before, shape[axis]);
    let rows = shape[axis] / batch * wanted;
    bytes.truncate(bytes.len() / shape[axis].max(1) * rows);
    let rest = shape.iter().enumerate().filter(|&(index, _)| index != axis).map(|(_, &dim)| dim);
    (std::iter::once(rows).chain(rest).collect(), bytes)
}

#[cfg(test)]
mod tests {
    use poda_formats::{DataType, Op};
    use poda_runtime::{Model, Options};

    use super::*;

    fn dims(text: &str) -> Vec<Dim> {
        let dim = |d: &str| d.parse().map_or_else(|_| Dim::Symbol(d.to_owned()), Dim::Fixed);
        text.split_whitespace().map(dim).collect()
    }

    /// `y = x · diag(1, 10)`, and `z`, the same with its first two axes swapped.
    fn graph(x: &str, rank: usize) -> Graph {
        let mut graph = Graph::default();
        let x = graph.add_input("x", DataType::F32, dims(x));
        let w = graph.add_weight("w", Tensor::from_slice(&[2, 2], &[1.0_f32, 0.0, 0.0, 10.0]));
        let y = graph.add_node(Op::MatMul, &[x, w], "y");
        graph.outputs.push(y);
        if rank > 1 {
            let mut perm: Vec<usize> = (0..rank).collect();
            perm.swap(0, 1);
            let z = graph.add_node(Op::Transpose { perm }, &[y], "z");
            graph.outputs.push(z);
        }
        graph
    }

    fn executable(graph: &Graph) -> Executable {
        let options = Options { threads: Some(1), tune: false, ..Options::default() };
        Model::from_graph(graph.clone()).unwrap().prepare(options).unwrap()
    }

    fn data(shape: &[usize]) -> Dataset {
        let values: Vec<f32> = (0..shape.iter().product()).map(|i: usize| i as f32).collect();
        Dataset::new(BTreeMap::from([("x".to_owned(), Tensor::from_slice(shape, &values))]))
    }

    /// Every way in which a model takes samples gives the results of the samples one by one.
    #[test]
    fn results_are_those_of_the_samples_one_by_one() {
        for (declared, shape, wanted) in [
            ("batch 2", &[7, 2][..], 3),
            ("batch 2", &[2, 2], 64),
            ("4 2", &[7, 2], 64),
            ("4 2", &[3, 2], 1),
            ("1 2", &[5, 2], 64),
            ("2", &[5, 2], 64),
            ("steps batch 2", &[5, 3, 2], 2),
            ("3 4 2", &[5, 4, 2], 2),
        ] {
            let graph = graph(declared, shape.len().min(declared.split(' ').count()));
            let (data, executable) = (data(shape), executable(&graph));
            let samples = data.bind(&graph).unwrap();
            assert_eq!(samples.len(), shape[0], "{declared}");
            let batch = samples.batch_size(wanted).unwrap();
            let outputs = samples.outputs(&executable, batch, 0..shape[0]).unwrap();
            let expected: Vec<f32> = (0..shape.iter().product())
                .map(|i: usize| i as f32 * if i.is_multiple_of(2) { 1.0 } else { 10.0 })
                .collect();
            for (name, output) in outputs {
                assert_eq!(output.shape()[0], shape[0], "{declared}: {name}");
                assert_eq!(output.as_slice::<f32>().unwrap(), expected, "{declared}: {name}");
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let open = graph("batch 2", 2);
        assert!(matches!(data(&[0, 2]).bind(&open), Err(DatasetError::Empty)));
        assert!(matches!(data(&[5, 3]).bind(&open), Err(DatasetError::Shape { .. })));
        assert!(matches!(data(&[5]).bind(&open), Err(DatasetError::Shape { .. })));
        let named = |name: &str, shape: &[usize]| {
            let mut data = data(&[4, 2]);
            data.arrays
                .insert(name.to_owned(), Tensor::from_slice(shape, &vec![0_i64; shape.iter().product()]));
            data
        };
        assert!(matches!(named("labels", &[3]).bind(&open), Err(DatasetError::Labels { samples: 4, .. })));
        assert!(matches!(named("labels", &[4, 2]).bind(&open), Err(DatasetError::Labels { .. })));
        assert!(named("labels", &[4, 1]).bind(&open).unwrap().labels().is_some());
        assert!(matches!(
            named("similarities", &[4]).bind(&open),
            Err(DatasetError::Similarities { samples: 4, pairs: 6, .. })
        ));
        let matrix: Vec<f32> = (0..16).map(|i| i as f32).collect();
        let mut similar = data(&[4, 2]);
        similar.arrays.insert("similarities".to_owned(), Tensor::from_slice(&[4, 4], &matrix));
        let bound = similar.bind(&open).unwrap();
        assert_eq!(bound.similarities().unwrap(), [1.0, 2.0, 3.0, 6.0, 7.0, 11.0]);
        assert!(bound.are_labelled() && bound.unused().is_empty());
        assert_eq!(named("extra", &[4]).bind(&open).unwrap().unused(), ["extra"]);
        let mut other = open.clone();
        let x = other.inputs[0];
        other.value_mut(x).name = "pixels".into();
        assert_eq!(data(&[4, 2]).bind(&other).unwrap().len(), 4);
        assert!(matches!(named("extra", &[4]).bind(&other), Err(DatasetError::Missing { .. })));
    }

    #[test]
    fn only_scores_are_scored() {
        let accuracy = |x: &str, shape: &[usize], name: Option<&str>| {
            let graph = graph(x, 1);
            let mut data = data(shape);
            data.arrays.insert("labels".to_owned(), Tensor::from_slice(&shape[..1], &vec![1_i64; shape[0]]));
            data.bind(&graph)?.accuracy(&executable(&graph), 2, name)
        };
        let found = accuracy("batch 2", &[5, 2], None).unwrap();
        assert_eq!((found.samples, found.top1, found.top5, &found.output[..]), (5, 1.0, None, "y"));
        assert_eq!(accuracy("batch 1 2", &[5, 1, 2], Some("y")).unwrap().top1, 1.0);
        assert!(matches!(accuracy("batch 3 2", &[5, 3, 2], None), Err(DatasetError::NoScores { .. })));
        assert!(matches!(accuracy("batch 2", &[5, 2], Some("q")), Err(DatasetError::NoSuchOutput { .. })));
    }
}
