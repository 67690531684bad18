//! A part of the calibration samples, so that the time of a goal is enough for several tries. Where there is less of it than all of
//! them take, another way that is tried tells more than a better fit of one: of MiniLM with 80 % zeros, fitted to 48, 96 and 271
//! documents, the correlation with Lee's similarities was .641, .641 and .637.

use std::time::{Duration, Instant};

use poda_formats::Graph;
use poda_runtime::{Model, Options};

use crate::calibration::{CalibrationError, Example, Feeds, Samples, SamplesError};
use crate::check::Failure;
use crate::prune::PruneError;

/// What a fit takes, in runs of the dense model on the samples: both models side by side, Gram matrices, equations. MiniLM, 271
/// documents of 128 tokens: 84 s on one core, of which a run takes 7.5.
const RUNS: f64 = 11.0;

/// Batches that weights are fitted to at least.
const LEAST: usize = 3;

/// Some batches of samples.
pub(super) struct Fewer<'a> {
    samples: &'a dyn Samples,
    batches: Vec<usize>,
}

impl<'a> Fewer<'a> {
    /// As many as can be fitted to so many times in `time`, by what the model takes for the first of them.
    pub(super) fn of(
        samples: &'a dyn Samples,
        graph: &Graph,
        time: Duration,
        fits: f64,
    ) -> Result<Self, PruneError> {
        let seconds = seconds(samples, graph)?;
        let held_out: Vec<bool> = (0..samples.batches()).map(|batch| samples.held_out(batch)).collect();
        let all = RUNS * seconds * held_out.len() as f64;
        Ok(Self { samples, batches: spread(&held_out, time.as_secs_f64() / fits / all) })
    }

    /// Which part of the batches it has.
    pub(super) fn share(&self) -> f64 {
        self.batches.len() as f64 / self.samples.batches().max(1) as f64
    }
}

/// Seconds that a run on the first batch takes.
fn seconds(samples: &dyn Samples, graph: &Graph) -> Result<f64, PruneError> {
    if samples.batches() == 0 {
        return Err(CalibrationError::Empty.into());
    }
    let failed = |failure: Failure| PruneError::from(CalibrationError::Run { failure });
    let feeds = samples.feeds(0).map_err(CalibrationError::Samples)?;
    let feeds: Vec<_> = feeds.iter().map(|(name, tensor)| (name.as_str(), tensor.view())).collect();
    let model = Model::from_graph(graph.clone())?;
    let options = Options { tune: false, ..Options::default() };
    let executable = model.prepare(options).map_err(|error| failed(error.into()))?;
    let mut seconds = 0.0;
    // The first run plans and packs.
    for _ in 0..2 {
        let begun = Instant::now();
        executable.run(&feeds).map_err(|error| failed(error.into()))?;
        seconds = begun.elapsed().as_secs_f64();
    }
    Ok(seconds)
}

/// Numbers of a share of the batches, evenly spread over those that are kept aside, and over the others.
fn spread(held_out: &[bool], share: f64) -> Vec<usize> {
    let mut taken = Vec::new();
    for (kind, least) in [(false, LEAST), (true, 1)] {
        let all: Vec<usize> = (0..held_out.len()).filter(|&batch| held_out[batch] == kind).collect();
        let count = ((all.len() as f64 * share.min(1.0)).ceil() as usize).max(least).min(all.len());
        taken.extend((0..count).map(|at| all[at * all.len() / count]));
    }
    taken.sort_unstable();
    taken
}

impl Samples for Fewer<'_> {
    fn batches(&self) -> usize {
        self.batches.len()
    }

    fn feeds(&self, batch: usize) -> Result<Feeds, SamplesError> {
        self.samples.feeds(self.batches[batch])
    }

    fn held_out(&self, batch: usize) -> bool {
        self.samples.held_out(self.batches[batch])
    }

    fn examples(&self, batch: usize, size: usize) -> Result<Vec<Example>, SamplesError> {
        self.samples.examples(self.batches[batch], size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_spread_over_both_kinds() {
        let held_out: Vec<bool> = (0..12).map(|batch| batch >= 10).collect();
        assert_eq!(spread(&held_out, 7.0), (0..12).collect::<Vec<_>>());
        assert_eq!(spread(&held_out, 0.5), [0, 2, 4, 6, 8, 10]);
        assert_eq!(spread(&held_out, 0.0), [0, 3, 6, 10]);
        assert_eq!(spread(&held_out[..2], 0.1), [0, 1]);
    }
}
