//! Shares of layers found by trying levels of each: what they cost is time, measured on this machine.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use poda_formats::{Graph, Node, Tensor, ValueId, Weight};
use poda_runtime::analysis::Analysis;
use poda_runtime::random_feeds::random_feeds;
use poda_runtime::{Model, Options};

use super::layers::Method;
use super::structure::most_shares;
use super::{PruneError, Run};
use crate::allocation::{Allocate, Levels, Scope, Shares};
use crate::calibration::uses;
use crate::check::{CheckError, Failure};
use crate::gates::Losses;
use crate::recipe::{Granularity, Inputs};
use crate::settings::{Settings, Shapes};
use crate::structured::Matrix;
use crate::unstructured::float_tensor;
use crate::update::BiasPlace;

/// What may go of a layer.
const LEVELS: [f64; 7] = [0.0, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9];

/// Samples that stitched models are judged by, and roughly judged by.
const JUDGED_BY: [usize; 2] = [48, 16];

/// Random scales of SPDY, and as many that change the best; generations of EvoPress.
const TRIES: usize = 24;

/// Every layer pruned at every level, by itself.
pub(super) struct Database {
    /// The weight of each layer, and its bias where that shifts, in the order of the inputs of `losses`.
    ids: Vec<Vec<ValueId>>,
    /// Graphs with all layers at one level, from the second on.
    graphs: Vec<Graph>,
    /// What equal shares cost, by level.
    equal: Vec<f64>,
    /// Up to what may go of each layer.
    levels: Levels,
    losses: Losses,
}

impl Run<'_, '_> {
    /// Prunes every layer at every level on the dense model's activations, and measures what each takes.
    pub(super) fn database(
        &mut self,
        graph: &Graph,
        settings: &Settings,
        matrices: &[Matrix],
        method: &Method<'_>,
    ) -> Result<Database, PruneError> {
        let samples = self.samples()?;
        let dense = method.on(Inputs::Dense);
        let mut graphs = Vec::new();
        let mut errors = vec![vec![0.0]; matrices.len()];
        for &share in &LEVELS[1..] {
            let scope = if method.scope == Scope::Row { Scope::Row } else { Scope::Layer };
            let shares = Shares::all(scope, share);
            let (pruned, fits) = dense.prune(graph, matrices, samples, shares, self.observer)?;
            for (matrix, errors) in matrices.iter().zip(&mut errors) {
                let name = &graph.value(matrix.id).name;
                let fit = fits.iter().find(|fit| fit.weight == *name);
                errors.push(fit.and_then(|fit| fit.error_after.or(fit.error_before)).unwrap_or(0.0));
            }
            graphs.push(pruned);
        }
        let mut ids = Vec::new();
        for matrix in matrices {
            let changed = |id: &ValueId| {
                let bytes = |graph: &Graph| graph.weight(*id)?.to_dense().ok().map(|t| t.bytes().to_vec());
                graphs.iter().any(|other| bytes(other) != bytes(graph))
            };
            let bias = super::layers::bias_of(graph, matrix).map(BiasPlace::id);
            ids.push(std::iter::once(matrix.id).chain(bias.filter(changed)).collect::<Vec<_>>());
        }
        let costs = self.times(graph, settings, matrices)?;
        let equal = (0..LEVELS.len()).map(|level| costs.iter().map(|costs| costs[level]).sum()).collect();
        let mut levels = Levels { costs, errors };
        let layers: Vec<ValueId> = matrices.iter().map(|matrix| matrix.id).collect();
        for (layer, most) in most_shares(self.recipe, graph, &layers).into_iter().enumerate() {
            let allowed = LEVELS.iter().take_while(|&&level| level <= most + 1e-9).count();
            levels.costs[layer].truncate(allowed);
            levels.errors[layer].truncate(allowed);
        }
        let all: Vec<ValueId> = ids.iter().flatten().copied().collect();
        let losses = Losses::new(graph, samples, &all, JUDGED_BY[0], self.recipe.seed)?;
        Ok(Database { ids, graphs, equal, levels, losses })
    }

    /// A share for each layer, such that all take as long as if each lost `share`, and the loss is least, as far as is found; with
    /// what is to be told of that.
    pub(super) fn allocated(
        &self,
        database: &Database,
        share: f64,
    ) -> Result<(Vec<Option<f64>>, Option<String>), PruneError> {
        let Database { levels, .. } = database;
        let budget = between(&database.equal, share);
        let seed = self.recipe.seed;
        let mut loss = |choice: &[usize], roughly: bool| database.loss(choice, roughly);
        let choice = match self.recipe.allocate {
            Allocate::Scope => None,
            Allocate::Sensitivity => levels.sensitivity(budget, &mut loss)?,
            Allocate::Spdy => levels.spdy(budget, TRIES, seed, &mut loss)?,
            Allocate::Evopress => levels.evopress(budget, TRIES, seed, &mut loss)?,
        };
        // (A share next to none is less than any level saves; or layers may not lose as much.)
        let Some(choice) = choice else {
            let name = self.recipe.allocate.name();
            let scoped = self.recipe.allocate == Allocate::Scope;
            let note = (!scoped).then(|| {
                format!(
                    "{name}: no other shares keep to the time of equal ones of {:.0} %, which were taken",
                    share * 100.0
                )
            });
            return Ok((vec![None; levels.costs.len()], note));
        };
        let uniform = LEVELS.iter().rposition(|&level| level <= share + 1e-9).unwrap_or(0);
        let beside: Vec<usize> = levels.costs.iter().map(|costs| uniform.min(costs.len() - 1)).collect();
        let (found, equal) = (database.loss(&choice, false)?, database.loss(&beside, false)?);
        let [all, chosen] = [budget, levels.cost(&choice)].map(|seconds| seconds * 1e3);
        let note = format!(
            "{}: layers alone take {chosen:.2} ms, where {all:.2} ms is what equal shares of {:.0} % take; loss {found:.3e}, \
             of equal shares of {:.0} % {equal:.3e}",
            self.recipe.allocate.name(),
            share * 100.0,
            LEVELS[uniform] * 100.0,
        );
        Ok((choice.into_iter().map(|level| Some(LEVELS[level])).collect(), Some(note)))
    }

    /// Seconds that each layer takes at each level, by itself.
    fn times(
        &self,
        graph: &Graph,
        settings: &Settings,
        matrices: &[Matrix],
    ) -> Result<Vec<Vec<f64>>, PruneError> {
        let analysis = settings.one_sample(graph);
        // Layers of one kind and size take as long.
        let mut known: HashMap<String, Vec<f64>> = HashMap::new();
        let mut all = Vec::new();
        for matrix in matrices {
            let mut costs = vec![0.0; LEVELS.len()];
            for of in uses(graph, matrix.id) {
                let node = &graph.nodes[of.node];
                let shapes: Vec<_> = node.inputs.iter().map(|id| analysis.shape((*id)?)).collect();
                let key = format!("{:?} {shapes:?}", node.op);
                if !known.contains_key(&key) {
                    let mut times = Vec::new();
                    for level in LEVELS {
                        times.push(self.time(graph, node, &analysis, matrix, level)?);
                    }
                    known.insert(key.clone(), times);
                }
                costs.iter_mut().zip(&known[&key]).for_each(|(cost, time)| *cost += time);
            }
            all.push(costs);
        }
        Ok(all)
    }

    /// Median seconds of a run of one node, with this share of a weight gone at random.
    fn time(
        &self,
        graph: &Graph,
        node: &Node,
        analysis: &Analysis,
        matrix: &Matrix,
        share: f64,
    ) -> Result<f64, PruneError> {
        let mut alone = Graph { values: graph.values.clone(), ..Graph::default() };
        let mut shapes = Shapes::new();
        for &id in node.inputs.iter().flatten().filter(|id| graph.weight(**id).is_none()) {
            let Some(info) = analysis.info(id) else { continue };
            let Some(shape) = info.shape.clone() else { continue };
            let value = alone.value_mut(id);
            (value.dtype, value.shape) = (Some(info.dtype), None);
            shapes.insert(value.name.clone(), shape);
            if !alone.inputs.contains(&id) {
                alone.inputs.push(id);
            }
        }
        alone.nodes.push(node.clone());
        alone.outputs = node.outputs.iter().flatten().copied().take(1).collect();
        if let Some(sparse) = thinned(graph, matrix, self.recipe.granularity, share) {
            alone.value_mut(matrix.id).weight = Some(Weight::Tensor(sparse));
        }
        alone.remove_unused();
        let alone = self.recipe.granularity.stored(&alone);
        let feeds = random_feeds(&alone, &shapes, self.recipe.seed)
            .map_err(|error| PruneError::NotChecked(CheckError::Feeds(error)))?;
        let failed = |failure: Failure| PruneError::NotChecked(CheckError::Reference(failure));
        let model = Model::from_graph(alone)?;
        let executable = model.prepare(Options::default()).map_err(|error| failed(error.into()))?;
        let feeds: Vec<_> = feeds.iter().map(|(name, tensor)| (name.as_str(), tensor.view())).collect();
        let mut times = Vec::new();
        let begun = Instant::now();
        // The first runs plan, pack and tune.
        for run in 0..64 {
            let start = Instant::now();
            executable.run(&feeds).map_err(|error| failed(error.into()))?;
            if run >= 2 {
                times.push(start.elapsed());
            }
            if times.len() >= 9 && begun.elapsed() > Duration::from_millis(60) {
                break;
            }
        }
        times.sort_unstable();
        Ok(times[times.len() / 2].as_secs_f64())
    }
}

impl Database {
    /// The loss with each layer at a level.
    fn loss(&self, choice: &[usize], roughly: bool) -> Result<f64, PruneError> {
        let stitched = self.ids.iter().zip(choice).flat_map(|(ids, &level)| {
            ids.iter().map(move |&id| level.checked_sub(1).map(|at| (id, &self.graphs[at])))
        });
        let most = if roughly { JUDGED_BY[1] } else { JUDGED_BY[0] };
        Ok(self.losses.of_weights(&stitched.collect::<Vec<_>>(), most)?)
    }
}

/// What a share between levels costs.
fn between(costs: &[f64], share: f64) -> f64 {
    let above = LEVELS.iter().position(|&level| level >= share).unwrap_or(LEVELS.len() - 1).max(1);
    let part = ((share - LEVELS[above - 1]) / (LEVELS[above] - LEVELS[above - 1])).clamp(0.0, 1.0);
    costs[above - 1] + part * (costs[above] - costs[above - 1])
}

/// A weight of which a share is zero, blocks or single elements evenly strewn.
fn thinned(graph: &Graph, matrix: &Matrix, granularity: Granularity, share: f64) -> Option<Tensor> {
    let tensor = graph.weight(matrix.id)?.to_dense().ok()?;
    let mut values = crate::criterion::float_values(&tensor)?;
    let [r, c] = match granularity {
        Granularity::Pattern(pattern @ poda_formats::Pattern::Block { .. }) => pattern.numbers(),
        _ => [1, 1],
    };
    for row in 0..matrix.rows {
        for col in 0..matrix.cols {
            // (Knuth's multiplicative hash of the block.)
            let block = (row / r * matrix.cols.div_ceil(c) + col / c) as u32;
            let strewn =
                f64::from(block.wrapping_mul(2_654_435_761).rotate_left(15).wrapping_mul(2_246_822_519));
            if strewn < share * f64::from(u32::MAX) {
                values[matrix.form.at(row, col)] = 0.0;
            }
        }
    }
    float_tensor(tensor.dtype(), tensor.shape(), &values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_between_levels_lie_on_a_line() {
        let costs = [9.0, 8.0, 6.0, 5.0, 4.0, 3.0, 1.0];
        for (share, cost) in [(0.0, 9.0), (0.15, 8.5), (0.3, 8.0), (0.4, 7.0), (0.9, 1.0), (0.95, 1.0)] {
            assert!((between(&costs, share) - cost).abs() < 1e-9, "{share}");
        }
    }
}
