//! Aligned buffers that a thread keeps between calls, so that kernels allocate nothing once warm.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

use poda_formats::storage::AlignedBytes;

thread_local! {
    static FREE: RefCell<Vec<AlignedBytes>> = const { RefCell::new(Vec::new()) };
}

/// A 64-byte aligned buffer of floats, given back to the thread when dropped.
///
/// Buffers nest: a thread that waits in a parallel section may run another kernel meanwhile.
pub(crate) struct Scratch {
    bytes: AlignedBytes,
    len: usize,
}

impl Scratch {
    /// `len` floats of unspecified content.
    pub(crate) fn new(len: usize) -> Self {
        let needed = len * size_of::<f32>();
        let kept = FREE.with_borrow_mut(|free| {
            // The smallest that is large enough; otherwise the largest is let go for a larger one.
            let fits = (0..free.len()).filter(|&i| free[i].len() >= needed);
            if let Some(i) = fits.min_by_key(|&i| free[i].len()) {
                return Some(free.swap_remove(i));
            }
            let largest = (0..free.len()).max_by_key(|&i| free[i].len())?;
            drop(free.swap_remove(largest));
            None
        });
        Self { bytes: kept.unwrap_or_else(|| AlignedBytes::zeroed(needed.next_multiple_of(4096))), len }
    }
}

impl Deref for Scratch {
    type Target = [f32];

    #[inline]
    fn deref(&self) -> &[f32] {
        &bytemuck::cast_slice(&self.bytes)[..self.len]
    }
}

impl DerefMut for Scratch {
    #[inline]
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut bytemuck::cast_slice_mut(&mut self.bytes)[..self.len]
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let bytes = std::mem::replace(&mut self.bytes, AlignedBytes::zeroed(0));
        // At the end of a thread its free list may be gone already; then the buffer is freed.
        let _ = FREE.try_with(|free| free.borrow_mut().push(bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_nest_and_are_reused() {
        let address = |len: usize| Scratch::new(len).as_ptr() as usize;
        let (a, b) = (Scratch::new(10_000), Scratch::new(50));
        assert!(a.as_ptr() != b.as_ptr() && a.len() == 10_000 && b.len() == 50);
        assert_eq!(a.as_ptr() as usize % 64, 0);
        let large = a.as_ptr() as usize;
        drop((a, b));
        assert_eq!(address(9_000), large);
        assert_ne!(address(60), large);
    }
}
