//! Attention spelled out, of every rank, with every mask.

use poda_formats::op::{Binary, SoftmaxKind, Unary};
use poda_formats::{Boolean, Op, Tensor, ValueId};

use crate::grow::Grower;

/// `softmax(q · kᵀ · scale + mask) · v` of a value as queries, or of three projections of it.
pub(super) fn attention(g: &mut Grower<'_>) -> Option<ValueId> {
    let x = g.value();
    let shape = g.shape(x);
    let rank = shape.len();
    if rank < 2 {
        return None;
    }
    let (q, k, v) = if rank == 3 && g.choices.one_in(2) {
        let (heads, size) = (g.choices.of(&[2, 1, 3]), g.choices.of(&[2, 4, 1]));
        let kv_heads = if g.choices.one_in(3) { 1 } else { heads };
        let q = projected(g, x, heads, size)?;
        let k = projected(g, x, kv_heads, size)?;
        (q, k, projected(g, x, kv_heads, size)?)
    } else {
        let (size, keys, value_size) = (shape[rank - 1], g.size(), g.size());
        let k = leading(g, &shape[..rank - 2], [keys, size]);
        (x, k, leading(g, &shape[..rank - 2], [keys, value_size]))
    };
    let mut perm: Vec<usize> = (0..g.shape(k).len()).collect();
    let last = perm.len() - 1;
    perm.swap(last, last - 1);
    let mut q = q;
    let mut k = g.node(Op::Transpose { perm }, &[k])?;
    let scale = g.choices.of(&[0.5, 0.25, 1.0, 1.7]);
    let place = g.choices.below(4);
    if place == 0 {
        q = g.by(Binary::Mul, q, scale)?;
        k = g.by(Binary::Mul, k, scale)?;
    }
    let mut scores = g.node(Op::MatMul, &[q, k])?;
    match place {
        1 => scores = g.by(Binary::Mul, scores, scale)?,
        2 => scores = g.by(Binary::Div, scores, 1.0 / scale)?,
        _ => {}
    }
    if !g.choices.one_in(3) {
        scores = masked(g, scores)?;
    }
    // There is no softmax of nothing.
    let mut p = g.node(Op::Softmax { kind: SoftmaxKind::Softmax, axis: -1 }, &[scores])?;
    if g.choices.one_in(3) {
        let nan = g.unary(Unary::IsNan, p)?;
        let zero = g.scalar(0.0);
        p = g.node(Op::Where, &[nan, zero, p])?;
    }
    let y = g.node(Op::MatMul, &[p, v])?;
    if g.shape(y).len() == 4 && g.choices.one_in(2) {
        return g.node(Op::Transpose { perm: vec![0, 2, 1, 3] }, &[y]);
    }
    Some(y)
}

/// `[batch, sequence, features]` projected to `[batch, heads, sequence, size]`.
fn projected(g: &mut Grower<'_>, x: ValueId, heads: usize, size: usize) -> Option<ValueId> {
    let features = *g.shape(x).last()?;
    let w = g.weight(&[features, heads * size], features);
    let y = g.node(Op::MatMul, &[x, w])?;
    let shape = g.ints(&[0, 0, heads as i64, size as i64]);
    let y = g.node(Op::Reshape { allow_zero: false }, &[y, shape])?;
    g.node(Op::Transpose { perm: vec![0, 2, 1, 3] }, &[y])
}

/// Keys or values whose leading dimensions are those of the queries, fewer, or ones; fed or constant.
fn leading(g: &mut Grower<'_>, of: &[usize], matrix: [usize; 2]) -> ValueId {
    let mut own = of[g.choices.below(of.len() + 1)..].to_vec();
    own.iter_mut().for_each(|d| *d = if g.choices.one_in(4) { 1 } else { *d });
    if g.choices.one_in(12) {
        own.insert(0, 2);
    }
    let shape = [&own[..], &matrix].concat();
    if g.choices.one_in(3) { g.any(&shape) } else { g.feed(&shape) }
}

/// A mask that is added or that chooses, of any rank, fed or constant; some queries may see nothing.
fn masked(g: &mut Grower<'_>, scores: ValueId) -> Option<ValueId> {
    let mut own = g.shape(scores);
    own = own.split_off(g.choices.below(own.len() + 1));
    own.iter_mut().for_each(|d| *d = if g.choices.one_in(4) { 1 } else { *d });
    let hidden = g.choices.of(&[3, 2, 1, 4]);
    let count: usize = own.iter().product();
    let keys = own.last().copied().unwrap_or(1).max(1);
    // Whole rows are hidden where the row's number says so.
    let sees: Vec<bool> = (0..count)
        .map(|i| (i * 7 + i / 3) % (hidden + 1) != 0 && (hidden != 2 || i / keys % 3 != 1))
        .collect();
    if g.choices.one_in(2) {
        let values: Vec<Boolean> = sees.into_iter().map(Boolean::from).collect();
        let mask = Tensor::from_slice(&own, &values);
        let mask = if g.choices.one_in(2) { g.feed_tensor(mask) } else { g.constant(mask) };
        let low = g.choices.of(&[f32::NEG_INFINITY, -1e9]);
        let low = g.scalar(low);
        return g.node(Op::Where, &[mask, scores, low]);
    }
    let low = g.choices.of(&[f32::NEG_INFINITY, -1e9, -2.0]);
    let values: Vec<f32> = sees.into_iter().map(|s| if s { 0.0 } else { low }).collect();
    let mask = Tensor::from_slice(&own, &values);
    let mask = if g.choices.one_in(2) { g.feed_tensor(mask) } else { g.constant(mask) };
    g.either(Binary::Add, scores, mask)
}
