//! Latencies of several executables, alternating in one process, and what a fresh process needs to load a model.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use indicatif::ProgressBar;
use poda_formats::TensorView;
use poda_runtime::Executable;
use serde::{Deserialize, Serialize};

/// Latencies of one model, milliseconds.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Latency {
    pub(crate) min: f64,
    pub(crate) p50: f64,
    pub(crate) p90: f64,
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
    /// Median over rounds of: median of the first model's round / median of this one's.
    pub(crate) speedup: f64,
    /// First and third quartile of that ratio.
    pub(crate) spread: [f64; 2],
}

/// A round gives each model this long, or one run.
const ROUND: Duration = Duration::from_millis(20);
const MIN_ROUNDS: usize = 9;

/// Runs A B C A B C … for `seconds` for each model, and at least nine rounds. The first round only warms up.
pub(crate) fn alternate(
    contestants: &[Contestant<'_>],
    seconds: f64,
    bar: &ProgressBar,
) -> Result<Vec<Timing>> {
    let mut all: Vec<Vec<f64>> = vec![Vec::new(); contestants.len()];
    let mut medians: Vec<Vec<f64>> = vec![Vec::new(); contestants.len()];
    let budget = Duration::from_secs_f64(seconds * contestants.len() as f64);
    let start = Instant::now();
    let mut round = 0;
    while round <= MIN_ROUNDS || start.elapsed() < budget {
        for (index, contestant) in contestants.iter().enumerate() {
            let mut times = Vec::new();
            let begin = Instant::now();
            while times.is_empty() || begin.elapsed() < ROUND {
                let run = Instant::now();
                let outputs = contestant.executable.run(&contestant.feeds)?;
                times.push(run.elapsed().as_secs_f64() * 1e3);
                drop(outputs);
            }
            if round > 0 {
                medians[index].push(quantile(&mut times, 0.5));
                all[index].append(&mut times);
            }
        }
        round += 1;
        let share = start.elapsed().as_secs_f64() / budget.as_secs_f64();
        bar.set_position((share.min(1.0) * bar.length().unwrap_or(1) as f64) as u64);
    }
    let first = medians[0].clone();
    let timing = |(mut times, medians): (Vec<f64>, Vec<f64>)| {
        let mut ratios: Vec<f64> = first.iter().zip(&medians).map(|(a, b)| a / b).collect();
        Timing {
            runs: times.len(),
            speedup: quantile(&mut ratios, 0.5),
            spread: [quantile(&mut ratios, 0.25), quantile(&mut ratios, 0.75)],
            latency: Latency {
                min: quantile(&mut times, 0.0),
                p50: quantile(&mut times, 0.5),
                p90: quantile(&mut times, 0.9),
                p99: quantile(&mut times, 0.99),
            },
        }
    };
    Ok(all.into_iter().zip(medians).map(timing).collect())
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
    /// Open and prepare, milliseconds.
    pub(crate) load_ms: f64,
    /// Resident bytes after load and a few runs.
    pub(crate) loaded: u64,
    /// The most resident bytes until then.
    pub(crate) peak: u64,
}

/// Starts this program again with `args`, which make it print a [`Footprint`].
pub(crate) fn footprint(model: &Path, args: &[String]) -> Result<Footprint> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let output = Command::new(program)
        .args(["bench", "--footprint"])
        .arg(model)
        .args(args)
        .output()
        .context("cannot start a process to measure memory")?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr).trim_start_matches("poda: ").trim()
    );
    Ok(serde_json::from_slice(&output.stdout)?)
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
