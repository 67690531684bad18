//! The candidates of a search, measured one by one.

use std::time::Instant;

use poda_formats::Graph;

use super::{Progress, PruneError, Run};
use crate::report::{self, Search, Totals, Trial};
use crate::settings::Settings;
use crate::termination::{Baseline, Bound, Candidate, Conditions, Verdict, shown};

pub(super) struct Trials<'a> {
    conditions: &'a Conditions,
    settings: &'a Settings,
    begun: Instant,
    dense: Totals,
    baseline: Baseline,
    found: Search,
}

impl<'a> Trials<'a> {
    /// Measures the dense model: what cannot be measured is known before anything is cut.
    pub(super) fn begin(
        conditions: &'a Conditions,
        settings: &'a Settings,
        graph: &Graph,
        run: &Run<'_, '_>,
    ) -> Result<Self, PruneError> {
        let dense = report::totals(graph, &settings.one_sample(graph));
        let mut trials = Self {
            conditions,
            settings,
            begun: Instant::now(),
            dense,
            baseline: Baseline::default(),
            found: Search::default(),
        };
        trials.baseline = conditions.baseline(&trials.candidate(graph, 0.0, run))?;
        let answer = conditions.ask(&trials.candidate(graph, 0.0, run))?;
        let because = answer.because.unwrap_or_default();
        match answer.verdict {
            Verdict::RollBack => return Err(PruneError::NotKept(because)),
            Verdict::Stop => {
                trials.found.stopped = format!("the dense model already has it: {because}");
            }
            Verdict::Continue => {}
        }
        trials.found.dense = answer.measured;
        let Baseline { scored, score } = trials.baseline;
        trials.found.dense.extend(score.map(|score| (scored.measure().name.to_owned(), score)));
        Ok(trials)
    }

    /// Whether there is anything to search for: not where the dense model reaches the targets itself.
    pub(super) fn open(&self) -> bool {
        self.found.stopped.is_empty()
    }

    /// Whether what may be spent is spent.
    pub(super) fn over(&self) -> bool {
        self.found.trials.last().is_some_and(|trial| trial.answer.over)
    }

    /// What follows from a candidate with this share removed, one of `most`.
    pub(super) fn ask(
        &mut self,
        graph: &Graph,
        share: f64,
        most: usize,
        run: &mut Run<'_, '_>,
    ) -> Result<Verdict, PruneError> {
        let mut stored = run.recipe.granularity.stored(graph);
        if let Some(values) = run.recipe.values {
            stored.round_weights(values)?;
        }
        let candidate = self.candidate(&stored, share, run);
        let mut answer = self.conditions.ask(&candidate)?;
        let state = candidate.state(&answer.measured);
        let (step, drop) = (self.found.trials.len() + 1, state.drop);
        run.tell(Progress::Step { step, of: most, sparsity: share, drop })?;
        let theirs = run.observer.verdict(&state);
        if theirs != Verdict::Continue && answer.verdict != answer.verdict.and(theirs) {
            answer.because = Some("who watched the pruning said so".to_owned());
        }
        answer.verdict = answer.verdict.and(theirs);
        let verdict = answer.verdict;
        let index = self.found.trials.len();
        match verdict {
            Verdict::Stop => self.found.taken = Some(index),
            // More than any before that did not break anything, and nothing was enough.
            Verdict::Continue if !self.reached() => self.found.taken = Some(index),
            Verdict::Continue | Verdict::RollBack => {}
        }
        self.found.trials.push(Trial { sparsity: share, answer });
        Ok(verdict)
    }

    fn candidate<'c>(&self, graph: &'c Graph, sparsity: f64, run: &'c Run<'_, '_>) -> Candidate<'c> {
        Candidate {
            graph,
            totals: report::totals(graph, &self.settings.one_sample(graph)),
            dense: self.dense,
            sparsity,
            baseline: self.baseline,
            rounds: self.found.trials.len() + 1,
            begun: self.begun,
            judge: run.judge,
        }
    }

    fn reached(&self) -> bool {
        self.found.trials.iter().any(|trial| trial.answer.verdict == Verdict::Stop)
    }

    /// The report, and what to tell where a target was missed.
    pub(super) fn finish(mut self) -> (Search, Option<String>) {
        if !self.open() {
            let stopped = self.found.stopped.clone();
            return (self.found, Some(format!("nothing was removed: {stopped}")));
        }
        let taken = self.found.taken.map(|index| &self.found.trials[index]);
        // The least that was too much.
        let broken = self.found.trials.iter().filter(|trial| trial.answer.verdict == Verdict::RollBack);
        let broken = broken.min_by(|a, b| a.sparsity.total_cmp(&b.sparsity));
        let limit = match broken {
            Some(trial) => format!(
                "{:.1} % removed would break {}",
                trial.sparsity * 100.0,
                trial.answer.because.as_deref().unwrap_or_default()
            ),
            None if self.over() => "what may be spent is spent".to_owned(),
            None => "more than that is not tried".to_owned(),
        };
        let reached = taken.filter(|trial| trial.answer.verdict == Verdict::Stop);
        let targets: Vec<&Bound> = self.conditions.targets().collect();
        let (stopped, missed) = match (reached, &targets[..]) {
            (Some(trial), _) => (trial.answer.because.clone().unwrap_or_default(), None),
            (None, []) => (limit, None),
            (None, targets) => {
                let measured = taken.map_or(&self.found.dense, |trial| &trial.answer.measured);
                let near = |bound: &&Bound| {
                    let name = bound.measure.name;
                    let found = measured.get(name).map(|&n| shown(bound.measure.unit, n));
                    format!(
                        "{bound} was not reached, {name} is {}",
                        found.unwrap_or_else(|| "not known".into())
                    )
                };
                let near = targets.iter().map(near).collect::<Vec<_>>().join("; ");
                let missed = format!("{near}: {limit}");
                (missed.clone(), Some(missed))
            }
        };
        self.found.stopped = stopped;
        (self.found, missed)
    }
}
