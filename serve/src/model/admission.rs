//! Whether a model takes one more request: the bound of its queue, and a much closer one while more comes than it can run.
//!
//! A queue that is long because clients wait for one another's answers is well: whoever is answered asks again, so that as many
//! requests arrive as are run. Where strangers' requests arrive faster than they are run, a long queue only makes all of them late.
//! The two differ in one thing, which is what is counted here: the growth, arrivals (refused ones, too) less those that ran. Of `n`
//! clients that each wait for an answer it never is more than `n` in sum; of an overload it has no bound. A model is overloaded after
//! three windows in a row with a growth of more than [`BURST`] each, so that up to 96 clients in a closed loop never are.
//!
//! While it is, no more may wait than the next run takes in little more than the time of one: what is accepted is answered after about
//! two runs, and the rest is told at once to come again. (Nichols and Jacobson, "Controlling Queue Delay", ACM Queue 2012, bound
//! the standing queue, too, but would take that of a closed loop for an overload.)

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::config::Concurrency;

/// A window in which growth is looked for lasts at least so long. (Twice as long would be more than it takes ten times what can be run to fill
/// 512 connections, of which each then waits for its answer, and nothing grows any more.)
const GROWTH: Duration = Duration::from_millis(50);
/// A window under an overload lasts so long, and four runs, for its end is seen by what is run.
const WINDOW: Duration = Duration::from_millis(100);
/// It is closed undecided after so many times that, or so many runs.
const UNDECIDED: u32 = 64;
/// Requests by which a queue may grow in a window, beyond a tenth of those that ran. (At least twice what a run may take, as those that
/// it answers may come again before it counts.)
const BURST: usize = 32;
/// Windows of growth until a model is overloaded.
const STRIKES: u32 = 3;
/// What a run of the requests that may wait may take, relative to a run of one. Two such runs are what an accepted request waits
/// for; the rest, up to three times a run alone, is for what refusing the others costs.
const LONGER: f64 = 1.25;

/// The places of a model's queue.
#[derive(Debug)]
pub(crate) struct Admission {
    /// Places in all.
    queue: usize,
    concurrency: Concurrency,
    /// By how much it may grow in a window.
    burst: usize,
    /// Whether overload is looked for.
    shed: bool,
    taken: Arc<AtomicUsize>,
    /// Whether `limit` is that of an overload.
    overloaded: AtomicBool,
    /// Requests that may wait now.
    limit: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    since: Instant,
    arrivals: u64,
    runs: u64,
    /// What runs took in all.
    busy: Duration,
    strikes: u32,
    times: RunTimes,
}

/// An overload that begins or ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// No more than so many may wait.
    Entered {
        limit: usize,
    },
    Left,
}

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Full {
    pub(crate) waiting: usize,
    pub(crate) overloaded: bool,
}

/// A place among those that wait, given back when dropped.
#[derive(Debug)]
pub(crate) struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Admission {
    pub(crate) fn new(
        queue: usize,
        concurrency: Concurrency,
        max_batch: usize,
        shed: bool,
        now: Instant,
    ) -> Self {
        let state = State {
            since: now,
            arrivals: 0,
            runs: 0,
            busy: Duration::ZERO,
            strikes: 0,
            times: RunTimes::default(),
        };
        Self {
            queue,
            concurrency,
            burst: BURST.max(concurrency.runs.saturating_mul(max_batch).saturating_mul(2)),
            shed,
            taken: Arc::default(),
            overloaded: AtomicBool::new(false),
            limit: AtomicUsize::new(queue),
            state: Mutex::new(state),
        }
    }

    pub(crate) fn concurrency(&self) -> Concurrency {
        self.concurrency
    }

    /// Requests that wait.
    pub(crate) fn waiting(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// Refuses, and counts that, where there is no place.
    pub(crate) fn check(&self, now: Instant) -> Result<(), (Full, Option<Change>)> {
        let waiting = self.waiting();
        if waiting < self.limit.load(Ordering::Relaxed) {
            return Ok(());
        }
        let change = self.count(now, 1, 0);
        Err((self.full(waiting), change))
    }

    /// A place, or why there is none; and what that changes.
    pub(crate) fn take(&self, now: Instant) -> Result<(Place, Option<Change>), (Full, Option<Change>)> {
        // First: where an overload begins with this request, it is the newest of those that are too many.
        let change = self.count(now, 1, 0);
        let place = Place(Arc::clone(&self.taken));
        let before = self.taken.fetch_add(1, Ordering::Relaxed);
        // (A place that is one too many is given back by its drop.)
        if before < self.limit.load(Ordering::Relaxed) {
            Ok((place, change))
        } else {
            Err((self.full(before), change))
        }
    }

    fn full(&self, waiting: usize) -> Full {
        Full { waiting, overloaded: self.overloaded.load(Ordering::Relaxed) }
    }

    /// Requests that a run has taken; those that gave up waiting are none.
    pub(crate) fn ran(&self, requests: u64, now: Instant) -> Option<Change> {
        self.count(now, 0, requests)
    }

    /// A run of so many samples took so long.
    pub(crate) fn took(&self, samples: usize, time: Duration) {
        if self.shed {
            let mut state = self.lock();
            state.busy += time;
            state.times.add(samples, time);
        }
    }

    /// Whether more comes than can be run; and whether that is so only now.
    pub(crate) fn is_overloaded(&self, now: Instant) -> (bool, Option<Change>) {
        let change = self.count(now, 0, 0);
        (self.overloaded.load(Ordering::Relaxed), change)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Counts are whole between any two operations on them.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, now: Instant, arrivals: u64, runs: u64) -> Option<Change> {
        if !self.shed {
            return None;
        }
        let mut state = self.lock();
        state.arrivals += arrivals;
        state.runs += runs;
        let was = self.overloaded.load(Ordering::Relaxed);
        let is = state.roll(now, was, self)?;
        let limit = if is {
            state.times.greatest(LONGER).saturating_mul(self.concurrency.overloaded_runs).min(self.queue)
        } else {
            self.queue
        };
        self.overloaded.store(is, Ordering::Relaxed);
        self.limit.store(limit, Ordering::Relaxed);
        match (was, is) {
            (false, true) => Some(Change::Entered { limit }),
            (true, false) => Some(Change::Left),
            _ => None,
        }
    }
}

impl State {
    /// At the end of a window whether the model is overloaded, as `was` said so far.
    fn roll(&mut self, now: Instant, was: bool, of: &Admission) -> Option<bool> {
        let window = if was { WINDOW.max(self.times.last.saturating_mul(4)) } else { GROWTH };
        let elapsed = now.saturating_duration_since(self.since);
        if elapsed < window {
            return None;
        }
        if was {
            self.strikes = if self.is_calm(elapsed, of.concurrency.overloaded_runs) {
                // (Windows in which nothing came are not looked at one by one.)
                let windows = elapsed.as_nanos() / window.as_nanos();
                self.strikes.saturating_sub(u32::try_from(windows).unwrap_or(u32::MAX))
            } else {
                STRIKES
            };
        } else if self.arrivals as f64 - 1.1 * self.runs as f64 > of.burst as f64 {
            self.strikes += 1;
        } else if self.arrivals > self.runs && elapsed < WINDOW.max(self.times.last).saturating_mul(UNDECIDED)
        {
            // A little growth: it becomes clear with time whether that goes on.
            return None;
        } else {
            self.strikes = 0;
        }
        (self.since, self.arrivals, self.runs, self.busy) = (now, 0, 0, Duration::ZERO);
        Some(if was { self.strikes > 0 } else { self.strikes >= STRIKES })
    }

    /// Whether no more came than could have been run. With few places not all of that is: what counts is how long runs took.
    fn is_calm(&self, elapsed: Duration, at_once: usize) -> bool {
        let could = self.runs as f64 * elapsed.as_secs_f64() * at_once as f64;
        self.arrivals <= self.runs
            || (self.runs > 0 && self.arrivals as f64 * self.busy.as_secs_f64() <= could)
    }
}

/// What runs take, as moving means by the power of two that holds the batch.
#[derive(Debug, Default)]
struct RunTimes {
    means: [Option<f64>; 16],
    last: Duration,
}

impl RunTimes {
    fn add(&mut self, samples: usize, time: Duration) {
        self.last = time;
        let at = samples.max(1).next_power_of_two().ilog2() as usize;
        let mean = &mut self.means[at.min(self.means.len() - 1)];
        let time = time.as_secs_f64();
        *mean = Some(mean.map_or(time, |mean| mean + (time - mean) / 8.0));
    }

    /// The greatest batch, as a power of two and counted in the smallest that was seen, of which a run takes at most so many times
    /// what one of that takes. Between two sizes that were seen, time is taken to grow evenly.
    fn greatest(&self, longer: f64) -> usize {
        let seen =
            self.means.iter().enumerate().filter_map(|(at, mean)| Some((f64::from(1 << at), (*mean)?)));
        let mut seen = seen.peekable();
        let Some(&(one, least)) = seen.peek() else { return 1 };
        let most = least * longer;
        let mut greatest = (one, least);
        for (size, time) in seen {
            if time > most {
                let (below, at) = greatest;
                greatest.0 = below + (size - below) * (most - at).max(0.0) / (time - at);
                break;
            }
            greatest = (size, time);
        }
        1 << ((greatest.0 / one).max(1.0) as usize).ilog2()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A queue before runs of 10 ms that take one request each, in simulated time.
    struct Model {
        admission: Admission,
        now: Instant,
        waiting: Vec<Place>,
        /// Whether it was overloaded, each time that this changed.
        changes: Vec<bool>,
    }

    const RUN: Duration = Duration::from_millis(10);

    impl Model {
        fn new(shed: bool) -> Self {
            let now = Instant::now();
            let concurrency = Concurrency { runs: 1, overloaded_runs: 1, threads: 1 };
            let admission = Admission::new(512, concurrency, 16, shed, now);
            Self { admission, now, waiting: Vec::new(), changes: Vec::new() }
        }

        fn saw(&mut self, change: Option<Change>) {
            self.changes.extend(change.map(|change| change != Change::Left));
            if let Some(Change::Entered { limit }) = change {
                self.waiting.truncate(limit);
            }
        }

        /// Whether a request is taken.
        fn arrive(&mut self) -> bool {
            let taken = self.admission.check(self.now).and_then(|()| self.admission.take(self.now));
            let (place, change) = match taken {
                Ok((place, change)) => (Some(place), change),
                Err((_, change)) => (None, change),
            };
            self.saw(change);
            let taken = place.is_some();
            self.waiting.extend(place);
            taken
        }

        /// Runs one, where one waits; gives whether it did.
        fn run(&mut self) -> bool {
            let any = !self.waiting.is_empty();
            self.now += RUN;
            if any {
                drop(self.waiting.remove(0));
                self.admission.took(1, RUN);
                let change = self.admission.ran(1, self.now);
                self.saw(change);
            }
            any
        }
    }

    #[test]
    fn a_closed_loop_is_no_overload() {
        for clients in [1, 32, 96, 400] {
            let mut model = Model::new(true);
            // All at once, as load generators start.
            assert!((0..clients).all(|_| model.arrive()));
            for _ in 0..3000 {
                assert!(model.run() && model.arrive(), "{clients} clients");
            }
            assert!(model.changes.is_empty(), "{clients} clients");
        }
        // However they come: up to 96 do not grow a queue by three times as much as they may.
        let mut model = Model::new(true);
        for round in 0..3000 {
            model.run();
            if round % 4 == 0 && model.waiting.len() < 96 {
                (0..8).for_each(|_| assert!(model.arrive()));
            }
        }
        assert!(model.changes.is_empty(), "{:?}", model.changes);
    }

    #[test]
    fn an_overload_is_seen_and_its_end_too() {
        // Arrivals for each that can be run.
        for (rate, runs) in [(10, 120), (2, 400)] {
            let mut model = Model::new(true);
            let mut until = None;
            for at in 0..1000 {
                for _ in 0..rate {
                    model.arrive();
                }
                model.run();
                if !model.changes.is_empty() {
                    until.get_or_insert(at);
                    assert!(model.waiting.len() <= 1, "{} wait", model.waiting.len());
                }
            }
            assert_eq!(model.changes, [true], "rate {rate}");
            assert!(until.unwrap() <= runs, "rate {rate}: seen after {until:?} runs");
            // Nine of ten that can be run, of which some come when there is no place.
            for at in 0..200 {
                if at % 10 == 0 {
                    for _ in 0..9 {
                        model.arrive();
                    }
                }
                model.run();
            }
            assert_eq!(model.changes, [true, false], "rate {rate}");
            assert!((0..100).all(|_| model.arrive()), "the queue is as long as before");
        }
    }

    #[test]
    fn an_overload_through_few_hundred_connections_is_seen() {
        let mut model = Model::new(true);
        // From then on that no connection is free, no more come than are run.
        for _ in 0..100 {
            for _ in 0..25 {
                if model.waiting.len() < 500 {
                    model.arrive();
                }
            }
            model.run();
        }
        assert_eq!(model.changes, [true]);
    }

    #[test]
    fn a_burst_is_no_overload_and_an_old_overload_is_over() {
        let mut model = Model::new(true);
        for _ in 0..5 {
            assert!((0..300).all(|_| model.arrive()));
            while model.run() {}
        }
        assert!(model.changes.is_empty(), "{:?}", model.changes);
        for _ in 0..200 {
            for _ in 0..10 {
                model.arrive();
            }
            model.run();
        }
        assert_eq!(model.changes, [true]);
        while model.run() {}
        model.now += Duration::from_mins(1);
        assert_eq!(model.admission.is_overloaded(model.now), (false, Some(Change::Left)));
    }

    #[test]
    fn without_shedding_the_queue_alone_is_the_limit() {
        let mut model = Model::new(false);
        let taken = (0..600).filter(|_| model.arrive()).count();
        assert_eq!((taken, model.waiting.len()), (512, 512));
        let (full, _) = model.admission.check(model.now).unwrap_err();
        assert_eq!(full, Full { waiting: 512, overloaded: false });
    }

    #[test]
    fn as_many_wait_as_a_run_takes_in_little_more_time() {
        let times = |seen: &[(usize, u64)]| {
            let mut times = RunTimes::default();
            seen.iter().for_each(|&(samples, ms)| times.add(samples, Duration::from_millis(ms)));
            times.greatest(1.25)
        };
        assert_eq!(times(&[]), 1);
        assert_eq!(times(&[(1, 100)]), 1);
        assert_eq!(times(&[(1, 100), (16, 1600)]), 1);
        assert_eq!(times(&[(1, 100), (2, 110), (4, 124), (8, 160)]), 4);
        assert_eq!(times(&[(1, 100), (16, 130)]), 8, "13 in between, of which 8 is a power of two");
        assert_eq!(times(&[(1, 100), (16, 90)]), 16);
        assert_eq!(times(&[(4, 100), (8, 110), (16, 200)]), 2, "requests of four samples");
        assert_eq!(times(&[(100_000, 100)]), 1);
    }
}
