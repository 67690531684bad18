//! The loop: evaluate importance → rank → remove the least important → ask the termination conditions.

use poda_formats::weight::RoundWeightError;
use poda_formats::weight::SparseError;
use poda_formats::{Graph, GraphError, Op, ValueId};
use poda_runtime::analysis::{Analysis, analyze};

use crate::allocation::{allocate, native_lanes};
use crate::canonical::shuffles_to_gathers;
use crate::check::{self, CheckError, Difference, TOLERANCE};
use crate::compact::{CompactError, compact};
use crate::criterion::{Criterion, unit_scores};
use crate::dead::remove_dead;
use crate::dependency::{DependencyGraph, Removal};
use crate::mask::masked;
use crate::recipe::{Granularity, Recipe, RecipeError};
use crate::report::{self, Dead, Report};
use crate::schedule;
use crate::settings::{Settings, Shapes};
use crate::structured::{matrices, zero_by_pattern};
use crate::termination::{State, Termination, Verdict};
use crate::unstructured::{prunable_weights, zero_weights};

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq)]
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

/// Why a model cannot be pruned as asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum PruneError {
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    #[error(transparent)]
    Graph(#[from] GraphError),
    #[error(transparent)]
    Compact(#[from] CompactError),
    #[error(transparent)]
    Round(#[from] RoundWeightError),
    #[error("a sparse weight cannot be read: {0}")]
    Weight(#[from] SparseError),
    #[error("validation failed: {0}")]
    Validation(Box<dyn std::error::Error + Send + Sync>),
    #[error(
        "the pruned model differs from the masked one: output {output:?} by {relative:.2e} of its greatest element \
         (allowed: {TOLERANCE:e}); please report this model"
    )]
    Differs { output: String, relative: f64 },
    #[error("nothing can be removed: {reason}")]
    NothingToRemove { reason: String },
    #[error("no weight can be pruned: no product has a float matrix that is not excluded")]
    NoWeights,
}

/// Greatest difference that removing dead units may make: rounding.
const DEAD_TOLERANCE: f64 = 1e-4;

/// Prunes `graph` as `recipe` says.
///
/// `shapes` gives concrete shapes of inputs where the model's symbols leave them open; it may be empty. `validation` is
/// needed when the recipe limits the drop of a score.
///
/// # Errors
/// When the recipe is invalid or cannot be followed, or when the result fails the final check.
pub fn prune(
    graph: &Graph,
    recipe: &Recipe,
    shapes: &Shapes,
    progress: &mut dyn FnMut(Progress),
    validation: Option<Validation<'_>>,
) -> Result<(Graph, Report), PruneError> {
    let criterion = recipe.validate()?;
    if recipe.max_drop.is_some() && validation.is_none() {
        return Err(RecipeError::NoValidation.into());
    }
    progress(Progress::Analyzing);
    let mut run = Run { recipe, criterion, shapes, progress, validation, notes: Vec::new() };
    if !recipe.remove_dead {
        let result = run.remove(graph)?;
        return run.finish(graph, Vec::new(), result);
    }
    let (lean, dead) = remove_dead(graph, shapes)?;
    let difference = run.check_dead(graph, &lean)?;
    let result = run.remove(&lean)?;
    let (pruned, mut report) = run.finish(graph, dead, result)?;
    // The greater of both differences.
    if difference.as_ref().is_some_and(|d| report.check.as_ref().is_none_or(|c| c.relative < d.relative)) {
        report.check = difference;
    }
    Ok((pruned, report))
}

/// What channel pruning would do, without doing it: groups with the units that would go, refused groups with reasons.
///
/// # Errors
/// When the recipe is invalid.
pub fn plan(graph: &Graph, recipe: &Recipe, shapes: &Shapes) -> Result<Report, PruneError> {
    let criterion = recipe.validate()?;
    let mut run =
        Run { recipe, criterion, shapes, progress: &mut |_| (), validation: None, notes: Vec::new() };
    let (graph, settings) = canonical(graph, shapes);
    let graph = &graph;
    let structure = Structure::of(graph, &settings, recipe);
    let scores = unit_scores(graph, &structure.dependencies, criterion, recipe.seed);
    run.notes.extend(settings.unknown(graph));
    let removal = run.choose(graph, &structure, &scores, recipe.sparsity.unwrap_or(0.0));
    let before = report::totals(graph, &settings.one_sample(graph));
    Ok(Report {
        granularity: recipe.granularity,
        before,
        after: before,
        layers: Vec::new(),
        groups: report::groups(graph, &structure.dependencies, &removal),
        refused: report::refused(graph, &structure.dependencies),
        dead: Vec::new(),
        rounded: Vec::new(),
        check: None,
        notes: run.notes,
    })
}

/// The graph with channel shuffles as Gather nodes, and facts about it. Ids of its values are those of `graph`.
fn canonical(graph: &Graph, shapes: &Shapes) -> (Graph, Settings) {
    let settings = Settings::find(graph, shapes);
    let mut changed = graph.clone();
    if shuffles_to_gathers(&mut changed, settings.facts()) == 0 {
        return (changed, settings);
    }
    let settings = Settings::find(&changed, &settings.shapes);
    (changed, settings)
}

/// Dependencies of a graph, and what the recipe excludes.
struct Structure {
    dependencies: DependencyGraph,
    excluded: Vec<bool>,
}

impl Structure {
    fn of(graph: &Graph, settings: &Settings, recipe: &Recipe) -> Self {
        let dependencies = DependencyGraph::new(graph, settings.facts());
        let mut users: Vec<Vec<usize>> = Vec::new();
        if !recipe.exclude.is_empty() {
            users = graph.consumers();
        }
        let excludes = |id: ValueId| {
            recipe.excludes(&graph.value(id).name)
                || users
                    .get(id.index())
                    .is_some_and(|u| u.iter().any(|&n| recipe.excludes(&graph.nodes[n].name)))
        };
        let excluded =
            dependencies.groups().iter().map(|g| g.members.iter().any(|m| excludes(m.weight))).collect();
        Self { dependencies, excluded }
    }
}

struct Run<'a, 'p> {
    recipe: &'a Recipe,
    criterion: &'static dyn Criterion,
    shapes: &'a Shapes,
    progress: &'p mut dyn FnMut(Progress),
    validation: Option<Validation<'a>>,
    notes: Vec<String>,
}

/// A pruned graph, the masked one that it must agree with, and what there was to choose from.
struct Pruned {
    graph: Graph,
    masked: Option<Graph>,
    groups: Vec<report::Group>,
    refused: Vec<report::Refused>,
}

impl Run<'_, '_> {
    fn remove(&mut self, graph: &Graph) -> Result<Pruned, PruneError> {
        match self.recipe.granularity {
            Granularity::Channel => self.channels(graph),
            Granularity::Unstructured | Granularity::Pattern(_) => self.weights(graph),
        }
    }

    fn weights(&mut self, graph: &Graph) -> Result<Pruned, PruneError> {
        let steps = schedule::steps(self.recipe);
        let weights = prunable_weights(graph, self.recipe);
        if weights.is_empty() && !steps.is_empty() {
            return Err(PruneError::NoWeights);
        }
        let settings = Settings::find(graph, self.shapes);
        (self.progress)(Progress::Scoring);
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
        self.follow(&steps, &settings, graph, &mut best, take, |graph| graph)?;
        // The masked model is the result itself.
        Ok(Pruned { graph: best, masked: None, groups: Vec::new(), refused: Vec::new() })
    }

    fn channels(&mut self, dense: &Graph) -> Result<Pruned, PruneError> {
        let (graph, settings) = canonical(dense, self.shapes);
        let structure = Structure::of(&graph, &settings, self.recipe);
        let dependencies = &structure.dependencies;
        let refused = report::refused(&graph, dependencies);
        let steps = schedule::steps(self.recipe);
        if !steps.is_empty() && dependencies.groups().is_empty() {
            let refusal =
                || refused.first().map(|r| format!("{} units of {}: {}", r.units, r.name, r.reason));
            let reason = settings.unknown(&graph).or_else(refusal);
            let reason = reason.unwrap_or_else(|| "no layer has units that could go".to_owned());
            return Err(PruneError::NothingToRemove { reason });
        }
        self.notes.extend(settings.unknown(&graph));
        (self.progress)(Progress::Scoring);
        let scores = unit_scores(&graph, dependencies, self.criterion, self.recipe.seed);
        let mut best = (Removal::none(dependencies), graph.clone());
        let choose = |run: &mut Self, share: f64| {
            let removal = run.choose(&graph, &structure, &scores, share);
            let compacted = compact(&graph, dependencies, settings.facts(), &removal)?;
            Ok((removal, compacted))
        };
        self.follow(&steps, &settings, &graph, &mut best, choose, |(_, graph)| graph)?;
        let (removal, compacted) = best;
        let masked = if self.recipe.check { Some(masked(dense, dependencies, &removal)?) } else { None };
        let groups = report::groups(&graph, dependencies, &removal);
        Ok(Pruned { graph: compacted, masked, groups, refused })
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
            (self.progress)(Progress::Step { step: step + 1, of: steps.len(), sparsity, drop });
            verdict = Termination::ask_any(&conditions, &State { sparsity, macs, drop });
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
        while removed_share(graph, dependencies, &removal) < wanted && taken + STEP <= MOST {
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

    /// A model without its dead units computes what it did.
    fn check_dead(&mut self, dense: &Graph, lean: &Graph) -> Result<Option<Difference>, PruneError> {
        if !self.recipe.check {
            return Ok(None);
        }
        let settings = Settings::find(dense, self.shapes);
        match check::difference(dense, lean, &settings.shapes, self.recipe.seed) {
            Ok(found) if found.relative > DEAD_TOLERANCE => {
                Err(PruneError::Differs { output: found.output, relative: found.relative })
            }
            Ok(found) => Ok(Some(found)),
            Err(error) => {
                self.notes.push(format!("the model without dead units was not checked: {error}"));
                Ok(None)
            }
        }
    }

    fn finish(
        mut self,
        dense: &Graph,
        dead: Vec<Dead>,
        mut pruned: Pruned,
    ) -> Result<(Graph, Report), PruneError> {
        let settings = Settings::find(dense, self.shapes);
        let mut difference = None;
        if let Some(masked) = &pruned.masked {
            (self.progress)(Progress::Checking);
            match check::difference(masked, &pruned.graph, &settings.shapes, self.recipe.seed) {
                Ok(found) if found.relative > TOLERANCE => {
                    return Err(PruneError::Differs { output: found.output, relative: found.relative });
                }
                Ok(found) => difference = Some(found),
                Err(CheckError::Shape { output, .. }) => {
                    return Err(PruneError::Differs { output, relative: f64::INFINITY });
                }
                Err(error) => self.notes.push(format!("the result was not checked: {error}")),
            }
        }
        if let Some(values) = self.recipe.values {
            pruned.graph.round_weights(values)?;
        }
        let (before, after) = (settings.one_sample(dense), settings.one_sample(&pruned.graph));
        let report = Report {
            granularity: self.recipe.granularity,
            before: report::totals(dense, &before),
            after: report::totals(&pruned.graph, &after),
            layers: report::layers(dense, &before, &pruned.graph, &after),
            groups: pruned.groups,
            refused: pruned.refused,
            dead,
            rounded: pruned.graph.rounded_weights(),
            check: difference,
            notes: self.notes,
        };
        Ok((pruned.graph, report))
    }
}

fn score_of(validation: Option<Validation<'_>>, graph: &Graph) -> Result<Option<f64>, PruneError> {
    validation.map(|validation| validation(graph)).transpose().map_err(PruneError::Validation)
}

/// Share of the float parameters, embedding tables aside, that a removal takes.
fn removed_share(graph: &Graph, dependencies: &DependencyGraph, removal: &Removal) -> f64 {
    let mut tables = vec![false; graph.values.len()];
    for node in &graph.nodes {
        if let (Op::Gather { axis: 0 }, Some(table)) = (&node.op, node.input(0)) {
            tables[table.index()] = true;
        }
    }
    let (mut before, mut after) = (0.0, 0.0);
    for (index, value) in graph.values.iter().enumerate() {
        let Some(weight) = value.weight.as_ref().filter(|w| w.dtype().is_float() && !tables[index]) else {
            continue;
        };
        before += weight.len() as f64;
        after += match dependencies.layout(ValueId(index as u32)) {
            Some(layout) => {
                layout.axes.iter().map(|&axis| dependencies.kept_count(axis, removal) as f64).product()
            }
            None => weight.len() as f64,
        };
    }
    if before > 0.0 { 1.0 - after / before } else { 0.0 }
}
