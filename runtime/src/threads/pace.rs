//! Whether short work is faster on one thread or on all: that depends on where the CPUs are, and may change while it runs.
//!
//! Two CPUs of one chiplet exchange a word in 0.1 µs, of two chiplets in 0.4 µs, and what one computed the other then has to
//! fetch: a small network that gains a third on the former loses as much on the latter. Virtual machines are moved from one
//! to the other every few seconds.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use super::crowd::Crowd;

/// Work that always gains from more threads.
const LONG: Duration = Duration::from_millis(1);
/// Runs that are tried each way, two at a time in turns, of which the shortest counts.
const TRIAL: u32 = 8;
/// Runs from one trial to the next: the slower way takes a 64th of them.
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
    crowd: Crowd,
}

/// How one run goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Turn {
    pub(super) shares: bool,
    /// Runs until the next trial is over, this one included.
    left: u32,
}

/// See [`Turn::left`]. The first trial comes as soon as memory and caches are warm. If it met a moment when other work had one
/// of the CPUs, the next ones correct it soon: they end 64, 128 and 256 runs from the first, and then every [`PERIOD`].
fn left(run: u32) -> u32 {
    if run < PERIOD { (run + 1).next_power_of_two().max(4 * TRIAL) - run } else { PERIOD - run % PERIOD }
}

impl Pace {
    /// For work that takes one thread about as long as `estimate`.
    pub(crate) fn new(estimate: Duration) -> Self {
        let shortest = [const { AtomicU64::new(u64::MAX) }; 2];
        Self {
            estimate,
            runs: AtomicU32::new(0),
            alone: AtomicBool::new(false),
            shortest,
            crowd: Crowd::default(),
        }
    }

    /// What the work takes on one thread, about.
    pub(crate) fn estimate(&self) -> Duration {
        self.estimate
    }

    /// Whether other processes make sharing slow.
    pub(super) fn crowd(&self) -> &Crowd {
        &self.crowd
    }

    /// How the next run goes: a period ends with a trial of both ways, in turns, because within milliseconds a shared machine is
    /// not as fast as it was.
    pub(super) fn turn(&self) -> Turn {
        if self.estimate >= LONG {
            return Turn { shares: true, left: u32::MAX };
        }
        let left = left(self.runs.fetch_add(1, Ordering::Relaxed));
        let usual = !self.alone.load(Ordering::Relaxed);
        let other = left <= 2 * TRIAL && (left - 1) / 2 % 2 == 1;
        Turn { shares: usual != other, left }
    }

    /// Takes note of how long a run took.
    pub(super) fn took(&self, turn: Turn, nanos: u64) {
        if turn.left > 2 * TRIAL {
            return;
        }
        self.shortest[usize::from(turn.shares)].fetch_min(nanos, Ordering::Relaxed);
        if turn.left == 1 {
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

    /// Runs until a trial has ended; gives how often the work was done alone.
    fn period(pace: &Pace, [alone, shared]: [u64; 2]) -> u32 {
        let mut times = 0;
        loop {
            let turn = pace.turn();
            pace.took(turn, if turn.shares { shared } else { alone });
            times += u32::from(!turn.shares);
            if left(pace.runs.load(Ordering::Relaxed)) > turn.left {
                return times;
            }
        }
    }

    #[test]
    fn the_faster_way_is_found_and_followed() {
        let pace = Pace::new(Duration::from_micros(60));
        assert_eq!(period(&pace, [60_000, 70_000]), TRIAL);
        assert_eq!(period(&pace, [60_000, 70_000]), 32 - TRIAL);
        assert_eq!(period(&pace, [60_000, 59_000]), 64 - TRIAL);
        assert_eq!(period(&pace, [60_000, 40_000]), 128 - TRIAL);
        assert_eq!(period(&pace, [60_000, 40_000]), TRIAL);
        assert_eq!(period(&pace, [40_000, 40_000]), TRIAL);
    }

    #[test]
    fn trials_end_at_powers_of_two_and_then_at_every_period() {
        let ends: Vec<u32> = (0..3 * PERIOD).filter(|&run| left(run) == 1).map(|run| run + 1).collect();
        assert_eq!(ends, [32, 64, 128, 256, 512, 1024, 1536]);
    }

    #[test]
    fn long_work_is_always_shared() {
        let pace = Pace::new(Duration::from_millis(5));
        for _ in 0..2 * PERIOD {
            let turn = pace.turn();
            assert!(turn.shares);
            pace.took(turn, 1);
        }
    }
}
