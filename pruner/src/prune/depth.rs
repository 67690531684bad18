//! Whole residual blocks go.

use poda_formats::{Graph, ValueId};
use poda_runtime::{Model, Options, RunOptions};

use super::{Progress, PruneError, Pruned, Run};
use crate::calibration::{CalibrationError, each_example};
use crate::check::Failure;
use crate::criterion::{OfBlocks, float_values};
use crate::depth::{Block, blocks, gated, without, zeroed};
use crate::gates::{Losses, MOST_ABLATED};
use crate::report;
use crate::settings::Settings;

/// A graph without some blocks, given by number.
struct Shorter {
    gone: Vec<usize>,
    graph: Graph,
}

impl Run<'_, '_> {
    pub(super) fn depth(
        &mut self,
        dense: &Graph,
        graph: &Graph,
        settings: &Settings,
    ) -> Result<Pruned, PruneError> {
        let all = blocks(graph, settings.facts());
        let users = graph.consumers();
        let excluded = |block: &Block| {
            self.recipe.excludes(&block.name)
                || block.weights.iter().any(|&id| {
                    let nodes = &users[id.index()];
                    self.recipe.excludes(&graph.value(id).name)
                        || nodes.iter().any(|&node| self.recipe.excludes(&graph.nodes[node].name))
                })
        };
        let (left, open): (Vec<Block>, Vec<Block>) = all.into_iter().partition(excluded);
        let asked = self.asks();
        if asked && open.is_empty() {
            let reason = match left.len() {
                0 => "no residual block was found: nothing adds a value and what was computed from it"
                    .to_owned(),
                n => format!("every residual block is excluded ({n} of them)"),
            };
            return Err(PruneError::NothingToRemove { reason });
        }
        self.tell(Progress::Scoring)?;
        let scores = if asked { self.block_scores(graph, &open)? } else { Vec::new() };
        let mut ranked: Vec<usize> = (0..scores.len()).collect();
        ranked.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]));
        let mut best = Shorter { gone: Vec::new(), graph: graph.clone() };
        let take = |_: &mut Self, share: f64| {
            let count = (share * open.len() as f64).round() as usize;
            let mut gone = ranked[..count.min(open.len())].to_vec();
            gone.sort_unstable();
            let mut shorter = without(graph, &gone.iter().map(|&at| &open[at]).collect::<Vec<_>>());
            shorter.normalize()?;
            Ok(Shorter { gone, graph: shorter })
        };
        self.follow(settings, graph, &mut best, take, |shorter| &shorter.graph)?;
        let gone: Vec<&Block> = best.gone.iter().map(|&at| &open[at]).collect();
        let mut groups = Vec::new();
        for (at, block) in open.iter().enumerate() {
            let weights = block.weights.iter().map(|&id| graph.value(id).name.clone()).collect();
            let removed = usize::from(best.gone.contains(&at));
            groups.push(report::Group { name: block.name.clone(), units: 1, removed, weights });
        }
        // Of the model as it came, where its additions are the same.
        let of = |id: ValueId| dense.producers()[id.index()];
        let same = gone.iter().all(|block| {
            let node = block.output.index() < dense.values.len() && of(block.output).is_some();
            node && dense.nodes[of(block.output).expect("just asked")].inputs.contains(&Some(block.branch))
        });
        let reference = if same { dense } else { graph };
        let reference = (self.recipe.check && asked).then(|| (zeroed(reference, &gone), best.graph.clone()));
        Ok(Pruned { graph: best.graph, reference, must_run: true, groups, refused: Vec::new() })
    }

    fn block_scores(&mut self, graph: &Graph, all: &[Block]) -> Result<Vec<f64>, PruneError> {
        match self.criterion.of_blocks().expect("what the recipe is checked for") {
            OfBlocks::Likeness => self.influence(graph, all),
            OfBlocks::Ablation => {
                let (gated, gates) = gated(graph, all);
                let losses = Losses::new(&gated, self.samples()?, &gates, MOST_ABLATED, self.recipe.seed)?;
                let dense = losses.of(&[])?;
                let mut scores = Vec::new();
                for block in 0..all.len() {
                    scores.push((losses.of(&[(block, 0)])? - dense).abs());
                    self.tell(Progress::Unit { unit: block + 1, of: all.len() })?;
                }
                Ok(scores)
            }
        }
    }

    /// One less the mean cosine between what each block is fed and what it gives: over the last axis, of images over samples.
    fn influence(&self, graph: &Graph, all: &[Block]) -> Result<Vec<f64>, PruneError> {
        let taps: Vec<ValueId> = all.iter().flat_map(|block| [block.input, block.output]).collect();
        let failed = |failure: Failure| CalibrationError::Run { failure };
        let options = Options { tune: false, ..Options::default() };
        let model = Model::from_graph(graph.clone())?;
        let executable = model.prepare(options).map_err(|error| failed(error.into()))?;
        let mut sums = vec![(0.0, 0.0); all.len()];
        each_example(self.samples()?, 16, &mut |_, example| {
            let feeds: Vec<_> = example.feeds.iter().map(|(name, t)| (name.as_str(), t.view())).collect();
            let options = RunOptions { extra: &taps, ..RunOptions::default() };
            let outputs = executable.run_with(&feeds, &options).map_err(|error| failed(error.into()))?;
            let own = outputs.len() - taps.len();
            for (sum, pair) in sums.iter_mut().zip(outputs[own..].chunks_exact(2)) {
                let shape = pair[0].1.shape();
                let row = if shape.len() > 3 {
                    shape[1..].iter().product()
                } else {
                    shape.last().copied().unwrap_or(1)
                };
                let values = pair.iter().map(|(_, tensor)| float_values(tensor)).collect::<Option<Vec<_>>>();
                let Some(values) = values.filter(|_| row > 0) else { continue };
                for (a, b) in values[0].chunks_exact(row).zip(values[1].chunks_exact(row)) {
                    sum.0 += cosine(a, b);
                    sum.1 += 1.0;
                }
            }
            Ok::<_, PruneError>(())
        })?;
        Ok(sums.into_iter().map(|(sum, count)| 1.0 - sum / f64::max(count, 1.0)).collect())
    }
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    let norms = (dot(a, a) * dot(b, b)).sqrt();
    if norms > 0.0 { dot(a, b) / norms } else { 1.0 }
}
