//! Which way and share a goal tries next, and what came of it.

mod attempt;

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use poda_formats::{Graph, ValueId};

use super::fewer::Fewer;
use super::levels::{Found, Levels};
use super::ways::{WAYS, Way};
use super::{Goal, Nearest, Outcome, Tried};
use crate::canonical::canonical;
use crate::judge::{Judge, JudgeError};
use crate::observer::Observer;
use crate::prune::{Data, Progress, PruneError, prune_with};
use crate::recipe::{Recipe, RecipeError};
use crate::report::{self, Report, Totals};
use crate::settings::{Settings, Shapes};
use crate::structured::matrices;
use crate::submodule::any_joined;
use crate::termination::{Baseline, Bound, Candidate, Conditions, Measured, shown};
use crate::unstructured::prunable_weights;

/// What must be better by more than this, as a share, to be worth any loss.
const WORTH: f64 = 0.02;

/// What a sketch is better or worse than what it stands for, as a share: it is skipped where it falls short by more.
const ROUGH: f64 = 0.05;

/// How many times as long as a fit of the layers a try takes that trains submodules as well. MiniLM, 80 and 90 % zeros on one core:
/// 425 s beside 78, 375 beside 60.
const TRAINING: f64 = 6.0;

/// Fits that the time of a goal should be enough for, and tries that train.
const FITS: f64 = 12.0;
const TRAINED: f64 = 2.0;

pub(super) struct Search<'a, 'o> {
    graph: &'a Graph,
    base: &'a Recipe,
    shapes: &'a Shapes,
    observer: Timed<'o>,
    samples: Option<Fewer<'a>>,
    judge: &'a dyn Judge,
    conditions: Conditions,
    baseline: Baseline,
    dense: Totals,
    begun: Instant,
    ways: Vec<Known>,
    /// Whether what was too much is still to be tried with submodules trained.
    trainable: bool,
    /// The way of the best attempt.
    leader: Option<usize>,
    tried: Tried,
    best: Option<(Graph, Recipe, Report)>,
}

/// A way, and what is known of it.
struct Known {
    way: Way,
    levels: Levels,
    /// Whether its first turn is over.
    turn: bool,
    /// By how much the attempt breaks that breaks least.
    excess: f64,
    /// Seconds that its last try took, or should take.
    seconds: Option<f64>,
    /// How much better than the dense model the share is that was passed over last, about.
    passed: Option<(f64, f64)>,
}

/// Ends what is under way when the time is up.
struct Timed<'o> {
    inner: &'o mut dyn Observer,
    end: Instant,
    over: bool,
}

impl Observer for Timed<'_> {
    fn progress(&mut self, progress: Progress) -> ControlFlow<()> {
        self.over |= Instant::now() >= self.end;
        if self.over { ControlFlow::Break(()) } else { self.inner.progress(progress) }
    }
}

impl<'a, 'o> Search<'a, 'o> {
    /// Measures the dense model: what cannot be measured is known before anything is cut.
    pub(super) fn begin(
        graph: &'a Graph,
        base: &'a Recipe,
        goal: Goal,
        shapes: &'a Shapes,
        observer: &'o mut dyn Observer,
        data: Data<'a>,
        time: Duration,
    ) -> Result<Self, PruneError> {
        let judge = data.judge.ok_or(JudgeError::Needs { what: "validation data", measure: "a goal" })?;
        let begun = Instant::now();
        let end = begun.checked_add(time).unwrap_or(begun + Duration::from_secs(1 << 30));
        let dense = report::totals(graph, &Settings::find(graph, shapes).one_sample(graph));
        let conditions = Conditions::of(base);
        let known = |way: &Way| Known {
            way: *way,
            levels: Levels::new(way.first, way.most),
            turn: false,
            excess: f64::INFINITY,
            seconds: None,
            passed: None,
        };
        let trainable =
            data.samples.is_some() && base.update.is_none() && has_submodules(graph, base, shapes);
        let fits = if trainable { FITS + TRAINED * TRAINING } else { FITS };
        let samples = data.samples.map(|samples| Fewer::of(samples, graph, time, fits)).transpose()?;
        let mut search = Self {
            graph,
            base,
            shapes,
            observer: Timed { inner: observer, end, over: false },
            judge,
            baseline: Baseline::default(),
            dense,
            begun,
            ways: WAYS.iter().filter(|way| way.serves(goal)).map(known).collect(),
            tried: Tried {
                goal,
                kept: conditions.keep().iter().map(Bound::to_string).collect(),
                dense: Outcome {
                    latency_ms: judge.latency(graph)?,
                    speedup: 1.0,
                    file_bytes: file_bytes(graph)?,
                },
                attempts: Vec::new(),
                best: None,
                nearest: None,
                fitted_to: samples.as_ref().map(Fewer::share),
                not_tried: Vec::new(),
            },
            trainable,
            leader: None,
            samples,
            conditions,
            best: None,
        };
        search.baseline = search.conditions.baseline(&search.candidate(graph, dense, 0.0))?;
        let kept = search.conditions.kept(&search.candidate(graph, dense, 0.0))?;
        if let Some((bound, found)) = search.broken(&kept).next() {
            return Err(PruneError::NotKept(breaks(bound, found)));
        }
        Ok(search)
    }

    pub(super) fn run(mut self) -> Result<(Option<(Graph, Recipe, Report)>, Tried), PruneError> {
        while let Some((at, share)) = self.next()? {
            if !self.attempt(at, share)? {
                break;
            }
        }
        self.train();
        self.tried.nearest = self.nearest();
        self.tried.not_tried = (0..self.ways.len()).filter_map(|at| self.not_tried(at)).collect();
        Ok((self.best, self.tried))
    }

    /// Why a way was not tried, where it was not.
    fn not_tried(&self, at: usize) -> Option<String> {
        let Known { way, levels, passed, seconds, .. } = &self.ways[at];
        let name = way.to_string();
        if self.tried.attempts.iter().any(|attempt| attempt.way == name) {
            return None;
        }
        let passed = passed.map(|(share, gain)| {
            format!("{:.1} % would be {gain:.2} times as good as dense, about", share * 100.0)
        });
        let time = (levels.next().is_some() && !self.fits(at)).then(|| match seconds {
            Some(seconds) => format!("a try takes about {seconds:.0} s, which were not left"),
            None => "no time was left".to_owned(),
        });
        Some(format!("{name}: {}", passed.into_iter().chain(time).collect::<Vec<_>>().join("; ")))
    }

    fn over(&self) -> bool {
        self.observer.over || Instant::now() >= self.observer.end
    }

    /// How many times better than the dense model something must be.
    fn needed(&self) -> f64 {
        let best = self.tried.best.and_then(|at| self.tried.attempts[at].result);
        best.map_or(1.0, |outcome| self.gain(outcome)) * (1.0 + WORTH)
    }

    /// How many times better than the dense model.
    fn gain(&self, outcome: Outcome) -> f64 {
        match self.tried.goal {
            Goal::Faster => outcome.speedup,
            Goal::Smaller => self.times_smaller(outcome.file_bytes),
        }
    }

    fn times_smaller(&self, bytes: u64) -> f64 {
        self.tried.dense.file_bytes as f64 / bytes.max(1) as f64
    }

    /// The way to try next, and the share. First turns come first; then what holds most; then that with submodules trained.
    fn next(&mut self) -> Result<Option<(usize, f64)>, PruneError> {
        for at in 0..self.ways.len() {
            if self.ways[at].turn {
                continue;
            }
            self.ways[at].turn = true;
            let first = self.ways[at].way.first;
            if self.fits(at) && self.pays(at, first)? {
                return Ok(Some((at, first)));
            }
        }
        let next = self.next_share()?;
        if next.is_none() && self.train() { self.next_share() } else { Ok(next) }
    }

    /// A share between those that are known, of the way of the best before those that break least.
    fn next_share(&mut self) -> Result<Option<(usize, f64)>, PruneError> {
        let mut order: Vec<usize> = (0..self.ways.len()).collect();
        order.sort_by(|&a, &b| {
            let [a, b] = [a, b].map(|at| (self.leader != Some(at), self.ways[at].excess));
            a.0.cmp(&b.0).then(a.1.total_cmp(&b.1))
        });
        for at in order {
            while let Some(share) = self.ways[at].levels.next().filter(|_| !self.over()) {
                if !self.fits(at) {
                    break;
                }
                if self.pays(at, share)? {
                    return Ok(Some((at, share)));
                }
                self.ways[at].levels.learn(share, Found::Idle);
            }
        }
        Ok(None)
    }

    /// Lets ways go on with submodules trained, from what was too much without; whether any does.
    fn train(&mut self) -> bool {
        let trainable = std::mem::take(&mut self.trainable);
        let mut any = false;
        for known in self.ways.iter_mut().filter(|_| trainable) {
            let onward = known.way.with_training().zip(known.levels.onward()).zip(known.seconds);
            if let Some(((way, levels), seconds)) = onward {
                (known.way, known.levels, known.passed) = (way, levels, None);
                known.seconds = Some(seconds * TRAINING);
                any = true;
            }
        }
        any
    }

    /// Whether there is time for a fit of a way, as far as is known.
    fn fits(&self, at: usize) -> bool {
        let least = self.ways.iter().filter_map(|known| known.seconds).reduce(f64::min).unwrap_or(0.0);
        let wanted = self.ways[at].seconds.unwrap_or(least);
        !self.over()
            && self.observer.end.saturating_duration_since(Instant::now()).as_secs_f64() > 0.8 * wanted
    }

    /// Whether a share would be better than what was found, by a model pruned as much without data.
    fn pays(&mut self, at: usize, share: f64) -> Result<bool, PruneError> {
        let Some(recipe) = self.ways[at].way.recipe(self.base, share).sketch() else { return Ok(true) };
        match prune_with(self.graph, &recipe, self.shapes, &mut self.observer, Data::default()) {
            Ok((sketch, _)) => {
                let stored = recipe.granularity.stored(&sketch);
                let gain = match self.tried.goal {
                    Goal::Faster => self.judge.speedup(&stored)?,
                    Goal::Smaller => self.times_smaller(file_bytes(&stored)?),
                };
                let pays = gain >= self.needed() * (1.0 - ROUGH) && gain > 1.0 + WORTH;
                if !pays {
                    self.ways[at].passed = Some((share, gain));
                }
                Ok(pays)
            }
            Err(PruneError::Stopped) if self.observer.over => Ok(false),
            // What cannot be done at all is said by the attempt itself.
            Err(error) if is_of_one_way(&error) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// What must be kept and is not, with its number.
    fn broken<'s>(&'s self, measured: &'s Measured) -> impl Iterator<Item = (&'s Bound, f64)> {
        let numbers = self.conditions.keep().iter().filter_map(|bound| {
            let found = *measured.get(bound.measure.name)?;
            Some((bound, found))
        });
        numbers.filter(|(bound, found)| !bound.holds(*found))
    }

    fn candidate<'c>(&'c self, graph: &'c Graph, totals: Totals, sparsity: f64) -> Candidate<'c> {
        Candidate {
            graph,
            totals,
            dense: self.dense,
            sparsity,
            baseline: self.baseline,
            rounds: self.tried.attempts.len() + 1,
            begun: self.begun,
            judge: Some(self.judge),
        }
    }

    /// Where nothing holds, what breaks least of what would be better than the dense model.
    fn nearest(&self) -> Option<Nearest> {
        if self.tried.best.is_some() {
            return None;
        }
        let excess = |measured: &Measured| {
            self.broken(measured).map(|(bound, found)| bound.excess(found)).reduce(f64::max)
        };
        let attempts = self.tried.attempts.iter().enumerate();
        let (attempt, nearest, _) = attempts
            .filter_map(|(at, attempt)| Some((at, attempt, excess(&attempt.measured)?)))
            .min_by(|a, b| a.2.total_cmp(&b.2))?;
        let broken = || self.broken(&nearest.measured);
        Some(Nearest {
            attempt,
            breaks: broken().map(|(bound, found)| breaks(bound, found)).collect::<Vec<_>>().join("; "),
            asked: broken().map(|(bound, found)| asked(bound, found)).collect::<Vec<_>>().join(" "),
        })
    }
}

/// Whether attention, feed-forward networks or residual blocks hold several of the layers that may be pruned.
fn has_submodules(graph: &Graph, recipe: &Recipe, shapes: &Shapes) -> bool {
    let (graph, _) = canonical(graph, shapes, &|name| recipe.excludes(name));
    let (matrices, _) = matrices(&graph, &prunable_weights(&graph, recipe));
    let weights: Vec<ValueId> = matrices.iter().map(|matrix| matrix.id).collect();
    any_joined(&graph, &weights)
}

/// The flag by which this number would be kept.
fn asked(bound: &Bound, found: f64) -> String {
    let value = bound.loosened(found);
    match bound.measure.name {
        "drop" => format!("--max-drop {value}"),
        name => format!("--keep {name}={value}"),
    }
}

/// What one way cannot do, another may.
fn is_of_one_way(error: &PruneError) -> bool {
    matches!(
        error,
        PruneError::NothingToRemove { .. }
            | PruneError::NoWeights
            | PruneError::NoInputs { .. }
            | PruneError::Recipe(
                RecipeError::NoData { .. } | RecipeError::Granularities { .. } | RecipeError::Unfit { .. }
            )
            | PruneError::Update { .. }
            | PruneError::Training(_)
    )
}

fn breaks(bound: &Bound, found: f64) -> String {
    format!("{bound}, found {}", shown(bound.measure.unit, found))
}

fn file_bytes(graph: &Graph) -> Result<u64, PruneError> {
    Ok(poda_formats::artifact::written_bytes(graph).map_err(JudgeError::failed)?)
}
