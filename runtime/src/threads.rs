//! The threads that kernels and operators share: exactly as many as asked for, asleep between runs.
//!
//! Inside [`Threads::install`] (one for each inference) the caller works itself, and the other threads stay awake: dealing out
//! work then costs a fraction of a microsecond, where waking a thread costs several. A part that no other thread has begun
//! is done by the caller, so a thread that comes late, or is busy with another run, holds nobody up. Callers that run at the same
//! time count among the threads: two callers of two threads work on their own.

mod affinity;
mod clock;
mod crowd;
mod pace;
mod parts;
mod pool;
mod session;
pub(crate) mod share;
#[cfg(test)]
mod tests;
mod wait;

use std::cell::Cell;
use std::io;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::cgroup;
use pool::{AWAKE, Pool, Started};
use session::MOST;

pub(crate) use pace::Pace;
pub(crate) use parts::{Split, SyncPtr, shares};

/// Work that pays for waking the other threads: that takes 8 µs of the caller's time, and they come after 15 µs (in a
/// virtual machine on Zen 5).
const WAKING: Duration = Duration::from_micros(40);
/// Work that pays for sharing it with threads that are awake (LeNet-300-100 with 90 % zeros: 4.9 µs on one thread of a Zen 4, 5.9 on two).
const SHARING: Duration = Duration::from_micros(8);
/// Work for which threads that become free meanwhile are waited for.
const LONG: Duration = Duration::from_millis(10);

/// Work for which it pays to ask how long the caller had a CPU: that takes half a microsecond.
const CLOCKED: Duration = Duration::from_micros(200);

/// The caller and a pool of further threads.
#[derive(Debug)]
pub struct Threads {
    count: usize,
    /// `count - 1` threads.
    pool: Option<Started>,
    /// When the last [`Threads::run`] ended, in nanoseconds since [`START`].
    last: AtomicU64,
}

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Why threads cannot be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum ThreadsError {
    #[error("{count} threads are more than {MOST_THREADS}")]
    TooMany { count: usize },
    #[error("cannot start {count} threads: {source}")]
    Start { count: usize, source: io::Error },
}

/// No machine that runs models has more; to start millions takes minutes.
pub(crate) const MOST_THREADS: usize = 4096;

impl Threads {
    /// The caller and `count - 1` further threads; 0 means [`Threads::available`].
    ///
    /// # Errors
    /// When they are more than 4096, or the system refuses to start them.
    pub fn new(count: usize) -> Result<Self, ThreadsError> {
        let count = if count == 0 { Self::available() } else { count };
        if count == 1 {
            return Ok(Self::single());
        }
        if count > MOST_THREADS {
            return Err(ThreadsError::TooMany { count });
        }
        let pool = Started::new(count).map_err(|source| ThreadsError::Start { count, source })?;
        Ok(Self { count, pool: Some(pool), last: AtomicU64::new(0) })
    }

    /// No pool: everything runs on the caller.
    pub const fn single() -> Self {
        Self { count: 1, pool: None, last: AtomicU64::new(0) }
    }

    /// Threads that this process may keep busy: the CPU affinity and the cgroup's CPU quota (v1 and v2), rounded up.
    pub fn available() -> usize {
        affinity::cpus().min(cgroup::cpus().unwrap_or(usize::MAX)).clamp(1, MOST_THREADS)
    }

    /// Number of threads.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Runs `f` on the caller, with the other threads awake to share what [`Threads::for_each`] is given meanwhile.
    pub fn install<R>(&self, f: impl FnOnce() -> R) -> R {
        match &self.pool {
            Some(pool) if matches!(PLACE.get(), Place::Outside) => {
                let _entered = Entered::new(pool.pool());
                f()
            }
            _ => f(),
        }
    }

    /// Calls `f` with these threads installed if that pays for the work, and otherwise with the caller alone. Short runs
    /// share their work only while they follow each other closely, and only if that is faster.
    pub(crate) fn run<R>(&self, pace: &Pace, f: impl FnOnce(&Self) -> R) -> R {
        static CALLER: Threads = Threads::single();
        let Some(pool) = self.pool.as_ref().map(Started::pool).filter(|_| pace.estimate() >= SHARING) else {
            return f(&CALLER);
        };
        if !matches!(PLACE.get(), Place::Outside) {
            return f(self);
        }
        let others = pool.callers();
        // Other runs have the threads: what is short is over before they are free.
        if others > 0 && others + 1 >= self.count && pace.estimate() < LONG {
            let _entered = Entered::alone(pool);
            return f(&CALLER);
        }
        let now = || START.elapsed().as_nanos() as u64;
        let start = now();
        let idle = Duration::from_nanos(start.saturating_sub(self.last.load(Ordering::Relaxed)));
        let turn = (idle < AWAKE && others == 0).then(|| pace.turn());
        let pays = turn.map_or(pace.estimate() >= WAKING, |turn| turn.shares);
        let shares = pays && pace.crowd().shares(start);
        let clocked = shares && others == 0 && pace.estimate() >= CLOCKED;
        let ran = clocked.then(clock::cpu_nanos).flatten();
        let entered = if shares { Entered::new(pool) } else { Entered::alone(pool) };
        let result = f(if shares { self } else { &CALLER });
        let waited = entered.waited();
        drop(entered);
        let end = now();
        let time = end.saturating_sub(start);
        if let Some(turn) = turn.filter(|turn| turn.shares == shares) {
            pace.took(turn, time);
        }
        if pays && others == 0 {
            // The caller itself may have lost its CPU, for which the others wait.
            let ran = ran.zip(clock::cpu_nanos()).map(|(before, after)| after.saturating_sub(before));
            let lost = ran.map_or(0, |ran| time.saturating_sub(ran));
            pace.crowd().took(end, shares, time, waited.max(lost));
        }
        self.last.store(end, Ordering::Relaxed);
        result
    }

    /// Calls `f` with each of `0..parts`, in parallel, and returns when all are done.
    ///
    /// # Panics
    /// When `f` panics, once no part runs any more.
    pub fn for_each(&self, parts: usize, f: impl Fn(usize) + Sync) {
        if parts > 1 && self.count > 1 {
            self.install(|| for_each(parts, 1, f));
        } else {
            (0..parts).for_each(f);
        }
    }
}

/// Threads that [`for_each`] would use here: 1 outside of [`Threads::install`], and within a part.
pub(crate) fn current() -> usize {
    installed().map_or(1, |(pool, _)| pool.count())
}

/// Calls `f` with each of `0..parts` on the threads that are installed, at least `grain` of them in a row on each, and
/// returns when all are done. Within a part, and where no threads are installed, everything runs on the caller.
///
/// # Panics
/// When `f` panics, once no part runs any more.
pub(crate) fn for_each(parts: usize, grain: usize, f: impl Fn(usize) + Sync) {
    let groups = (parts / grain.max(1)).min(MOST);
    match installed() {
        Some((pool, session)) if groups > 1 => {
            let split = Split::even(parts, groups);
            pool.run(session, groups, &|group| split.part(group).for_each(&f));
        }
        _ => (0..parts).for_each(f),
    }
}

/// Calls `f` with the index and the elements of each chunk of `len` elements (the last may be shorter), as [`for_each`] does.
///
/// # Panics
/// When `len` is 0 (and there are elements), or `f` panics.
pub(crate) fn for_each_chunk<T: Send>(
    values: &mut [T],
    len: usize,
    grain: usize,
    f: impl Fn(usize, &mut [T]) + Sync,
) {
    if values.is_empty() {
        return;
    }
    let (start, total) = (SyncPtr(values.as_mut_ptr()), values.len());
    for_each(total.div_ceil(len), grain, |i| {
        // SAFETY: chunks lie within `values` and are disjoint, each is given to one call of `f`, and `values` stays borrowed
        // until all are done.
        let chunk =
            unsafe { std::slice::from_raw_parts_mut(start.get().add(i * len), len.min(total - i * len)) };
        f(i, chunk);
    });
}

/// Where the code that runs now stands.
#[derive(Clone, Copy)]
enum Place {
    /// Outside of [`Threads::install`].
    Outside,
    /// Inside of it, between parallel sections: the pool and the caller's session there.
    Installed(*const Pool, usize),
    /// Inside a part, or of a run that has no session.
    Part,
}

thread_local! {
    static PLACE: Cell<Place> = const { Cell::new(Place::Outside) };
}

/// The pool and the session that the caller may deal out work in.
fn installed<'a>() -> Option<(&'a Pool, usize)> {
    match PLACE.get() {
        // SAFETY: `Entered` borrows the pool for as long as the place says so, and the caller's frames lie within its life.
        Place::Installed(pool, session) => Some((unsafe { &*pool }, session)),
        Place::Outside | Place::Part => None,
    }
}

/// A place that the thread is in until this is dropped.
struct Inside(Place);

impl Inside {
    fn part() -> Self {
        Self(PLACE.replace(Place::Part))
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        PLACE.set(self.0);
    }
}

/// Marks the thread as a caller that is within a run.
struct Entered<'a> {
    pool: &'a Pool,
    session: Option<usize>,
    _inside: Inside,
}

impl<'a> Entered<'a> {
    fn new(pool: &'a Pool) -> Self {
        let session = pool.enter();
        let place = session.map_or(Place::Part, |session| Place::Installed(pool, session));
        Self { pool, session, _inside: Inside(PLACE.replace(place)) }
    }

    /// Without help.
    fn alone(pool: &'a Pool) -> Self {
        pool.enter_alone();
        Self { pool, session: None, _inside: Inside::part() }
    }

    /// Nanoseconds so far that the caller waited long for the others.
    fn waited(&self) -> u64 {
        self.session.map_or(0, |session| self.pool.waited(session))
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.pool.leave(self.session);
    }
}
