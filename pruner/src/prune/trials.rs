//! The candidates of a search, measured one by one.

use std::time::Instant;

use poda_formats::Graph;

use super::{Data, Progress, PruneError, Run, prune_with};
use crate::report::{self, Search, Totals, Trial};
use crate::schedule::{self, Search as Steps};
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
        let graph = &run.quantised.restore(graph)?;
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
        let mut stored = run.recipe.granularity.stored(&run.quantised.restore(graph)?);
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

impl Run<'_, '_> {
    /// Takes the share that the recipe says; where it bounds measures instead, finds the share whose result holds what must be
    /// kept, and reaches what is to be reached with as little as possible. `best` is left as it is where nothing does.
    pub(super) fn follow<T>(
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
        let Some(mut search) = Steps::of(self.recipe, judges) else {
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
        let dense = self.quantised.restore(dense)?;
        let (_, report) = prune_with(&dense, &sketch, self.shapes, self.observer, data)?;
        let taken = report.search.and_then(|search| search.trials.get(search.taken?).cloned());
        Ok(taken.map(|trial| trial.sparsity))
    }
}
