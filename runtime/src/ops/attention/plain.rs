//! Attention one head after the other, in any type of float: the scores that a model may ask for, and f64.

use crate::kernels::attention::{Attention, MaskValues, Order, Undefined};
use crate::ops::real::{Mat, Real};
use crate::threads;

/// How far scores are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    /// Scaled products.
    Product,
    /// With the soft cap.
    Capped,
    /// With mask and limits.
    Masked,
    /// After softmax.
    Probabilities,
}

/// Writes the scores `[queries, keys]` of one head. `scaled` has place for its queries.
fn scores<R: Real>(
    of: &Attention<'_, R>,
    [batch, head]: [usize; 2],
    stage: Stage,
    scaled: &mut [R],
    out: &mut [R],
) {
    let ([_, _, queries, size], keys) = (of.q.shape, of.k.shape[2]);
    if out.is_empty() {
        return;
    }
    let q = of.q.rows(batch, head, 0, queries);
    for (i, scaled) in scaled.chunks_exact_mut(size.max(1)).enumerate() {
        for (j, v) in scaled.iter_mut().enumerate() {
            *v = q.data[i * q.row_stride + j * q.col_stride] * of.scoring.scale;
        }
    }
    let k = of.k.rows(batch, head / of.group(), 0, keys);
    R::product(Mat::new(scaled, queries, size), k.t(), out);
    let cap = of.scoring.softcap;
    if stage >= Stage::Capped && cap > R::default() {
        out.iter_mut().for_each(|v| *v = (*v / cap).tanh() * cap);
    }
    let forbidden = R::from_f64(f64::NEG_INFINITY);
    for (query, row) in out.chunks_exact_mut(keys).enumerate().filter(|_| stage >= Stage::Masked) {
        let (seen, hidden) = row.split_at_mut(of.visible(batch, query));
        hidden.fill(forbidden);
        mask(of, seen, [batch, head, query]);
        if stage == Stage::Probabilities {
            let nothing = row.iter().all(|&score| score == forbidden);
            R::softmax(row);
            let undefined = match of.scoring.undefined {
                Undefined::ZeroUnseen => nothing,
                Undefined::Nan => false,
                // Either all of a row are numbers or none.
                Undefined::Zero => row[0].is_nan(),
            };
            if undefined {
                row.fill(R::default());
            }
        }
    }
}

/// Adds the mask to a row of scores.
fn mask<R: Real>(of: &Attention<'_, R>, row: &mut [R], [batch, head, query]: [usize; 3]) {
    let Some(mask) = &of.scoring.mask else { return };
    let [b, h, q, step] = mask.strides;
    let at = batch * b + head * h + query * q;
    let forbidden = R::from_f64(f64::NEG_INFINITY);
    let (seen, hidden) = row.split_at_mut(mask.keys.min(row.len()));
    hidden.fill(forbidden);
    for (i, score) in seen.iter_mut().enumerate() {
        match mask.values {
            MaskValues::Add(values) => *score += values[at + i * step],
            MaskValues::Allow(values) if values[at + i * step].get() => {}
            MaskValues::Allow(_) => *score = forbidden,
        }
    }
}

/// Computes the attention, `[batch, heads, queries, value size]` in the given order, one head after the other.
///
/// # Panics
/// When shapes do not fit each other, or strides the data.
pub(in crate::ops) fn run<R: Real>(of: &Attention<'_, R>, order: Order, y: &mut [R]) {
    of.check(y.len());
    let ([_, heads, queries, size], [.., keys, value_size]) = (of.q.shape, of.v.shape);
    if y.is_empty() {
        return;
    }
    let (mut scaled, mut weights) = (vec![R::default(); queries * size], vec![R::default(); queries * keys]);
    let mut part = vec![R::default(); queries * value_size];
    for unit in 0..y.len() / part.len() {
        let [batch, head] = [unit / heads, unit % heads];
        scores(of, [batch, head], Stage::Probabilities, &mut scaled, &mut weights);
        let v = of.v.rows(batch, head / of.group(), 0, keys);
        R::product(Mat::new(&weights, queries, keys), v, &mut part);
        for (query, row) in part.chunks_exact(value_size).enumerate() {
            let at = match order {
                Order::HeadMajor => unit * queries + query,
                Order::TokenMajor => (batch * queries + query) * heads + head,
            };
            y[at * value_size..][..value_size].copy_from_slice(row);
        }
    }
}

/// Computes all scores, `[batch, heads, queries, keys]`, as they are at `stage`.
pub(super) fn all_scores<R: Real>(of: &Attention<'_, R>, stage: Stage, out: &mut [R]) {
    let ([_, heads, queries, size], keys) = (of.q.shape, of.k.shape[2]);
    if out.is_empty() {
        return;
    }
    threads::for_each_chunk(out, queries * keys, 1, |i, out| {
        let at = [i / heads, i % heads];
        R::with_scratch(queries * size, |scaled| scores(of, at, stage, scaled, out));
    });
}
