//! The threads beside the callers: asleep between runs, and shared by all that are under way.
//!
//! As many threads work as were asked for, callers included: with `c` of `n` callers at work, the first `n - c` workers help, each
//! looking first at another caller's work. A worker that has become one too many finishes its part and sleeps.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};
use std::{fmt, io};

use super::session::Session;
use super::wait::Wait;

/// How long a worker without a run stays awake.
pub(super) const AWAKE: Duration = Duration::from_micros(10);
/// Sections that a caller runs with too few workers awake before it wakes those that have become free.
const LONELY: u32 = 32;

/// What callers and workers share.
pub(super) struct Pool {
    /// Threads that work at once, callers included.
    count: usize,
    /// Callers that are within a run.
    callers: AtomicUsize,
    /// Workers that do not sleep.
    awake: AtomicUsize,
    stopped: AtomicBool,
    sessions: Box<[Session]>,
    /// `count - 1`
    workers: Box<[Worker]>,
}

#[derive(Default)]
struct Worker {
    sleeps: AtomicBool,
    thread: OnceLock<Thread>,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pool({} threads)", self.count)
    }
}

/// A pool and its threads, which end with it.
#[derive(Debug)]
pub(super) struct Started {
    pool: Arc<Pool>,
    threads: Vec<JoinHandle<()>>,
}

impl Started {
    /// Starts `count - 1` workers.
    pub(super) fn new(count: usize) -> io::Result<Self> {
        let pool = Arc::new(Pool {
            count,
            callers: AtomicUsize::new(0),
            awake: AtomicUsize::new(count - 1),
            stopped: AtomicBool::new(false),
            sessions: (0..count).map(|_| Session::new()).collect(),
            workers: (1..count).map(|_| Worker::default()).collect(),
        });
        let mut started = Self { pool, threads: Vec::with_capacity(count - 1) };
        for index in 1..count {
            let pool = Arc::clone(&started.pool);
            let thread = thread::Builder::new().name(format!("poda-{index}")).spawn(move || {
                pool.workers[index - 1].thread.get_or_init(thread::current);
                pool.work(index);
            })?;
            started.threads.push(thread);
        }
        Ok(started)
    }

    pub(super) fn pool(&self) -> &Pool {
        &self.pool
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        self.pool.stopped.store(true, Ordering::SeqCst);
        self.pool.workers.iter().for_each(|worker| self.pool.wake(worker));
        for thread in self.threads.drain(..) {
            // Parts catch what panics in them, so workers do not.
            let _ = thread.join();
        }
    }
}

impl Pool {
    /// Workers that may help `callers` callers.
    fn helpers(&self, callers: usize) -> usize {
        self.count.saturating_sub(callers.max(1))
    }

    /// Callers that are within a run.
    pub(super) fn callers(&self) -> usize {
        self.callers.load(Ordering::Relaxed)
    }

    /// Workers that do not sleep.
    #[cfg(test)]
    pub(super) fn awake(&self) -> usize {
        self.awake.load(Ordering::Relaxed)
    }

    /// Number of threads.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// A caller begins a run: gives its session, unless as many callers as threads have one.
    pub(super) fn enter(&self) -> Option<usize> {
        let callers = self.callers.fetch_add(1, Ordering::SeqCst) + 1;
        let free = |session: &Session| {
            session.taken.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok()
        };
        let session = self.sessions.iter().position(free);
        if let Some(session) = session {
            self.sessions[session].begin();
            self.wake_helpers(callers);
        }
        session
    }

    /// A caller begins a run that it does on its own.
    pub(super) fn enter_alone(&self) {
        self.callers.fetch_add(1, Ordering::SeqCst);
    }

    /// Nanoseconds that the caller of a session has waited long for others.
    pub(super) fn waited(&self, session: usize) -> u64 {
        self.sessions[session].waited()
    }

    /// A caller's run is over.
    pub(super) fn leave(&self, session: Option<usize>) {
        if let Some(session) = session {
            self.sessions[session].taken.store(false, Ordering::Release);
        }
        self.callers.fetch_sub(1, Ordering::SeqCst);
    }

    fn wake_helpers(&self, callers: usize) {
        self.workers[..self.helpers(callers)].iter().for_each(|worker| self.wake(worker));
    }

    fn wake(&self, worker: &Worker) {
        if worker.sleeps.load(Ordering::SeqCst) && worker.sleeps.swap(false, Ordering::SeqCst) {
            self.awake.fetch_add(1, Ordering::Relaxed);
            if let Some(thread) = worker.thread.get() {
                thread.unpark();
            }
        }
    }

    /// Has `job` called with each of `0..parts` for the caller of a session.
    pub(super) fn run(&self, session: usize, parts: usize, job: &(dyn Fn(usize) + Sync)) {
        let session = &self.sessions[session];
        let callers = self.callers();
        if self.awake.load(Ordering::Relaxed) < self.helpers(callers) {
            let lonely = session.lonely.load(Ordering::Relaxed) + 1;
            session.lonely.store(lonely % LONELY, Ordering::Relaxed);
            if lonely == LONELY {
                self.wake_helpers(callers);
            }
        }
        session.run(parts, self.count, job);
    }

    /// What worker `index`, from 1 on, does until the pool ends.
    fn work(&self, index: usize) {
        let worker = &self.workers[index - 1];
        let mut wait = Wait::new();
        let mut idle: Option<Instant> = None;
        while !self.stopped.load(Ordering::SeqCst) {
            let callers = self.callers.load(Ordering::SeqCst);
            let helps = callers > 0 && index <= self.helpers(callers);
            if helps && self.take(index) {
                wait = Wait::new();
                idle = None;
            } else if helps {
                idle = None;
                wait.patient();
            } else if callers == 0 && idle.get_or_insert_with(Instant::now).elapsed() < AWAKE {
                (0..16).for_each(|_| std::hint::spin_loop());
            } else {
                self.sleep(worker, index);
                idle = None;
                wait = Wait::new();
            }
        }
    }

    /// Does a part of some caller's, if there is one.
    fn take(&self, index: usize) -> bool {
        let sessions = self.sessions.len();
        (0..sessions).any(|i| self.sessions[(index - 1 + i) % sessions].take(index, self.count))
    }

    /// Sleeps until there is a run to help.
    fn sleep(&self, worker: &Worker, index: usize) {
        worker.sleeps.store(true, Ordering::SeqCst);
        self.awake.fetch_sub(1, Ordering::Relaxed);
        // Either this sees the caller that has just come, or the caller that this sleeps.
        let callers = self.callers.load(Ordering::SeqCst);
        if self.stopped.load(Ordering::SeqCst) || callers > 0 && index <= self.helpers(callers) {
            self.wake(worker);
            return;
        }
        while worker.sleeps.load(Ordering::SeqCst) {
            thread::park();
        }
    }
}
