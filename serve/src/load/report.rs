//! What came of a load.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::{Arrivals, Load};

/// What became of a request.
#[derive(Debug)]
pub(super) enum Outcome {
    Answered {
        samples: usize,
    },
    /// By kind: a status, `connection`, `timeout`, `wrong answer`.
    Failed(String),
}

/// Counts outcomes.
pub(super) struct Recorder {
    /// In microseconds, to three digits.
    latency: Histogram<u64>,
    since_sent: Histogram<u64>,
    samples: u64,
    failed: BTreeMap<String, u64>,
}

impl Default for Recorder {
    fn default() -> Self {
        let histogram = || Histogram::new(3).expect("3 digits are few enough");
        Self { latency: histogram(), since_sent: histogram(), samples: 0, failed: BTreeMap::new() }
    }
}

/// A load and its answers. Times are in milliseconds.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs)]
pub struct Report {
    pub model: String,
    /// Constant, poisson or closed, with the rate or the number of clients.
    pub arrivals: String,
    pub seconds: f64,
    pub answered: u64,
    /// Of which each has its reason.
    pub failed: u64,
    pub errors: BTreeMap<String, u64>,
    pub requests_per_second: f64,
    pub samples_per_second: f64,
    /// Of the answered.
    pub latency_ms: Latency,
    /// The same from when a request was sent, which in an open loop is late where the load generator is, or all connections wait.
    pub since_sent_ms: Latency,
    /// Upper bounds, and how many took at most so long and more than the bound before.
    pub histogram: Vec<(f64, u64)>,
}

/// Quantiles of the latency, from when a request was due or sent to its whole answer.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[allow(missing_docs)]
pub struct Latency {
    pub mean: f64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
}

/// Bars of the histogram are so much wider than the one before.
const WIDER: f64 = 1.25;

impl Recorder {
    pub(super) fn record(&mut self, took: Duration, since_sent: Duration, outcome: Outcome) {
        match outcome {
            Outcome::Answered { samples } => {
                for (histogram, took) in [(&mut self.latency, took), (&mut self.since_sent, since_sent)] {
                    // (It grows to what it is given.)
                    histogram.record(took.as_micros() as u64).expect("less than 2⁶³ µs");
                }
                self.samples += samples as u64;
            }
            Outcome::Failed(kind) => *self.failed.entry(kind).or_default() += 1,
        }
    }

    pub(super) fn merge(&mut self, other: Self) {
        // Histograms of one precision that grow as needed add up.
        self.latency.add(&other.latency).expect("both grow");
        self.since_sent.add(&other.since_sent).expect("both grow");
        self.samples += other.samples;
        for (kind, count) in other.failed {
            *self.failed.entry(kind).or_default() += count;
        }
    }

    pub(super) fn report(self, model: &str, load: &Load, took: Duration) -> Report {
        let answered = self.latency.len();
        let seconds = took.as_secs_f64();
        let bars = self
            .latency
            .iter_log(16, WIDER)
            .map(|bar| (ms(bar.value_iterated_to()), bar.count_since_last_iteration()));
        Report {
            model: model.to_owned(),
            arrivals: load.arrivals.to_string(),
            seconds,
            answered,
            failed: self.failed.values().sum(),
            requests_per_second: answered as f64 / seconds,
            samples_per_second: self.samples as f64 / seconds,
            latency_ms: Latency::of(&self.latency),
            since_sent_ms: Latency::of(&self.since_sent),
            histogram: bars.skip_while(|(_, count)| *count == 0).collect(),
            errors: self.failed,
        }
    }
}

fn ms(micros: u64) -> f64 {
    micros as f64 / 1e3
}

impl Latency {
    fn of(micros: &Histogram<u64>) -> Self {
        let at = |quantile: f64| ms(micros.value_at_quantile(quantile));
        Self {
            mean: micros.mean() / 1e3,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: if micros.is_empty() { 0.0 } else { ms(micros.max()) },
        }
    }
}

impl fmt::Display for Arrivals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Constant(rate) => write!(f, "constant {rate}/s"),
            Self::Poisson(rate) => write!(f, "poisson {rate}/s"),
            Self::Closed(clients) => write!(f, "closed, {clients} at a time"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_and_errors_add_up() {
        let mut all = Recorder::default();
        for part in 0..2 {
            let mut recorder = Recorder::default();
            for ms in (1..=100).filter(|ms| ms % 2 == part) {
                recorder.record(
                    Duration::from_millis(ms),
                    Duration::from_millis(1),
                    Outcome::Answered { samples: 2 },
                );
            }
            recorder.record(Duration::ZERO, Duration::ZERO, Outcome::Failed("429".into()));
            all.merge(recorder);
        }
        let load = super::super::tests::load(Arrivals::Constant(10.0));
        let report = all.report("m", &load, Duration::from_secs(10));
        assert_eq!((report.answered, report.failed), (100, 2));
        assert_eq!(report.errors, [("429".to_owned(), 2)].into());
        assert_eq!((report.requests_per_second, report.samples_per_second), (10.0, 20.0));
        assert!(
            (report.latency_ms.p50 - 50.0).abs() < 0.1 && (report.latency_ms.p99 - 99.0).abs() < 0.2,
            "{report:?}"
        );
        assert_eq!((report.since_sent_ms.p50, report.since_sent_ms.max), (1.0, 1.0));
        assert_eq!(report.histogram.iter().map(|(_, count)| count).sum::<u64>(), 100);
    }
}
