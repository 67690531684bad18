//! Transformers over `[batch, 5, width]`, with batch known at run time only.

use poda_formats::op::{
    AttentionAttributes, Binary, Direction, RecurrentAttributes, RecurrentKind, ReduceKind, SoftmaxKind,
    Unary,
};
use poda_formats::{DataType, Dim, Graph, Op, ValueId};

use super::Builder;

/// A residual branch, or a norm.
#[derive(Debug, Clone)]
pub(crate) enum Block {
    /// `fused`: 0 for three products, 1 for one that is split, 2 for one that is stacked as `[3, heads, size]`, 3 for three
    /// products and the operator Attention.
    Attention {
        kv_heads: usize,
        repeat: usize,
        head: usize,
        fused: usize,
        rotary: bool,
    },
    FeedForward {
        hidden: usize,
        gated: bool,
    },
    /// With a mean (layer normalisation) or without (root mean square), spelled out.
    Norm {
        mean: bool,
    },
    /// The operator.
    RootMeanSquare,
    /// 0 for LSTM, 1 for GRU, 2 for a plain recurrent layer.
    Recurrent {
        kind: usize,
        hidden: usize,
        both: bool,
    },
    /// A feed-forward layer by Einsum.
    Einsum {
        hidden: usize,
    },
    MixTokens,
}

const TOKENS: usize = 5;

fn linear(b: &mut Builder, x: ValueId, from: usize, to: usize) -> ValueId {
    let w = b.weight(&[from, to]);
    let product = b.node(Op::MatMul, &[x, w]);
    let bias = b.weight(&[to]);
    b.binary(Binary::Add, product, bias)
}

fn reduce_mean(b: &mut Builder, x: ValueId) -> ValueId {
    let axes = b.integers(&[-1]);
    b.node(Op::Reduce { kind: ReduceKind::Mean, keep_dims: true, noop_with_empty_axes: false }, &[x, axes])
}

fn norm(b: &mut Builder, x: ValueId, width: usize, mean: bool) -> ValueId {
    let mut x = x;
    if mean {
        let mean = reduce_mean(b, x);
        x = b.binary(Binary::Sub, x, mean);
    }
    let two = b.scalar(2.0);
    let square = b.binary(Binary::Pow, x, two);
    let square = reduce_mean(b, square);
    let epsilon = b.scalar(1e-2);
    let square = b.binary(Binary::Add, square, epsilon);
    let root = b.unary(Unary::Sqrt, square);
    let normal = b.binary(Binary::Div, x, root);
    let scale = b.weight(&[width]);
    b.binary(Binary::Mul, normal, scale)
}

/// A residual network of `blocks`, and a classifier of the mean token.
pub(crate) fn transformer(blocks: &[Block], width: usize, seed: u64) -> Graph {
    let mut b = Builder::new(seed);
    let dims = vec![Dim::Symbol("batch".into()), Dim::Fixed(TOKENS), Dim::Fixed(7)];
    let x = b.graph.add_input("x", DataType::F32, dims);
    let mut x = linear(&mut b, x, 7, width);
    for block in blocks {
        x = match *block {
            Block::Norm { mean } => norm(&mut b, x, width, mean),
            Block::FeedForward { hidden, gated } => {
                let mut h = linear(&mut b, x, width, hidden);
                h = b.unary(Unary::Gelu { approximate: true }, h);
                if gated {
                    let up = linear(&mut b, x, width, hidden);
                    h = b.binary(Binary::Mul, h, up);
                }
                let y = linear(&mut b, h, hidden, width);
                b.binary(Binary::Add, x, y)
            }
            Block::RootMeanSquare => {
                let scale = b.weight(&[width]);
                b.node(Op::RmsNormalization { axis: -1, epsilon: 1e-2 }, &[x, scale])
            }
            Block::Recurrent { kind, hidden, both } => {
                let y = recurrent(&mut b, x, width, kind, hidden, both);
                b.binary(Binary::Add, x, y)
            }
            Block::Einsum { hidden } => {
                let w = b.weight(&[hidden, width]);
                let h = b.node(Op::Einsum { equation: "bsd,hd->bhs".into() }, &[x, w]);
                let h = b.unary(Unary::Relu, h);
                let w = b.weight(&[hidden, width]);
                let y = b.node(Op::Einsum { equation: "bhs,hd->bsd".into() }, &[h, w]);
                b.binary(Binary::Add, x, y)
            }
            Block::MixTokens => {
                let turned = b.node(Op::Transpose { perm: vec![0, 2, 1] }, &[x]);
                let h = linear(&mut b, turned, TOKENS, 6);
                let h = b.unary(Unary::Relu, h);
                let h = linear(&mut b, h, 6, TOKENS);
                let back = b.node(Op::Transpose { perm: vec![0, 2, 1] }, &[h]);
                b.binary(Binary::Add, x, back)
            }
            Block::Attention { kv_heads, repeat, head, fused, rotary } => {
                let y = attention(&mut b, x, width, [kv_heads, repeat, head], fused, rotary);
                b.binary(Binary::Add, x, y)
            }
        };
    }
    let axes = b.integers(&[1]);
    let pooled = b.node(
        Op::Reduce { kind: ReduceKind::Mean, keep_dims: false, noop_with_empty_axes: false },
        &[x, axes],
    );
    let y = linear(&mut b, pooled, width, 3);
    b.graph.outputs.push(y);
    b.graph
}

fn attention(
    b: &mut Builder,
    x: ValueId,
    width: usize,
    [kv_heads, repeat, head]: [usize; 3],
    fused: usize,
    rotary: bool,
) -> ValueId {
    let heads = kv_heads * repeat;
    let (n, d, tokens) = (heads * head, head as i64, TOKENS as i64);
    if fused == 3 {
        let (mut q, mut k) = (linear(b, x, width, n), linear(b, x, width, kv_heads * head));
        let v = linear(b, x, width, kv_heads * head);
        if rotary {
            let (cos, sin) = (b.weight(&[1, TOKENS, head / 2]), b.weight(&[1, TOKENS, head / 2]));
            let turn = |num_heads| Op::RotaryEmbedding {
                interleaved: kv_heads == 1,
                num_heads,
                rotary_embedding_dim: 0,
            };
            q = b.node(turn(heads), &[q, cos, sin]);
            k = b.node(turn(kv_heads), &[k, cos, sin]);
        }
        let op = Op::Attention(AttentionAttributes {
            is_causal: repeat > 1,
            q_num_heads: heads,
            kv_num_heads: kv_heads,
            scale: None,
            softcap: 0.0,
            qk_matmul_output_mode: 0,
        });
        let mixed = b.node(op, &[q, k, v]);
        return linear(b, mixed, n, width);
    }
    let turn = |b: &mut Builder, x: ValueId, heads: usize| {
        let shaped = b.reshape(x, &[0, 0, heads as i64, d]);
        b.node(Op::Transpose { perm: vec![0, 2, 1, 3] }, &[shaped])
    };
    let (mut q, mut k, mut v) = match fused {
        1 => {
            let qkv = linear(b, x, width, 3 * n);
            let parts = b.outputs(Op::Split { axis: 2, num_outputs: Some(3) }, &[qkv], 3);
            (turn(b, parts[0], heads), turn(b, parts[1], heads), turn(b, parts[2], heads))
        }
        2 => {
            let qkv = linear(b, x, width, 3 * n);
            let shaped = b.reshape(qkv, &[-1, tokens, 3, heads as i64, d]);
            let stacked = b.node(Op::Transpose { perm: vec![2, 0, 3, 1, 4] }, &[shaped]);
            let mut take = |i: i64| {
                let index = b.graph.add_weight(
                    format!("index{i}_{}", b.graph.values.len()),
                    poda_formats::Tensor::scalar(i),
                );
                b.node(Op::Gather { axis: 0 }, &[stacked, index])
            };
            (take(0), take(1), take(2))
        }
        _ => {
            let q = linear(b, x, width, n);
            let (k, v) = (linear(b, x, width, kv_heads * head), linear(b, x, width, kv_heads * head));
            (turn(b, q, heads), turn(b, k, kv_heads), turn(b, v, kv_heads))
        }
    };
    if rotary {
        let (cos, sin) = (b.weight(&[TOKENS, head / 2]), b.weight(&[TOKENS, head / 2]));
        (q, k) = (rotate(b, q, head, cos, sin), rotate(b, k, head, cos, sin));
    }
    if fused == 0 && repeat > 1 {
        (k, v) = (repeated(b, k, kv_heads, repeat, d), repeated(b, v, kv_heads, repeat, d));
    }
    let keys = b.node(Op::Transpose { perm: vec![0, 1, 3, 2] }, &[k]);
    let scores = b.node(Op::MatMul, &[q, keys]);
    let scale = b.scalar((head as f32).sqrt());
    let scores = b.binary(Binary::Div, scores, scale);
    let weights = b.node(Op::Softmax { kind: SoftmaxKind::Softmax, axis: -1 }, &[scores]);
    let mixed = b.node(Op::MatMul, &[weights, v]);
    let back = b.node(Op::Transpose { perm: vec![0, 2, 1, 3] }, &[mixed]);
    let merged = b.reshape(back, &[0, 0, -1]);
    linear(b, merged, n, width)
}

/// `x · cos + (-x₂, x₁) · sin`.
fn rotate(b: &mut Builder, x: ValueId, head: usize, cos: ValueId, sin: ValueId) -> ValueId {
    let twice = |b: &mut Builder, table: ValueId| b.node(Op::Concat { axis: -1 }, &[table, table]);
    let (cos, sin) = (twice(b, cos), twice(b, sin));
    let half = head as i64 / 2;
    let mut take = |from: i64, to: i64| {
        let inputs = [x, b.integers(&[from]), b.integers(&[to]), b.integers(&[3])];
        b.node(Op::Slice, &inputs)
    };
    let (first, second) = (take(0, half), take(half, i64::MAX));
    let second = b.unary(Unary::Neg, second);
    let turned = b.node(Op::Concat { axis: 3 }, &[second, first]);
    let (straight, turned) = (b.binary(Binary::Mul, x, cos), b.binary(Binary::Mul, turned, sin));
    b.binary(Binary::Add, straight, turned)
}

/// Each key head for `repeat` query heads, through Expand with a shape computed at run time.
fn repeated(b: &mut Builder, x: ValueId, heads: usize, repeat: usize, d: i64) -> ValueId {
    let axes = b.integers(&[2]);
    let wide = b.node(Op::Unsqueeze, &[x, axes]);
    let batch = b.node(Op::Shape { start: 0, end: Some(1) }, &[x]);
    let rest = b.integers(&[heads as i64, repeat as i64, TOKENS as i64, d]);
    let shape = b.node(Op::Concat { axis: 0 }, &[batch, rest]);
    let expanded = b.node(Op::Expand, &[wide, shape]);
    let whole = b.integers(&[(heads * repeat) as i64, TOKENS as i64, d]);
    let shape = b.node(Op::Concat { axis: 0 }, &[batch, whole]);
    b.node(Op::Reshape { allow_zero: false }, &[expanded, shape])
}

/// A recurrent layer over the tokens, and a product back to `width`.
fn recurrent(b: &mut Builder, x: ValueId, width: usize, kind: usize, hidden: usize, both: bool) -> ValueId {
    let (kind, gates) = match kind {
        0 => (RecurrentKind::Lstm { input_forget: false }, 4),
        1 => (RecurrentKind::Gru { linear_before_reset: true }, 3),
        _ => (RecurrentKind::Rnn, 1),
    };
    let directions = if both { 2 } else { 1 };
    let turned = b.node(Op::Transpose { perm: vec![1, 0, 2] }, &[x]);
    let inputs = [
        turned,
        b.weight(&[directions, gates * hidden, width]),
        b.weight(&[directions, gates * hidden, hidden]),
        b.weight(&[directions, 2 * gates * hidden]),
    ];
    let op = Op::Recurrent(RecurrentAttributes {
        kind,
        hidden_size: hidden,
        direction: if both { Direction::Bidirectional } else { Direction::Forward },
        activations: Vec::new(),
        activation_alpha: Vec::new(),
        activation_beta: Vec::new(),
        clip: None,
        batch_first: false,
    });
    let y = b.node(op, &inputs);
    // [sequence, directions, batch, hidden] to [batch, sequence, directions · hidden].
    let y = b.node(Op::Transpose { perm: vec![2, 0, 1, 3] }, &[y]);
    let y = b.reshape(y, &[0, 0, -1]);
    linear(b, y, directions * hidden, width)
}
