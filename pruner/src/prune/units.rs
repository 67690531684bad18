//! Scores of units, by whatever the criterion looks at.

use std::collections::BTreeMap;

use poda_formats::{Graph, Op, ValueId};

use super::layers::{Layers, WeightsGradients};
use super::{Progress, PruneError, Run, activity};
use crate::calibration::{Needs, Samples};
use crate::criterion::{
    OfMatrices, OfUnits, OfWeights, Part, Ranking, float_values, matrix_parts, slice_parts, weight_scores,
};
use crate::dependency::DependencyGraph;
use crate::gates::Gates;
use crate::gradients::saliency::{Gradients, collect};
use crate::recipe::{Inputs, RecipeError};
use crate::settings::Settings;
use crate::structured::Matrix;

impl<'a> Run<'a, '_> {
    /// A score for each unit; NaN for what the criterion does not see. `multiplied` are the matrices of products.
    pub(super) fn unit_scores(
        &mut self,
        graph: &Graph,
        dependencies: &DependencyGraph,
        settings: &Settings,
        multiplied: &[Matrix],
    ) -> Result<Vec<f64>, PruneError> {
        let of_units = self.criterion.of_units().expect("what the recipe is checked for");
        let parts = match of_units {
            OfUnits::Weights(of) => self.by_weights(graph, dependencies, multiplied, of)?,
            OfUnits::Matrices(of) => self.by_matrices(graph, dependencies, multiplied, of)?,
            OfUnits::Activations { labels, score } => {
                let criterion = labels.then_some(self.criterion.name());
                let (seen, classes) =
                    activity::observe(graph, dependencies, settings.facts(), self.samples()?, criterion)?;
                let known = seen.iter().enumerate();
                let known = known.filter_map(|(unit, seen)| Some((unit, seen.activity(classes.as_deref())?)));
                vec![known.map(|(unit, activity)| (unit, score(&activity))).collect()]
            }
            OfUnits::Gates { against, score } => {
                let gates = Gates::new(graph, dependencies, settings);
                let found = gates.gradients(self.samples()?, against, self.recipe.seed)?;
                let known = found.iter().enumerate();
                vec![known.filter_map(|(unit, gate)| Some((unit, score(gate.as_ref()?)))).collect()]
            }
            OfUnits::Scales => by_scales(graph, dependencies),
            OfUnits::Ablation => {
                let gates = Gates::new(graph, dependencies, settings);
                let (samples, of) = (self.samples()?, dependencies.unit_count());
                let found = gates.ablations(samples, self.recipe.seed, &mut |unit| {
                    self.tell(Progress::Unit { unit, of })
                })?;
                let known = found.into_iter().enumerate();
                vec![known.filter_map(|(unit, change)| Some((unit, change?))).collect()]
            }
        };
        let ranking =
            Ranking { normalize: self.recipe.normalize(self.criterion), aggregate: self.recipe.aggregate };
        let mut scores = ranking.rank(dependencies, &parts);
        if self.recipe.flops_penalty > 0.0 {
            let macs = unit_macs(graph, dependencies, settings);
            scores.iter_mut().zip(macs).for_each(|(score, macs)| *score -= self.recipe.flops_penalty * macs);
        }
        Ok(scores)
    }

    /// Gradients of the loss at weights, if the criterion asks for some.
    pub(super) fn gradients(
        &self,
        graph: &Graph,
        weights: &[ValueId],
        wanted: Option<Gradients>,
    ) -> Result<WeightsGradients, PruneError> {
        match wanted {
            Some(wanted) => Ok(collect(graph, self.samples()?, weights, wanted, self.recipe.seed)?),
            None => Ok(WeightsGradients::new()),
        }
    }

    pub(super) fn samples(&self) -> Result<&'a dyn Samples, PruneError> {
        let (kind, name) = ("criterion", self.criterion.name());
        self.samples.ok_or_else(|| RecipeError::NoData { kind, name }.into())
    }

    fn by_weights(
        &mut self,
        graph: &Graph,
        dependencies: &DependencyGraph,
        multiplied: &[Matrix],
        of: &dyn OfWeights,
    ) -> Result<Vec<Part>, PruneError> {
        let shrinks = |matrix: &&Matrix| {
            let layout = dependencies.layout(matrix.id);
            layout.is_some_and(|layout| layout.axes.iter().any(|&axis| dependencies.can_shrink(axis)))
        };
        let shrinking: Vec<Matrix> = multiplied.iter().filter(shrinks).copied().collect();
        let ids: Vec<ValueId> = shrinking.iter().map(|matrix| matrix.id).collect();
        let gradients = self.gradients(graph, &ids, of.gradients())?;
        let mut given = BTreeMap::new();
        if of.needs() > Needs::Weights {
            let (samples, updates) = (self.samples, self.updates.clone());
            if let Some(samples) = samples {
                let method = self.method(&updates, &gradients);
                given = method.dense_scores(graph, multiplied, samples, self.observer)?;
            }
        } else {
            for matrix in shrinking.iter().filter(|matrix| gradients.contains_key(&matrix.id)) {
                let known = (None, gradients.get(&matrix.id));
                let seed = self.recipe.seed;
                let scores = weight_scores(graph, matrix.id, Some(matrix.form), of, known, seed);
                given.extend(scores.map(|scores| (matrix.id, scores)));
            }
        }
        Ok(slice_parts(graph, dependencies, of, &given, self.recipe.seed))
    }

    fn by_matrices(
        &mut self,
        graph: &Graph,
        dependencies: &DependencyGraph,
        multiplied: &[Matrix],
        of: &dyn OfMatrices,
    ) -> Result<Vec<Part>, PruneError> {
        let mut parts = Vec::new();
        if of.needs() == Needs::Weights {
            for matrix in multiplied {
                parts.extend(matrix_parts(graph, dependencies, of, matrix, None));
            }
            return Ok(parts);
        }
        let samples = self.samples()?;
        let mut layers = Layers::new(graph, multiplied, samples, of.needs(), Inputs::Dense)?;
        layers.each(&mut graph.clone(), self.observer, &mut |graph, at, statistics| {
            parts.extend(matrix_parts(graph, dependencies, of, &multiplied[at], Some(statistics)));
            Ok(())
        })?;
        Ok(parts)
    }
}

/// `|γ|` of the batch normalisations that units pass.
fn by_scales(graph: &Graph, dependencies: &DependencyGraph) -> Vec<Part> {
    let mut parts = Vec::new();
    for node in &graph.nodes {
        let Op::BatchNormalization { .. } = node.op else { continue };
        let scale =
            node.input(1).and_then(|id| Some((graph.weight(id)?.to_dense().ok()?, dependencies.layout(id)?)));
        let Some((scale, layout)) = scale else { continue };
        let (Some(values), Some(&axis)) = (float_values(&scale), layout.axes.first()) else { continue };
        if !dependencies.can_shrink(axis) {
            continue;
        }
        let mut all = BTreeMap::new();
        dependencies.for_each_unit(axis, &mut |at, unit| {
            *all.entry(unit).or_insert(0.0) += f64::from(values[at].abs());
        });
        parts.push(all.into_iter().collect());
    }
    parts
}

/// Multiply-accumulates that go with each unit, in millions: of each product the share of an index along each dimension.
fn unit_macs(graph: &Graph, dependencies: &DependencyGraph, settings: &Settings) -> Vec<f64> {
    let analysis = settings.one_sample(graph);
    let mut all = vec![0.0; dependencies.unit_count()];
    for (index, node) in graph.nodes.iter().enumerate() {
        let macs = analysis.macs(graph, index).unwrap_or_default().dense as f64 / 1e6;
        let matrix = |id: &&ValueId| graph.weight(**id).is_some_and(|weight| weight.shape().len() > 1);
        let layouts = node.inputs.iter().flatten().filter(matrix);
        let axes = layouts.filter_map(|&id| dependencies.layout(id)).flat_map(|layout| &layout.axes);
        for &axis in axes.filter(|axis| macs > 0.0 && dependencies.can_shrink(**axis)) {
            let share = macs / dependencies.size(axis) as f64;
            dependencies.for_each_unit(axis, &mut |_, unit| all[unit] += share);
        }
    }
    all
}
