//! A share of a way, tried.

use std::time::Instant;

use poda_formats::Graph;

use super::super::{Attempt, Goal, Outcome};
use super::{Found, Search, breaks, file_bytes, is_of_one_way};
use crate::calibration::Samples;
use crate::observer::Observer;
use crate::prune::{Data, Progress, PruneError, prune_with};
use crate::recipe::Recipe;
use crate::report::Report;
use crate::termination::{Bound, Measured, Verdict};

impl Search<'_, '_> {
    /// Tries a share of a way; whether to go on.
    pub(super) fn attempt(&mut self, at: usize, share: f64) -> Result<bool, PruneError> {
        let (way, begun) = (self.ways[at].way, Instant::now());
        let attempt = self.tried.attempts.len() + 1;
        let trying = Progress::Trying { way, sparsity: share, attempt };
        if self.observer.progress(trying).is_break() {
            return if self.observer.over { Ok(false) } else { Err(PruneError::Stopped) };
        }
        let recipe = way.recipe(self.base, share);
        let mut attempt = Attempt {
            way: way.to_string(),
            sparsity: share,
            result: None,
            measured: Measured::new(),
            holds: false,
            failed: None,
            seconds: 0.0,
        };
        let samples = self.samples.as_ref().map(|samples| samples as &dyn Samples);
        let data = Data { samples, ..Data::default() };
        let mut goes_on = true;
        match prune_with(self.graph, &recipe, self.shapes, &mut self.observer, data) {
            Ok((pruned, report)) => {
                let found = self.judged(&mut attempt, &pruned, &recipe, &report)?;
                let known = &mut self.ways[at];
                known.seconds = Some(begun.elapsed().as_secs_f64());
                known.levels.learn(share, found.0);
                known.excess = known.excess.min(found.1);
                goes_on = found.2;
                if attempt.holds {
                    self.tried.best = Some(self.tried.attempts.len());
                    self.leader = Some(at);
                    self.best = Some((pruned, recipe, report));
                }
            }
            Err(PruneError::Stopped) if self.observer.over => {
                attempt.failed = Some("the time was up before it was fitted".to_owned());
                goes_on = false;
            }
            Err(error) if is_of_one_way(&error) => {
                attempt.failed = Some(error.to_string());
                self.ways[at].levels.close();
            }
            Err(error) => return Err(error),
        }
        attempt.seconds = begun.elapsed().as_secs_f64();
        self.tried.attempts.push(attempt);
        Ok(goes_on)
    }

    /// Measures what an attempt came to: what follows, by how much it breaks what must be kept, and whether to go on.
    fn judged(
        &mut self,
        attempt: &mut Attempt,
        pruned: &Graph,
        recipe: &Recipe,
        report: &Report,
    ) -> Result<(Found, f64, bool), PruneError> {
        let stored = recipe.granularity.stored(pruned);
        let file_bytes = file_bytes(&stored)?;
        let smaller = self.times_smaller(file_bytes);
        let mut enough = self.tried.goal != Goal::Smaller || smaller >= self.needed();
        if enough {
            let speedup = self.judge.speedup(&stored)?;
            let outcome = Outcome { latency_ms: self.tried.dense.latency_ms / speedup, speedup, file_bytes };
            enough = self.gain(outcome) >= self.needed();
            attempt.result = Some(outcome);
        }
        if !enough {
            let than = if self.tried.best.is_some() { "what was found before" } else { "dense" };
            attempt.failed = Some(format!("no better than {than}"));
            return Ok((Found::Idle, f64::INFINITY, true));
        }
        let candidate = self.candidate(&stored, report.after, attempt.sparsity);
        attempt.measured = self.conditions.kept(&candidate)?;
        let state = candidate.state(&attempt.measured);
        let broken: Vec<(&Bound, f64)> = self.broken(&attempt.measured).collect();
        let excess = broken.iter().map(|(bound, found)| bound.excess(*found)).fold(0.0, f64::max);
        let because: Vec<String> = broken.iter().map(|(bound, found)| breaks(bound, *found)).collect();
        let theirs = self.observer.inner.verdict(&state);
        attempt.holds = because.is_empty() && theirs != Verdict::RollBack;
        if !attempt.holds {
            let watched = || "who watched the pruning said so".to_owned();
            attempt.failed = Some(if because.is_empty() { watched() } else { because.join("; ") });
        }
        let found = if attempt.holds { Found::Kept } else { Found::Broken };
        Ok((found, if attempt.holds { f64::INFINITY } else { excess }, theirs != Verdict::Stop))
    }
}
