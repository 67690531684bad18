//! The loop: evaluate importance → rank → remove the least important → ask the termination conditions.

mod activity;
mod allocate;
mod depth;
mod error;
mod layers;
mod reconstruct;
mod structure;
mod target;
mod trials;
mod units;

pub use error::PruneError;

use std::ops::ControlFlow;

use poda_formats::{Graph, ValueId};

use crate::allocation::{Allocate, Scope, Shares, allocate, native_lanes};
use crate::calibration::{Needs, Samples, Statistics};
use crate::canonical::canonical;
use crate::check::{self, CheckError, Difference, TOLERANCE};
use crate::compact::compact;
use crate::criterion::Criterion;
use crate::dead::{Proof, remove_dead};
use crate::defaults;
use crate::dependency::{DependencyGraph, Removal};
use crate::judge::{Correlation, Fidelity, Judge, JudgeError};
use crate::mask::masked;
use crate::masks::{self, Kept, Masks};
use crate::names;
use crate::observer::Observer;
use crate::recipe::{Granularity, Recipe, RecipeError};
use crate::report::{self, Dead, Fit, Histogram, Reconstructed, Report, Totals, histogram};
use crate::schedule::{self, Search};
use crate::settings::{Settings, Shapes};
use crate::structured::{Matrix, matrices, zero_by_pattern};
use crate::termination::{Conditions, Verdict};
use crate::unstructured::{prunable_weights, zero_marked, zero_weights};
use crate::update::{Freedom, WeightUpdate};
use crate::values;
use crate::vocabulary::keep_ids;
use layers::{Method, WeightsGradients};
use reconstruct::Reconstruction;
use trials::Trials;

use structure::{Structure, floors_too_high, most_shares, own_shares, removed_share, spared_shares};

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
#[serde(tag = "stage", rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Progress {
    /// Following shapes and dependencies.
    Analyzing,
    /// Scoring weights or units.
    Scoring,
    /// A layer is pruned from calibration data.
    Layer { layer: usize, of: usize },
    /// A submodule is trained to give its dense outputs.
    Submodule { submodule: usize, of: usize },
    /// A unit or a block was left out, to see what becomes of the loss.
    Unit { unit: usize, of: usize },
    /// A candidate was measured; `of` is the most that there will be.
    Step { step: usize, of: usize, sparsity: f64, drop: Option<f64> },
    /// Comparing the result with the masked model.
    Checking,
    /// A way to a goal is tried, counted from 1.
    Trying { way: &'static str, sparsity: f64, attempt: usize },
}

/// Greatest difference in a channel that removing dead units may make: rounding.
const DEAD_TOLERANCE: f64 = 1e-4;

/// As [`DEAD_TOLERANCE`], for units whose effect is bounded only.
const BOUNDED_TOLERANCE: f64 = 1e-5;

/// What is known of the data that a model is for.
#[derive(Clone, Copy, Default)]
pub struct Data<'a> {
    /// Needed when the recipe bounds what only data or a clock can tell: a score, closeness to the dense model, latency.
    pub judge: Option<&'a dyn Judge>,
    /// Unlabelled samples, for criteria and updates that look at what flows through the model.
    pub samples: Option<&'a dyn Samples>,
    /// What stays, where that is known: then nothing is ranked, and recipes say no share.
    pub masks: Option<&'a Masks>,
}

/// Prunes `graph` as `recipe` says.
///
/// `shapes` gives concrete shapes of inputs where the model's symbols leave them open; it may be empty. `judge` is needed
/// when the recipe bounds what only data or a clock can tell: a score, closeness to the dense model, latency. A closure that takes a
/// [`Progress`] is an observer.
///
/// # Errors
/// When the recipe is invalid or cannot be followed, or when the result fails the final check.
pub fn prune(
    graph: &Graph,
    recipe: &Recipe,
    shapes: &Shapes,
    observer: &mut dyn Observer,
    judge: Option<&dyn Judge>,
) -> Result<(Graph, Report), PruneError> {
    prune_with(graph, recipe, shapes, observer, Data { judge, ..Data::default() })
}

/// As [`prune`], by what flows through the model on samples, where there are some: weights that stay are then fitted to the
/// dense outputs, layer by layer.
///
/// # Errors
/// As [`prune`], and when the samples do not fit or are not finite.
pub fn prune_with(
    graph: &Graph,
    recipe: &Recipe,
    shapes: &Shapes,
    observer: &mut dyn Observer,
    data: Data<'_>,
) -> Result<(Graph, Report), PruneError> {
    let (whole, defaults) = defaults::separate(graph);
    let (graph, rows) = keep_ids(&whole, &recipe.keep_ids)?;
    let judge = data.judge.map(|judge| Restored { judge, defaults: &defaults });
    let judge = judge.as_ref().map(|judge| judge as &dyn Judge);
    let run = Run::new(recipe, shapes, observer, Data { judge, ..data })?;
    let (mut pruned, mut report) = run.all(&graph)?;
    if !rows.is_empty() {
        // Rows count among what went.
        let Totals { macs, nonzero_macs, .. } = report.before;
        report.before = Totals { macs, nonzero_macs, ..report::of_weights(&whole) };
        report.kept = masks::then(rows, report.kept);
    }
    defaults::restore(&mut pruned, &defaults);
    Ok((pruned, report))
}

/// Scores of units that may go, before any is removed: of each group its name, and a score for each of its units. NaN of what the
/// criterion does not see.
///
/// # Errors
/// As [`prune_with`], and when the recipe is not one for channels.
pub fn scores(
    graph: &Graph,
    recipe: &Recipe,
    shapes: &Shapes,
    observer: &mut dyn Observer,
    data: Data<'_>,
) -> Result<Vec<(String, Vec<f64>)>, PruneError> {
    let (graph, _) = defaults::separate(graph);
    let mut run = Run::new(recipe, shapes, observer, data)?;
    let (graph, settings) = canonical(&graph, shapes, &|name| recipe.excludes(name));
    let Structure { dependencies, excluded } = Structure::of(&graph, &settings, recipe);
    let (multiplied, _) = matrices(&graph, &prunable_weights(&graph, &Recipe::default()));
    let scores = run.unit_scores(&graph, &dependencies, &settings, &multiplied)?;
    let groups = dependencies.groups().iter().zip(excluded).filter(|(_, excluded)| !excluded);
    Ok(groups
        .map(|(group, _)| (group.name.clone(), group.units.iter().map(|&unit| scores[unit]).collect()))
        .collect())
}

struct Run<'a, 'p> {
    recipe: &'a Recipe,
    criterion: &'static dyn Criterion,
    updates: Vec<&'static dyn WeightUpdate>,
    shapes: &'a Shapes,
    observer: &'p mut dyn Observer,
    judge: Option<&'a dyn Judge>,
    samples: Option<&'a dyn Samples>,
    masks: Option<&'a Masks>,
    notes: Vec<String>,
    fitted: Fitted,
    kept: Vec<Kept>,
    histograms: Vec<Histogram>,
    search: Option<report::Search>,
}

/// Judges graphs with the default values of inputs that were set apart.
struct Restored<'a> {
    judge: &'a dyn Judge,
    defaults: &'a [poda_formats::Value],
}

impl Restored<'_> {
    fn whole(&self, graph: &Graph) -> Graph {
        let mut graph = graph.clone();
        defaults::restore(&mut graph, self.defaults);
        graph
    }
}

impl Judge for Restored<'_> {
    fn score(&self, graph: &Graph) -> Result<f64, JudgeError> {
        self.judge.score(&self.whole(graph))
    }

    fn fidelity(&self, graph: &Graph) -> Result<Fidelity, JudgeError> {
        self.judge.fidelity(&self.whole(graph))
    }

    fn similarity(&self, graph: &Graph) -> Result<Correlation, JudgeError> {
        self.judge.similarity(&self.whole(graph))
    }

    fn latency(&self, graph: &Graph) -> Result<f64, JudgeError> {
        self.judge.latency(&self.whole(graph))
    }

    fn speedup(&self, graph: &Graph) -> Result<f64, JudgeError> {
        self.judge.speedup(&self.whole(graph))
    }
}

/// A pruned graph, and what there was to choose from.
struct Pruned {
    graph: Graph,
    /// Two graphs that must agree: the reference, and the result as it will run.
    reference: Option<(Graph, Graph)>,
    /// Whether only a run can tell that they do.
    must_run: bool,
    groups: Vec<report::Group>,
    refused: Vec<report::Refused>,
}

/// What was fitted to data.
#[derive(Default)]
struct Fitted {
    layers: Vec<Fit>,
    submodules: Vec<Reconstructed>,
}

/// A graph whose weights are pruned, and what is to be told of that.
struct Zeroed {
    graph: Graph,
    fits: Fitted,
    note: Option<String>,
}

/// Units that are gone.
struct Removed {
    removal: Removal,
    fits: Fitted,
    /// The graph with what multiplied them at zero and the rest fitted, where there are data.
    fitted: Option<Graph>,
    /// The smaller graph.
    graph: Graph,
}

impl<'a, 'p> Run<'a, 'p> {
    /// Checks that the recipe can be followed with what there is of data.
    fn new(
        recipe: &'a Recipe,
        shapes: &'a Shapes,
        observer: &'p mut dyn Observer,
        data: Data<'a>,
    ) -> Result<Self, PruneError> {
        let Data { judge, samples, masks } = data;
        match recipe.validate() {
            Err(RecipeError::NoTarget) if masks.is_some() => {}
            valid => valid?,
        }
        let (criterion, updates) = (recipe.criterion(samples.is_some())?, recipe.updates(samples.is_some())?);
        if samples.is_none() {
            let needs = criterion.needs_samples(recipe.granularity);
            let of_criterion = needs.then(|| ("criterion", criterion.name()));
            if let Some((kind, name)) =
                of_criterion.or(updates.first().map(|update| ("update", update.name())))
            {
                return Err(RecipeError::NoData { kind, name }.into());
            }
            if recipe.allocate != Allocate::Scope {
                return Err(RecipeError::NoData { kind: "allocation", name: recipe.allocate.name() }.into());
            }
        }
        let (notes, fitted, kept, histograms, search) =
            (Vec::new(), Fitted::default(), Vec::new(), Vec::new(), None);
        Ok(Self {
            recipe,
            criterion,
            updates,
            shapes,
            observer,
            judge,
            samples,
            masks,
            notes,
            fitted,
            kept,
            histograms,
            search,
        })
    }

    fn tell(&mut self, progress: Progress) -> Result<(), PruneError> {
        match self.observer.progress(progress) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(PruneError::Stopped),
        }
    }

    /// Whether anything is removed but what is dead.
    fn asks(&self) -> bool {
        let judges = self.observer.judges();
        self.masks.is_some()
            || schedule::one_shot(self.recipe, judges).is_some()
            || Search::of(self.recipe, judges).is_some()
    }

    fn all(mut self, graph: &Graph) -> Result<(Graph, Report), PruneError> {
        self.tell(Progress::Analyzing)?;
        let excluded = |name: &str| self.recipe.excludes(name);
        let (start, settings) = canonical(graph, self.shapes, &excluded);
        names::all_fit(&[graph, &start], &self.recipe.exclude)?;
        let by_name = self.recipe.layers.iter().chain(&self.recipe.floors);
        let patterns: Vec<String> = by_name.map(|layer| layer.pattern.clone()).collect();
        names::all_fit(&[graph, &start], &patterns)?;
        values::all_finite(&start, &prunable_weights(&start, self.recipe))?;
        let Some((lean, dead, difference)) = self.without_dead(graph, &start)? else {
            let result = self.remove(graph, &start, &settings)?;
            return self.finish(graph, &start, Vec::new(), result);
        };
        let excluded = |name: &str| self.recipe.excludes(name);
        let (canonical, settings) = canonical(&lean, self.shapes, &excluded);
        let result = self.remove(&lean, &canonical, &settings)?;
        let (pruned, mut report) = self.finish(graph, &start, dead, result)?;
        // The greater of both differences.
        if difference.as_ref().is_some_and(|d| report.check.as_ref().is_none_or(|c| c.relative < d.relative))
        {
            report.check = difference;
        }
        Ok((pruned, report))
    }

    /// `dense` is what the result is compared with, `graph` its canonical form.
    fn remove(&mut self, dense: &Graph, graph: &Graph, settings: &Settings) -> Result<Pruned, PruneError> {
        match self.recipe.granularity {
            Granularity::Channel => self.channels(dense, graph, settings),
            Granularity::Depth => self.depth(dense, graph, settings),
            Granularity::Unstructured | Granularity::Pattern(_) => self.weights(graph, settings),
        }
    }

    fn weights(&mut self, graph: &Graph, settings: &Settings) -> Result<Pruned, PruneError> {
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

    fn channels(&mut self, dense: &Graph, graph: &Graph, settings: &Settings) -> Result<Pruned, PruneError> {
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
    fn method<'m>(
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

    /// What layers were fitted to, with submodules trained where an update says so.
    fn reconstruct(
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

    /// Takes the share that the recipe says; where it bounds measures instead, finds the share whose result holds what must be
    /// kept, and reaches what is to be reached with as little as possible. `best` is left as it is where nothing does.
    fn follow<T>(
        &mut self,
        settings: &Settings,
        dense: &Graph,
        best: &mut T,
        mut take: impl FnMut(&mut Self, f64) -> Result<T, PruneError>,
        graph: impl Fn(&T) -> &Graph,
    ) -> Result<(), PruneError> {
        if self.masks.is_some() {
            *best = take(self, 0.0)?;
            return Ok(());
        }
        let judges = self.observer.judges();
        let Some(mut search) = Search::of(self.recipe, judges) else {
            if let Some(share) = schedule::one_shot(self.recipe, judges) {
                *best = take(self, share)?;
                self.tell(Progress::Step { step: 1, of: 1, sparsity: share, drop: None })?;
            }
            return Ok(());
        };
        let conditions = Conditions::of(self.recipe);
        let mut trials = Trials::begin(&conditions, settings, dense, self)?;
        if let Some(share) = self.guess(&conditions, dense)?.filter(|_| trials.open()) {
            search.guess(share);
        }
        let (mut enough, mut most) = (None, None);
        while let Some((step, share)) = search.next().filter(|_| trials.open() && !trials.over()) {
            let taken = take(self, share)?;
            let verdict = trials.ask(graph(&taken), share, search.most(), self)?;
            search.learn(step, verdict);
            match verdict {
                Verdict::Stop => enough = Some(taken),
                Verdict::Continue => most = Some(taken),
                Verdict::RollBack => {}
            }
        }
        let (report, missed) = trials.finish();
        self.notes.extend(missed);
        self.search = Some(report);
        if let Some(found) = enough.or(most) {
            *best = found;
        }
        Ok(())
    }

    /// The share that reaches targets of size and speed, of the model pruned by magnitude: that costs no fits to data.
    fn guess(&mut self, conditions: &Conditions, dense: &Graph) -> Result<Option<f64>, PruneError> {
        let sketched = conditions.targets().all(|bound| bound.measure.of_size_or_speed());
        let fits = self.samples.is_some() && conditions.targets().next().is_some() && sketched;
        let Some(sketch) = self.recipe.sketch().filter(|_| fits && !self.observer.judges()) else {
            return Ok(None);
        };
        let data = Data { judge: self.judge, ..Data::default() };
        let (_, report) = prune_with(dense, &sketch, self.shapes, self.observer, data)?;
        let taken = report.search.and_then(|search| search.trials.get(search.taken?).cloned());
        Ok(taken.map(|trial| trial.sparsity))
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

    /// `graph`, the canonical form of `dense`, without its dead units, when the recipe asks for that, with the difference
    /// that it makes. Units of bounded effect go too if the outputs confirm that they have none.
    fn without_dead(
        &mut self,
        dense: &Graph,
        graph: &Graph,
    ) -> Result<Option<(Graph, Vec<Dead>, Option<Difference>)>, PruneError> {
        if !self.recipe.remove_dead {
            return Ok(None);
        }
        let runs = Settings::find(dense, self.shapes).runs();
        if self.recipe.check {
            let (lean, dead, kept) = remove_dead(graph, self.shapes, Proof::Bounded)?;
            if dead.is_empty() {
                return Ok(Some((lean, dead, None)));
            }
            match check::difference(dense, &lean, &runs, self.recipe.seed) {
                Ok(found) if found.relative <= BOUNDED_TOLERANCE => {
                    self.kept = kept;
                    return Ok(Some((lean, dead, Some(found))));
                }
                Err(error @ (CheckError::Reference(_) | CheckError::Feeds(_))) => {
                    return Err(PruneError::NotChecked(error));
                }
                _ => {}
            }
        }
        let (lean, dead, kept) = remove_dead(graph, self.shapes, Proof::Exact)?;
        self.kept = kept;
        if !self.recipe.check || dead.is_empty() {
            return Ok(Some((lean, dead, None)));
        }
        let found = self.compare(dense, &lean, &runs, DEAD_TOLERANCE)?;
        Ok(Some((lean, dead, Some(found))))
    }

    fn compare(
        &mut self,
        expected: &Graph,
        found: &Graph,
        runs: &[Shapes],
        tolerance: f64,
    ) -> Result<Difference, PruneError> {
        self.tell(Progress::Checking)?;
        match check::difference(expected, found, runs, self.recipe.seed) {
            Ok(found) if found.relative > tolerance => {
                Err(PruneError::Differs { output: found.output, relative: found.relative })
            }
            Ok(found) => {
                if found.not_finite > 0 {
                    self.notes.push(format!(
                        "{} of {} elements of the outputs are infinite or NaN in both models alike, and were not compared",
                        found.not_finite,
                        found.not_finite + found.compared
                    ));
                }
                Ok(found)
            }
            Err(error @ (CheckError::Reference(_) | CheckError::Feeds(_))) => {
                Err(PruneError::NotChecked(error))
            }
            Err(error) => Err(PruneError::Wrong(error)),
        }
    }

    /// `canonical` is `dense` in the form that was pruned.
    fn finish(
        mut self,
        dense: &Graph,
        canonical: &Graph,
        dead: Vec<Dead>,
        mut pruned: Pruned,
    ) -> Result<(Graph, Report), PruneError> {
        let settings = Settings::find(dense, self.shapes);
        let check = match pruned.reference.take() {
            Some((reference, found)) => match self.compare(&reference, &found, &settings.runs(), TOLERANCE) {
                Err(PruneError::NotChecked(error)) if !pruned.must_run => {
                    self.notes
                        .push(format!("weights were compared one by one; the model was not run: {error}"));
                    None
                }
                result => Some(result?),
            },
            None => None,
        };
        self.notes.extend(report::few_rows(&self.fitted.layers));
        self.notes.extend(report::silent::silent_outputs(canonical, &pruned.graph));
        // What folded constants were made of.
        pruned.graph.remove_unused();
        if let Some(values) = self.recipe.values {
            pruned.graph.round_weights(values)?;
        }
        let of = |graph: &Graph| settings.one_sample(graph);
        let (before, after) = (of(canonical), of(&pruned.graph));
        let report = Report {
            granularity: self.recipe.granularity,
            before: report::totals(dense, &of(dense)),
            after: report::totals(&pruned.graph, &after),
            layers: report::layers(canonical, &before, &pruned.graph, &after),
            groups: pruned.groups,
            refused: pruned.refused,
            looked_for_dead: self.recipe.remove_dead,
            dead,
            rounded: pruned.graph.rounded_weights(),
            fits: self.fitted.layers,
            submodules: self.fitted.submodules,
            likeness: None,
            check,
            file: None,
            search: self.search,
            goal: None,
            rounds: Vec::new(),
            histograms: match self.recipe.granularity {
                Granularity::Channel => self.histograms,
                _ => histogram::of_weights(canonical, &pruned.graph),
            },
            kept: self.kept,
            notes: self.notes,
        };
        Ok((pruned.graph, report))
    }
}
