//! The arena: one buffer in which values live only from the step that makes them to the last that reads them. Runs of all plans of
//! an executable take turns with the same ones.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use poda_formats::storage::{ALIGNMENT, AlignedBytes};
use smallvec::SmallVec;

/// Hands out ranges of a buffer that grows as needed: the smallest free range that fits, all multiples of 64 bytes.
#[derive(Debug, Default)]
pub(super) struct Allocator {
    /// Free ranges, start to end, never touching one another.
    free: BTreeMap<usize, usize>,
    end: usize,
}

impl Allocator {
    /// A range of at least `len` bytes, or `None` when the sum overflows.
    pub(super) fn take(&mut self, len: usize) -> Option<usize> {
        let len = len.max(1).checked_next_multiple_of(ALIGNMENT)?;
        let best = self.free.iter().filter(|(start, end)| *end - *start >= len).min_by_key(|(s, e)| *e - *s);
        if let Some((&start, &end)) = best {
            self.free.remove(&start);
            if start + len < end {
                self.free.insert(start + len, end);
            }
            return Some(start);
        }
        // Nothing fits: extend the free range at the end, if there is one.
        let last = self.free.last_key_value().filter(|&(_, &end)| end == self.end).map(|(&start, _)| start);
        let start = last.unwrap_or(self.end);
        self.end = start.checked_add(len)?;
        self.free.remove(&start);
        Some(start)
    }

    /// Gives a range back.
    pub(super) fn give(&mut self, start: usize, len: usize) {
        let mut start = start;
        let mut end = start + len.max(1).next_multiple_of(ALIGNMENT);
        if let Some(after) = self.free.remove(&end) {
            end = after;
        }
        if let Some((&before, &before_end)) = self.free.range(..start).next_back()
            && before_end == start
        {
            start = before;
        }
        self.free.insert(start, end);
    }

    /// Bytes of the buffer that holds every range handed out so far.
    pub(super) fn size(&self) -> usize {
        self.end
    }
}

/// The arenas that no run has: as many as there were runs at once, none larger than the largest that a plan needs.
#[derive(Debug, Default)]
pub(crate) struct Arenas(Mutex<Free>);

#[derive(Debug, Default)]
struct Free {
    arenas: Vec<AlignedBytes>,
    /// Number of plans by the bytes that they need.
    needs: BTreeMap<usize, usize>,
}

impl Arenas {
    fn lock(&self) -> MutexGuard<'_, Free> {
        // The lists are whole between any two operations on them.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a plan needs whose runs take so many bytes.
    pub(super) fn need(self: &Arc<Self>, bytes: usize) -> Need {
        *self.lock().needs.entry(bytes).or_default() += 1;
        Need { of: Arc::clone(self), bytes }
    }
}

impl Free {
    /// The smallest arena of at least so many bytes. Where there is none the largest goes, as a larger one will take its place.
    fn take(&mut self, bytes: usize) -> Option<AlignedBytes> {
        let by_size = |&at: &usize| self.arenas[at].len();
        let fits = (0..self.arenas.len()).filter(|at| by_size(at) >= bytes).min_by_key(by_size);
        let at = fits.or_else(|| (0..self.arenas.len()).max_by_key(by_size))?;
        Some(self.arenas.swap_remove(at)).filter(|arena| arena.len() >= bytes)
    }

    fn most(&self) -> usize {
        self.needs.last_key_value().map_or(0, |(&bytes, _)| bytes)
    }
}

/// A plan's share of [`Arenas`].
#[derive(Debug)]
pub(super) struct Need {
    of: Arc<Arenas>,
    bytes: usize,
}

impl Need {
    /// At least as many bytes as the plan needs, whatever they hold; `None` where memory has not as many.
    pub(super) fn take(&self) -> Option<AlignedBytes> {
        let kept = self.of.lock().take(self.bytes);
        kept.map_or_else(|| AlignedBytes::try_zeroed(self.bytes), Some)
    }

    pub(super) fn give(&self, arena: AlignedBytes) {
        let mut free = self.of.lock();
        if arena.len() <= free.most() {
            free.arenas.push(arena);
        }
    }
}

impl Drop for Need {
    fn drop(&mut self) {
        let mut free = self.of.lock();
        if let Some(plans) = free.needs.get_mut(&self.bytes) {
            *plans -= 1;
        }
        free.needs.retain(|_, plans| *plans > 0);
        let most = free.most();
        free.arenas.retain(|arena| arena.len() <= most);
    }
}

/// A range of the arena that a step reads, or that it alone writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) range: Range<usize>,
    pub(crate) write: bool,
}

/// The segments of a step from the ranges that it reads and writes: disjoint, ascending, overlapping reads merged.
///
/// # Panics
/// When a range is written and also read or written otherwise.
pub(super) fn segments(reads: &[Range<usize>], writes: &[Range<usize>]) -> Vec<Segment> {
    let reads = reads.iter().map(|r| Segment { range: r.clone(), write: false });
    let writes = writes.iter().map(|r| Segment { range: r.clone(), write: true });
    let mut all: Vec<_> = reads.chain(writes).filter(|s| !s.range.is_empty()).collect();
    all.sort_by_key(|s| s.range.start);
    let mut merged: Vec<Segment> = Vec::with_capacity(all.len());
    for segment in all {
        match merged.last_mut() {
            Some(last) if segment.range.start < last.range.end => {
                assert!(!last.write && !segment.write, "{last:?} overlaps {segment:?}");
                last.range.end = last.range.end.max(segment.range.end);
            }
            _ => merged.push(segment),
        }
    }
    merged
}

/// Parts of the arena during one step.
pub(super) struct Parts<'a> {
    reads: SmallVec<[(usize, &'a [u8]); 8]>,
    writes: SmallVec<[(usize, &'a mut [u8]); 4]>,
}

impl<'a> Parts<'a> {
    /// Cuts the arena into the segments of a step.
    ///
    /// # Panics
    /// When the segments are not ascending, disjoint and within the arena; [`segments`] makes them so.
    pub(super) fn cut(arena: &'a mut [u8], segments: &[Segment]) -> Self {
        let mut parts = Self { reads: SmallVec::new(), writes: SmallVec::new() };
        let (mut rest, mut at) = (arena, 0);
        for Segment { range, write } in segments {
            let (_, tail) = rest.split_at_mut(range.start - at);
            let (part, tail) = tail.split_at_mut(range.len());
            (rest, at) = (tail, range.end);
            if *write {
                parts.writes.push((range.start, part));
            } else {
                parts.reads.push((range.start, part));
            }
        }
        parts
    }

    /// A range that the step reads.
    pub(super) fn read(&self, offset: usize, len: usize) -> &'a [u8] {
        if len == 0 {
            return bytemuck::cast_slice::<u64, u8>(&[]);
        }
        let after = self.reads.partition_point(|&(start, _)| start <= offset);
        let (start, part) = self.reads[after - 1];
        &part[offset - start..][..len]
    }

    /// A range that the step writes; each can be had once.
    pub(super) fn write(&mut self, offset: usize, len: usize) -> &'a mut [u8] {
        if len == 0 {
            return bytemuck::cast_slice_mut::<u64, u8>(&mut []);
        }
        let index =
            self.writes.iter().position(|&(start, _)| start == offset).expect("a segment of this step");
        &mut self.writes.swap_remove(index).1[..len]
    }
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "ranges are what is tested")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn neighbours_merge_when_given_back() {
        let mut a = Allocator::default();
        let taken: Vec<usize> = (0..3).map(|_| a.take(100).unwrap()).collect();
        assert_eq!(taken, [0, 128, 256]);
        a.give(0, 100);
        a.give(256, 100);
        a.give(128, 100);
        assert_eq!(a.take(384), Some(0));
        assert_eq!(a.size(), 384);
        assert_eq!(a.take(usize::MAX), None);
    }

    #[test]
    fn plans_share_arenas_as_large_as_one_needs() {
        let arenas = Arc::new(Arenas::default());
        let sizes = || arenas.lock().arenas.iter().map(|arena| arena.len()).collect::<Vec<_>>();
        let (small, large) = (arenas.need(100), arenas.need(1000));
        let first = small.take().unwrap();
        assert_eq!(first.len(), 100);
        small.give(first);
        // A larger one takes its place, which serves both.
        large.give(large.take().unwrap());
        assert_eq!(sizes(), [1000]);
        let both = [small.take().unwrap(), small.take().unwrap()];
        assert_eq!(both.each_ref().map(|arena| arena.len()), [1000, 100]);
        both.into_iter().for_each(|arena| small.give(arena));
        assert_eq!(small.take().unwrap().len(), 100);
        // With the plan that needs them the large ones go, at the latest when their runs end.
        let other = arenas.need(1000);
        let used = other.take().unwrap();
        drop((large, other));
        small.give(used);
        assert_eq!(sizes(), [0; 0]);
    }

    proptest! {
        #[test]
        fn ranges_in_use_never_overlap(ops in prop::collection::vec((0_usize..3000, any::<bool>(), 0_usize..8), 1..60)) {
            let mut a = Allocator::default();
            let mut live: Vec<(usize, usize)> = Vec::new();
            for (len, give, which) in ops {
                if give && !live.is_empty() {
                    let (start, len) = live.remove(which % live.len());
                    a.give(start, len);
                } else {
                    let start = a.take(len).unwrap();
                    prop_assert_eq!(start % ALIGNMENT, 0);
                    prop_assert!(start + len <= a.size());
                    prop_assert!(live.iter().all(|&(s, l)| s + l.max(1) <= start || start + len.max(1) <= s));
                    live.push((start, len));
                }
            }
        }
    }

    #[test]
    fn segments_merge_reads_and_cut() {
        let segments = segments(&[64..128, 0..32, 96..160, 0..32], &[192..256]);
        let mut arena: Vec<u8> = (0..=255).collect();
        let mut parts = Parts::cut(&mut arena, &segments);
        assert_eq!(parts.read(96, 2), [96, 97]);
        assert_eq!(parts.read(0, 32).len(), 32);
        parts.write(192, 64)[0] = 7;
        drop(parts);
        assert_eq!(arena[192], 7);
    }

    #[test]
    #[should_panic(expected = "overlaps")]
    fn a_written_range_is_not_read() {
        segments(&[0..64], &[32..96]);
    }
}
