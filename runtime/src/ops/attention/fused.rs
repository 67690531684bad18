//! Scaled dot-product attention that never holds more than a block of queries' scores.

use poda_formats::dtype::Boolean;

use crate::ops::real::{Mat, Real};
use crate::threads::{self, SyncPtr};

/// Scores, in elements, that a block of queries may have: what stays in the second-level cache with keys and values.
const BLOCK: usize = 1 << 16;

/// Queries, keys or values `[batch, heads, sequence, size]` with any strides, in elements.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Heads<'a, R> {
    pub(crate) data: &'a [R],
    pub(crate) shape: [usize; 4],
    pub(crate) strides: [usize; 4],
}

impl<'a, R> Heads<'a, R> {
    /// Row-major `[batch, heads, sequence, size]`.
    pub(crate) fn head_major(data: &'a [R], shape: [usize; 4]) -> Self {
        let [_, heads, sequence, size] = shape;
        Self { data, shape, strides: [heads * sequence * size, sequence * size, size, 1] }
    }

    /// Row-major `[batch, sequence, heads · size]`, with its `shape` as `[batch, heads, sequence, size]`.
    pub(crate) fn token_major(data: &'a [R], shape: [usize; 4]) -> Self {
        let [_, heads, sequence, size] = shape;
        Self { data, shape, strides: [sequence * heads * size, size, heads * size, 1] }
    }

    /// Rows `start..start + rows` of one head, `[rows, size]`.
    pub(crate) fn rows(&self, batch: usize, head: usize, start: usize, rows: usize) -> Mat<'a, R> {
        let [b, h, s, d] = self.strides;
        let empty = rows == 0 || self.shape[3] == 0;
        let data = if empty { &[] } else { &self.data[batch * b + head * h + start * s..] };
        Mat { data, rows, cols: self.shape[3], row_stride: s, col_stride: d }
    }
}

/// What a mask holds for each pair of query and key.
#[derive(Debug, Clone, Copy)]
pub(crate) enum MaskValues<'a, R> {
    /// Added to the scores.
    Add(&'a [R]),
    /// Whether the query may see the key.
    Allow(&'a [Boolean]),
}

/// A mask over `[batch, heads, queries, keys]`; strides are 0 along axes that it lacks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mask<'a, R> {
    pub(crate) values: MaskValues<'a, R>,
    pub(crate) strides: [usize; 4],
    /// Keys that it speaks of; it forbids later ones.
    pub(crate) keys: usize,
}

/// Which keys a query may see, apart from the mask.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Causal<'a> {
    /// All of them.
    No,
    /// Those up to its own position, before which there are so many keys.
    After(i64),
    /// As [`Causal::After`], with the number of valid keys of each batch less the number of queries before.
    Lengths(&'a [i64]),
}

/// How scores are made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scoring<'a, R> {
    pub(crate) scale: R,
    /// `cap · tanh(score / cap)` unless 0.
    pub(crate) softcap: R,
    pub(crate) mask: Option<Mask<'a, R>>,
    pub(crate) causal: Causal<'a>,
    /// Valid keys of each batch.
    pub(crate) lengths: Option<&'a [i64]>,
}

/// How far scores are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// Scaled products.
    Product,
    /// With the soft cap.
    Capped,
    /// With mask and limits.
    Masked,
    /// After softmax.
    Probabilities,
}

/// Order of the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// `[batch, heads, sequence, size]`
    HeadMajor,
    /// `[batch, sequence, heads, size]`
    TokenMajor,
}

/// Queries, keys and values, with as many heads of queries as of keys and values or a multiple of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attention<'a, R> {
    pub(crate) q: Heads<'a, R>,
    pub(crate) k: Heads<'a, R>,
    pub(crate) v: Heads<'a, R>,
    pub(crate) scoring: Scoring<'a, R>,
}

impl<R: Real> Attention<'_, R> {
    /// Keys that query `row` of `batch` may see: the first so many.
    fn visible(&self, batch: usize, row: usize) -> usize {
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

    /// Writes the scores `[rows, keys]` of queries from `start` on with the first `keys` keys. `scaled` has place for
    /// the queries.
    fn scores(
        &self,
        [batch, head, start]: [usize; 3],
        keys: usize,
        stage: Stage,
        scaled: &mut [R],
        out: &mut [R],
    ) {
        let (rows, size) = (out.len() / keys.max(1), self.q.shape[3]);
        if out.is_empty() {
            return;
        }
        let q = self.q.rows(batch, head, start, rows);
        for (i, scaled) in scaled.chunks_exact_mut(size.max(1)).enumerate() {
            for (j, v) in scaled.iter_mut().enumerate() {
                *v = q.data[i * q.row_stride + j * q.col_stride] * self.scoring.scale;
            }
        }
        let k = self.k.rows(batch, head / self.group(), 0, keys);
        R::product(Mat::new(scaled, rows, size), k.t(), out);
        let cap = self.scoring.softcap;
        if stage >= Stage::Capped && cap > R::default() {
            out.iter_mut().for_each(|v| *v = (*v / cap).tanh() * cap);
        }
        if stage >= Stage::Masked {
            for (i, row) in out.chunks_exact_mut(keys).enumerate() {
                let visible = self.visible(batch, start + i).min(keys);
                let (seen, hidden) = row.split_at_mut(visible);
                let any = self.mask(seen, [batch, head, start + i]) && visible > 0;
                if stage == Stage::Masked {
                    hidden.fill(R::from_f64(f64::NEG_INFINITY));
                    continue;
                }
                hidden.fill(R::default());
                // A query that sees nothing gives zeros.
                if any { R::softmax(seen) } else { seen.fill(R::default()) }
            }
        }
    }

    /// Adds the mask to a row of scores; gives whether it lets any through.
    fn mask(&self, row: &mut [R], [batch, head, query]: [usize; 3]) -> bool {
        let Some(mask) = &self.scoring.mask else { return true };
        let [b, h, q, step] = mask.strides;
        let at = batch * b + head * h + query * q;
        let forbidden = R::from_f64(f64::NEG_INFINITY);
        let (seen, hidden) = row.split_at_mut(mask.keys.min(row.len()));
        hidden.fill(forbidden);
        let mut any = false;
        match mask.values {
            MaskValues::Add(values) if step == 1 => {
                for (v, &bias) in seen.iter_mut().zip(&values[at.min(values.len())..]) {
                    *v += bias;
                    any |= bias != forbidden;
                }
            }
            MaskValues::Add(values) => {
                for (i, v) in seen.iter_mut().enumerate() {
                    *v += values[at + i * step];
                    any |= values[at + i * step] != forbidden;
                }
            }
            MaskValues::Allow(values) => {
                for (i, v) in seen.iter_mut().enumerate() {
                    let allowed = values[at + i * step].get();
                    *v = if allowed { *v } else { forbidden };
                    any |= allowed;
                }
            }
        }
        any
    }

    /// Heads of queries for each of keys and values.
    fn group(&self) -> usize {
        (self.q.shape[1] / self.k.shape[1].max(1)).max(1)
    }

    /// Computes the attention, `[batch, heads, queries, value size]` in the given order.
    ///
    /// # Panics
    /// When shapes do not fit each other.
    pub(crate) fn run(&self, order: Order, y: &mut [R]) {
        let ([batch, heads, queries, size], [_, kv_heads, keys, _]) = (self.q.shape, self.k.shape);
        let value_size = self.v.shape[3];
        assert_eq!(self.k.shape, [batch, kv_heads, keys, size]);
        assert_eq!(self.v.shape, [batch, kv_heads, keys, value_size]);
        assert_eq!(y.len(), batch * heads * queries * value_size);
        assert!(kv_heads > 0 && heads.is_multiple_of(kv_heads) || heads == 0, "{heads} heads of {kv_heads}");
        if y.is_empty() {
            return;
        }
        // For one query both orders are the same, and heads are the better grain.
        let order = if queries == 1 { Order::HeadMajor } else { order };
        let units = if order == Order::HeadMajor { batch * heads } else { batch };
        // Small enough blocks, and enough of them for every thread.
        let spread = queries.div_ceil(threads::current().div_ceil(units)).max(8);
        let block = (BLOCK / keys.max(1)).clamp(8, spread).min(queries);
        let row = if order == Order::HeadMajor { value_size } else { heads * value_size };
        let blocks = queries.div_ceil(block);
        let y_all = SyncPtr(y.as_mut_ptr());
        threads::for_each(units * blocks, 1, |i| {
            let (unit, start) = (i / blocks, i % blocks * block);
            // SAFETY: rows `start..` of a unit lie within `y`, and no other part writes them.
            let y = unsafe {
                let len = block.min(queries - start) * row;
                std::slice::from_raw_parts_mut(y_all.get().add((unit * queries + start) * row), len)
            };
            match order {
                Order::HeadMajor => self.block([unit / heads, unit % heads, start], y),
                Order::TokenMajor => R::with_scratch(y.len() / heads, |part| {
                    for head in 0..heads {
                        self.block([unit, head, start], part);
                        for (to, from) in y.chunks_exact_mut(row).zip(part.chunks_exact(value_size)) {
                            to[head * value_size..][..value_size].copy_from_slice(from);
                        }
                    }
                }),
            }
        });
    }

    /// Computes some rows `[rows, value size]` of one head, from `start` on.
    fn block(&self, at: [usize; 3], y: &mut [R]) {
        let [batch, head, start] = at;
        let (size, value_size) = (self.q.shape[3], self.v.shape[3]);
        let rows = y.len() / value_size;
        // Later rows see more keys.
        let keys = self.visible(batch, start + rows - 1);
        R::with_scratch(rows * (size + keys), |scratch| {
            let (scaled, scores) = scratch.split_at_mut(rows * size);
            self.scores(at, keys, Stage::Probabilities, scaled, scores);
            let v = self.v.rows(batch, head / self.group(), 0, keys);
            R::product(Mat::new(scores, rows, keys), v, y);
        });
    }

    /// Computes all scores, `[batch, heads, queries, keys]`, as they are at `stage`.
    pub(crate) fn all_scores(&self, stage: Stage, out: &mut [R]) {
        let ([_, heads, queries, size], keys) = (self.q.shape, self.k.shape[2]);
        if out.is_empty() {
            return;
        }
        threads::for_each_chunk(out, queries * keys, 1, |i, out| {
            let at = [i / heads, i % heads, 0];
            R::with_scratch(queries * size, |scaled| self.scores(at, keys, stage, scaled, out));
        });
    }
}
