//! Scaled dot-product attention in tiles with online softmax: no more than a block of scores exists at a time.
//!
//! Heads of queries that share a head of keys and values are stacked as rows, `heads / kv heads · queries` of them. A part is
//! some rows of one head of keys and values; it goes through the keys block by block, and through its rows in groups of
//! what the registers hold:
//!
//! ```text
//! S = Q · Kᵀ          [rows, keys]   lanes along keys; K is packed [panel][size][width]
//! S = scale · S, soft cap, mask; its greatest element per row updates the greatest so far
//! P = exp(S - greatest)              what was summed before is scaled down to the new greatest
//! Y = scaled · Y + P · V             lanes along the value's elements
//! ```
//!
//! and at the end `Y / Σ P`. Few rows (one query and a long cache) read keys and values where they lie (`few`).
//!
//! Dao, "FlashAttention-2", ICLR 2024, <https://arxiv.org/abs/2307.08691>.

mod few;
mod part;
#[cfg(test)]
mod tests;
mod tile;
mod weights;

use poda_formats::dtype::Boolean;

use super::gemm::Mat;
use crate::simd::Supported;
use crate::threads::{self, SyncPtr, shares};
use part::Part;

/// Multiply-adds that are worth a part of their own.
const PARALLEL: usize = 1 << 16;
/// Rows of a part: packing the keys costs as much as three rows take, and what a part holds stays in L2.
const ROWS: [usize; 2] = [48, 384];

/// Queries, keys or values `[batch, heads, sequence, size]` with any strides, in elements.
#[derive(Debug, Clone, Copy)]
pub struct Heads<'a, T> {
    /// The elements, and perhaps others.
    pub data: &'a [T],
    /// `[batch, heads, sequence, size]`
    pub shape: [usize; 4],
    /// Of each axis.
    pub strides: [usize; 4],
}

impl<'a, T> Heads<'a, T> {
    /// Row-major `[batch, heads, sequence, size]`.
    pub fn head_major(data: &'a [T], shape: [usize; 4]) -> Self {
        let [_, heads, sequence, size] = shape;
        Self { data, shape, strides: [heads * sequence * size, sequence * size, size, 1] }
    }

    /// Row-major `[batch, sequence, heads · size]`, with its `shape` as `[batch, heads, sequence, size]`.
    pub fn token_major(data: &'a [T], shape: [usize; 4]) -> Self {
        let [_, heads, sequence, size] = shape;
        Self { data, shape, strides: [sequence * heads * size, size, heads * size, 1] }
    }

    /// Rows `start..start + rows` of one head, `[rows, size]`.
    pub(crate) fn rows(&self, batch: usize, head: usize, start: usize, rows: usize) -> Mat<'a, T> {
        let [b, h, s, d] = self.strides;
        let empty = rows == 0 || self.shape[3] == 0;
        let data = if empty { &[] } else { &self.data[batch * b + head * h + start * s..] };
        Mat { data, rows, cols: self.shape[3], row_stride: s, col_stride: d }
    }

    /// Elements from the first to the last that the strides reach.
    fn span(&self) -> usize {
        if self.shape.contains(&0) {
            return 0;
        }
        self.shape.iter().zip(self.strides).map(|(&size, stride)| (size - 1) * stride).sum::<usize>() + 1
    }
}

/// What a mask holds for each pair of query and key.
#[derive(Debug, Clone, Copy)]
pub enum MaskValues<'a, T> {
    /// Added to the scores.
    Add(&'a [T]),
    /// Whether the query may see the key.
    Allow(&'a [Boolean]),
}

/// A mask over `[batch, heads, queries, keys]`; strides are 0 along axes that it lacks.
#[derive(Debug, Clone, Copy)]
pub struct Mask<'a, T> {
    /// The elements.
    pub values: MaskValues<'a, T>,
    /// Of each axis.
    pub strides: [usize; 4],
    /// Keys that it speaks of; it forbids later ones.
    pub keys: usize,
}

/// Which keys a query may see, apart from the mask.
#[derive(Debug, Clone, Copy)]
pub enum Causal<'a> {
    /// All of them.
    No,
    /// Those up to its own position, before which there are so many keys.
    After(i64),
    /// As [`Causal::After`], with the number of valid keys of each batch less the number of queries before.
    Lengths(&'a [i64]),
}

/// What a softmax over scores gives where it is not defined: a query that sees no key divides zero by zero, and one score
/// that is no number makes none of the probabilities one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Undefined {
    /// As the operator Attention: zeros for a query that sees no key.
    ZeroUnseen,
    /// As the operator Softmax: NaN.
    Nan,
    /// Zeros for every probability that is NaN, as exporters guard a softmax.
    Zero,
}

/// How scores are made.
#[derive(Debug, Clone, Copy)]
pub struct Scoring<'a, T> {
    /// Scores are products times this.
    pub scale: T,
    /// `cap · tanh(score / cap)` unless 0.
    pub softcap: T,
    /// The mask.
    pub mask: Option<Mask<'a, T>>,
    /// Which keys a query may see, apart from the mask.
    pub causal: Causal<'a>,
    /// Valid keys of each batch.
    pub lengths: Option<&'a [i64]>,
    /// What becomes of probabilities that are no numbers.
    pub undefined: Undefined,
}

/// Order of the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// `[batch, heads, sequence, size]`
    HeadMajor,
    /// `[batch, sequence, heads, size]`
    TokenMajor,
}

/// Queries, keys and values, with as many heads of queries as of keys and values or a multiple of it.
#[derive(Debug, Clone, Copy)]
pub struct Attention<'a, T> {
    /// Queries.
    pub q: Heads<'a, T>,
    /// Keys, as large as the queries.
    pub k: Heads<'a, T>,
    /// Values, as many as keys.
    pub v: Heads<'a, T>,
    /// How scores are made.
    pub scoring: Scoring<'a, T>,
}

impl<T: Copy> Attention<'_, T> {
    /// Heads of queries for each of keys and values.
    pub(crate) fn group(&self) -> usize {
        (self.q.shape[1] / self.k.shape[1].max(1)).max(1)
    }

    /// Keys that query `row` of `batch` may see, apart from a mask: the first so many.
    pub(crate) fn visible(&self, batch: usize, row: usize) -> usize {
        let ([_, _, queries, _], [_, _, keys, _]) = (self.q.shape, self.k.shape);
        let frontier = |offset: i64| offset.saturating_add(row as i64 + 1);
        let causal = match self.scoring.causal {
            Causal::No => i64::MAX,
            Causal::After(offset) => frontier(offset),
            Causal::Lengths(lengths) => frontier(lengths[batch].saturating_sub(queries as i64)),
        };
        let valid = self.scoring.lengths.map_or(i64::MAX, |lengths| lengths[batch]);
        usize::try_from(causal.min(valid).max(0)).unwrap_or(usize::MAX).min(keys)
    }

    /// Checks shapes against each other, `y` elements of output, and strides against what there is.
    ///
    /// # Panics
    /// When something does not fit.
    pub(crate) fn check(&self, y: usize) {
        let ([batch, heads, queries, size], [_, kv_heads, keys, _]) = (self.q.shape, self.k.shape);
        let value_size = self.v.shape[3];
        assert_eq!(self.k.shape, [batch, kv_heads, keys, size], "keys");
        assert_eq!(self.v.shape, [batch, kv_heads, keys, value_size], "values");
        assert_eq!(y, batch * heads * queries * value_size, "output");
        assert!(kv_heads > 0 && heads.is_multiple_of(kv_heads) || heads == 0, "{heads} heads of {kv_heads}");
        for heads in [&self.q, &self.k, &self.v] {
            assert!(heads.span() <= heads.data.len(), "strides {:?} beyond the data", heads.strides);
        }
        let enough = |lengths: &[i64]| assert_eq!(lengths.len(), batch, "lengths");
        self.scoring.lengths.iter().for_each(|lengths| enough(lengths));
        if let Causal::Lengths(lengths) = self.scoring.causal {
            enough(lengths);
        }
    }
}

impl Attention<'_, f32> {
    /// Computes the attention, `[batch, heads, queries, value size]` in the given order, on the threads that are installed.
    ///
    /// # Panics
    /// When shapes do not fit each other, or strides the data.
    pub fn run(&self, order: Order, y: &mut [f32]) {
        self.check(y.len());
        if y.is_empty() {
            return;
        }
        let ([batch, _, queries, size], [_, kv_heads, keys, _]) = (self.q.shape, self.k.shape);
        let (units, rows) = (batch * kv_heads, self.group() * queries);
        // Later queries may see more keys, so there are more parts than threads.
        let wanted = shares(threads::current(), units * rows.div_ceil(ROWS[0])).div_ceil(units);
        let len = rows.div_ceil(wanted).clamp(ROWS[0], ROWS[1]).next_multiple_of(12);
        let splits = rows.div_ceil(len);
        let work = len.min(rows) * keys * (size + self.v.shape[3]);
        let (y, level) = (SyncPtr(y.as_mut_ptr()), Supported::best());
        threads::for_each(units * splits, PARALLEL / work.max(1), |i| {
            let (unit, start) = (i / splits, i % splits * len);
            let [batch, kv_head] = [unit / kv_heads, unit % kv_heads];
            level.run(Part { of: self, batch, kv_head, rows: start..rows.min(start + len), order, y });
        });
    }
}
