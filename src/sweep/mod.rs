//! Sweeps: every method at every compression ratio with every seed, from one model, before and after fine-tuning.
//!
//! Blalock et al., "What is the State of Neural Network Pruning?", MLSys 2020, <https://arxiv.org/abs/2003.03033>, say what a
//! comparison of pruning methods must show; this is how it is measured. Compression is theirs: all parameters, over those that
//! are not zero.
//!
//! A run that is done is a line in a [`Journal`]; whatever kills the process, the next one goes on after it. Several machines share
//! a sweep, and its folder, by [`Shard`]s.

mod figures;
mod journal;

use std::fmt;
use std::ops::ControlFlow;
use std::str::FromStr;
use std::time::Instant;

use poda_formats::Graph;
use poda_pruner::allocation::Scope;
use poda_pruner::calibration::Samples;
use poda_pruner::canonical::canonical;
use poda_pruner::judge::{Judge, JudgeError};
use poda_pruner::stages::{Given, Progress, Stage, Stages, StagesError, Trainer, follow, score};
use poda_pruner::termination::Bound;
use poda_pruner::unstructured::prunable_weights;
use poda_pruner::{Data, Granularity, Recipe, RecipeError};
use serde::{Deserialize, Serialize};

use crate::fingerprint::Fingerprint;
use crate::shapes::Shapes;
pub use figures::{Figure, Spread, figures};
pub use journal::{Dense, Header, Journal, JournalError};

/// What is compared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sweep {
    /// Compression: all parameters, over those that are not zero.
    pub ratios: Vec<f64>,
    /// For whatever is random: the criterion, and the order of training samples.
    pub seeds: Vec<u64>,
    /// The methods: stages whose pruning goes as far as the ratio says.
    #[serde(rename = "method")]
    pub methods: Vec<Stage>,
}

impl Default for Sweep {
    /// The ratios that Blalock et al. ask for, and no method.
    fn default() -> Self {
        Self { ratios: vec![2.0, 4.0, 8.0, 16.0, 32.0], seeds: vec![0, 1, 2], methods: Vec::new() }
    }
}

/// Why a sweep cannot be run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum SweepError {
    #[error("{0}")]
    Plan(String),
    #[error("method {method:?}: {error}")]
    Method { method: String, error: RecipeError },
    #[error("there is nothing to judge by: give samples, with labels or without (--test)")]
    NoScore,
    #[error(transparent)]
    Judge(#[from] JudgeError),
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error("stopped")]
    Stopped,
}

/// A run of a sweep that is over.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Done {
    pub method: String,
    /// Tells the method's definition from others of that name.
    pub plan: String,
    pub ratio: f64,
    pub seed: u64,
    /// What the scores are: `score` (accuracy) or `cosine` to the dense outputs.
    pub measure: String,
    /// Score once pruned, before what is left was trained.
    pub before: Option<f64>,
    /// Score in the end.
    pub after: Option<f64>,
    /// All parameters over those that are not zero.
    pub compression: f64,
    /// Multiply-accumulates of the dense model over those that are not with zeros.
    pub speedup: f64,
    pub nnz: u64,
    pub nonzero_macs: u64,
    /// Passes over the training samples.
    pub epochs: u64,
    /// Trainings of which the start was kept, as no epoch scored better.
    #[serde(default)]
    pub kept_starts: u64,
    pub seconds: f64,
    /// Why there is no result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}

/// One of several parts of a sweep. Written `2/4`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    /// Counted from 1.
    pub index: usize,
    /// Of how many.
    pub of: usize,
}

impl Default for Shard {
    fn default() -> Self {
        Self { index: 1, of: 1 }
    }
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let both = text.split_once('/').and_then(|(index, of)| Some((index.parse().ok()?, of.parse().ok()?)));
        match both {
            Some((index, of)) if (1..=of).contains(&index) => Ok(Self { index, of }),
            _ => Err(format!("{text:?} is no part: write 1/4 for the first of four")),
        }
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.of)
    }
}

/// What the runs of a sweep are given.
pub struct Bench<'a> {
    /// Where every run starts.
    pub model: &'a Graph,
    /// Concrete shapes of inputs that the model leaves open.
    pub shapes: &'a Shapes,
    /// Scores models.
    pub judge: &'a dyn Judge,
    /// For methods that look at what flows through the model.
    pub samples: Option<&'a dyn Samples>,
    /// For methods that train.
    pub trainer: Option<&'a dyn Trainer>,
}

/// A run that is under way, and how far.
#[derive(Debug)]
pub struct Under<'a> {
    /// Runs of this part that are over.
    pub done: usize,
    /// Runs of this part.
    pub of: usize,
    /// What runs.
    pub what: String,
    /// How far it is; `None` as it begins.
    pub progress: Option<&'a Progress>,
}

/// A method by a short text: `CRITERION[:SCOPE[:UPDATE+UPDATE…]]`, such as `magnitude-l1:global` or `wanda:row:bias+least-squares`.
///
/// # Errors
/// When a part is not known.
pub fn method(text: &str) -> Result<Stage, String> {
    let mut parts = text.split(':');
    let mut recipe = Recipe { check: false, sparsity: Some(0.0), ..Recipe::default() };
    parts.next().unwrap_or_default().clone_into(&mut recipe.criterion);
    if let Some(scope) = parts.next() {
        recipe.scope = match scope {
            "auto" => Scope::Auto,
            "row" => Scope::Row,
            "layer" => Scope::Layer,
            "erdos-renyi" => Scope::ErdosRenyi,
            "global" => Scope::Global,
            _ => {
                return Err(format!(
                    "{scope:?} is no scope; there are auto, row, layer, erdos-renyi, global"
                ));
            }
        };
    }
    recipe.update = parts.next().map(|updates| updates.split('+').map(str::to_owned).collect());
    if parts.next().is_some() {
        return Err(format!("{text:?}: write CRITERION:SCOPE:UPDATE+UPDATE"));
    }
    recipe.validate().map_err(|error| error.to_string())?;
    recipe.sparsity = None;
    Ok(Stage { name: Some(text.to_owned()), prune: Some(recipe), ..Stage::default() })
}

impl Sweep {
    /// A sweep from TOML: `ratios`, `seeds`, and for each method a `[[method]]` with a `name` and the fields of a [`Stage`].
    ///
    /// # Errors
    /// When it is no TOML or has unknown fields.
    pub fn parse(text: &str) -> Result<Self, SweepError> {
        poda_pruner::recipe::parse(text).map_err(|error| SweepError::Plan(error.to_string()))
    }

    /// As TOML.
    pub fn to_toml(&self) -> String {
        poda_pruner::recipe::write(self)
    }

    /// Checks what can be checked without a model.
    ///
    /// # Errors
    /// The first that is wrong.
    pub fn validate(&self) -> Result<(), SweepError> {
        let plan = |what: String| Err(SweepError::Plan(what));
        if self.methods.is_empty() || self.ratios.is_empty() || self.seeds.is_empty() {
            return plan("a sweep has at least one method, one ratio and one seed".to_owned());
        }
        if let Some(ratio) = self.ratios.iter().find(|ratio| !(ratio.is_finite() && **ratio >= 1.0)) {
            return plan(format!("ratio {ratio}: compression is 1 or more"));
        }
        for (index, stage) in self.methods.iter().enumerate() {
            let Some(name) = &stage.name else {
                return plan(format!("method {} has no name", index + 1));
            };
            if self.methods[..index].iter().any(|other| other.name.as_ref() == Some(name)) {
                return plan(format!("two methods are called {name:?}"));
            }
            let error = |error| SweepError::Method { method: name.clone(), error };
            let Some(recipe) = &stage.prune else {
                return plan(format!("method {name:?} prunes nothing: add [method.prune]"));
            };
            if recipe.share().is_some() || recipe.searches() || recipe.implied_sparsity().is_some() {
                return plan(format!("method {name:?} says how much goes; the ratios do"));
            }
            let asked = Recipe { sparsity: Some(0.5), ..recipe.clone() };
            Stages { stages: vec![Stage { prune: Some(asked), ..stage.clone() }] }
                .validate()
                .map_err(error)?;
        }
        Ok(())
    }

    /// Whether some method trains.
    pub fn train(&self) -> bool {
        Stages { stages: self.methods.clone() }.train()
    }

    /// Every run, as method, ratio and seed: of each seed and ratio all methods, so that what is done so far compares them.
    fn runs(&self) -> impl Iterator<Item = (&Stage, f64, u64)> {
        self.seeds.iter().flat_map(move |&seed| {
            let of_ratio = move |&ratio: &f64| self.methods.iter().map(move |method| (method, ratio, seed));
            self.ratios.iter().flat_map(of_ratio)
        })
    }

    /// The scores and sizes of the model that every run starts from.
    ///
    /// # Errors
    /// When it cannot be scored.
    pub fn dense(bench: &Bench<'_>) -> Result<Dense, SweepError> {
        let Some((measure, found)) = score(bench.judge, bench.model)? else {
            return Err(SweepError::NoScore);
        };
        let settings = poda_pruner::settings::Settings::find(bench.model, bench.shapes);
        let totals = poda_pruner::report::totals(bench.model, &settings.one_sample(bench.model));
        Ok(Dense { measure: measure.to_owned(), score: found, totals })
    }

    /// Runs what a part lacks, and writes each run into the journal once it is over. `observe` may break it off.
    ///
    /// # Errors
    /// When the journal cannot be written, or a model cannot be scored. A method that fails is noted, and the others go on.
    pub fn run(
        &self,
        bench: &Bench<'_>,
        journal: &mut Journal,
        shard: Shard,
        observe: &mut dyn FnMut(&Under<'_>) -> ControlFlow<()>,
    ) -> Result<(), SweepError> {
        self.validate()?;
        let mine: Vec<_> =
            self.runs().enumerate().filter(|(number, _)| number % shard.of == shard.index - 1).collect();
        for (done, (_, (stage, ratio, seed))) in mine.iter().enumerate() {
            let name = stage.name.clone().unwrap_or_default();
            if journal.has(&name, &fingerprint(stage), *ratio, *seed) {
                continue;
            }
            let what = format!("{name}, {ratio}×, seed {seed}");
            let under = |progress: Option<&Progress>| {
                observe(&Under { done, of: mine.len(), what: what.clone(), progress })
            };
            let finished = Self::one(bench, &journal.header().dense, stage, *ratio, *seed, under)?;
            journal.append(finished)?;
        }
        Ok(())
    }

    fn one(
        bench: &Bench<'_>,
        dense: &Dense,
        stage: &Stage,
        ratio: f64,
        seed: u64,
        mut under: impl FnMut(Option<&Progress>) -> ControlFlow<()>,
    ) -> Result<Done, SweepError> {
        let begun = Instant::now();
        let mut done = Done {
            method: stage.name.clone().unwrap_or_default(),
            plan: fingerprint(stage),
            ratio,
            seed,
            measure: dense.measure.clone(),
            before: None,
            after: None,
            compression: 1.0,
            speedup: 1.0,
            nnz: dense.totals.nnz,
            nonzero_macs: dense.totals.nonzero_macs,
            epochs: 0,
            kept_starts: 0,
            seconds: 0.0,
            failed: None,
        };
        if under(None).is_break() {
            return Err(SweepError::Stopped);
        }
        let given = Given {
            data: Data { judge: Some(bench.judge), samples: bench.samples, ..Data::default() },
            trainer: bench.trainer,
            ..Given::default()
        };
        let result = compressed(stage, bench, ratio, seed).map_err(StagesError::from).and_then(|stage| {
            let stages = Stages { stages: vec![stage] };
            follow(bench.model, &stages, bench.shapes, given, &mut |progress| under(Some(progress)))
        });
        done.seconds = begun.elapsed().as_secs_f64();
        match result {
            Ok((_, report)) => {
                let last = report.rounds.last();
                done.before = last.and_then(|round| round.pruned);
                done.after = last.and_then(|round| round.score);
                (done.nnz, done.nonzero_macs) = (report.after.nnz, report.after.nonzero_macs);
                let of = |dense: u64, left: u64| dense as f64 / left.max(1) as f64;
                done.compression = of(dense.totals.parameters, done.nnz);
                done.speedup = of(dense.totals.macs, done.nonzero_macs);
                let epochs = |round: &poda_pruner::stages::Round| {
                    round.finetuned.as_ref().map_or(0, |tuned| tuned.epochs.len() as u64)
                };
                done.epochs = report.rounds.iter().map(epochs).sum();
                let tuned = report.rounds.iter().filter_map(|round| round.finetuned.as_ref());
                done.kept_starts = tuned.filter(|tuned| tuned.kept_start()).count() as u64;
                Ok(done)
            }
            Err(StagesError::Stopped) => Err(SweepError::Stopped),
            Err(error) => Ok(Done { failed: Some(error.to_string()), ..done }),
        }
    }
}

/// Tells a method from others.
fn fingerprint(stage: &Stage) -> String {
    let mut fingerprint = Fingerprint::default();
    fingerprint.add(poda_pruner::recipe::write(stage).as_bytes());
    fingerprint.to_string()
}

/// The stage of a method that compresses so far: `f = (total / ratio − others) / prunable` of the weights that may go are kept.
fn compressed(stage: &Stage, bench: &Bench<'_>, ratio: f64, seed: u64) -> Result<Stage, RecipeError> {
    let mut stage = stage.clone();
    let Some(recipe) = stage.prune.as_mut() else { return Ok(stage) };
    recipe.seed = seed;
    if let Some(how) = &mut stage.finetune {
        how.seed = seed;
    }
    let (graph, _) = canonical(bench.model, bench.shapes, &|name| recipe.excludes(name));
    let parameters = graph.parameters();
    let target = parameters.count as f64 / ratio;
    if recipe.granularity == Granularity::Channel {
        let bound: Bound = format!("nonzeros={target}").parse().expect("a bound on a measure");
        recipe.until.push(bound);
        return Ok(stage);
    }
    let weights = prunable_weights(&graph, recipe);
    let of = |f: fn(&poda_formats::Weight) -> usize| {
        weights.iter().filter_map(|&id| graph.weight(id)).map(f).sum::<usize>() as f64
    };
    let (prunable, nonzero) = (of(poda_formats::Weight::len), of(poda_formats::Weight::nnz));
    let others = parameters.nonzero as f64 - nonzero;
    let kept = (target - others) / prunable.max(1.0);
    if kept <= 0.0 {
        return Err(RecipeError::Range {
            field: "ratio",
            value: ratio.to_string(),
            most: "what is left of the model when all weights of products are gone",
        });
    }
    recipe.sparsity = Some((1.0 - kept).max(0.0));
    Ok(stage)
}
