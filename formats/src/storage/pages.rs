//! Where large buffers come from: zero pages of the system, huge ones where it has them.
//!
//! A product walks over weights and images of a megabyte or so each, a page here and a page there; with pages of 4 KiB much of its
//! time goes into finding them, the more on a virtual machine, which looks each up twice. A page of 2 MiB holds several buffers,
//! so buffers share regions. Dense ResNet-50 on two virtual CPUs (Emerald Rapids): 1.06 times as fast, EfficientNet-Lite0 1.07.

use std::ptr::NonNull;
use std::sync::{Arc, Mutex};

use memmap2::{MmapOptions, MmapRaw};

/// Buffers from this many bytes on lie in regions.
pub(super) const LARGE: usize = 64 << 10;
/// A huge page.
const HUGE: usize = 2 << 20;
/// A multiple of every page size that is not huge.
const PAGE: usize = 64 << 10;
/// Address space of a region that buffers share. What nobody has touched takes no memory.
const REGION: usize = 64 << 20;

/// Memory of a buffer, given back to the system when dropped.
pub(super) struct Pages {
    region: Arc<MmapRaw>,
    start: usize,
    len: usize,
}

/// The region that buffers are taken from, and what of it is taken.
struct Current {
    region: Arc<MmapRaw>,
    next: usize,
}

static CURRENT: Mutex<Option<Current>> = Mutex::new(None);

impl Pages {
    /// Untouched zero pages for `len` bytes, or `None` where the system has none to give.
    pub(super) fn take(len: usize) -> Option<Self> {
        let len = len.checked_next_multiple_of(PAGE)?;
        if len >= HUGE {
            return Self::alone(len);
        }
        // (Who finds the region in use, perhaps by a thread that does not exist after a fork, does without.)
        let Ok(mut current) = CURRENT.try_lock() else { return Self::alone(len) };
        if current.as_ref().is_none_or(|current| current.next + len > current.region.len()) {
            let region = map(REGION)?;
            let first = aligned(&region);
            // A program with little to hold need not pay for a huge page: the first comes in small ones.
            let huge = if current.is_none() { first + HUGE } else { first };
            ask_for_huge_pages(&region, huge, (region.len() - huge) / HUGE * HUGE);
            *current = Some(Current { region: Arc::new(region), next: first });
        }
        let Current { region, next } = current.as_mut()?;
        let start = *next;
        *next += len;
        Some(Self { region: Arc::clone(region), start, len })
    }

    /// In a region of its own.
    fn alone(len: usize) -> Option<Self> {
        let region = map(len.checked_add(HUGE)?)?;
        let start = aligned(&region);
        // What does not fill a huge page is not asked for as one.
        ask_for_huge_pages(&region, start, len / HUGE * HUGE);
        Some(Self { region: Arc::new(region), start, len })
    }

    /// Where the buffer begins: a multiple of [`PAGE`].
    pub(super) fn start(&self) -> Option<NonNull<u8>> {
        NonNull::new(self.region.as_mut_ptr().wrapping_add(self.start))
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        #[cfg(unix)]
        if Arc::strong_count(&self.region) > 1 {
            // SAFETY: these pages are this buffer's alone, which is gone, and nobody gets them again.
            let _ = unsafe {
                self.region.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, self.start, self.len)
            };
        }
    }
}

/// `len` bytes of address space.
fn map(len: usize) -> Option<MmapRaw> {
    MmapOptions::new().len(len).map_anon().ok().map(MmapRaw::from)
}

/// The first multiple of a huge page in a region.
fn aligned(region: &MmapRaw) -> usize {
    region.as_mut_ptr().align_offset(HUGE)
}

/// Systems that know no such pages, or are told not to give them, ignore it.
fn ask_for_huge_pages(region: &MmapRaw, start: usize, len: usize) {
    #[cfg(target_os = "linux")]
    if len > 0 {
        let _ = region.advise_range(memmap2::Advice::HugePage, start, len);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (region, start, len);
}

#[cfg(test)]
mod tests {
    use super::super::AlignedBytes;

    #[test]
    fn buffers_are_zero_and_apart() {
        let lens = [1, LARGE_MINUS, super::LARGE, 100_000, super::HUGE - 1, super::HUGE, 5_000_001];
        let mut kept = Vec::new();
        for round in 1..40_u8 {
            for (i, &len) in lens.iter().enumerate() {
                let mut bytes = AlignedBytes::zeroed(len);
                assert!(bytes.iter().all(|&b| b == 0), "{len}");
                assert_eq!(bytes.as_ptr() as usize % super::super::ALIGNMENT, 0);
                bytes.fill(round);
                // Some go at once, some stay: more than one region in all.
                if i % 2 == 0 || round % 3 == 0 {
                    kept.push((round, bytes));
                }
            }
        }
        for (round, bytes) in kept {
            assert!(bytes.iter().all(|&b| b == round), "{} of round {round}", bytes.len());
        }
    }

    const LARGE_MINUS: usize = super::LARGE - 1;
}
