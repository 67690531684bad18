//! Attention spelled out: `softmax(scale · Q · Kᵀ + mask) · V`, with the transposes around it.

use poda_formats::op::{Binary, SoftmaxKind, Unary};
use poda_formats::{DataType, Op, ValueId};

use super::heads::{AttentionNode, HeadView};
use super::{Rewrite, Rewriter};
use crate::kernels::attention::Undefined;
use crate::optimize::matching::View;
use crate::plan::draft::Kind;

pub(super) fn rewrite(r: &mut Rewriter<'_, '_>, at: usize) -> Option<Rewrite> {
    let node = r.node(at);
    if !matches!(node.op()?, Op::MatMul) {
        return None;
    }
    let (output, v) = (node.output(0)?, node.input(1)?);
    let (scores, undefined) = softmax_input(r, node.input(0)?)?;
    let (product, mask) = masked(r, scores);
    let (product, scale) = without_scale(r, product);
    let (op, node) = r.op(product)?;
    if !matches!(op, Op::MatMul) || !r.once(product) || r.draft.dtype(output)? != DataType::F32 {
        return None;
    }
    let (q, q_scale, q_view) = head_view(r, node.input(0)?)?;
    let (k, k_scale, k_view) = head_view(r, node.input(1)?)?;
    let (v, v_scale, v_view) = head_view(r, v)?;
    let scale = scale * q_scale * k_scale;
    if v_scale != 1.0 || !scale.is_finite() {
        return None;
    }
    // The right-hand side of the first product is `[batch, heads, size, keys]`.
    let swap = |[a, b, c, d]: [usize; 4]| [a, b, d, c];
    let k_view = HeadView { shape: swap(k_view.shape), strides: swap(k_view.strides) };
    let ([.., queries, size], [.., keys, k_size], [.., v_keys, v_size]) =
        (q_view.shape, k_view.shape, v_view.shape);
    // Leading dimensions broadcast. Values that are more than the scores would have these computed again.
    let [b, h, ..] = aligned(r.draft.shape(scores)?, 1)?;
    if aligned(r.draft.shape(scores)?, 1)? != [b, h, queries, keys]
        || aligned(r.draft.shape(output)?, 1)? != [b, h, queries, v_size]
        || k_size != size
        || v_keys != keys
    {
        return None;
    }
    // One head of keys and values for all heads of queries is what the kernel knows as a group.
    let kv_heads = if [k_view.shape[1], v_view.shape[1]] == [1, 1] { 1 } else { h };
    let (q_view, k_view, v_view) =
        (spread(q_view, [b, h])?, spread(k_view, [b, kv_heads])?, spread(v_view, [b, kv_heads])?);
    let mut inputs = vec![Some(q), Some(k), Some(v)];
    let mask = match mask {
        None => None,
        Some(id) => {
            inputs.push(Some(id));
            Some(mask_strides(r.draft.shape(id)?, [b, h, queries, keys])?)
        }
    };
    let attention =
        AttentionNode { q: q_view, k: k_view, v: v_view, scale, mask, undefined, token_major: false };
    Some(Rewrite::new(Kind::lowered(attention), inputs))
}

/// A transpose to `[batch, queries, heads, size]` after attention is how the result is written.
pub(super) fn transposed(r: &mut Rewriter<'_, '_>, at: usize) -> Option<Rewrite> {
    let node = r.node(at);
    let Op::Transpose { perm } = node.op()? else { return None };
    let input = node.input(0)?;
    let producer = r.producer(input)?;
    let attention = producer.lowered::<AttentionNode>()?;
    if attention.token_major || perm != &[0, 2, 1, 3] || !r.once(input) {
        return None;
    }
    let attention = AttentionNode { token_major: true, ..attention.clone() };
    Some(Rewrite::new(Kind::lowered(attention), producer.inputs.clone()))
}

/// The scores under a softmax over the last axis that only this product reads, and what its undefined rows become:
/// exporters of PyTorch put zeros for rows that are all NaN.
fn softmax_input(r: &Rewriter<'_, '_>, probabilities: ValueId) -> Option<(ValueId, Undefined)> {
    if !r.once(probabilities) {
        return None;
    }
    let (mut softmax, mut undefined) = (probabilities, Undefined::Nan);
    if let Some((Op::Where, node)) = r.op(probabilities) {
        let (test, zero, kept) = (node.input(0)?, node.input(1)?, node.input(2)?);
        let same_shape = r.draft.shape(kept)? == r.draft.shape(probabilities)?;
        if r.draft.scalar(zero)? != 0.0 || r.unary(test, Unary::IsNan)? != kept || !same_shape {
            return None;
        }
        (softmax, undefined) = (kept, Undefined::Zero);
    }
    let (op, node) = r.op(softmax)?;
    let Op::Softmax { kind: SoftmaxKind::Softmax, axis } = op else { return None };
    let scores = node.input(0)?;
    let last = r.draft.shape(scores)?.len() as i64 - 1;
    (*axis == -1 || *axis == last).then_some((scores, undefined))
}

/// The product under a mask that is added, or that selects minus infinity; and the mask.
fn masked(r: &Rewriter<'_, '_>, scores: ValueId) -> (ValueId, Option<ValueId>) {
    let shape = r.draft.shape(scores);
    if let Some((a, b)) = r.binary(scores, Binary::Add) {
        for (product, mask) in [(a, b), (b, a)] {
            let is_product = matches!(r.op(without_scale(r, product).0), Some((Op::MatMul, _)));
            if is_product && r.draft.dtype(mask) == Some(DataType::F32) && r.draft.shape(product) == shape {
                return (product, Some(mask));
            }
        }
    }
    if let Some((Op::Where, node)) = r.op(scores)
        && let (Some(allowed), Some(product), Some(low)) = (node.input(0), node.input(1), node.input(2))
        && r.draft.scalar(low) == Some(f32::NEG_INFINITY)
        && r.draft.shape(product) == shape
    {
        return (product, Some(allowed));
    }
    (scores, None)
}

/// A value without multiplications and divisions by scalars, and their product.
fn without_scale(r: &Rewriter<'_, '_>, id: ValueId) -> (ValueId, f32) {
    let (mut id, mut scale) = (id, 1.0);
    let same = |a: ValueId, b: ValueId| r.draft.shape(a).is_some() && r.draft.shape(a) == r.draft.shape(b);
    loop {
        if let Some((inner, factor)) = r.with_scalar(id, Binary::Mul).filter(|&(inner, _)| same(inner, id)) {
            (id, scale) = (inner, scale * factor);
        } else if let Some((inner, divisor)) = r.with_divisor(id).filter(|&(inner, _)| same(inner, id)) {
            (id, scale) = (inner, scale / divisor);
        } else {
            return (id, scale);
        }
    }
}

/// The tensor under transposes and scales, the scale, and how it is seen through them as `[batch, heads, …, …]`; leading
/// dimensions that it lacks have size 1.
fn head_view(r: &Rewriter<'_, '_>, id: ValueId) -> Option<(ValueId, f32, HeadView)> {
    let (mut id, mut scale) = (id, 1.0);
    let mut perms: Vec<&[usize]> = Vec::new();
    loop {
        let (inner, factor) = without_scale(r, id);
        (id, scale) = (inner, scale * factor);
        match r.op(id) {
            Some((Op::Transpose { perm }, node)) if !perm.is_empty() => {
                perms.push(perm);
                id = node.input(0)?;
            }
            _ => break,
        }
    }
    let mut shape = r.draft.shape(id)?.to_vec();
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis];
    }
    for perm in perms.into_iter().rev() {
        shape = perm.iter().map(|&p| shape[p]).collect();
        strides = perm.iter().map(|&p| strides[p]).collect();
    }
    Some((id, scale, HeadView { shape: aligned(&shape, 1)?, strides: aligned(&strides, 0)? }))
}

/// Numbers of the dimensions of a matrix or a batch of them, as products align them: at the end, with `missing` before.
fn aligned(numbers: &[usize], missing: usize) -> Option<[usize; 4]> {
    match *numbers {
        [c, d] => Some([missing, missing, c, d]),
        [b, c, d] => Some([missing, b, c, d]),
        [a, b, c, d] => Some([a, b, c, d]),
        _ => None,
    }
}

/// A view with its leading dimensions broadcast.
fn spread(mut view: HeadView, to: [usize; 2]) -> Option<HeadView> {
    for (axis, to) in to.into_iter().enumerate() {
        if view.shape[axis] != to {
            if view.shape[axis] != 1 {
                return None;
            }
            (view.shape[axis], view.strides[axis]) = (to, 0);
        }
    }
    Some(view)
}

/// Strides of a mask that broadcasts to scores, seen as `full` `[batch, heads, queries, keys]`.
fn mask_strides(shape: &[usize], full: [usize; 4]) -> Option<[usize; 4]> {
    let mut own = vec![1; 4_usize.checked_sub(shape.len())?];
    own.extend_from_slice(shape);
    let mut strides = [0; 4];
    let mut stride = 1;
    for axis in (0..4).rev() {
        if own[axis] != 1 {
            if own[axis] != full[axis] {
                return None;
            }
            strides[axis] = stride;
        }
        stride *= own[axis];
    }
    Some(strides)
}
