//! Whether one thread alone is faster, because other processes take the CPUs of the others or because those are far away.
//!
//! A neighbour that takes half of one CPU holds a thread up in the middle of a part, for which all others wait: on two CPUs that may
//! cost more than the second thread gains. So may CPUs on two chiplets, where what one computed has to cross over to be read;
//! virtual machines are moved there and back while they work. Both ways are timed at the beginning, and again while the callers of some work
//! wait long for threads that do not come back, or when its runs have come to take much longer: for some milliseconds each, long enough
//! to meet a neighbour at work and at rest. The faster is taken for a while.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// Nanoseconds of runs that are compared: several turns of a neighbour.
const WINDOW: u64 = 20_000_000;
/// Runs that are compared, at least.
const RUNS: u64 = 3;
/// The other way is tried when the caller has waited, or been without a CPU, for more than this part of the time in two windows in
/// a row: one may have met what comes once.
const SUSPICIOUS: u64 = 8;
/// Runs that one thread does alone, at least, before the others are tried again.
const LONE_RUNS: u64 = 32;
/// Runs have come to take much longer when they take so much of what they took, in halves.
const LONGER: u64 = 3;
/// Nanoseconds of runs of which it is suspected that other CPUs are far. Shorter ones are tried both ways in any case ([`super::pace`]), longer
/// ones gain from more threads wherever those are.
const MOVED: Range<u64> = 1_000_000..50_000_000;
/// Windows before the first trial: memory and caches are cold in the first.
const WARM: u32 = 4;
/// How long one thread works alone before the others are tried again: from, to. It doubles while it stays the faster way.
const HOLD: [u64; 2] = [50_000_000, 1_600_000_000];
/// Windows without a trial after one in which sharing was faster: from, to.
const QUIET: [u32; 2] = [16, 1024];

/// What is known about some work that is run again and again.
#[derive(Debug, Default)]
pub(super) struct Crowd(Mutex<State>);

#[derive(Debug)]
struct State {
    phase: Phase,
    /// Of the window under way: nanoseconds, those that the caller waited or had no CPU, runs.
    time: u64,
    waited: u64,
    runs: u64,
    /// Mean nanoseconds of a run in the window before, if that was suspicious.
    before: Option<u64>,
    /// Mean nanoseconds of a run in the last windows that were shared, and alone.
    shared: u64,
    alone: Option<u64>,
    /// Mean nanoseconds of a shared run when both ways were last timed, or fewer since; none before that.
    usual: Option<u64>,
    hold: u64,
    /// Windows to come in which nothing is suspected.
    rest: u32,
    /// Windows to come in which waiting is not suspected.
    quiet: u32,
    next_quiet: u32,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Phase {
    Shared,
    /// Alone for one window.
    Trial,
    /// Alone until then.
    Alone(u64),
}

impl Default for State {
    fn default() -> Self {
        let ([hold, _], [next_quiet, _]) = (HOLD, QUIET);
        let phase = Phase::Shared;
        Self {
            phase,
            time: 0,
            waited: 0,
            runs: 0,
            before: None,
            shared: 0,
            alone: None,
            usual: None,
            hold,
            rest: WARM,
            quiet: 0,
            next_quiet,
        }
    }
}

impl Crowd {
    /// Whether the run that begins `now`, in nanoseconds, should be shared.
    pub(super) fn shares(&self, now: u64) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(state.phase, Phase::Alone(until) if now >= until) {
            state.enter(Phase::Shared);
        }
        state.phase == Phase::Shared
    }

    /// Takes note of a run that ended `now`, took `time` and in which the caller waited long, or had no CPU, for `waited`, all in
    /// nanoseconds.
    pub(super) fn took(&self, now: u64, shared: bool, time: u64, waited: u64) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if shared != (state.phase == Phase::Shared) {
            return;
        }
        state.time += time;
        state.waited += waited;
        state.runs += 1;
        if state.time >= WINDOW && state.runs >= RUNS {
            state.judge(now);
        }
    }
}

impl State {
    fn enter(&mut self, phase: Phase) {
        (self.phase, self.time, self.waited, self.runs) = (phase, 0, 0, 0);
    }

    /// A window is full.
    fn judge(&mut self, now: u64) {
        let mean = self.time / self.runs;
        match self.phase {
            Phase::Shared => {
                self.rest = self.rest.saturating_sub(1);
                self.quiet = self.quiet.saturating_sub(1);
                let waits = self.waited * SUSPICIOUS > self.time;
                let longer =
                    MOVED.contains(&mean) && self.usual.is_none_or(|usual| 2 * mean > LONGER * usual);
                let suspicious = longer || waits;
                let before = std::mem::replace(&mut self.before, suspicious.then_some(mean));
                match self.alone {
                    _ if !suspicious => {
                        // All is as it was.
                        (self.alone, self.hold) = (None, HOLD[0]);
                        self.usual = self.usual.map(|usual| usual.min(mean));
                        self.enter(Phase::Shared);
                    }
                    // Known from just before.
                    Some(alone) if alone <= mean => self.stay_alone(now),
                    Some(_) => self.stay_shared(mean),
                    None => match before.filter(|_| self.rest == 0 && (longer || self.quiet == 0)) {
                        Some(before) => {
                            self.shared = before.midpoint(mean);
                            self.enter(Phase::Trial);
                        }
                        None => self.enter(Phase::Shared),
                    },
                }
            }
            // (By more than noise.)
            Phase::Trial if mean + mean / 32 <= self.shared => {
                self.alone = Some(mean);
                self.stay_alone(now);
            }
            Phase::Trial => self.stay_shared(self.shared),
            Phase::Alone(_) => {
                self.alone = Some(mean);
                self.enter(self.phase);
            }
        }
    }

    fn stay_alone(&mut self, now: u64) {
        let hold = self.hold.max(LONE_RUNS * self.alone.unwrap_or(0));
        self.enter(Phase::Alone(now + hold));
        self.hold = (2 * self.hold).min(HOLD[1]);
        self.next_quiet = QUIET[0];
    }

    /// Runs that are shared take `mean`.
    fn stay_shared(&mut self, mean: u64) {
        self.enter(Phase::Shared);
        (self.alone, self.usual) = (None, Some(mean));
        self.rest = QUIET[0];
        self.quiet = self.next_quiet;
        self.next_quiet = (2 * self.next_quiet).min(QUIET[1]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs for `millis` of a made-up clock; gives the fraction of runs that were shared.
    fn run(crowd: &Crowd, now: &mut u64, millis: u64, [alone, shared]: [u64; 2], waited: u64) -> f64 {
        let (end, mut all, mut together) = (*now + millis * 1_000_000, 0, 0);
        while *now < end {
            let shares = crowd.shares(*now);
            let time = if shares { shared } else { alone };
            *now += time;
            crowd.took(*now, shares, time, if shares { waited } else { 0 });
            all += 1;
            together += u32::from(shares);
        }
        f64::from(together) / f64::from(all)
    }

    #[test]
    fn without_waiting_one_window_is_tried() {
        let (crowd, mut now) = (Crowd::default(), 0);
        let tried = 1.0 - run(&crowd, &mut now, 5000, [3_000_000, 2_000_000], 100_000);
        assert!((0.0028..0.003).contains(&tried), "7 runs of some 2500, {tried}");
        assert_eq!(run(&crowd, &mut now, 5000, [3_000_000, 2_000_000], 100_000), 1.0);
        // Nothing of what takes long.
        let long = [150_000_000, 100_000_000];
        assert_eq!(run(&Crowd::default(), &mut now, 5000, long, 1_000_000), 1.0);
    }

    #[test]
    fn cpus_that_are_moved_apart_and_back_are_found_out() {
        let (near, far) = ([4_600_000, 3_000_000], [4_600_000, 6_500_000]);
        let (crowd, mut now) = (Crowd::default(), 0);
        for first in [near, far] {
            for cpus in [first, near, far, near, far, far, near] {
                // Within the longest hold it is known.
                run(&crowd, &mut now, 1700, cpus, 0);
                let shared = run(&crowd, &mut now, 3000, cpus, 0);
                assert!(if cpus == near { shared > 0.97 } else { shared < 0.1 }, "{cpus:?}, {shared}");
            }
        }
    }

    #[test]
    fn beside_a_neighbour_the_faster_way_is_taken() {
        let (crowd, mut now) = (Crowd::default(), 0);
        // Slower together: nearly always alone.
        run(&crowd, &mut now, 200, [3_000_000, 4_000_000], 1_500_000);
        assert!(run(&crowd, &mut now, 5000, [3_000_000, 4_000_000], 1_500_000) < 0.05);
        // The neighbour goes: within the longest hold all is shared again.
        run(&crowd, &mut now, 1700, [3_000_000, 1_700_000], 0);
        assert!(run(&crowd, &mut now, 5000, [3_000_000, 1_700_000], 0) > 0.99);
        // Faster together in spite of the waiting: nearly always shared.
        run(&crowd, &mut now, 200, [3_000_000, 2_000_000], 700_000);
        assert!(run(&crowd, &mut now, 20_000, [3_000_000, 2_000_000], 700_000) > 0.98);
    }

    #[test]
    fn long_and_short_runs_are_compared_over_enough_of_them() {
        for time in [50_000, 500_000_000] {
            let (crowd, mut now) = (Crowd::default(), 0);
            run(&crowd, &mut now, 10_000, [time, 2 * time], time);
            assert!(run(&crowd, &mut now, 100_000, [time, 2 * time], time) < 0.1, "{time}");
        }
    }
}
