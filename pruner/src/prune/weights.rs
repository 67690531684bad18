//! Weights go one by one, in blocks or by N:M, or where masks say so.

use poda_formats::{Graph, ValueId};

use super::layers::{Method, WeightsGradients};
use super::structure::{floors_too_high, most_shares, own_shares, spared_shares};
use super::{Fitted, Progress, PruneError, Pruned, Run};
use crate::allocation::{Allocate, Scope, Shares};
use crate::calibration::{Needs, Statistics};
use crate::masks::Masks;
use crate::recipe::{Granularity, Recipe};
use crate::settings::Settings;
use crate::structured::{Matrix, matrices, zero_by_pattern};
use crate::unstructured::{prunable_weights, zero_marked, zero_weights};
use crate::update::{Freedom, WeightUpdate};
use crate::values;

/// A graph whose weights are pruned, and what is to be told of that.
struct Zeroed {
    graph: Graph,
    fits: Fitted,
    note: Option<String>,
}

impl Run<'_, '_> {
    pub(super) fn weights(&mut self, graph: &Graph, settings: &Settings) -> Result<Pruned, PruneError> {
        let asked = self.asks();
        let weights = prunable_weights(graph, self.recipe);
        if weights.is_empty() && asked {
            return Err(PruneError::NoWeights);
        }
        self.tell(Progress::Scoring)?;
        let mut best = Zeroed { graph: graph.clone(), fits: Fitted::default(), note: None };
        let (matrices, others) = match self.recipe.granularity {
            Granularity::Unstructured if self.samples.is_none() => (Vec::new(), Vec::new()),
            _ => matrices(graph, &weights),
        };
        if !others.is_empty() {
            let names: Vec<&str> = others.iter().map(|&id| graph.value(id).name.as_str()).collect();
            self.notes.push(format!(
                "left as they are, because no product uses them directly as its matrix of outputs × inputs: {}",
                names.join(", ")
            ));
        }
        let scorer = self.criterion.of_weights().expect("what the recipe is checked for");
        // Weights without samples need no matrices.
        let scored: Vec<ValueId> = matrices.iter().map(|matrix| matrix.id).collect();
        let gradients = self.gradients(graph, &scored, scorer.gradients().filter(|_| asked))?;
        let updates = self.updates.clone();
        let database = match self.recipe.allocate {
            Allocate::Scope => None,
            _ if !asked => None,
            _ => {
                let method = self.method(&updates, &gradients);
                Some(self.database(graph, settings, &matrices, &method)?)
            }
        };
        let take = |run: &mut Self, share: f64| {
            let Recipe { granularity, seed, .. } = *run.recipe;
            let scope = run.recipe.scope(run.criterion);
            let layers = if matrices.is_empty() { &weights } else { &scored };
            let most = most_shares(run.recipe, graph, layers);
            let competing = scope == Scope::Global;
            let floors = if competing { floors_too_high(graph, layers, &most, share) } else { None };
            if let Some(masks) = run.masks {
                return run.by_masks(graph, &matrices, masks);
            }
            if let Some(samples) = run.samples {
                let (own, note, scope) = match &database {
                    Some(database) => {
                        let (own, note) = run.allocated(database, share)?;
                        (own, note, if scope == Scope::Row { scope } else { Scope::Layer })
                    }
                    None => {
                        let (own, note) = spared_shares(run.recipe, graph, &matrices, scope, share);
                        (own, note, scope)
                    }
                };
                let shares = Shares { scope, share, own: &own, most: &most };
                let updates = run.updates.clone();
                let method = run.method(&updates, &gradients);
                let pruned = method.prune(graph, &matrices, samples, shares, run.observer)?;
                let (pruned, fits) = run.reconstruct(graph, &matrices, samples, pruned)?;
                return Ok(Zeroed { graph: pruned, fits, note: note.or(floors) });
            }
            let own = own_shares(run.recipe, graph, layers, scope, share);
            let shares = Shares { scope, share, own: &own, most: &most };
            let graph = match granularity {
                Granularity::Pattern(pattern) => {
                    zero_by_pattern(graph, &matrices, scorer, seed, pattern, shares)?
                }
                _ => zero_weights(graph, &weights, scorer, seed, shares)?,
            };
            Ok(Zeroed { graph, fits: Fitted::default(), note: floors })
        };
        self.follow(settings, graph, &mut best, take, |zeroed| &zeroed.graph)?;
        let Zeroed { graph: best, fits, note } = best;
        self.fitted = fits;
        self.notes.extend(note);
        // The zeros are the mask: what is checked is how they are stored, weight by weight, and run.
        let mut reference = None;
        if self.recipe.check && asked {
            let stored = self.recipe.granularity.stored(&best);
            values::all_same(&best, &stored)?;
            reference = Some((best.clone(), stored));
        }
        Ok(Pruned { graph: best, reference, must_run: false, groups: Vec::new(), refused: Vec::new() })
    }

    /// `graph` with zeros where masks say so, and the other weights of products fitted to do without, where there are samples.
    fn by_masks(&mut self, graph: &Graph, matrices: &[Matrix], masks: &Masks) -> Result<Zeroed, PruneError> {
        let weights = masks.of(graph)?;
        let stays = |id: ValueId| masks.stays(&graph.value(id).name).unwrap_or_default();
        let zeroed = |weights: &[ValueId]| {
            zero_marked(graph, weights, |at| stays(weights[at]).iter().map(|stays| !stays).collect())
        };
        let Some(samples) = self.samples else {
            return Ok(Zeroed { graph: zeroed(&weights)?, fits: Fitted::default(), note: None });
        };
        let (fitted, others): (Vec<ValueId>, Vec<ValueId>) =
            weights.into_iter().partition(|id| matrices.iter().any(|matrix| matrix.id == *id));
        let matrices: Vec<Matrix> =
            matrices.iter().copied().filter(|matrix| fitted.contains(&matrix.id)).collect();
        let start = zeroed(&others)?;
        let updates = self.updates.clone();
        let gradients = WeightsGradients::new();
        let method = Method { freedom: Some(Freedom::None), ..self.method(&updates, &gradients) };
        let kept = |at: usize, _: &[f32], _: &Statistics| {
            matrices[at].form.rows_of(stays(matrices[at].id)).into_owned()
        };
        let pruned = method.fit(&start, &matrices, samples, Needs::Weights, self.observer, &kept)?;
        let (graph, fits) = self.reconstruct(&start, &matrices, samples, pruned)?;
        Ok(Zeroed { graph, fits, note: None })
    }

    /// How weights are pruned from samples.
    pub(super) fn method<'m>(
        &self,
        updates: &'m [&'static dyn WeightUpdate],
        gradients: &'m WeightsGradients,
    ) -> Method<'m> {
        let Recipe { granularity, seed, damping, inputs, .. } = *self.recipe;
        let pattern = match granularity {
            Granularity::Pattern(pattern) => Some(pattern),
            Granularity::Unstructured | Granularity::Channel | Granularity::Depth => None,
        };
        let (criterion, scope) = (self.criterion, self.recipe.scope(self.criterion));
        let normalize = self.recipe.normalize(criterion);
        Method {
            criterion,
            gradients,
            normalize,
            updates,
            pattern,
            scope,
            freedom: None,
            damping,
            inputs,
            seed,
        }
    }
}
