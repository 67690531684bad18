//! Latencies of several executables, alternating in one process.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use poda_formats::TensorView;
use poda_runtime::{Executable, RunError};
use serde::Serialize;

/// Why there are no latencies.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum TimingError {
    #[error(transparent)]
    Run(#[from] RunError),
    #[error("stopped: whoever watched the timing ended it")]
    Stopped,
    #[error("a run panicked")]
    Panicked,
}

/// Latencies of one model, milliseconds.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs)]
pub struct Latency {
    pub min: f64,
    pub mean: f64,
    pub p50: f64,
    pub p90: f64,
    pub p95: f64,
    pub p99: f64,
}

/// One contestant: an executable and what it is fed.
#[derive(Debug)]
#[allow(missing_docs)]
pub struct Contestant<'a> {
    pub executable: &'a Executable,
    pub feeds: Vec<(&'a str, TensorView<'a>)>,
}

/// What alternating runs gave for one model.
#[derive(Debug)]
#[allow(missing_docs)]
pub struct Timing {
    pub latency: Latency,
    pub runs: usize,
    /// Runs that ended in a second of the clock, of all streams.
    pub runs_per_second: f64,
    /// Median over rounds of: median of the first model's round / median of this one's.
    pub speedup: f64,
    /// First and third quartile of that ratio.
    pub spread: [f64; 2],
    /// Distance of the quartiles of the rounds' medians, as a share of their median.
    pub unrest: f64,
}

/// A round gives each model this long, or one run of every stream.
const ROUND: Duration = Duration::from_millis(20);
/// The same for several streams, which end a round at different times.
const STREAMS_ROUND: Duration = Duration::from_millis(100);
const MIN_ROUNDS: usize = 9;
/// Unrest beyond which the machine did something else meanwhile.
const RESTLESS: f64 = 0.1;
/// The same for the slowest twentieth of the runs, beside the median one.
const STRAGGLING: f64 = 1.5;

impl Timing {
    /// Why the figures are not to be trusted, if they are not: what the machine did meanwhile shows in their spread.
    pub fn disturbed(&self) -> Option<String> {
        let slow = self.latency.p95 / self.latency.p50;
        if self.unrest > RESTLESS {
            return Some(format!("turns differ by {:.1} % between quartiles", 100.0 * self.unrest));
        }
        (slow > STRAGGLING).then(|| format!("of 20 runs one takes {slow:.2} times the median"))
    }
}

/// Runs A B C A B C … for `seconds` for each model, and at least nine rounds, in `streams` runs at once. The first round
/// only warms up. `progress` is told the share that is done, and may break off.
///
/// # Errors
/// When a model does not run.
pub fn alternate(
    contestants: &[Contestant<'_>],
    seconds: f64,
    streams: usize,
    progress: &mut dyn FnMut(f64) -> ControlFlow<()>,
) -> Result<Vec<Timing>, TimingError> {
    let mut all: Vec<Vec<f64>> = vec![Vec::new(); contestants.len()];
    let mut medians: Vec<Vec<f64>> = vec![Vec::new(); contestants.len()];
    let mut elapsed = vec![Duration::ZERO; contestants.len()];
    let budget = Duration::from_secs_f64(seconds * contestants.len() as f64);
    let start = Instant::now();
    let mut round = 0;
    while round <= MIN_ROUNDS || start.elapsed() < budget {
        for (index, contestant) in contestants.iter().enumerate() {
            let begun = Instant::now();
            let mut times = contestant.round(streams)?;
            if round > 0 {
                elapsed[index] += begun.elapsed();
                medians[index].push(quantile(&mut times, 0.5));
                all[index].append(&mut times);
            }
        }
        round += 1;
        let share = start.elapsed().as_secs_f64() / budget.as_secs_f64().max(1e-9);
        if progress(share.min(1.0)).is_break() {
            return Err(TimingError::Stopped);
        }
    }
    let first = medians[0].clone();
    let timing = |((mut times, mut medians), elapsed): ((Vec<f64>, Vec<f64>), Duration)| {
        let mut ratios: Vec<f64> = first.iter().zip(&medians).map(|(a, b)| a / b).collect();
        let quartiles = [0.25, 0.5, 0.75].map(|q| quantile(&mut medians, q));
        Timing {
            runs: times.len(),
            runs_per_second: times.len() as f64 / elapsed.as_secs_f64(),
            speedup: quantile(&mut ratios, 0.5),
            spread: [quantile(&mut ratios, 0.25), quantile(&mut ratios, 0.75)],
            unrest: (quartiles[2] - quartiles[0]) / quartiles[1],
            latency: Latency {
                min: quantile(&mut times, 0.0),
                mean: times.iter().sum::<f64>() / times.len() as f64,
                p50: quantile(&mut times, 0.5),
                p90: quantile(&mut times, 0.9),
                p95: quantile(&mut times, 0.95),
                p99: quantile(&mut times, 0.99),
            },
        }
    };
    Ok(all.into_iter().zip(medians).zip(elapsed).map(timing).collect())
}

impl Contestant<'_> {
    /// Times of the runs of one round, in ms.
    fn round(&self, streams: usize) -> Result<Vec<f64>, TimingError> {
        let length = if streams == 1 { ROUND } else { STREAMS_ROUND };
        let stream = || -> Result<Vec<f64>, TimingError> {
            let mut times = Vec::new();
            let begun = Instant::now();
            while times.is_empty() || begun.elapsed() < length {
                let run = Instant::now();
                let outputs = self.executable.run(&self.feeds)?;
                times.push(run.elapsed().as_secs_f64() * 1e3);
                drop(outputs);
            }
            Ok(times)
        };
        if streams == 1 {
            return stream();
        }
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..streams).map(|_| scope.spawn(stream)).collect();
            let mut times = Vec::new();
            for worker in workers {
                times.extend(worker.join().map_err(|_| TimingError::Panicked)??);
            }
            Ok(times)
        })
    }
}

/// The nearest-rank quantile; sorts `values`.
fn quantile(values: &mut [f64], q: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let rank = (q * values.len() as f64).ceil() as usize;
    values[rank.clamp(1, values.len()) - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_nearest_ranks() {
        let mut values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(
            [0.0, 0.5, 0.9, 0.99, 1.0].map(|q| quantile(&mut values, q)),
            [1.0, 50.0, 90.0, 99.0, 100.0]
        );
        assert_eq!(quantile(&mut [7.0], 0.99), 7.0);
    }
}
