//! The front door for people who know none of the words: *faster*, or *smaller*, without giving up more than so much.
//!
//! Each of [`WAYS`] is searched for the most that keeps what must be kept, and what it came to is measured. The best is
//! returned with the table of what was tried; where no way is better than the dense model, that is the answer.

use std::num::NonZero;
use std::time::{Duration, Instant};

use poda_formats::{Graph, Pattern, ValueType};
use serde::{Deserialize, Serialize};

use crate::allocation::Scope;
use crate::judge::{Judge, JudgeError};
use crate::observer::Observer;
use crate::prune::{Data, PruneError, prune_with};
use crate::recipe::{Granularity, Recipe, RecipeError};
use crate::report::Report;
use crate::settings::Shapes;
use crate::termination::Bound;

/// What a user wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Goal {
    /// Less latency on this machine.
    Faster,
    /// Fewer bytes on disk.
    Smaller,
}

/// A way of pruning.
#[derive(Debug, Clone, Copy)]
pub struct Way {
    /// In tables.
    pub name: &'static str,
    granularity: Granularity,
    scope: Scope,
    values: Option<ValueType>,
    goals: &'static [Goal],
}

const BOTH: &[Goal] = &[Goal::Faster, Goal::Smaller];

/// What is tried, in this order: what usually gives most comes first, since time may run out.
pub static WAYS: &[Way] = &[
    Way {
        name: "weights",
        granularity: Granularity::Unstructured,
        scope: Scope::Auto,
        values: None,
        goals: BOTH,
    },
    Way {
        name: "weights, layers compete",
        granularity: Granularity::Unstructured,
        scope: Scope::Global,
        values: None,
        goals: BOTH,
    },
    Way {
        name: "weights in int8",
        granularity: Granularity::Unstructured,
        scope: Scope::Auto,
        values: Some(ValueType::Int8),
        goals: &[Goal::Smaller],
    },
    Way {
        name: "channels",
        granularity: Granularity::Channel,
        scope: Scope::Auto,
        values: None,
        goals: BOTH,
    },
    Way {
        name: "channels, layers compete",
        granularity: Granularity::Channel,
        scope: Scope::Global,
        values: None,
        goals: BOTH,
    },
    Way {
        name: "whole residual blocks",
        granularity: Granularity::Depth,
        scope: Scope::Auto,
        values: None,
        goals: BOTH,
    },
    Way {
        name: "blocks of 4x1",
        granularity: Granularity::Pattern(Pattern::Block {
            rows: NonZero::new(4).expect("not zero"),
            cols: NonZero::<u8>::MIN,
        }),
        scope: Scope::Auto,
        values: None,
        goals: &[Goal::Faster],
    },
];

/// What was tried of a goal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// The way.
    pub way: String,
    /// Share removed, in the terms of its granularity.
    pub sparsity: Option<f64>,
    /// What it came to.
    pub result: Option<Outcome>,
    /// Why there is no result.
    pub failed: Option<String>,
    /// What finding it took.
    pub seconds: f64,
}

/// A model, measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Median latency on this machine, ms.
    pub latency_ms: f64,
    /// How many times faster than the dense model, both in turns.
    pub speedup: f64,
    /// Bytes of the artifact.
    pub file_bytes: u64,
}

/// A goal, and how near each way came.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tried {
    /// What was wanted.
    pub goal: Goal,
    /// What had to be kept, in words.
    pub kept: Vec<String>,
    /// The dense model.
    pub dense: Outcome,
    /// Every way that there was time for.
    pub attempts: Vec<Attempt>,
    /// The best one; `None` where none was better than the dense model.
    pub best: Option<usize>,
    /// Ways for which no time was left.
    pub not_tried: Vec<String>,
}

/// What must be better by more than this, as a share, to be worth any loss.
const WORTH: f64 = 0.02;

/// The best of [`WAYS`] for a goal: the model, the recipe and the report of its pruning, or `None` where the dense model is the
/// best; and what was tried. `base` says what must be kept, what is excluded, and whatever else is not the way's to choose; `time`
/// is when no further way is begun.
///
/// # Errors
/// When the dense model cannot be measured, or does not keep what must be kept.
pub fn reach(
    graph: &Graph,
    base: &Recipe,
    goal: Goal,
    shapes: &Shapes,
    observer: &mut dyn Observer,
    data: Data<'_>,
    time: Duration,
) -> Result<(Option<(Graph, Recipe, Report)>, Tried), PruneError> {
    let judge = data.judge.ok_or(JudgeError::Needs { what: "validation data", measure: "a goal" })?;
    let begun = Instant::now();
    let kept = base.keep.iter().map(Bound::to_string);
    let dropped = base.max_drop.map(|drop| format!("drop at most {drop}"));
    let mut tried = Tried {
        goal,
        kept: kept.chain(dropped).collect(),
        dense: measure(graph, judge, Some(1.0))?,
        attempts: Vec::new(),
        best: None,
        not_tried: Vec::new(),
    };
    let mut best = None;
    let mut least = figure(goal, tried.dense) * (1.0 - WORTH);
    for way in WAYS.iter().filter(|way| way.goals.contains(&goal)) {
        let (spent, at) = (begun.elapsed(), Instant::now());
        if spent >= time {
            tried.not_tried.push(way.name.to_owned());
            continue;
        }
        let recipe = way.recipe(base, time.saturating_sub(spent));
        let mut attempt =
            Attempt { way: way.name.to_owned(), sparsity: None, result: None, failed: None, seconds: 0.0 };
        match prune_with(graph, &recipe, shapes, observer, data) {
            Ok((pruned, report)) => {
                let search = report.search.as_ref();
                let taken = search.and_then(|search| search.trials.get(search.taken?));
                attempt.sparsity = taken.map(|trial| trial.sparsity);
                match taken {
                    None => attempt.failed = search.map(|search| search.stopped.clone()),
                    Some(_) => {
                        let stored = recipe.granularity.stored(&pruned);
                        let outcome = measure(&stored, judge, None)?;
                        attempt.result = Some(outcome);
                        if figure(goal, outcome) < least {
                            least = figure(goal, outcome);
                            tried.best = Some(tried.attempts.len());
                            best = Some((pruned, recipe, report));
                        }
                    }
                }
            }
            // What one way cannot do, another may.
            Err(
                error @ (PruneError::NothingToRemove { .. }
                | PruneError::NoWeights
                | PruneError::NoInputs { .. }
                | PruneError::Recipe(
                    RecipeError::NoData { .. }
                    | RecipeError::Granularities { .. }
                    | RecipeError::Unfit { .. },
                )
                | PruneError::Update { .. }),
            ) => {
                attempt.failed = Some(error.to_string());
            }
            Err(error) => return Err(error),
        }
        attempt.seconds = at.elapsed().as_secs_f64();
        tried.attempts.push(attempt);
    }
    Ok((best, tried))
}

fn figure(goal: Goal, outcome: Outcome) -> f64 {
    match goal {
        Goal::Faster => 1.0 / outcome.speedup,
        Goal::Smaller => outcome.file_bytes as f64,
    }
}

/// Measures a model; `speedup` where it is known.
fn measure(graph: &Graph, judge: &dyn Judge, speedup: Option<f64>) -> Result<Outcome, PruneError> {
    let file_bytes = poda_formats::artifact::written_bytes(graph).map_err(JudgeError::failed)?;
    let latency_ms = judge.latency(graph)?;
    Ok(Outcome { latency_ms, speedup: speedup.map_or_else(|| judge.speedup(graph), Ok)?, file_bytes })
}

impl Way {
    fn recipe(&self, base: &Recipe, time: Duration) -> Recipe {
        let Self { granularity, scope, values, .. } = *self;
        let time = format!("time={}s", time.as_secs_f64().max(1.0)).parse().expect("a bound");
        let until = vec![time];
        // Steps of a sixteenth: what lies between gives little, and time is for other ways.
        Recipe { granularity, scope, values, until, sparsity: None, steps: 16, ..base.clone() }
    }
}
