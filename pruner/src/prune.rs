//! The loop: evaluate importance → rank → remove the least important → ask the termination conditions.

mod activity;
mod allocate;
mod channels;
mod depth;
mod error;
mod layers;
mod reconstruct;
mod restored;
mod structure;
mod target;
mod trials;
mod units;
mod weights;

pub use error::PruneError;

use std::ops::ControlFlow;

use poda_formats::Graph;

use crate::allocation::Allocate;
use crate::calibration::Samples;
use crate::canonical::canonical;
use crate::check::{self, CheckError, Difference, TOLERANCE};
use crate::criterion::Criterion;
use crate::dead::{Proof, remove_dead};
use crate::defaults;
use crate::goal::Way;
use crate::judge::Judge;
use crate::masks::{self, Kept, Masks};
use crate::names;
use crate::observer::Observer;
use crate::quantised::{self, Quantised};
use crate::recipe::{Granularity, Recipe, RecipeError};
use crate::report::{self, Dead, Fit, Histogram, Reconstructed, Report, histogram};
use crate::schedule::{self, Search};
use crate::settings::{Settings, Shapes};
use crate::structured::matrices;
use crate::unstructured::prunable_weights;
use crate::update::WeightUpdate;
use crate::values;
use crate::vocabulary::keep_ids;
use restored::Restored;
use structure::Structure;

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
    Trying { way: Way, sparsity: f64, attempt: usize },
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
    let (floats, quantised) = quantised::separate(&whole);
    let (graph, rows) = keep_ids(&floats, &recipe.keep_ids)?;
    let judge = data.judge.map(|judge| Restored { judge, defaults: &defaults });
    let judge = judge.as_ref().map(|judge| judge as &dyn Judge);
    let run = Run::new(recipe, shapes, observer, Data { judge, ..data }, &quantised)?;
    let (pruned, mut report) = run.all(&graph)?;
    let mut pruned = quantised.restore(&pruned)?;
    if let Some(values) = recipe.values {
        pruned.round_weights(values)?;
        report.rounded = pruned.rounded_weights();
    }
    report.count_weights(&whole, &pruned);
    report.kept = masks::then(rows, report.kept);
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
    let (graph, quantised) = quantised::separate(&graph);
    let mut run = Run::new(recipe, shapes, observer, data, &quantised)?;
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
    /// What is to be put back into what is pruned.
    quantised: &'a Quantised,
    notes: Vec<String>,
    fitted: Fitted,
    kept: Vec<Kept>,
    histograms: Vec<Histogram>,
    search: Option<report::Search>,
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

impl<'a, 'p> Run<'a, 'p> {
    /// Checks that the recipe can be followed with what there is of data.
    fn new(
        recipe: &'a Recipe,
        shapes: &'a Shapes,
        observer: &'p mut dyn Observer,
        data: Data<'a>,
        quantised: &'a Quantised,
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
            quantised,
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
            rounded: Vec::new(),
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
