//! The greatest rate that a server stands.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::client::Target;
use super::report::Report;
use super::{Arrivals, Load, LoadTestError};

/// What the search found.
#[derive(Debug, Clone, Serialize)]
pub struct Found {
    /// Requests a second.
    pub greatest_rate: f64,
    /// p99 may be at most so many ms.
    pub limit_ms: f64,
    /// What was tried, in turn.
    pub steps: Vec<Step>,
    /// At the greatest rate.
    pub report: Report,
}

/// A rate that was tried.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[allow(missing_docs)]
pub struct Step {
    pub rate: f64,
    pub p99_ms: f64,
    pub failed: u64,
    pub held: bool,
}

/// Halvings after that, each of which halves what is not known.
const HALVINGS: usize = 5;
/// A rate fails when it failed so often in a row: one stall, which may come from elsewhere on the machine, decides otherwise.
const TRIES: usize = 2;
/// Rates that are tried on the way up.
const RAISES: usize = 16;

pub(super) async fn search(
    target: &Arc<Target>,
    load: &Load,
    limit: Duration,
    mut on_step: impl FnMut(&Step),
) -> Result<Found, LoadTestError> {
    let limit_ms = limit.as_secs_f64() * 1e3;
    let mut steps = Vec::new();
    let mut best: Option<(f64, Report)> = None;
    let mut rate = match load.arrivals {
        Arrivals::Constant(rate) | Arrivals::Poisson(rate) => rate,
        Arrivals::Closed(_) => 10.0,
    };
    let mut halvings = 0;
    let mut least_failing = None;
    for _ in 0..RAISES + HALVINGS {
        let arrivals = match load.arrivals {
            Arrivals::Constant(_) | Arrivals::Closed(_) => Arrivals::Constant(rate),
            Arrivals::Poisson(_) => Arrivals::Poisson(rate),
        };
        let load = Load { arrivals, ..load.clone() };
        let (mut report, mut step);
        let mut tries = 0;
        loop {
            report = target.send(&load).await;
            tries += 1;
            let p99_ms = report.latency_ms.p99;
            let held = report.failed == 0 && report.answered > 0 && p99_ms <= limit_ms;
            step = Step { rate, p99_ms, failed: report.failed, held };
            on_step(&step);
            steps.push(step);
            if held || tries == TRIES {
                break;
            }
        }
        let Step { p99_ms, held, .. } = step;
        if held {
            best = Some((rate, report));
        } else if best.is_none() {
            return Err(LoadTestError::NoRate { rate, p99_ms, limit_ms });
        } else {
            least_failing = Some(rate);
        }
        let (Some((good, _)), Some(bad)) = (&best, least_failing) else {
            // Far from the limit a step goes further: each takes as long.
            rate *= if p99_ms < limit_ms / 4.0 { 4.0 } else { 2.0 };
            continue;
        };
        if bad / good < 1.03 || halvings == HALVINGS {
            break;
        }
        halvings += 1;
        rate = (good * bad).sqrt();
    }
    let (greatest_rate, report) = best.expect("an error otherwise");
    Ok(Found { greatest_rate, limit_ms, steps, report })
}
