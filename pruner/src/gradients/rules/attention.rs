//! Attention written out: `softmax(scale · Q · Kᵀ + mask) · V`.

use poda_formats::op::{AttentionAttributes, Op, SoftmaxKind};
use poda_formats::{DataType, Node, Tensor, ValueId};

use crate::gradients::{Emit, Refusal};

/// `[batch, heads, rows, size]` from that or from `[batch, rows, heads · size]`.
fn heads(e: &mut Emit, x: ValueId, count: usize) -> Result<ValueId, Refusal> {
    let shape = e.shape(x)?;
    let [batch, rows, width] = shape[..] else { return Ok(x) };
    let apart = e.reshape(x, &[batch, rows, count, width / count.max(1)])?;
    e.transpose(apart, &[0, 2, 1, 3])
}

pub(super) fn attention(e: &mut Emit, node: &Node) -> Result<Vec<Option<ValueId>>, Refusal> {
    let Op::Attention(AttentionAttributes { is_causal, q_num_heads, kv_num_heads, scale, softcap, .. }) =
        node.op
    else {
        return Err(Refusal::NoRule);
    };
    let (Some(q), Some(k), Some(v)) = (node.input(0), node.input(1), node.input(2)) else {
        return Err(Refusal::NoRule);
    };
    if (4..7).any(|i| node.input(i).is_some()) || node.outputs.iter().skip(1).any(Option::is_some) {
        return Err(Refusal::Unsupported("it has a past, lengths or outputs other than the first"));
    }
    let flat = e.shape(q)?.len() == 3;
    let (q, k, v) = (heads(e, q, q_num_heads)?, heads(e, k, kv_num_heads)?, heads(e, v, kv_num_heads)?);
    let (q_shape, k_shape) = (e.shape(q)?, e.shape(k)?);
    // Heads that share keys and values: one axis more.
    let [batch, q_heads, rows, size] = q_shape[..] else { return Err(Refusal::NoRule) };
    let (kv_heads, keys) = (k_shape[1], k_shape[2]);
    let shared = q_heads / kv_heads.max(1);
    let q = e.reshape(q, &[batch, kv_heads, shared, rows, size])?;
    let k = e.reshape(k, &[batch, kv_heads, 1, keys, size])?;
    let width = e.shape(v)?[3];
    let v = e.reshape(v, &[batch, kv_heads, 1, keys, width])?;
    let k = e.matrix_transpose(k)?;
    let scores = e.matmul(q, k)?;
    let mut scores = e.scale(scores, scale.map_or(1.0 / (size as f64).sqrt(), f64::from))?;
    if softcap != 0.0 {
        let cap = f64::from(softcap);
        let small = e.scale(scores, 1.0 / cap)?;
        let bent = e.unary(poda_formats::op::Unary::Tanh, small)?;
        scores = e.scale(bent, cap)?;
    }
    let whole = [batch, q_heads, rows, keys];
    scores = e.reshape(scores, &whole)?;
    if let Some(mask) = node.input(3) {
        if e.dtype(mask)? == DataType::Bool {
            let least = e.number(-1e30, scores)?;
            scores = e.choose(mask, scores, least)?;
        } else {
            scores = e.add(scores, mask)?;
        }
    }
    if is_causal {
        let allowed: Vec<bool> = (0..rows * keys).map(|i| i % keys <= i / keys).collect();
        let allowed: Vec<poda_formats::Boolean> =
            allowed.iter().map(|&a| poda_formats::Boolean(u8::from(a))).collect();
        let allowed = e.constant(Tensor::from_slice(&[rows, keys], &allowed));
        let least = e.number(-1e30, scores)?;
        scores = e.choose(allowed, scores, least)?;
    }
    let weights = e.node(Op::Softmax { kind: SoftmaxKind::Softmax, axis: -1 }, &[scores])?;
    let weights = e.reshape(weights, &[batch, kv_heads, shared, rows, keys])?;
    let mixed = e.matmul(weights, v)?;
    let mut y = e.reshape(mixed, &[batch, q_heads, rows, width])?;
    if flat {
        let together = e.transpose(y, &[0, 2, 1, 3])?;
        y = e.reshape(together, &[batch, rows, q_heads * width])?;
    }
    Ok(vec![Some(y)])
}
