//! What one caller deals out during a run, and who has done it.

use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Inside;
use super::wait::{PATIENCE, Wait};

/// Parts that are dealt out at once, one bit each; more are dealt out in groups.
pub(super) const MOST: usize = u64::BITS as usize;

/// What a part calls.
pub(super) type Job = dyn Fn(usize) + Sync;

/// On cache lines of its own: what one thread writes and another watches.
#[repr(align(128))]
struct Apart<T>(T);

/// A place for one caller. Sections follow each other in it: [`Session::run`] opens parts, the caller and others claim them, and it
/// returns once all are done. It belongs to the pool, so that a thread that comes late still finds it.
pub(super) struct Session {
    /// Whether a caller has it.
    pub(super) taken: AtomicBool,
    /// Sections in a row that found fewer threads awake than may help.
    pub(super) lonely: AtomicU32,
    /// A bit for each part that nobody has begun.
    open: Apart<AtomicU64>,
    /// What a part calls; valid while a part is open or not done.
    job: UnsafeCell<*const Job>,
    /// Parts that are done.
    done: Apart<AtomicUsize>,
    /// Nanoseconds that the caller has waited for others beyond its patience.
    waited: AtomicU64,
    /// Whether the caller sleeps until all parts are done.
    sleeps: AtomicBool,
    lock: Mutex<()>,
    ended: Condvar,
    /// The first panic of a part.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `job` is written by the thread that has taken the session, only while no part is open or running, and read by threads
// that have claimed a part; claiming acquires what opening the parts released, and taking what the caller before released.
unsafe impl Sync for Session {}
// SAFETY: as above; nothing in it belongs to a thread.
unsafe impl Send for Session {}

impl Session {
    pub(super) fn new() -> Self {
        fn nothing(_: usize) {}
        Self {
            taken: AtomicBool::new(false),
            lonely: AtomicU32::new(0),
            open: Apart(AtomicU64::new(0)),
            job: UnsafeCell::new(&nothing as &Job),
            done: Apart(AtomicUsize::new(0)),
            waited: AtomicU64::new(0),
            sleeps: AtomicBool::new(false),
            lock: Mutex::new(()),
            ended: Condvar::new(),
            panic: Mutex::new(None),
        }
    }

    /// A caller has taken it.
    pub(super) fn begin(&self) {
        self.lonely.store(0, Ordering::Relaxed);
        self.waited.store(0, Ordering::Relaxed);
    }

    /// Nanoseconds that the caller has waited long for others.
    pub(super) fn waited(&self) -> u64 {
        self.waited.load(Ordering::Relaxed)
    }

    /// Has `job` called with each of `0..parts`, at most [`MOST`], by the caller, who has taken the session, and whoever comes.
    ///
    /// # Panics
    /// When a part does, once all are done.
    pub(super) fn run<'a>(&self, parts: usize, threads: usize, job: &'a (dyn Fn(usize) + Sync + 'a)) {
        // SAFETY: only the lifetime changes. Nobody calls `job` after this function has returned: it waits for all parts.
        let job = unsafe { std::mem::transmute::<&'a (dyn Fn(usize) + Sync + 'a), &'static Job>(job) };
        // SAFETY: no part is open or running, so no other thread reads.
        unsafe { *self.job.get() = job };
        self.done.0.store(0, Ordering::Relaxed);
        self.open.0.store(u64::MAX >> (MOST - parts), Ordering::Release);
        while self.take(0, threads) {}
        self.wait(parts);
        if let Some(panic) = self.panic.lock().unwrap_or_else(PoisonError::into_inner).take() {
            resume_unwind(panic);
        }
    }

    /// Does one part that nobody has begun, if there is one: of those that are left, the thread's own first, whose weights its
    /// cache still holds from the time before.
    pub(super) fn take(&self, thread: usize, threads: usize) -> bool {
        let open = self.open.0.load(Ordering::Relaxed);
        if open == 0 {
            return false;
        }
        let parts = MOST - open.leading_zeros() as usize;
        let own = (thread * parts / threads).min(MOST - 1) as u32;
        let part = (own + open.rotate_right(own).trailing_zeros()) % MOST as u32;
        let rest = open & !(1 << part);
        if self.open.0.compare_exchange(open, rest, Ordering::Acquire, Ordering::Relaxed).is_err() {
            return true;
        }
        // SAFETY: the claimed part is not done, so `run` has not returned and the job is there.
        let job = unsafe { &**self.job.get() };
        let inside = Inside::part();
        let result = catch_unwind(AssertUnwindSafe(|| job(part as usize)));
        drop(inside);
        if let Err(panic) = result {
            let mut first = self.panic.lock().unwrap_or_else(PoisonError::into_inner);
            match &*first {
                None => *first = Some(panic),
                // What it carries may panic in turn when it is dropped.
                Some(_) => std::mem::forget(panic),
            }
        }
        // Either this sees that the caller sleeps, or the caller that the part is done.
        self.done.0.fetch_add(1, Ordering::SeqCst);
        if self.sleeps.load(Ordering::SeqCst) {
            drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner));
            self.ended.notify_one();
        }
        true
    }

    /// Returns when `parts` parts are done. Who has begun the last may have lost its CPU to another process: then the caller sleeps,
    /// so that the system may give it this one.
    fn wait(&self, parts: usize) {
        let done = || self.done.0.load(Ordering::SeqCst) >= parts;
        let mut wait = Wait::new();
        while !done() {
            if wait.patient() {
                continue;
            }
            let begun = Instant::now();
            let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
            self.sleeps.store(true, Ordering::SeqCst);
            while !done() {
                let slept = self.ended.wait_timeout(guard, Duration::from_millis(1));
                guard = slept.unwrap_or_else(PoisonError::into_inner).0;
            }
            self.sleeps.store(false, Ordering::SeqCst);
            let waited = (PATIENCE + begun.elapsed()).as_nanos() as u64;
            self.waited.fetch_add(waited, Ordering::Relaxed);
        }
    }
}
