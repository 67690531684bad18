//! The loop: evaluate importance → rank → remove the least important → ask the termination conditions.

mod error;
mod structure;

pub use error::PruneError;

use std::ops::ControlFlow;

use poda_formats::Graph;
use poda_runtime::analysis::{Analysis, analyze};

use crate::allocation::{allocate, native_lanes};
use crate::canonical::canonical;
use crate::check::{self, CheckError, Difference, TOLERANCE};
use crate::compact::compact;
use crate::criterion::{Criterion, unit_scores};
use crate::dead::{Proof, remove_dead};
use crate::defaults;
use crate::dependency::Removal;
use crate::mask::masked;
use crate::names;
use crate::observer::Observer;
use crate::recipe::{Granularity, Recipe, RecipeError};
use crate::report::{self, Dead, Report};
use crate::schedule;
use crate::settings::{Settings, Shapes};
use crate::structured::{matrices, zero_by_pattern};
use crate::termination::{State, Termination, Verdict};
use crate::unstructured::{prunable_weights, zero_weights};
use crate::values;
use structure::{Structure, removed_share};

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
#[serde(tag = "stage", rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Progress {
    /// Following shapes and dependencies.
    Analyzing,
    /// Scoring weights or units.
    Scoring,
    /// A step is done.
    Step { step: usize, of: usize, sparsity: f64, drop: Option<f64> },
    /// Comparing the result with the masked model.
    Checking,
}

/// Scores a model on validation data; higher is better.
pub type Validation<'a> = &'a dyn Fn(&Graph) -> Result<f64, Box<dyn std::error::Error + Send + Sync>>;

/// Greatest difference in a channel that removing dead units may make: rounding.
const DEAD_TOLERANCE: f64 = 1e-4;

/// As [`DEAD_TOLERANCE`], for units whose effect is bounded only.
const BOUNDED_TOLERANCE: f64 = 1e-5;

/// Prunes `graph` as `recipe` says.
///
/// `shapes` gives concrete shapes of inputs where the model's symbols leave them open; it may be empty. `validation` is
/// needed when the recipe limits the drop of a score. A closure that takes a [`Progress`] is an observer.
///
/// # Errors
/// When the recipe is invalid or cannot be followed, or when the result fails the final check.
pub fn prune(
    graph: &Graph,
    recipe: &Recipe,
    shapes: &Shapes,
    observer: &mut dyn Observer,
    validation: Option<Validation<'_>>,
) -> Result<(Graph, Report), PruneError> {
    let criterion = recipe.validate()?;
    if recipe.max_drop.is_some() && validation.is_none() {
        return Err(RecipeError::NoValidation.into());
    }
    let (graph, defaults) = defaults::separate(graph);
    let scored = validation.map(|validation| {
        let defaults = &defaults;
        move |graph: &Graph| {
            let mut graph = graph.clone();
            defaults::restore(&mut graph, defaults);
            validation(&graph)
        }
    });
    let validation = scored.as_ref().map(|scored| scored as Validation<'_>);
    let run = Run { recipe, criterion, shapes, observer, validation, notes: Vec::new() };
    let (mut pruned, report) = run.all(&graph)?;
    defaults::restore(&mut pruned, &defaults);
    Ok((pruned, report))
}

struct Run<'a, 'p> {
    recipe: &'a Recipe,
    criterion: &'static dyn Criterion,
    shapes: &'a Shapes,
    observer: &'p mut dyn Observer,
    validation: Option<Validation<'a>>,
    notes: Vec<String>,
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

impl Run<'_, '_> {
    fn tell(&mut self, progress: Progress) -> Result<(), PruneError> {
        match self.observer.progress(progress) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(PruneError::Stopped),
        }
    }

    fn all(mut self, graph: &Graph) -> Result<(Graph, Report), PruneError> {
        self.tell(Progress::Analyzing)?;
        let excluded = |name: &str| self.recipe.excludes(name);
        let (start, settings) = canonical(graph, self.shapes, &excluded);
        names::all_fit(&[graph, &start], &self.recipe.exclude)?;
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
            Granularity::Unstructured | Granularity::Pattern(_) => self.weights(graph, settings),
        }
    }

    fn weights(&mut self, graph: &Graph, settings: &Settings) -> Result<Pruned, PruneError> {
        let steps = schedule::steps(self.recipe, self.observer.judges());
        let weights = prunable_weights(graph, self.recipe);
        if weights.is_empty() && !steps.is_empty() {
            return Err(PruneError::NoWeights);
        }
        self.tell(Progress::Scoring)?;
        let mut best = graph.clone();
        let (matrices, others) = match self.recipe.granularity {
            Granularity::Pattern(_) => matrices(graph, &weights),
            _ => (Vec::new(), Vec::new()),
        };
        if !others.is_empty() {
            let names: Vec<&str> = others.iter().map(|&id| graph.value(id).name.as_str()).collect();
            self.notes.push(format!(
                "left as they are, because no product uses them directly as its matrix of outputs × inputs: {}",
                names.join(", ")
            ));
        }
        let take = |run: &mut Self, share: f64| {
            let Recipe { granularity, scope, seed, .. } = *run.recipe;
            Ok(match granularity {
                Granularity::Pattern(pattern) => {
                    zero_by_pattern(graph, &matrices, run.criterion, seed, pattern, scope, share)?
                }
                _ => zero_weights(graph, &weights, run.criterion, seed, scope, share)?,
            })
        };
        self.follow(&steps, settings, graph, &mut best, take, |graph| graph)?;
        // The zeros are the mask: what is checked is how they are stored, weight by weight, and run.
        let mut reference = None;
        if self.recipe.check && !steps.is_empty() {
            let stored = self.recipe.granularity.stored(&best);
            values::all_same(&best, &stored)?;
            reference = Some((best.clone(), stored));
        }
        Ok(Pruned { graph: best, reference, must_run: false, groups: Vec::new(), refused: Vec::new() })
    }

    fn channels(&mut self, dense: &Graph, graph: &Graph, settings: &Settings) -> Result<Pruned, PruneError> {
        let structure = Structure::of(graph, settings, self.recipe);
        let dependencies = &structure.dependencies;
        let refused = report::refused(graph, dependencies);
        let steps = schedule::steps(self.recipe, self.observer.judges());
        if !steps.is_empty() && structure.excluded.iter().all(|&excluded| excluded) {
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
        let scores = unit_scores(graph, dependencies, self.criterion, self.recipe.seed);
        let mut best = (Removal::none(dependencies), graph.clone());
        let choose = |run: &mut Self, share: f64| {
            let removal = run.choose(graph, &structure, &scores, share);
            let compacted = compact(graph, dependencies, settings.facts(), &removal)?;
            Ok((removal, compacted))
        };
        self.follow(&steps, settings, graph, &mut best, choose, |(_, graph)| graph)?;
        let (removal, compacted) = best;
        let check = self.recipe.check && !steps.is_empty();
        let reference = check
            .then(|| (masked(dense, graph, dependencies, settings.facts(), &removal), compacted.clone()));
        let groups = report::groups(graph, dependencies, &removal);
        Ok(Pruned { graph: compacted, reference, must_run: true, groups, refused })
    }

    /// Takes the steps until a condition ends the run; `best` is the last step that held.
    fn follow<T>(
        &mut self,
        steps: &[f64],
        settings: &Settings,
        dense: &Graph,
        best: &mut T,
        mut take: impl FnMut(&mut Self, f64) -> Result<T, PruneError>,
        graph: impl Fn(&T) -> &Graph,
    ) -> Result<(), PruneError> {
        let conditions = Termination::of(self.recipe);
        let full = if steps.is_empty() { None } else { score_of(self.validation, dense)? };
        let needs_macs = self.recipe.target_macs.is_some();
        let macs = |graph: &Graph, analysis: &Analysis| report::totals(graph, analysis).nonzero_macs as f64;
        let dense_macs = if needs_macs { macs(dense, settings.analysis()) } else { 0.0 };
        let mut verdict = Verdict::Continue;
        for (step, &sparsity) in steps.iter().enumerate() {
            let taken = take(self, sparsity)?;
            let drop = match (full, self.score_rounded(graph(&taken))?) {
                (Some(full), Some(now)) => Some(full - now),
                _ => None,
            };
            let macs = (needs_macs && dense_macs > 0.0)
                .then(|| macs(graph(&taken), &analyze(graph(&taken), &settings.shapes)) / dense_macs);
            self.tell(Progress::Step { step: step + 1, of: steps.len(), sparsity, drop })?;
            let state = State { sparsity, macs, drop };
            verdict = Termination::ask_any(&conditions, &state).and(self.observer.verdict(&state));
            if verdict != Verdict::RollBack {
                *best = taken;
            }
            if verdict != Verdict::Continue {
                break;
            }
        }
        if verdict == Verdict::Continue && needs_macs {
            self.notes.push("target_macs was not reached".to_owned());
        }
        Ok(())
    }

    /// The score of a graph once its values are stored as the recipe says.
    fn score_rounded(&self, graph: &Graph) -> Result<Option<f64>, PruneError> {
        let (Some(_), Some(values)) = (self.validation, self.recipe.values) else {
            return score_of(self.validation, graph);
        };
        let mut rounded = graph.clone();
        rounded.round_weights(values)?;
        score_of(self.validation, &rounded)
    }

    /// The units to remove for a share; a larger one of the groups that may shrink if these hold few parameters.
    fn choose(&mut self, graph: &Graph, structure: &Structure, scores: &[f64], share: f64) -> Removal {
        const STEP: f64 = 0.05;
        const MOST: f64 = 0.75;
        let lanes = self.recipe.round_to.unwrap_or_else(native_lanes);
        let dependencies = &structure.dependencies;
        let take =
            |share| allocate(dependencies, scores, &structure.excluded, self.recipe.scope, share, lanes);
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
            let (lean, dead) = remove_dead(graph, self.shapes, Proof::Bounded)?;
            if dead.is_empty() {
                return Ok(Some((lean, dead, None)));
            }
            match check::difference(dense, &lean, &runs, self.recipe.seed) {
                Ok(found) if found.relative <= BOUNDED_TOLERANCE => {
                    return Ok(Some((lean, dead, Some(found))));
                }
                Err(error @ (CheckError::Reference(_) | CheckError::Feeds(_))) => {
                    return Err(PruneError::NotChecked(error));
                }
                _ => {}
            }
        }
        let (lean, dead) = remove_dead(graph, self.shapes, Proof::Exact)?;
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
            check,
            file: None,
            notes: self.notes,
        };
        Ok((pruned.graph, report))
    }
}

fn score_of(validation: Option<Validation<'_>>, graph: &Graph) -> Result<Option<f64>, PruneError> {
    validation.map(|validation| validation(graph)).transpose().map_err(PruneError::Validation)
}
