//! The front door for people who know none of the words: *faster*, or *smaller*, without giving up more than so much.
//!
//! Each of [`WAYS`] gets a turn at one share that usually pays, then the one that leads is searched for the most that keeps what
//! must be kept, then what is left; last, where there is time for it, what was too much is tried with submodules trained. What a
//! share is worth is known before it costs much: pruned by magnitude, without data, a model is as fast and as small, so that only
//! shares that would be better than what was found are fitted to data and judged. The best is returned with the table of what was
//! tried; where no way is better than the dense model, that is the answer.

mod fewer;
mod levels;
mod search;
mod ways;

use std::time::Duration;

use poda_formats::Graph;
use serde::{Deserialize, Serialize};

use crate::observer::Observer;
use crate::prune::{Data, PruneError};
use crate::recipe::Recipe;
use crate::report::Report;
use crate::settings::Shapes;
use crate::termination::Measured;

pub use ways::{WAYS, Way};

/// What a user wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Goal {
    /// Less latency on this machine.
    Faster,
    /// Fewer bytes on disk.
    Smaller,
}

/// What was tried of a goal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// The way.
    pub way: String,
    /// Share removed, in the terms of its granularity.
    pub sparsity: f64,
    /// What it came to.
    pub result: Option<Outcome>,
    /// Numbers of what must be kept, where the result was worth measuring them.
    pub measured: Measured,
    /// Whether all of it is kept.
    pub holds: bool,
    /// Why it was not taken.
    pub failed: Option<String>,
    /// What finding it took.
    pub seconds: f64,
}

/// A model, measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Median latency on this machine, ms: of the dense model, and by how much faster this one is.
    pub latency_ms: f64,
    /// How many times faster than the dense model, both in turns.
    pub speedup: f64,
    /// Bytes of the artifact.
    pub file_bytes: u64,
}

/// The attempt that came nearest where nothing holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Nearest {
    /// Which of the attempts.
    pub attempt: usize,
    /// What it breaks.
    pub breaks: String,
    /// What would have to be said for it to be taken, as flags.
    pub asked: String,
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
    /// In their order.
    pub attempts: Vec<Attempt>,
    /// The best one; `None` where none was better than the dense model.
    pub best: Option<usize>,
    /// Where there is none: the one that breaks least of those that would be better.
    pub nearest: Option<Nearest>,
    /// The part of the calibration samples that weights were fitted to, so that there was time for several tries.
    pub fitted_to: Option<f64>,
    /// Ways that were not tried, and why.
    pub not_tried: Vec<String>,
}

/// The best of [`WAYS`] for a goal: the model, the recipe and the report of its pruning, or `None` where the dense model is the
/// best; and what was tried. `base` says what must be kept, what is excluded, and whatever else is not the way's to choose; after
/// `time` what is under way is given up.
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
    search::Search::begin(graph, base, goal, shapes, observer, data, time)?.run()
}
