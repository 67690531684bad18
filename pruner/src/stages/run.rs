//! Following stages, round by round.

use std::ops::ControlFlow;
use std::time::Instant;

use poda_formats::Graph;
use poda_formats::weight::RoundWeightError;

use super::round::rewound;
use super::state::{Saved, StateError, StateFolder};
use super::{Round, Stage, Stages, Trainer};
use crate::canonical::canonical;
use crate::finetune::{self, DataError};
use crate::judge::{Judge, JudgeError};
use crate::masks;
use crate::observer::Observer;
use crate::prune::{self, Data, PruneError, prune_with};
use crate::quantised;
use crate::recipe::{Granularity, RecipeError};
use crate::report::{self, Report, Totals, histogram};
use crate::settings::{Settings, Shapes};
use crate::termination::{Answer, Baseline, Candidate, Conditions, Verdict};

/// What stages are given beside the model.
#[derive(Clone, Copy, Default)]
pub struct Given<'a> {
    /// For pruning, and for measuring.
    pub data: Data<'a>,
    /// For training.
    pub trainer: Option<&'a dyn Trainer>,
    /// The weights to rewind to; by default those of the model.
    pub start: Option<&'a Graph>,
    /// Where the run keeps its state, to go on if it is interrupted.
    pub state: Option<&'a StateFolder>,
}

/// How far a run is.
#[derive(Debug, Clone, PartialEq)]
pub struct Progress {
    /// Counted from 1.
    pub stage: usize,
    /// Of how many.
    pub stages: usize,
    /// Counted from 1.
    pub round: usize,
    /// Of how many.
    pub rounds: usize,
    /// At what.
    pub work: Work,
}

/// What a round is at.
#[derive(Debug, Clone, PartialEq)]
pub enum Work {
    /// Pruning.
    Pruning(prune::Progress),
    /// Training.
    Training(finetune::Progress),
    /// Measuring what it came to.
    Measuring,
}

/// Why stages cannot be followed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum StagesError {
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    #[error(transparent)]
    Prune(#[from] PruneError),
    #[error("stage {stage} trains and there are no training samples: give some (--train)")]
    NoSamples { stage: usize },
    #[error(transparent)]
    Train(DataError),
    #[error(transparent)]
    Judge(#[from] JudgeError),
    #[error("weight {weight:?} cannot be set back: the start has none of this name")]
    NotAtStart { weight: String },
    #[error("weight {weight:?} cannot be set back: it is {found:?}, at the start it was f32 {start:?}")]
    Rewind { weight: String, found: Vec<usize>, start: Vec<usize> },
    #[error(transparent)]
    Round(#[from] RoundWeightError),
    #[error(transparent)]
    State(Box<StateError>),
    #[error("stopped: whoever watched the run ended it")]
    Stopped,
}

impl From<StateError> for StagesError {
    fn from(error: StateError) -> Self {
        Self::State(Box::new(error))
    }
}

/// Who is told how far a run is; a break ends it.
pub type Observe<'a> = &'a mut dyn FnMut(&Progress) -> ControlFlow<()>;

/// Follows stages from `graph` on; the report compares what they came to with `graph`.
///
/// # Errors
/// When the stages are invalid, or one cannot be followed.
pub fn follow(
    graph: &Graph,
    stages: &Stages,
    shapes: &Shapes,
    given: Given<'_>,
    observe: Observe<'_>,
) -> Result<(Graph, Report), StagesError> {
    stages.validate()?;
    let trains = |stage: &Stage| stage.finetune.is_some() || stage.reestimate;
    if let (None, Some(stage)) = (given.trainer, stages.stages.iter().position(trains)) {
        return Err(StagesError::NoSamples { stage: stage + 1 });
    }
    let begun = Instant::now();
    let mut saved = Saved::new(graph.clone());
    if let Some(state) = given.state
        && let Some(found) = state.load(stages)?
    {
        saved = found;
    }
    let mut run = Run { dense: graph, stages, shapes, given, observe, begun, baseline: Baseline::default() };
    run.baseline = run.baseline()?;
    while let Some((stage, round)) = run.place(&saved) {
        run.round(&mut saved, stage, round)?;
        if let Some(state) = given.state {
            state.save(stages, &mut saved)?;
        }
    }
    run.finish(saved)
}

struct Run<'a, 'o> {
    dense: &'a Graph,
    stages: &'a Stages,
    shapes: &'a Shapes,
    given: Given<'a>,
    observe: Observe<'o>,
    begun: Instant,
    baseline: Baseline,
}

/// Tells the observer of stages what a pruning tells.
struct Pruning<'r, 'o> {
    at: Progress,
    observe: &'r mut Observe<'o>,
}

impl Observer for Pruning<'_, '_> {
    fn progress(&mut self, progress: prune::Progress) -> ControlFlow<()> {
        (self.observe)(&Progress { work: Work::Pruning(progress), ..self.at.clone() })
    }
}

impl Run<'_, '_> {
    /// The next stage and round, counted from 0.
    fn place(&self, saved: &Saved) -> Option<(usize, usize)> {
        let (mut stage, mut round) = (saved.stage, saved.round);
        while round >= self.stages.stages.get(stage)?.rounds {
            (stage, round) = (stage + 1, 0);
        }
        Some((stage, round))
    }

    fn progress(&self, stage: usize, round: usize) -> Progress {
        let (stages, rounds) = (self.stages.stages.len(), self.stages.stages[stage].rounds);
        Progress { stage: stage + 1, stages, round: round + 1, rounds, work: Work::Measuring }
    }

    fn round(&mut self, saved: &mut Saved, at: usize, round: usize) -> Result<(), StagesError> {
        let (stage, begun) = (&self.stages.stages[at], Instant::now());
        let progress = self.progress(at, round);
        let mut graph = saved.graph.clone();
        let mut found = Round { stage: at + 1, round: round + 1, ..Round::default() };
        found.sparsity = stage.sparsity_after(round);
        let mut last = None;
        // A schedule of one shot has pruned in its first round.
        let prunes = round == 0 || found.sparsity != stage.sparsity_after(round - 1);
        if let Some(recipe) = stage.recipe_of(round).filter(|_| prunes) {
            let mut observer = Pruning { at: progress.clone(), observe: &mut self.observe };
            let (pruned, mut report) =
                prune_with(&graph, &recipe, self.shapes, &mut observer, self.given.data)?;
            saved.notes.append(&mut report.notes);
            (graph, last) = (pruned, Some(report));
        }
        if stage.rewind {
            graph = rewound(&graph, self.given.start.unwrap_or(self.dense))?;
        }
        if let Some(trainer) = self.given.trainer.filter(|_| stage.reestimate) {
            graph = trainer.reestimated(&graph).map_err(StagesError::Train)?;
        }
        self.tell(&progress)?;
        (found.measure, found.pruned) = self.score(&graph)?;
        found.score = found.pruned;
        if let (Some(how), Some(trainer)) = (&stage.finetune, self.given.trainer) {
            let checkpoint = self.given.state.map(|state| state.checkpoint(saved.rounds.len()));
            let observe = &mut self.observe;
            let mut tell = |training: &finetune::Progress| {
                observe(&Progress { work: Work::Training(training.clone()), ..progress.clone() })
            };
            let (tuned, report) =
                trainer.finetune(&graph, how, checkpoint.as_ref(), &mut tell).map_err(StagesError::Train)?;
            graph = tuned;
            saved.notes.extend(report.notes.iter().cloned());
            found.finetuned = Some(report);
            self.tell(&progress)?;
            found.score = self.score(&graph)?.1;
        }
        let totals = self.totals(&graph);
        (found.nnz, found.nonzero_macs) = (totals.nnz, totals.nonzero_macs);
        let answer = self.ask(stage, &graph, totals, &found)?;
        found.seconds = begun.elapsed().as_secs_f64();
        let verdict = answer.as_ref().map_or(Verdict::Continue, |answer| answer.verdict);
        let over = answer.as_ref().is_some_and(|answer| answer.over);
        found.answer = answer;
        saved.rounds.push(found);
        if verdict != Verdict::RollBack {
            saved.graph = graph;
            if let Some(mut report) = last {
                let before = saved.last.take().map(|last| last.kept).unwrap_or_default();
                report.kept = masks::then(before, report.kept);
                saved.last = Some(report);
            }
        }
        let ends = over || verdict != Verdict::Continue;
        (saved.stage, saved.round) = if ends { (at + 1, 0) } else { (at, round + 1) };
        Ok(())
    }

    fn tell(&mut self, progress: &Progress) -> Result<(), StagesError> {
        match (self.observe)(progress) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(StagesError::Stopped),
        }
    }

    /// What can be measured: accuracy where there are labels, else closeness to the dense model.
    fn score(&self, graph: &Graph) -> Result<(Option<String>, Option<f64>), StagesError> {
        let Some(judge) = self.given.data.judge else { return Ok((None, None)) };
        match score(judge, graph)? {
            Some((name, score)) => Ok((Some(name.to_owned()), Some(score))),
            None => Ok((None, None)),
        }
    }

    fn totals(&self, graph: &Graph) -> Totals {
        report::totals(graph, &Settings::find(graph, self.shapes).one_sample(graph))
    }

    /// The dense model's figures that bounds need.
    fn baseline(&self) -> Result<Baseline, StagesError> {
        let Some(stage) = self.stages.stages.iter().find(|stage| stage.conditions().bounds("drop")) else {
            return Ok(Baseline::default());
        };
        Ok(stage.conditions().baseline(&self.candidate(self.dense, self.totals(self.dense), 0.0, 0))?)
    }

    fn ask(
        &self,
        stage: &Stage,
        graph: &Graph,
        totals: Totals,
        round: &Round,
    ) -> Result<Option<Answer>, StagesError> {
        let conditions: Conditions = stage.conditions();
        if conditions.is_empty() {
            return Ok(None);
        }
        let granularity = stage.prune.as_ref().map_or(Granularity::default(), |recipe| recipe.granularity);
        let stored = granularity.stored(graph);
        let share = round.sparsity.unwrap_or_default();
        Ok(Some(conditions.ask(&self.candidate(&stored, totals, share, round.round))?))
    }

    fn candidate<'c>(
        &'c self,
        graph: &'c Graph,
        totals: Totals,
        sparsity: f64,
        rounds: usize,
    ) -> Candidate<'c> {
        Candidate {
            graph,
            totals,
            dense: self.totals(self.dense),
            sparsity,
            baseline: self.baseline,
            rounds,
            begun: self.begun,
            judge: self.given.data.judge,
        }
    }

    /// Narrower values where they were asked for, and the report on all.
    fn finish(self, saved: Saved) -> Result<(Graph, Report), StagesError> {
        let Saved { mut graph, rounds, last, notes, .. } = saved;
        let recipes = || self.stages.stages.iter().filter_map(|stage| stage.prune.as_ref());
        if let Some(values) = recipes().filter_map(|recipe| recipe.values).next_back() {
            graph.round_weights(values)?;
        }
        let (dense, _) = canonical(self.dense, self.shapes, &|_| false);
        let settings = Settings::find(&dense, self.shapes);
        let (floats, _) = quantised::separate(&graph);
        let (was, is) = (settings.one_sample(&dense), settings.one_sample(&floats));
        let mut said: Vec<String> = Vec::new();
        for note in notes {
            if !said.contains(&note) {
                said.push(note);
            }
        }
        if let Some(broken) = rounds.iter().find(|round| rolled_back(round)) {
            let because = broken.answer.as_ref().and_then(|answer| answer.because.as_deref());
            let because = because.unwrap_or_default();
            let (stage, round) = (broken.stage, broken.round);
            said.push(format!("round {round} of stage {stage} was taken back: it breaks {because}"));
        }
        let granularity = recipes().next_back().map_or(Granularity::default(), |recipe| recipe.granularity);
        let mut report = Report {
            granularity,
            before: self.totals(self.dense),
            after: report::totals(&graph, &settings.one_sample(&graph)),
            layers: report::layers(&dense, &was, &floats, &is),
            rounded: graph.rounded_weights(),
            // Of weights, between the dense ones and those that are left; of units, of the last round.
            histograms: match granularity {
                Granularity::Channel => last.as_ref().map(|last| last.histograms.clone()).unwrap_or_default(),
                _ => histogram::of_weights(&dense, &floats),
            },
            rounds,
            notes: said,
            ..last.unwrap_or_default()
        };
        report.count_weights(self.dense, &graph);
        Ok((graph, report))
    }
}

fn rolled_back(round: &Round) -> bool {
    round.answer.as_ref().is_some_and(|answer| answer.verdict == Verdict::RollBack)
}

/// The measure that a judge can take, and what it is: accuracy where there are labels, else the mean cosine to the dense
/// outputs; `None` where there are no samples.
///
/// # Errors
/// When the model cannot be measured.
pub fn score(judge: &dyn Judge, graph: &Graph) -> Result<Option<(&'static str, f64)>, JudgeError> {
    match judge.score(graph) {
        Ok(score) => return Ok(Some(("score", score))),
        Err(JudgeError::Needs { .. }) => {}
        Err(error) => return Err(error),
    }
    match judge.fidelity(graph) {
        Ok(fidelity) => Ok(Some(("cosine", fidelity.mean_cosine))),
        Err(JudgeError::Needs { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
