//! Submodules, or single layers, trained one after the other to give the dense model's outputs, once their layers have been pruned and
//! fitted. What reaches them comes from the model as it is by then, submodules before them trained, or from the dense one, as
//! [`Inputs`] says.
//!
//! Memory holds one submodule's inputs and outputs, of so many batches as there is room for, and what a step of training takes.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use poda_formats::{Graph, Tensor, ValueId};
use poda_runtime::analysis::Analysis;
use poda_runtime::{Model, Options as RunOptions};

use super::{Fitted, Progress, PruneError, Run};
use crate::calibration::{CalibrationError, Lane, Samples, Stream, part, run};
use crate::check::Failure;
use crate::finetune::part::{Sample, train};
use crate::finetune::{Batch, FineTuneError, Options, Rate, RateShape, Term, candidates};
use crate::gradients::loss::Loss;
use crate::observer::Observer;
use crate::recipe::{Inputs, Recipe};
use crate::report::{Fit, Reconstructed};
use crate::structured::Matrix;
use crate::submodule::{Extent, Submodule, submodules};

/// Bytes of inputs and outputs of a submodule that are held; of more, every second batch is taken, or every third, …
const HELD: usize = 256 << 20;

/// Passes over the samples: as many as AdaPrune takes in SPDY, Frantar & Alistarh, ICML 2022, <https://arxiv.org/abs/2201.13096>.
const EPOCHS: u64 = 10;

/// The greatest rate of Adam.
const RATE: f32 = 1e-3;

/// A model whose submodules are trained.
pub(super) struct Reconstruction<'a> {
    pub(super) recipe: &'a Recipe,
    /// The model that nothing has gone from.
    pub(super) dense: &'a Graph,
    /// Weights that were pruned.
    pub(super) weights: &'a [ValueId],
    pub(super) samples: &'a dyn Samples,
}

impl Run<'_, '_> {
    /// What layers were fitted to, with submodules trained where an update says so.
    pub(super) fn reconstruct(
        &mut self,
        dense: &Graph,
        matrices: &[Matrix],
        samples: &dyn Samples,
        (mut graph, layers): (Graph, Vec<Fit>),
    ) -> Result<(Graph, Fitted), PruneError> {
        let weights: Vec<ValueId> = matrices.iter().map(|matrix| matrix.id).collect();
        let reconstruction = Reconstruction { recipe: self.recipe, dense, weights: &weights, samples };
        let mut submodules = Vec::new();
        for extent in self.updates.iter().filter_map(|update| update.trains()) {
            submodules.extend(reconstruction.run(&mut graph, extent, self.observer)?);
        }
        Ok((graph, Fitted { layers, submodules }))
    }
}

impl Reconstruction<'_> {
    /// Trains what lies between two places of `pruned` after the other.
    pub(super) fn run(
        &self,
        pruned: &mut Graph,
        extent: Extent,
        observer: &mut dyn Observer,
    ) -> Result<Vec<Reconstructed>, PruneError> {
        let all = submodules(self.dense, self.weights, extent);
        let [mut inputs, mut outputs] =
            [Stream::new(self.dense, self.samples)?, Stream::new(self.dense, self.samples)?];
        let mut done = Vec::new();
        for (number, submodule) in all.iter().enumerate() {
            let progress = Progress::Submodule { submodule: number + 1, of: all.len() };
            if observer.progress(progress) == ControlFlow::Break(()) {
                return Err(PruneError::Stopped);
            }
            done.push(self.train(pruned, submodule, &mut inputs, &mut outputs)?);
        }
        Ok(done)
    }

    fn train(
        &self,
        pruned: &mut Graph,
        submodule: &Submodule,
        inputs: &mut Stream<'_>,
        outputs: &mut Stream<'_>,
    ) -> Result<Reconstructed, PruneError> {
        let forms: BTreeMap<usize, Graph> = inputs
            .known()
            .map(|known| part(pruned, submodule.nodes.clone(), &submodule.outputs, known))
            .enumerate()
            .collect();
        let samples = self.gather(pruned, submodule, &forms, inputs, outputs)?;
        let options = Options {
            epochs: EPOCHS,
            rate: Rate { peak: RATE, shape: RateShape::Cosine, warm_up: 0.05 },
            seed: self.recipe.seed,
            batch_statistics: false,
            ..Options::default()
        };
        let terms = terms(submodule, &samples);
        let weights = self.trained(pruned, submodule, &forms, &terms, &samples);
        let trained = weights.and_then(|weights| {
            let (graph, losses) = train(pruned, &forms, &weights, &terms, &samples, &options)?;
            Ok((graph, losses, weights.len()))
        });
        let names = submodule.outputs.iter().map(|id| pruned.value(*id).name.clone()).collect();
        let mut result = Reconstructed { outputs: names, ..Reconstructed::default() };
        match trained {
            Ok((graph, losses, weights)) => {
                *pruned = graph;
                result.weights = weights;
                (result.error_before, result.error_after) = (Some(losses.before), Some(losses.after));
            }
            // What has no gradient stays as it was fitted.
            Err(error @ (FineTuneError::Gradient(_) | FineTuneError::NoWeights { .. })) => {
                result.left = Some(error.to_string());
            }
            Err(error) => return Err(PruneError::Training(Box::new(error))),
        }
        Ok(result)
    }

    /// Weights that serve the submodule alone, are not excluded, and have a gradient.
    fn trained(
        &self,
        graph: &Graph,
        submodule: &Submodule,
        forms: &BTreeMap<usize, Graph>,
        terms: &[Term],
        samples: &[Sample],
    ) -> Result<Vec<ValueId>, FineTuneError> {
        let users = graph.consumers();
        let free = |id: &ValueId| {
            users[id.index()]
                .iter()
                .all(|node| submodule.nodes.contains(node) && !self.recipe.excludes(&graph.nodes[*node].name))
        };
        let all: Vec<ValueId> = candidates(graph, &self.recipe.exclude)
            .into_iter()
            .filter(|id| !users[id.index()].is_empty() && free(id))
            .collect();
        let reached = match samples.first() {
            Some(sample) => crate::finetune::step::reached(&forms[&sample.form], &all, terms, &sample.batch)?,
            None => Vec::new(),
        };
        if reached.is_empty() {
            let reason = "every weight of it serves others too, is excluded or not f32".to_owned();
            return Err(FineTuneError::NoWeights { reason });
        }
        Ok(reached)
    }

    /// What flows into the submodule, and what it should give, batch by batch.
    fn gather(
        &self,
        pruned: &Graph,
        submodule: &Submodule,
        forms: &BTreeMap<usize, Graph>,
        inputs: &mut Stream<'_>,
        outputs: &mut Stream<'_>,
    ) -> Result<Vec<Sample>, PruneError> {
        let batches: Vec<(bool, usize)> = inputs.batches().collect();
        let known: Vec<Analysis> = inputs.known().cloned().collect();
        let held = held(&batches, |form: usize| {
            forms[&form].inputs.iter().chain(&submodule.outputs).map(|id| bytes(&known[form], *id)).sum()
        });
        let mut samples: BTreeMap<usize, Sample> = held
            .into_iter()
            .map(|number| {
                let (held_out, form) = batches[number];
                let batch = Batch { feeds: Vec::new(), targets: Vec::new() };
                (number, Sample { form, held_out, batch })
            })
            .collect();
        let from = if self.recipe.inputs == Inputs::Dense { self.dense } else { pruned };
        let needed: BTreeSet<ValueId> = forms.values().flat_map(|form| form.inputs.iter().copied()).collect();
        for id in needed {
            let name = &pruned.value(id).name;
            tap(inputs, from, submodule.nodes.start, id, &mut |number, tensor| {
                if let Some(sample) = samples.get_mut(&number).filter(|s| forms[&s.form].inputs.contains(&id))
                {
                    sample.batch.feeds.push((name.clone(), tensor));
                }
            })?;
        }
        if self.recipe.inputs == Inputs::Pruned {
            let of = |known: &Analysis| part(self.dense, submodule.nodes.clone(), &submodule.outputs, known);
            give(&known.iter().map(of).collect::<Vec<_>>(), samples.values_mut())?;
        } else {
            for &id in &submodule.outputs {
                tap(outputs, self.dense, submodule.nodes.end, id, &mut |number, tensor| {
                    if let Some(sample) = samples.get_mut(&number) {
                        sample.batch.targets.push(tensor);
                    }
                })?;
            }
        }
        Ok(samples.into_values().collect())
    }
}

/// The batches that are held, by number: all, or evenly so many of those that are kept aside and of the others as there is room for.
fn held(batches: &[(bool, usize)], bytes: impl Fn(usize) -> usize) -> Vec<usize> {
    let all: usize = batches.iter().map(|&(_, form)| bytes(form)).sum();
    let every = all.div_ceil(HELD).max(1);
    let mut seen = [0; 2];
    let mut take = |&number: &usize| {
        let seen: &mut usize = &mut seen[usize::from(batches[number].0)];
        *seen += 1;
        (*seen - 1).is_multiple_of(every)
    };
    (0..batches.len()).filter(|number| take(number)).collect()
}

/// Bytes of a value whose shape is known.
fn bytes(known: &Analysis, id: ValueId) -> usize {
    let info = known.info(id);
    let elements = known.shape(id).map_or(0, |shape| shape.iter().product());
    elements * info.map_or(0, |info| info.dtype.size())
}

/// Shows a value of `graph` before node `to`, of every batch.
fn tap(
    stream: &mut Stream<'_>,
    graph: &Graph,
    to: usize,
    id: ValueId,
    show: &mut dyn FnMut(usize, Tensor),
) -> Result<(), CalibrationError> {
    let mut number = 0;
    run(&mut [Lane { stream, graph, keep: true }], to, id, &mut |shown| {
        show(number, shown.lanes[0].to_tensor());
        number += 1;
        Ok(())
    })
}

/// Runs the dense submodule on what each sample is fed.
fn give<'s>(dense: &[Graph], samples: impl Iterator<Item = &'s mut Sample>) -> Result<(), CalibrationError> {
    let failed = |failure: Failure| CalibrationError::Run { failure };
    let mut prepared = BTreeMap::new();
    for sample in samples {
        let executable = match prepared.entry(sample.form) {
            Entry::Occupied(executable) => executable.into_mut(),
            Entry::Vacant(new) => {
                let model =
                    Model::from_graph(dense[sample.form].clone()).map_err(|error| failed(error.into()))?;
                let options = RunOptions { tune: false, ..RunOptions::default() };
                new.insert(model.prepare(options).map_err(|error| failed(error.into()))?)
            }
        };
        let feeds: Vec<_> = sample.batch.feeds.iter().map(|(name, t)| (name.as_str(), t.view())).collect();
        let outputs = executable.run(&feeds).map_err(|error| failed(error.into()))?;
        sample.batch.targets = outputs.into_iter().map(|(_, tensor)| tensor).collect();
    }
    Ok(())
}

/// Mean squared difference of each output, as a share of its mean square; their mean.
fn terms(submodule: &Submodule, samples: &[Sample]) -> Vec<Term> {
    let term = |(at, &output): (usize, &ValueId)| {
        let (mut squares, mut elements) = (0.0_f64, 0);
        for target in samples.iter().filter_map(|sample| sample.batch.targets.get(at)) {
            let values = target.as_slice::<f32>().unwrap_or_default();
            squares += values.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>();
            elements += values.len();
        }
        let mean = if squares > 0.0 { squares / elements as f64 } else { 1.0 };
        let factor = (1.0 / (mean * submodule.outputs.len() as f64)) as f32;
        Term { loss: Loss::Mse, output, factor }
    };
    submodule.outputs.iter().enumerate().map(term).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_thinned_out_evenly_where_they_take_too_much() {
        let batches: Vec<(bool, usize)> = (0..12).map(|at| (at % 4 == 3, 0)).collect();
        assert_eq!(held(&batches, |_| 1), (0..12).collect::<Vec<_>>());
        // A quarter of them fits: of those kept aside (3, 7, 11) the first stays at least.
        assert_eq!(held(&batches, |_| HELD / 3), [0, 3, 5, 10]);
        assert_eq!(held(&batches, |_| HELD * 9), [0, 3]);
    }
}
