//! The thread pool that kernels run in: exactly as many threads as asked for, asleep between runs.
//!
//! Work is split by recursive `join`, which allocates nothing. Call kernels from inside [`Threads::install`] (one hop per
//! inference): from outside, every parallel kernel pays for waking a worker and being woken again.

use std::fs;
use std::num::NonZero;

use rayon::{ThreadPool, ThreadPoolBuilder};

/// A pool of a fixed number of threads. One thread means that work runs on the caller.
#[derive(Debug)]
pub struct Threads {
    count: usize,
    pool: Option<ThreadPool>,
}

/// The system refused to start threads.
#[derive(Debug, thiserror::Error)]
#[error("cannot start {count} threads")]
pub struct ThreadsError {
    count: usize,
    source: rayon::ThreadPoolBuildError,
}

impl Threads {
    /// A pool of `count` threads; 0 means [`Threads::available`].
    ///
    /// # Errors
    /// When the system refuses to start them.
    pub fn new(count: usize) -> Result<Self, ThreadsError> {
        let count = if count == 0 { Self::available() } else { count };
        if count == 1 {
            return Ok(Self::single());
        }
        let pool = ThreadPoolBuilder::new()
            .num_threads(count)
            .thread_name(|i| format!("poda-{i}"))
            .build()
            .map_err(|source| ThreadsError { count, source })?;
        Ok(Self { count, pool: Some(pool) })
    }

    /// No pool: everything runs on the caller.
    pub const fn single() -> Self {
        Self { count: 1, pool: None }
    }

    /// Threads that this process may keep busy: the CPU affinity and the cgroup's CPU quota (v1 and v2), rounded up.
    pub fn available() -> usize {
        let affinity = std::thread::available_parallelism().map_or(1, NonZero::get);
        affinity.min(cgroup_quota().unwrap_or(usize::MAX)).max(1)
    }

    /// Number of threads.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Runs `f` on a thread of the pool, so that parallel work inside it need not change threads.
    /// With one thread it runs on the caller.
    pub fn install<R: Send>(&self, f: impl FnOnce() -> R + Send) -> R {
        match &self.pool {
            Some(pool) => pool.install(f),
            None => f(),
        }
    }

    /// Calls `f` with each of `0..parts`, in parallel, and returns when all are done.
    pub fn for_each(&self, parts: usize, f: impl Fn(usize) + Sync) {
        match &self.pool {
            Some(pool) if parts > 1 => pool.install(|| split(0, parts, &f)),
            _ => (0..parts).for_each(f),
        }
    }
}

/// A pointer into memory of which threads use disjoint parts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SyncPtr(pub(crate) *mut f32);

impl SyncPtr {
    /// The pointer. (Closures that name the field would capture the bare pointer, which is not `Sync`.)
    pub(crate) fn get(self) -> *mut f32 {
        self.0
    }
}

// SAFETY: the pointer alone does nothing; whoever dereferences it answers for disjoint use.
unsafe impl Send for SyncPtr {}
// SAFETY: as above.
unsafe impl Sync for SyncPtr {}

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

/// Halves `start..end` until single parts are left.
fn split(start: usize, end: usize, f: &(impl Fn(usize) + Sync)) {
    if end - start == 1 {
        return f(start);
    }
    let middle = usize::midpoint(start, end);
    rayon::join(|| split(start, middle, f), || split(middle, end, f));
}

/// CPUs that the cgroup's quota allows, rounded up; `None` without a quota.
fn cgroup_quota() -> Option<usize> {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    quota_under("/sys/fs/cgroup".as_ref(), &own)
}

/// The tightest quota on the way from this process's group up to the root, for both versions of cgroups.
fn quota_under(root: &std::path::Path, own: &str) -> Option<usize> {
    let mut tightest: Option<f64> = None;
    for line in own.lines() {
        // `hierarchy:controllers:path`; version 2 has no controllers.
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let version2 = controllers.is_empty();
        if !version2 && !controllers.split(',').any(|c| c == "cpu") {
            continue;
        }
        let base = if version2 { root.to_path_buf() } else { root.join(controllers) };
        let base = if base.is_dir() { base } else { root.join("cpu") };
        let mut group = Some(std::path::Path::new(path.trim_start_matches('/')));
        while let Some(relative) = group {
            let directory = base.join(relative);
            let cpus = if version2 {
                fs::read_to_string(directory.join("cpu.max")).ok().and_then(|text| {
                    let (quota, period) = text.trim().split_once(' ')?;
                    ratio(quota, period)
                })
            } else {
                let read = |name| fs::read_to_string(directory.join(name)).ok();
                read("cpu.cfs_quota_us").zip(read("cpu.cfs_period_us")).and_then(|(q, p)| ratio(&q, &p))
            };
            if let Some(cpus) = cpus {
                tightest = Some(tightest.map_or(cpus, |t| t.min(cpus)));
            }
            group = relative.parent();
        }
    }
    tightest.map(|cpus| (cpus.ceil() as usize).max(1))
}

/// Quota over period; `None` when unlimited (`max`, or a negative number).
fn ratio(quota: &str, period: &str) -> Option<f64> {
    let quota: f64 = quota.trim().parse().ok()?;
    let period: f64 = period.trim().parse().ok()?;
    (quota > 0.0 && period > 0.0).then_some(quota / period)
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

    #[test]
    fn the_quota_of_both_versions_is_read() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("outer/inner/cpu.max", "max 100000\n");
        write("outer/cpu.max", "150000 100000\n");
        assert_eq!(quota_under(root.path(), "0::/outer/inner\n"), Some(2));
        assert_eq!(quota_under(root.path(), "0::/elsewhere\n"), None);

        write("cpu,cpuacct/box/cpu.cfs_quota_us", "300000\n");
        write("cpu,cpuacct/box/cpu.cfs_period_us", "100000\n");
        assert_eq!(quota_under(root.path(), "4:cpu,cpuacct:/box\n3:memory:/box\n"), Some(3));
        write("cpu,cpuacct/box/cpu.cfs_quota_us", "-1\n");
        assert_eq!(quota_under(root.path(), "4:cpu,cpuacct:/box\n"), None);
    }
}
