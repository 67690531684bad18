//! When requests are due.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::Arrivals;

/// When requests are due.
pub(super) enum Times {
    Open(Vec<Instant>),
    Closed(Instant),
}

impl Times {
    pub(super) fn of(arrivals: Arrivals, start: Instant, end: Instant) -> Self {
        let (rate, random) = match arrivals {
            Arrivals::Closed(_) => return Self::Closed(start),
            Arrivals::Constant(rate) => (rate, false),
            Arrivals::Poisson(rate) => (rate, true),
        };
        let mut generator = StdRng::seed_from_u64(1);
        let mut at = start;
        let mut times = Vec::new();
        while at < end {
            times.push(at);
            // (1 - u is never 0.)
            let gap = if random { -(1.0 - generator.random::<f64>()).ln() } else { 1.0 };
            at += Duration::from_secs_f64(gap / rate);
        }
        Self::Open(times)
    }

    pub(super) fn due(&self, at: usize) -> Option<Instant> {
        match self {
            Self::Open(times) => times.get(at).copied(),
            Self::Closed(start) => Some(*start),
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        matches!(self, Self::Closed(_))
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Open(times) => times.len(),
            Self::Closed(_) => usize::MAX,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_loops_are_due_whatever_is_answered() {
        let start = Instant::now();
        let times = |arrivals| match Times::of(arrivals, start, start + Duration::from_secs(10)) {
            Times::Open(times) => times,
            Times::Closed(_) => Vec::new(),
        };
        let even = times(Arrivals::Constant(100.0));
        assert!((999..=1001).contains(&even.len()), "{}", even.len());
        let random = times(Arrivals::Poisson(100.0));
        assert!((850..1150).contains(&random.len()), "{}", random.len());
        assert!(random.is_sorted());
        assert_eq!(Times::of(Arrivals::Closed(2), start, start).due(1 << 40), Some(start));
    }
}
