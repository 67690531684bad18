//! Units go, with all that is coupled to them.

use poda_formats::Graph;

use super::layers::{Method, WeightsGradients};
use super::structure::{Structure, removed_share};
use super::{Fitted, Progress, PruneError, Pruned, Run};
use crate::allocation::{Shares, allocate, native_lanes};
use crate::calibration::{Needs, Statistics};
use crate::compact::compact;
use crate::dependency::{DependencyGraph, Removal};
use crate::mask::masked;
use crate::masks;
use crate::recipe::Recipe;
use crate::report::{self, histogram};
use crate::settings::Settings;
use crate::structured::{Matrix, matrices};
use crate::unstructured::prunable_weights;
use crate::update::Freedom;
use crate::values;

/// Units that are gone.
struct Removed {
    removal: Removal,
    fits: Fitted,
    /// The graph with what multiplied them at zero and the rest fitted, where there are data.
    fitted: Option<Graph>,
    /// The smaller graph.
    graph: Graph,
}

impl Run<'_, '_> {
    pub(super) fn channels(
        &mut self,
        dense: &Graph,
        graph: &Graph,
        settings: &Settings,
    ) -> Result<Pruned, PruneError> {
        let mut structure = Structure::of(graph, settings, self.recipe);
        let dependencies = &structure.dependencies;
        let refused = report::refused(graph, dependencies);
        let asked = self.asks();
        if asked && structure.excluded.iter().all(|&excluded| excluded) {
            let refusal =
                || refused.first().map(|r| format!("{} units of {}: {}", r.units, r.name, r.reason));
            let excluded = structure.excluded.len();
            let excluded = (excluded > 0).then(|| {
                format!("every layer that has units to lose is excluded ({excluded} groups of units)")
            });
            let reason = excluded.or_else(|| settings.unknown(graph)).or_else(refusal);
            let reason = reason.unwrap_or_else(|| "no layer has units that could go".to_owned());
            return Err(PruneError::NothingToRemove { reason });
        }
        values::all_finite(graph, &structure.members(graph))?;
        self.notes.extend(settings.unknown(graph));
        self.tell(Progress::Scoring)?;
        let (multiplied, _) = matrices(graph, &prunable_weights(graph, &Recipe::default()));
        let scores = if asked {
            self.unit_scores(graph, dependencies, settings, &multiplied)?
        } else {
            vec![0.0; dependencies.unit_count()]
        };
        let unseen = structure.exclude_unseen(&scores);
        if !unseen.is_empty() {
            self.notes.push(format!(
                "left as they are, because {} does not see them: {}",
                self.criterion.name(),
                unseen.join(", ")
            ));
            if structure.excluded.iter().all(|&excluded| excluded) {
                let reason = format!("{} sees none of the units that may go", self.criterion.name());
                return Err(PruneError::NothingToRemove { reason });
            }
        }
        let (structure, dependencies) = (&structure, &structure.dependencies);
        let none = Removal::none(dependencies);
        let mut best = Removed { removal: none, fits: Fitted::default(), fitted: None, graph: graph.clone() };
        let choose = |run: &mut Self, share: f64| {
            let removal = match run.masks {
                Some(masks) => masks.removal(graph, dependencies)?,
                None => run.choose(graph, structure, &scores, share),
            };
            let (fitted, fits) = run.fit_to_removal(graph, dependencies, &removal, &multiplied)?.unzip();
            let from = fitted.as_ref().unwrap_or(graph);
            let compacted = compact(from, dependencies, settings.facts(), &removal)?;
            Ok(Removed { removal, fits: fits.unwrap_or_default(), fitted, graph: compacted })
        };
        self.follow(settings, graph, &mut best, choose, |removed| &removed.graph)?;
        let Removed { removal, fits, fitted, graph: compacted } = best;
        self.fitted = fits;
        self.histograms = histogram::of_units(dependencies, &removal, &scores, self.criterion.name());
        let before = std::mem::take(&mut self.kept);
        self.kept = masks::then(before, masks::kept(graph, dependencies, &removal));
        let check = self.recipe.check && asked;
        let reference = check.then(|| {
            // Fitted weights are those of the canonical form.
            let dense = fitted.as_ref().unwrap_or(dense);
            (masked(dense, graph, dependencies, settings.facts(), &removal), compacted.clone())
        });
        let groups = report::groups(graph, dependencies, &removal);
        Ok(Pruned { graph: compacted, reference, must_run: true, groups, refused })
    }

    /// The units to remove for a share; a larger one of the groups that may shrink if these hold few parameters.
    fn choose(&mut self, graph: &Graph, structure: &Structure, scores: &[f64], share: f64) -> Removal {
        const STEP: f64 = 0.05;
        const MOST: f64 = 0.75;
        let lanes = self.recipe.round_to.unwrap_or_else(native_lanes);
        let scope = self.recipe.scope(self.criterion);
        let dependencies = &structure.dependencies;
        let own = structure.own_shares(graph, self.recipe);
        let most = structure.most(graph, self.recipe);
        let take = |share| {
            allocate(
                dependencies,
                scores,
                &structure.excluded,
                Shares { scope, share, own: &own, most: &most },
                lanes,
            )
        };
        let mut removal = take(share);
        let wanted = share * self.recipe.least_parameters;
        let mut taken = share;
        // What is excluded is not to be made up for.
        let make_up = !structure.excluded.contains(&true);
        while make_up && removed_share(graph, dependencies, &removal) < wanted && taken + STEP <= MOST {
            taken += STEP;
            removal = take(taken);
        }
        if taken > share {
            self.notes.push(format!(
                "the units that may go hold few of the parameters: {:.0} % of them were taken instead of {:.0} %",
                taken * 100.0,
                share * 100.0
            ));
        }
        removal
    }

    /// `graph` with the weights that multiply removed units at zero, and the others of these products fitted to do without.
    fn fit_to_removal(
        &mut self,
        graph: &Graph,
        dependencies: &DependencyGraph,
        removal: &Removal,
        multiplied: &[Matrix],
    ) -> Result<Option<(Graph, Fitted)>, PruneError> {
        let Some(samples) = self.samples.filter(|_| !self.updates.is_empty()) else { return Ok(None) };
        let kept = |matrix: &Matrix| -> Option<Vec<bool>> {
            let (shape, layout) = (graph.weight(matrix.id)?.shape(), dependencies.layout(matrix.id)?);
            let mut all = vec![true; shape.iter().product()];
            for (dim, &axis) in layout.axes.iter().enumerate() {
                let Some(kept) = dependencies.kept(axis, removal) else { continue };
                let inner: usize = shape[dim + 1..].iter().product();
                all.iter_mut().enumerate().for_each(|(at, all)| *all &= kept[at / inner % shape[dim]]);
            }
            // An output that goes itself needs no fitting.
            let mut rows = matrix.form.rows_of(&all).into_owned();
            let gone = rows.chunks_mut(matrix.cols.max(1)).filter(|row| !row.contains(&true));
            gone.for_each(|row| row.fill(true));
            rows.contains(&false).then_some(rows)
        };
        let (matrices, masks): (Vec<Matrix>, Vec<Vec<bool>>) =
            multiplied.iter().filter_map(|matrix| Some((*matrix, kept(matrix)?))).unzip();
        let updates = self.updates.clone();
        let gradients = WeightsGradients::new();
        let method = Method { freedom: Some(Freedom::None), ..self.method(&updates, &gradients) };
        let kept = |at: usize, _: &[f32], _: &Statistics| masks[at].clone();
        let pruned = method.fit(graph, &matrices, samples, Needs::Weights, self.observer, &kept)?;
        self.reconstruct(graph, &matrices, samples, pruned).map(Some)
    }
}
