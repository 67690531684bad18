//! Some rows of one head of keys and values: packs, and walks over blocks of keys and groups of rows.

use std::ops::Range;

use rten_simd::ops::{BitOps, NumOps};

use super::super::gemm::Mat;
use super::few::{self, FEW};
use super::tile::{self, Operands, Output, STRIDE, padded};
use super::weights::{RowMask, Seen, Statistics, score, weigh};
use super::{Attention, Causal, Order, Undefined};
use crate::packing::scratch::Scratch;
use crate::packing::transpose::transpose;
use crate::simd::{Simd, Vectorized, splat, zero};
use crate::threads::SyncPtr;

/// Keys of a block: its scores stay in L1 beside a panel of keys, and what is packed of it in L2.
pub(super) const KEYS: usize = 256;

/// Rows of one head of keys and values: row `r` is query `r % queries` of the `r / queries`th head of queries that shares it.
pub(super) struct Part<'a> {
    /// Checked by `run`.
    pub(super) of: &'a Attention<'a, f32>,
    pub(super) batch: usize,
    pub(super) kv_head: usize,
    pub(super) rows: Range<usize>,
    pub(super) order: Order,
    /// The whole output, of which this part writes its rows.
    pub(super) y: SyncPtr,
}

/// Memory that a part works in.
struct Work {
    /// Queries, group by group: `[size][rows]`, or `[rows][size]` in whole vectors when there are few.
    q: Scratch,
    /// A block of keys, `[panel][size][width]`, zeros beyond the last.
    k: Scratch,
    /// A block of values, `[keys][size]` in whole vectors.
    v: Scratch,
    /// `[rows of a group][STRIDE]`
    scores: Scratch,
    /// Sums of weighted values, `[rows]` of whole vectors.
    sums: Scratch,
    /// The mask of a row.
    mask: Scratch,
}

impl Vectorized for Part<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<S: Simd>(self, simd: S) {
        let ([.., size], keys, value_size) = (self.of.q.shape, self.of.k.shape[2], self.of.v.shape[3]);
        let limit = self.rows.clone().map(|row| self.visible(row)).max().unwrap_or(0);
        let [k, v] = [&self.of.k, &self.of.v].map(|of| of.rows(self.batch, self.kv_head, 0, keys));
        let padded_values = value_size.next_multiple_of(S::LANES);
        let width = S::TILE_VECTORS * S::LANES;
        // Few rows read keys where they lie, if those lie one after the other; values in whole vectors always are.
        let few = self.rows.len() <= FEW && k.col_stride == 1;
        let direct =
            v.col_stride == 1 && value_size.is_multiple_of(S::LANES) && (few || v.row_stride == value_size);
        let groups = self.rows.len().div_ceil(S::TILE_ROWS);
        let block = KEYS.min(limit);
        let mut work = Work {
            q: Scratch::new((groups * S::TILE_ROWS).max(FEW) * size.next_multiple_of(S::LANES)),
            k: Scratch::new(if few { 0 } else { block.next_multiple_of(width) * size }),
            v: Scratch::new(if direct { 0 } else { block * padded_values }),
            scores: Scratch::new(S::TILE_ROWS.max(FEW) * STRIDE),
            sums: Scratch::new((groups * S::TILE_ROWS).max(FEW) * padded_values),
            mask: Scratch::new(KEYS),
        };
        work.sums.fill(0.0);
        let mut statistics: smallvec::SmallVec<[Statistics; 16]> =
            (0..groups).map(|_| Statistics::START).collect();
        // SAFETY: `run` checked that strides stay within the data; scratch is as large as rows, keys and sizes say.
        unsafe {
            self.pack_queries(simd, few, &mut work.q);
            for start in (0..limit).step_by(KEYS) {
                let keys = KEYS.min(limit - start);
                if !few {
                    pack_keys(simd, k, start, keys, &mut work.k);
                }
                if !direct {
                    for i in 0..keys {
                        let from = v.data.as_ptr().wrapping_add((start + i) * v.row_stride);
                        let to = work.v.as_mut_ptr().add(i * padded_values);
                        few::copy_row(simd, from, v.col_stride, value_size, to);
                    }
                }
                let (values, step) = if direct {
                    (v.data.as_ptr().wrapping_add(start * v.row_stride), v.row_stride)
                } else {
                    (work.v.as_ptr(), padded_values)
                };
                for (group, statistics) in statistics.iter_mut().enumerate() {
                    let rows = self.group::<S>(group);
                    let seen = rows.clone().map(|row| self.visible(row)).max().unwrap_or(0);
                    let keys = keys.min(seen.saturating_sub(start));
                    if keys == 0 {
                        continue;
                    }
                    let tall = padded::<S>(rows.len());
                    if few {
                        let (q, scores) = (work.q.as_ptr(), work.scores.as_mut_ptr());
                        let k_rows = k.data.as_ptr().wrapping_add(start * k.row_stride);
                        few::scores(simd, [rows.len(), keys, size], q, k_rows, k.row_stride, scores);
                    } else {
                        for panel in 0..keys.div_ceil(width) {
                            let operands = Operands {
                                k: size,
                                a: work.q.as_ptr().add(group * S::TILE_ROWS * size),
                                b: work.k.as_ptr().add(panel * size * width),
                                b_step: width,
                            };
                            let c = work.scores.as_mut_ptr().add(panel * width);
                            let output = Output { c, stride: STRIDE, factors: std::ptr::null() };
                            tile::scores(simd, tall, operands, output);
                        }
                    }
                    self.weigh(simd, rows, start..start + keys, statistics, &mut work);
                    let sums = work.sums.as_mut_ptr().add(group * S::TILE_ROWS * padded_values);
                    // As many sums as the registers hold beside the vectors of a step.
                    let most = if tall <= 3 && 2 * tall < S::TILE_ROWS { 4 } else { 2 };
                    let (mut at, vectors) = (0, padded_values / S::LANES);
                    while at < vectors {
                        let together = if vectors - at >= most { most } else { (vectors - at).min(2) };
                        let operands = Operands {
                            k: keys,
                            a: work.scores.as_ptr(),
                            b: values.wrapping_add(at * S::LANES),
                            b_step: step,
                        };
                        let output = Output {
                            c: sums.add(at * S::LANES),
                            stride: padded_values,
                            factors: statistics.factors.as_ptr(),
                        };
                        tile::values(simd, [tall, together], operands, output);
                        at += together;
                    }
                }
            }
            for (group, statistics) in statistics.iter().enumerate() {
                for (i, row) in self.group::<S>(group).enumerate() {
                    let sums = work.sums.as_ptr().add((group * S::TILE_ROWS + i) * padded_values);
                    self.finish(simd, row, statistics.sums[i], sums);
                }
            }
        }
    }
}

impl Part<'_> {
    /// Head and query of a row.
    fn place(&self, row: usize) -> [usize; 2] {
        let queries = self.of.q.shape[2];
        [self.kv_head * self.of.group() + row / queries, row % queries]
    }

    /// The rows of group `i`.
    fn group<S: Simd>(&self, i: usize) -> Range<usize> {
        let start = self.rows.start + i * S::TILE_ROWS;
        start..self.rows.end.min(start + S::TILE_ROWS)
    }

    /// Keys that a row may see: the first so many.
    #[inline(always)]
    fn visible(&self, row: usize) -> usize {
        let scoring = &self.of.scoring;
        let spoken = scoring.mask.map_or(usize::MAX, |mask| mask.keys);
        let visible = match (scoring.causal, scoring.lengths) {
            // (All rows see the same, without a division for each.)
            (Causal::No, None) => self.of.k.shape[2],
            _ => self.of.visible(self.batch, row % self.of.q.shape[2]),
        };
        visible.min(spoken)
    }

    /// # Safety
    /// See `eval`.
    #[inline(always)]
    unsafe fn pack_queries<S: Simd>(&self, simd: S, few: bool, packed: &mut [f32]) {
        let ([_, _, queries, size], [_, _, _, step]) = (self.of.q.shape, self.of.q.strides);
        let line = size.next_multiple_of(S::LANES);
        for (i, row) in self.rows.clone().enumerate().filter(|_| few) {
            let [head, query] = self.place(row);
            let from = self.of.q.rows(self.batch, head, query, 1);
            // SAFETY: a query lies within the data, and the scratch holds all rows.
            unsafe { few::copy_row(simd, from.data.as_ptr(), step, size, packed[i * line..].as_mut_ptr()) };
        }
        if few || size == 0 {
            return;
        }
        for group in 0..self.rows.len().div_ceil(S::TILE_ROWS) {
            let rows = self.group::<S>(group);
            let tall = padded::<S>(rows.len());
            let packed = &mut packed[group * S::TILE_ROWS * size..][..size * tall];
            if tall > rows.len() {
                packed.fill(0.0);
            }
            // Queries of one head lie at one stride.
            let mut row = rows.start;
            while row < rows.end {
                let [head, query] = self.place(row);
                let run = (rows.end - row).min(queries - query);
                let from = self.of.q.rows(self.batch, head, query, run);
                let at = row - rows.start;
                // SAFETY: the queries lie within the data, and their columns within the packed group.
                unsafe { pack_columns(simd, from, packed[at..].as_mut_ptr(), tall) };
                row += run;
            }
        }
    }

    /// Turns the products of a group with some keys into weights.
    ///
    /// # Safety
    /// Scores must hold them.
    #[inline(always)]
    unsafe fn weigh<S: Simd>(
        &self,
        simd: S,
        rows: Range<usize>,
        keys: Range<usize>,
        statistics: &mut Statistics,
        work: &mut Work,
    ) {
        let scoring = &self.of.scoring;
        let (mut greatest, mut seen) = ([f32::NEG_INFINITY; 16], [0; 16]);
        for (i, row) in rows.clone().enumerate() {
            seen[i] = self.visible(row).clamp(keys.start, keys.end) - keys.start;
            let [head, query] = self.place(row);
            let mask = RowMask::new(self.of, [self.batch, head, query], keys.start, seen[i], &mut work.mask);
            // SAFETY: by the caller.
            unsafe {
                let scores = work.scores.as_mut_ptr().add(i * STRIDE);
                let seen = Seen { keys: seen[i], mask };
                greatest[i] = score(simd, [scoring.scale, scoring.softcap], seen, scores);
            }
        }
        let bases = statistics.grow(simd, &greatest, keys.start == 0);
        for i in 0..rows.len() {
            // SAFETY: by the caller.
            let sum = unsafe {
                weigh(simd, bases[i], seen[i], keys.len(), work.scores.as_mut_ptr().add(i * STRIDE))
            };
            statistics.sums[i] = statistics.sums[i] * statistics.factors[i] + sum;
        }
    }

    /// Writes a row of the output: the sums of weighted values over that of the weights.
    ///
    /// # Safety
    /// See `eval`.
    #[inline(always)]
    unsafe fn finish<S: Simd>(&self, simd: S, row: usize, sum: f32, sums: *const f32) {
        let ops = simd.f32();
        let ([_, heads, queries, _], [.., keys, value_size]) = (self.of.q.shape, self.of.v.shape);
        let [head, query] = self.place(row);
        let index = match self.order {
            Order::HeadMajor => (self.batch * heads + head) * queries + query,
            Order::TokenMajor => (self.batch * queries + query) * heads + head,
        };
        // The greatest score has weight 1, so the sum is 0 only where there is none. Over no keys at all it is 0 for certain.
        let undefined = match self.of.scoring.undefined {
            Undefined::ZeroUnseen => sum == 0.0,
            Undefined::Nan => sum == 0.0 && keys == 0,
            Undefined::Zero => sum == 0.0 || sum.is_nan(),
        };
        let factor = splat(simd, 1.0 / sum);
        for at in (0..value_size).step_by(S::LANES) {
            let lanes = S::LANES.min(value_size - at);
            // SAFETY: the row's elements of `y` are this part's; sums are in whole vectors.
            unsafe {
                let value = if undefined { zero(simd) } else { ops.mul(ops.load_ptr(sums.add(at)), factor) };
                let to = self.y.get().add(index * value_size + at);
                if lanes == S::LANES { ops.store_ptr(value, to) } else { simd.store_first(value, to, lanes) }
            }
        }
    }
}

/// Packs `keys` keys from `start` on as panels of a tile's width.
///
/// # Safety
/// They must lie within the data, and the panels within `packed`.
#[inline(always)]
unsafe fn pack_keys<S: Simd>(simd: S, from: Mat<'_, f32>, start: usize, keys: usize, packed: &mut [f32]) {
    let width = S::TILE_VECTORS * S::LANES;
    for (panel, at) in (0..keys).step_by(width).enumerate() {
        let rows = width.min(keys - at);
        let packed = &mut packed[panel * from.cols * width..][..from.cols * width];
        if rows < width {
            packed.fill(0.0);
        }
        let data = if from.cols == 0 { &[] } else { &from.data[(start + at) * from.row_stride..] };
        // SAFETY: by the caller.
        unsafe { pack_columns(simd, Mat { data, rows, ..from }, packed.as_mut_ptr(), width) };
    }
}

/// Writes the transpose of `from`: row `i` becomes a column, with its elements `stride` apart.
///
/// # Safety
/// Rows and columns must lie within the data.
#[inline(always)]
unsafe fn pack_columns<S: Simd>(simd: S, from: Mat<'_, f32>, to: *mut f32, stride: usize) {
    let Mat { data, rows, cols, row_stride, col_stride } = from;
    let data = data.as_ptr();
    // SAFETY: by the caller.
    unsafe {
        if col_stride == 1 {
            transpose(simd, data, row_stride, [rows, cols], to, stride);
        } else if row_stride == 1 {
            for col in 0..cols {
                std::ptr::copy_nonoverlapping(data.add(col * col_stride), to.add(col * stride), rows);
            }
        } else {
            for (row, col) in (0..rows).flat_map(|row| (0..cols).map(move |col| (row, col))) {
                *to.add(col * stride + row) = *data.add(row * row_stride + col * col_stride);
            }
        }
    }
}
