//! Samples to score a model on: arrays named like its inputs, cut into batches along their first axis.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use poda::arrays;
use poda_formats::{Dim, Graph, Tensor, TensorView};
use poda_runtime::Executable;

use crate::score::{Accuracy, AccuracySum, floats, integers};

/// Arrays `[samples, …]` for each input of a model, and perhaps labels `[samples]`.
pub(crate) struct Dataset {
    inputs: Vec<(String, Tensor)>,
    labels: Option<Vec<i64>>,
    samples: usize,
}

impl Dataset {
    /// From an `.npz` file with an array for each input of `graph`, under its name, and perhaps `labels`. A model with
    /// one input also takes an array called `input`, or the only one there.
    pub(crate) fn open(path: &Path, graph: &Graph) -> Result<Self> {
        Self::new(arrays::read(path)?, graph).with_context(|| path.display().to_string())
    }

    /// From arrays by name; see [`Dataset::open`].
    pub(crate) fn new(mut arrays: BTreeMap<String, Tensor>, graph: &Graph) -> Result<Self> {
        let labels = arrays.remove("labels").map(|t| integers(&t)).transpose().context("labels")?;
        let mut inputs = Vec::new();
        for &id in &graph.inputs {
            let name = &graph.value(id).name;
            let found = arrays.remove(name).or_else(|| match graph.inputs.len() {
                1 if arrays.len() == 1 => arrays.pop_first().map(|(_, array)| array),
                1 => arrays.remove("input"),
                _ => None,
            });
            let Some(array) = found else {
                bail!("no array for input {name:?}; there are {:?}", arrays.keys().collect::<Vec<_>>());
            };
            ensure!(array.rank() > 0, "array {name:?} has no axis of samples");
            inputs.push((name.clone(), array));
        }
        let samples = inputs.first().context("the model has no inputs")?.1.shape()[0];
        for (name, array) in &inputs {
            ensure!(
                array.shape()[0] == samples,
                "array {name:?} has {} samples, the first has {samples}",
                array.shape()[0]
            );
        }
        if let Some(labels) = &labels {
            ensure!(labels.len() == samples, "{} labels for {samples} samples", labels.len());
        }
        ensure!(samples > 0, "there are no samples");
        Ok(Self { inputs, labels, samples })
    }

    /// Number of samples.
    pub(crate) fn len(&self) -> usize {
        self.samples
    }

    /// The first input of one sample, as a batch of one.
    pub(crate) fn sample(&self, index: usize) -> Result<Tensor> {
        let (_, tensor) = &self.inputs[0];
        let bytes = tensor.bytes().len() / self.samples;
        let shape = [&[1], &tensor.shape()[1..]].concat();
        let part = &tensor.bytes()[index * bytes..][..bytes];
        Ok(TensorView::from_bytes(tensor.dtype(), &shape, part)?.to_tensor())
    }

    /// The labels, if there are any.
    pub(crate) fn labels(&self) -> Option<&[i64]> {
        self.labels.as_deref()
    }

    /// Samples per run: what the model fixes, or `wanted`.
    pub(crate) fn batch_size(&self, graph: &Graph, wanted: usize) -> Result<usize> {
        let fixed = graph.inputs.iter().filter_map(|&id| match graph.value(id).shape.as_deref() {
            Some([Dim::Fixed(size), ..]) => Some(*size),
            _ => None,
        });
        let size = fixed.min().unwrap_or(wanted).max(1);
        ensure!(
            size <= self.samples,
            "the model takes batches of {size}, there are {} samples",
            self.samples
        );
        Ok(size)
    }

    /// Runs the model on every whole batch; gives `visit` the first sample's index and the outputs. Where the model
    /// fixes the batch, samples that do not fill a last one are left out.
    pub(crate) fn run(
        &self,
        executable: &Executable,
        batch: usize,
        fixed: bool,
        mut visit: impl FnMut(usize, usize, Vec<(String, Tensor)>) -> Result<()>,
    ) -> Result<()> {
        for start in (0..self.samples).step_by(batch) {
            let end = (start + batch).min(self.samples);
            if fixed && end - start < batch {
                break;
            }
            let shapes: Vec<Vec<usize>> =
                self.inputs.iter().map(|(_, t)| [&[end - start], &t.shape()[1..]].concat()).collect();
            let feeds = self
                .inputs
                .iter()
                .zip(&shapes)
                .map(|((name, tensor), shape)| {
                    let bytes = tensor.bytes().len() / self.samples;
                    let part = &tensor.bytes()[start * bytes..end * bytes];
                    Ok((name.as_str(), TensorView::from_bytes(tensor.dtype(), shape, part)?))
                })
                .collect::<Result<Vec<_>>>()?;
            visit(start, end, executable.run(&feeds)?)?;
        }
        Ok(())
    }

    /// Accuracy of the first output, `[n, classes]`, against the labels.
    pub(crate) fn accuracy(&self, executable: &Executable, batch: usize) -> Result<Accuracy> {
        let labels = self.labels().context("there is no array named \"labels\"")?;
        let mut sum = AccuracySum::default();
        let batch = self.batch_size(executable.graph(), batch)?;
        let fixed = is_fixed(executable.graph());
        self.run(executable, batch, fixed, |start, end, outputs| {
            let (_, scores) = outputs.first().context("the model has no outputs")?;
            sum.add(&floats(scores)?, &labels[start..end])
        })?;
        Ok(sum.finish())
    }
}

/// Whether the model fixes its batch.
pub(crate) fn is_fixed(graph: &Graph) -> bool {
    graph.inputs.iter().any(|&id| matches!(graph.value(id).shape.as_deref(), Some([Dim::Fixed(_), ..])))
}
