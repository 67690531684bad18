//! Whether short work is faster on one thread or on all: that depends on where the CPUs are, and may change while it runs.
//!
//! Two CPUs of one chiplet exchange a word in 0.1 µs, of two chiplets in 0.4 µs, and what one computed the other then has to
//! fetch: a small network that gains a third on the former loses as much on the latter. Virtual machines are moved from one
//! to the other every few seconds.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// Work that always gains from more threads.
const LONG: Duration = Duration::from_millis(1);
/// Runs that are tried in a row, of which the shortest counts.
const TRIAL: u32 = 8;
/// Runs from one trial to the next: they cost a 64th of the runs at most.
const PERIOD: u32 = 64 * TRIAL;

/// What is known about some work that is run again and again.
#[derive(Debug)]
pub(crate) struct Pace {
    estimate: Duration,
    /// Runs so far.
    runs: AtomicU32,
    alone: AtomicBool,
    /// Shortest run of this trial in nanoseconds, alone and shared.
    shortest: [AtomicU64; 2],
}

/// How one run goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Turn {
    pub(super) shares: bool,
    /// Number of the run in the period.
    run: u32,
}

impl Pace {
    /// For work that takes one thread about as long as `estimate`.
    pub(crate) fn new(estimate: Duration) -> Self {
        let shortest = [const { AtomicU64::new(u64::MAX) }; 2];
        // The first trial comes as soon as memory and caches are warm.
        let runs = AtomicU32::new(PERIOD - 4 * TRIAL);
        Self { estimate, runs, alone: AtomicBool::new(false), shortest }
    }

    /// What the work takes on one thread, about.
    pub(super) fn estimate(&self) -> Duration {
        self.estimate
    }

    /// How the next run goes: a period ends with a trial of both ways.
    pub(super) fn turn(&self) -> Turn {
        if self.estimate >= LONG {
            return Turn { shares: true, run: 0 };
        }
        let run = self.runs.fetch_add(1, Ordering::Relaxed) % PERIOD;
        let usual = !self.alone.load(Ordering::Relaxed);
        let other = (PERIOD - 2 * TRIAL..PERIOD - TRIAL).contains(&run);
        Turn { shares: usual != other, run }
    }

    /// Takes note of how long a run took.
    pub(super) fn took(&self, turn: Turn, nanos: u64) {
        if turn.run < PERIOD - 2 * TRIAL {
            return;
        }
        self.shortest[usize::from(turn.shares)].fetch_min(nanos, Ordering::Relaxed);
        if turn.run == PERIOD - 1 {
            let [alone, shared] = [0, 1].map(|i| self.shortest[i].swap(u64::MAX, Ordering::Relaxed));
            // What is usual stays so unless the other is faster by more than noise.
            let [usual, other] = if turn.shares { [shared, alone] } else { [alone, shared] };
            let better = other.saturating_add(other / 32) < usual;
            self.alone.store(turn.shares == better, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs until a trial has ended; gives how often the work was shared.
    fn period(pace: &Pace, [alone, shared]: [u64; 2]) -> u32 {
        let run = |_| {
            let turn = pace.turn();
            pace.took(turn, if turn.shares { shared } else { alone });
            u32::from(turn.shares)
        };
        let first = pace.runs.load(Ordering::Relaxed);
        (first % PERIOD..PERIOD).map(run).sum()
    }

    #[test]
    fn the_faster_way_is_found_and_followed() {
        let pace = Pace::new(Duration::from_micros(60));
        let (mostly, rarely) = (PERIOD - TRIAL, TRIAL);
        assert_eq!(period(&pace, [60_000, 70_000]), 3 * TRIAL);
        assert_eq!(period(&pace, [60_000, 70_000]), rarely);
        assert_eq!(period(&pace, [60_000, 59_000]), rarely);
        assert_eq!(period(&pace, [60_000, 40_000]), rarely);
        assert_eq!(period(&pace, [60_000, 40_000]), mostly);
        assert_eq!(period(&pace, [40_000, 40_000]), mostly);
    }

    #[test]
    fn long_work_is_always_shared() {
        let pace = Pace::new(Duration::from_millis(5));
        assert_eq!([period(&pace, [1, 9]), period(&pace, [1, 9])], [4 * TRIAL; 2]);
    }
}
