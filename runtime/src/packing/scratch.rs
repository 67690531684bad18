//! Aligned buffers that a thread keeps between calls, so that kernels allocate nothing once warm.

use std::cell::RefCell;

use poda_formats::storage::AlignedBytes;

thread_local! {
    static FREE: RefCell<Vec<AlignedBytes>> = const { RefCell::new(Vec::new()) };
}

/// Calls `f` with a 64-byte aligned buffer of `len` floats of unspecified content.
///
/// Calls nest: a thread that waits in a parallel section may run another kernel meanwhile.
pub(crate) fn with<R>(len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    let bytes = len * size_of::<f32>();
    let kept = FREE.with_borrow_mut(|free| {
        // The smallest that is large enough; otherwise the largest is let go for a larger one.
        let fits = (0..free.len()).filter(|&i| free[i].len() >= bytes).min_by_key(|&i| free[i].len());
        if let Some(i) = fits {
            return Some(free.swap_remove(i));
        }
        let largest = (0..free.len()).max_by_key(|&i| free[i].len())?;
        drop(free.swap_remove(largest));
        None
    });
    let mut buffer = kept.unwrap_or_else(|| AlignedBytes::zeroed(bytes.next_multiple_of(4096)));
    let result = f(&mut bytemuck::cast_slice_mut(&mut buffer)[..len]);
    FREE.with_borrow_mut(|free| free.push(buffer));
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_nest_and_are_reused() {
        let first = with(100, |a| {
            with(50, |b| assert!(b.as_ptr() != a.as_ptr() && b.len() == 50));
            assert_eq!(a.as_ptr() as usize % 64, 0);
            a.as_ptr() as usize
        });
        let again = with(100, |a| a.as_ptr() as usize);
        let small = with(40, |a| a.as_ptr() as usize);
        assert!(first == again || again == small || first == small);
    }
}
