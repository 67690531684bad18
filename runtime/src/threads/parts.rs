//! How work is cut, and what its parts share.

/// Parts for work that `threads` threads share and that could be cut in `most`: a few for each thread where there can be, so that
/// one whose CPU is busy with other work (often the neighbour on the same core of a shared machine) does less than its share
/// rather than hold the others up.
pub(crate) fn shares(threads: usize, most: usize) -> usize {
    const SHARES: usize = 4;
    if threads > 1 { threads * (most / threads).clamp(1, SHARES) } else { 1 }
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
