//! Latencies of several executables, alternating in one process, and what a fresh process needs to load a model.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use indicatif::ProgressBar;
use poda_formats::TensorView;
use poda_runtime::Executable;
use serde::{Deserialize, Serialize};

use crate::table::{percent, ratio};

/// Latencies of one model, milliseconds.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Latency {
    pub(crate) min: f64,
    pub(crate) mean: f64,
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p95: f64,
    pub(crate) p99: f64,
}

/// One contestant: an executable and what it is fed.
pub(crate) struct Contestant<'a> {
    pub(crate) executable: &'a Executable,
    pub(crate) feeds: Vec<(&'a str, TensorView<'a>)>,
}

/// What alternating runs gave for one model.
pub(crate) struct Timing {
    pub(crate) latency: Latency,
    pub(crate) runs: usize,
    /// Runs that ended in a second of the clock, of all streams.
    pub(crate) runs_per_second: f64,
    /// Median over rounds of: median of the first model's round / median of this one's.
    pub(crate) speedup: f64,
    /// First and third quartile of that ratio.
    pub(crate) spread: [f64; 2],
    /// Distance of the quartiles of the rounds' medians, as a share of their median.
    pub(crate) unrest: f64,
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
    pub(crate) fn disturbed(&self) -> Option<String> {
        let slow = self.latency.p95 / self.latency.p50;
        if self.unrest > RESTLESS {
            return Some(format!("turns differ by {} between quartiles", percent(self.unrest)));
        }
        (slow > STRAGGLING).then(|| format!("of 20 runs one takes {} times the median", ratio(slow)))
    }
}

/// Runs A B C A B C … for `seconds` for each model, and at least nine rounds, in `streams` runs at once. The first round
/// only warms up.
pub(crate) fn alternate(
    contestants: &[Contestant<'_>],
    seconds: f64,
    streams: usize,
    bar: &ProgressBar,
) -> Result<Vec<Timing>> {
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
        bar.set_position((share.min(1.0) * bar.length().unwrap_or(1) as f64) as u64);
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
    fn round(&self, streams: usize) -> Result<Vec<f64>> {
        let length = if streams == 1 { ROUND } else { STREAMS_ROUND };
        let stream = || -> Result<Vec<f64>> {
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
                times.extend(worker.join().map_err(|_| anyhow::anyhow!("a run panicked"))??);
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

/// What a process of its own needs for one model.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Footprint {
    /// Until the first outputs are there: open, prepare, plan, run; in milliseconds.
    pub(crate) load_ms: f64,
    /// Resident bytes after load and a few runs.
    pub(crate) loaded: u64,
    /// The most resident bytes until then.
    pub(crate) peak: u64,
}

/// What two processes need, one after the other.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Footprints {
    /// The first on this machine, which knows no kernels and times them.
    pub(crate) first: Footprint,
    /// One that finds the kernels chosen.
    pub(crate) tuned: Footprint,
}

/// Starts this program twice with `args`, which make it print a [`Footprint`], with a cache of kernels of their own.
pub(crate) fn footprints(model: &Path, args: &[String]) -> Result<Footprints> {
    let cache = tempfile::tempdir().context("no temporary folder")?;
    let program = std::env::current_exe().context("cannot find this program")?;
    let run = || -> Result<Footprint> {
        let output = Command::new(&program)
            .args(["bench", "--footprint"])
            .arg(model)
            .args(args)
            .env("XDG_CACHE_HOME", cache.path())
            .output()
            .context("cannot start a process to measure memory")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{}", said.trim_start_matches("poda: ").trim());
        Ok(serde_json::from_slice(&output.stdout)?)
    };
    Ok(Footprints { first: run()?, tuned: run()? })
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
