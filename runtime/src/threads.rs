//! The threads that kernels and operators share: exactly as many as asked for, asleep between runs.
//!
//! Inside [`Threads::install`] (one for each inference) the caller works itself, and the other threads stay awake: dealing out
//! work then costs a fraction of a microsecond, where waking a thread costs several. A part that no other thread has begun
//! is done by the caller, so a thread that comes late, or is busy with another run, holds nobody up. Each thread begins with
//! the parts it had the time before, whose weights its cache still holds.

mod pace;
mod quota;

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::num::NonZero;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rayon::{ThreadPool, ThreadPoolBuilder};

pub(crate) use pace::Pace;

/// Times that a waiting thread looks for work before it offers its CPU to others each time.
const SPINS: u32 = 2000;
/// Parts that are dealt out at once, one bit each; more are dealt out in groups.
const MOST: usize = u64::BITS as usize;

/// Work that pays for waking the other threads: that takes 8 µs of the caller's time, and they come after 15 µs (in a
/// virtual machine on Zen 5).
const WAKING: Duration = Duration::from_micros(40);
/// Work that pays for sharing it with threads that are awake.
const SHARING: Duration = Duration::from_micros(4);
/// How long a thread without work stays awake.
const AWAKE: Duration = Duration::from_micros(10);

/// The caller and a pool of further threads.
#[derive(Debug)]
pub struct Threads {
    count: usize,
    /// `count - 1` threads.
    pool: Option<ThreadPool>,
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
    Start { count: usize, source: rayon::ThreadPoolBuildError },
}

/// No machine that runs models has more; to start millions takes minutes.
const MOST_THREADS: usize = 4096;

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
        let pool = ThreadPoolBuilder::new()
            .num_threads(count - 1)
            .thread_name(|i| format!("poda-{}", i + 1))
            .build()
            .map_err(|source| ThreadsError::Start { count, source })?;
        Ok(Self { count, pool: Some(pool), last: AtomicU64::new(0) })
    }

    /// No pool: everything runs on the caller.
    pub const fn single() -> Self {
        Self { count: 1, pool: None, last: AtomicU64::new(0) }
    }

    /// Threads that this process may keep busy: the CPU affinity and the cgroup's CPU quota (v1 and v2), rounded up.
    pub fn available() -> usize {
        let affinity = std::thread::available_parallelism().map_or(1, NonZero::get);
        affinity.min(quota::cgroup_quota().unwrap_or(usize::MAX)).max(1)
    }

    /// Number of threads.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Runs `f` on the caller, with the other threads awake to share what [`Threads::for_each`] is given meanwhile.
    pub fn install<R>(&self, f: impl FnOnce() -> R) -> R {
        match &self.pool {
            Some(pool) if matches!(PLACE.get(), Place::Outside) => {
                let session = Arc::new(Session::new(self.count));
                for _ in 1..self.count {
                    let session = Arc::clone(&session);
                    pool.spawn(move || session.help(rayon::current_thread_index().unwrap_or(0) + 1));
                }
                let _entered = Entered::new(&session);
                f()
            }
            _ => f(),
        }
    }

    /// Calls `f` with these threads installed if that pays for the work, and otherwise with the caller alone. Short runs
    /// share their work only while they follow each other closely, and only if that is faster.
    pub(crate) fn run<R>(&self, pace: &Pace, f: impl FnOnce(&Self) -> R) -> R {
        static CALLER: Threads = Threads::single();
        if self.count == 1 || pace.estimate() < SHARING {
            return f(&CALLER);
        }
        let now = || START.elapsed().as_nanos() as u64;
        let start = now();
        let idle = Duration::from_nanos(start.saturating_sub(self.last.load(Ordering::Relaxed)));
        let turn = (idle < AWAKE).then(|| pace.turn());
        let shares = turn.map_or(pace.estimate() >= WAKING, |turn| turn.shares);
        let result = if shares { self.install(|| f(self)) } else { f(&CALLER) };
        let end = now();
        if let Some(turn) = turn {
            pace.took(turn, end.saturating_sub(start));
        }
        self.last.store(end, Ordering::Relaxed);
        result
    }

    /// Calls `f` with each of `0..parts`, in parallel, and returns when all are done.
    ///
    /// # Panics
    /// When `f` panics, after all parts are done.
    pub fn for_each(&self, parts: usize, f: impl Fn(usize) + Sync) {
        if parts > 1 && self.count > 1 {
            self.install(|| for_each(parts, 1, f));
        } else {
            (0..parts).for_each(f);
        }
    }
}

/// Parts for work that `threads` threads share and that could be cut in `most`: a few for each thread where there can be, so that
/// one whose CPU is busy with other work (often the neighbour on the same core of a shared machine) does less than its share
/// rather than hold the others up.
pub(crate) fn shares(threads: usize, most: usize) -> usize {
    const SHARES: usize = 4;
    if threads > 1 { threads * (most / threads).clamp(1, SHARES) } else { 1 }
}

/// Threads that [`for_each`] would use here: 1 outside of [`Threads::install`], and within a part.
pub(crate) fn current() -> usize {
    session().map_or(1, |session| session.count)
}

/// Calls `f` with each of `0..parts` on the threads that are installed, at least `grain` of them in a row on each, and
/// returns when all are done. Within a part, and where no threads are installed, everything runs on the caller.
///
/// # Panics
/// When `f` panics, after all parts are done.
pub(crate) fn for_each(parts: usize, grain: usize, f: impl Fn(usize) + Sync) {
    let groups = (parts / grain.max(1)).min(MOST);
    match session() {
        Some(session) if groups > 1 => {
            let split = Split::even(parts, groups);
            session.run(groups, &|group| split.part(group).for_each(&f));
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
    /// Inside of it, between parallel sections.
    Installed(*const Session),
    /// Inside a part.
    Part,
}

thread_local! {
    static PLACE: Cell<Place> = const { Cell::new(Place::Outside) };
}

/// The session that the caller may deal out work in.
fn session<'a>() -> Option<&'a Session> {
    match PLACE.get() {
        // SAFETY: `Entered` keeps the session for as long as the place says so, and the caller's frames lie within its life.
        Place::Installed(session) => Some(unsafe { &*session }),
        Place::Outside | Place::Part => None,
    }
}

/// Marks the thread as one that deals out work in a session; ends the session when dropped.
struct Entered<'a>(&'a Session);

impl<'a> Entered<'a> {
    fn new(session: &'a Session) -> Self {
        PLACE.set(Place::Installed(session));
        Self(session)
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        PLACE.set(Place::Outside);
        self.0.ended.store(true, Ordering::Release);
    }
}

type Job = dyn Fn(usize) + Sync;

/// One [`Threads::install`], from the first look of the other threads to the last.
struct Session {
    count: usize,
    /// A bit for each part that nobody has begun.
    open: AtomicU64,
    /// Parts that are done.
    done: AtomicUsize,
    /// What a part calls; valid while a part is open or not done.
    job: UnsafeCell<*const Job>,
    ended: AtomicBool,
    /// The first panic of a part.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `job` is written by the thread that deals out work, only while no part is open or running, and read by threads that
// have claimed a part; claiming acquires what opening the parts released.
unsafe impl Sync for Session {}
// SAFETY: as above; nothing in it belongs to a thread.
unsafe impl Send for Session {}

impl Session {
    fn new(count: usize) -> Self {
        fn nothing(_: usize) {}
        Self {
            count,
            open: AtomicU64::new(0),
            done: AtomicUsize::new(0),
            job: UnsafeCell::new(&nothing as &Job),
            ended: AtomicBool::new(false),
            panic: Mutex::new(None),
        }
    }

    /// Has all threads call `job` with each of `0..parts`, at most [`MOST`].
    fn run<'a>(&self, parts: usize, job: &'a (dyn Fn(usize) + Sync + 'a)) {
        // SAFETY: only the lifetime changes. Nobody calls `job` after this function has returned: it waits for all parts.
        let job = unsafe { std::mem::transmute::<&'a (dyn Fn(usize) + Sync + 'a), &'static Job>(job) };
        // SAFETY: no part is open or running, so no other thread reads.
        unsafe { *self.job.get() = job };
        self.done.store(0, Ordering::Relaxed);
        self.open.store(u64::MAX >> (MOST - parts), Ordering::Release);
        while self.take(0, parts) {}
        let mut spins = 0;
        while self.done.load(Ordering::Acquire) < parts {
            wait(&mut spins);
        }
        if let Some(panic) = self.panic.lock().unwrap_or_else(PoisonError::into_inner).take() {
            resume_unwind(panic);
        }
    }

    /// Takes parts until the session ends.
    fn help(&self, thread: usize) {
        let mut spins = 0;
        while !self.ended.load(Ordering::Acquire) {
            if self.take(thread, 0) {
                spins = 0;
            } else {
                wait(&mut spins);
            }
        }
    }

    /// Does one part that nobody has begun, if there is one. `parts` is their number, or 0 where it is not known.
    fn take(&self, thread: usize, parts: usize) -> bool {
        let open = self.open.load(Ordering::Relaxed);
        if open == 0 {
            return false;
        }
        // The thread's own share first.
        let parts = if parts == 0 { (MOST as u32 - open.leading_zeros()) as usize } else { parts };
        let own = (thread * parts / self.count).min(MOST - 1) as u32;
        let part = (own + open.rotate_right(own).trailing_zeros()) % MOST as u32;
        let claimed =
            self.open.compare_exchange(open, open & !(1 << part), Ordering::Acquire, Ordering::Relaxed);
        if claimed.is_err() {
            return true;
        }
        // SAFETY: the claimed part is not done, so `run` has not returned and the job is there.
        let job = unsafe { &**self.job.get() };
        let place = PLACE.replace(Place::Part);
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| job(part as usize))) {
            self.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(panic);
        }
        PLACE.set(place);
        self.done.fetch_add(1, Ordering::Release);
        true
    }
}

/// One look in vain.
fn wait(spins: &mut u32) {
    if *spins < SPINS {
        *spins += 1;
        std::hint::spin_loop();
    } else {
        std::thread::yield_now();
    }
}

/// A pointer into memory of which threads use disjoint parts.
#[derive(Debug)]
pub(crate) struct SyncPtr<T = f32>(pub(crate) *mut T);

impl<T> SyncPtr<T> {
    /// The pointer. (Closures that name the field would capture the bare pointer, which is not `Sync`.)
    pub(crate) fn get(self) -> *mut T {
        self.0
    }
}

impl<T> Clone for SyncPtr<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for SyncPtr<T> {}

// SAFETY: the pointer alone does nothing; whoever dereferences it answers for disjoint use. Elements go to other threads.
unsafe impl<T: Send> Send for SyncPtr<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for SyncPtr<T> {}

/// A range cut into parts of nearly equal length, none empty.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Split {
    len: usize,
    parts: usize,
}

impl Split {
    /// `0..len` in at most `parts` parts.
    pub(crate) fn even(len: usize, parts: usize) -> Self {
        Self { len, parts: parts.min(len) }
    }

    /// Number of parts.
    pub(crate) fn parts(&self) -> usize {
        self.parts
    }

    /// Part `i`.
    pub(crate) fn part(&self, i: usize) -> std::ops::Range<usize> {
        i * self.len / self.parts..(i + 1) * self.len / self.parts
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn every_part_runs_once() {
        for count in [1, 2, 3] {
            let threads = Threads::new(count).unwrap();
            assert_eq!(threads.count(), count);
            for parts in [0, 1, 2, 7] {
                let hits: Vec<AtomicUsize> = (0..parts).map(|_| AtomicUsize::new(0)).collect();
                threads.for_each(parts, |i| {
                    hits[i].fetch_add(1, Ordering::Relaxed);
                });
                assert!(hits.iter().all(|h| h.load(Ordering::Relaxed) == 1));
            }
        }
        assert!(Threads::available() >= 1);
    }
}
