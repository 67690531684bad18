//! Cuts work on many elements into parts by what it costs: the one way in which elementwise operators, norms, softmax, pools
//! and copies use the threads.

use super::{current, for_each_chunk, shares};

/// Picoseconds of work that a part must hold. Dealing it out takes 0.2 µs, and its data may come from another core's cache.
const PART: usize = 3_000_000;

/// Picoseconds that an element takes, about.
pub(crate) mod cost {
    /// Moving four bytes from one place to another.
    pub(crate) const COPY: usize = 250;
    /// Sums, products, comparisons.
    pub(crate) const ARITHMETIC: usize = 300;
    /// Exponentials and their kin, in vectors.
    pub(crate) const FUNCTION: usize = 1_000;
    /// A function of the system's library, one element after the other.
    pub(crate) const SCALAR: usize = 8_000;
}

/// Parts for `len` elements that take `cost` picoseconds each: 1 where sharing does not pay.
pub(crate) fn parts(len: usize, cost: usize) -> usize {
    let most = len.saturating_mul(cost) / PART;
    match current() {
        1 => 1,
        threads if most > 1 => shares(threads, most).min(most),
        _ => 1,
    }
}

/// Elements of each of the [`parts`], in whole cache lines.
pub(crate) fn part(len: usize, cost: usize) -> usize {
    match parts(len, cost) {
        1 => len.max(1),
        parts => len.div_ceil(parts).next_multiple_of(64),
    }
}

/// Calls `f` with the place of the first element and the elements of each part of `values`, which take `cost` picoseconds each.
///
/// # Panics
/// When `f` panics.
pub(crate) fn for_elements<T: Send>(values: &mut [T], cost: usize, f: impl Fn(usize, &mut [T]) + Sync) {
    let part = part(values.len(), cost);
    for_each_chunk(values, part, 1, |i, values| f(i * part, values));
}

/// Calls `f` with the index and the elements of each row of `row` elements, which take `cost` picoseconds each.
///
/// # Panics
/// When `row` is 0 (and there are elements), or `f` panics.
pub(crate) fn for_rows<T: Send>(
    values: &mut [T],
    row: usize,
    cost: usize,
    f: impl Fn(usize, &mut [T]) + Sync,
) {
    for_each_chunk(values, row, PART.div_ceil(row.saturating_mul(cost).max(1)), f);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::threads::Threads;

    #[test]
    fn every_element_is_in_one_part() {
        for threads in [1, 2, 3] {
            Threads::new(threads).unwrap().install(|| {
                for (len, row) in [(0, 1), (1, 1), (63, 9), (50_000, 10), (100_003, 7)] {
                    for cost in [1, cost::COPY, cost::SCALAR] {
                        let mut values = vec![0; len];
                        for_elements(&mut values, cost, |start, values| {
                            values.iter_mut().enumerate().for_each(|(i, v)| *v += start + i);
                        });
                        for_rows(&mut values, row, cost, |start, values| {
                            values.iter_mut().enumerate().for_each(|(i, v)| *v -= start * row + i);
                        });
                        assert!(values.iter().all(|&v| v == 0), "{len} {row} {cost} {threads}");
                    }
                }
                assert_eq!(parts(100, cost::COPY), 1, "what is short stays on the caller");
                assert!(threads == 1 || parts(1 << 20, cost::COPY) >= threads);
            });
        }
    }
}
