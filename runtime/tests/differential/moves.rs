//! What a graph may grow by.

mod attention;
mod functions;
mod products;

use poda_formats::op::{Binary, Padding, PoolAttributes, PoolKind, ReduceKind, SoftmaxKind, Unary};
use poda_formats::{Op, ValueId};

use crate::grow::Grower;

/// A move: from values of the graph to a new one.
type Move = fn(&mut Grower<'_>) -> Option<ValueId>;

/// All of them; the more there are of a kind, the likelier it is.
const MOVES: &[Move] = &[
    activation,
    scalar,
    per_axis,
    broadcast,
    residual,
    products::matmul,
    products::matmul,
    products::left,
    products::gemm,
    products::conv,
    products::conv,
    products::conv,
    products::batch_norm,
    functions::gelu,
    functions::gated,
    functions::hard,
    functions::clip,
    functions::norm,
    functions::norm,
    attention::attention,
    attention::attention,
    reshape,
    reshape,
    transpose,
    transpose,
    softmax,
    reduce,
    pool,
    slice,
    concat,
    identity,
];

pub(crate) fn any(g: &mut Grower<'_>) -> Option<ValueId> {
    g.choices.of(MOVES)(g)
}

fn activation(g: &mut Grower<'_>) -> Option<ValueId> {
    let x = g.value();
    let function = g.choices.of(&[
        Unary::Relu,
        Unary::Sigmoid,
        Unary::Tanh,
        Unary::Gelu { approximate: false },
        Unary::Gelu { approximate: true },
        Unary::HardSwish,
        Unary::HardSigmoid { alpha: 0.2, beta: 0.5 },
        Unary::HardSigmoid { alpha: 1.0 / 6.0, beta: 0.5 },
        Unary::LeakyRelu { alpha: 0.1 },
        Unary::LeakyRelu { alpha: 1.5 },
        Unary::Elu { alpha: 0.7 },
        Unary::Swish { alpha: 1.0 },
        Unary::Softplus,
        Unary::Mish,
        Unary::Neg,
        Unary::Abs,
    ]);
    g.unary(function, x)
}

const FUNCTIONS: &[Binary] = &[Binary::Add, Binary::Mul, Binary::Sub, Binary::Div];

/// With a scalar of every rank.
fn scalar(g: &mut Grower<'_>) -> Option<ValueId> {
    let x = g.value();
    let rank = g.choices.below(g.shape(x).len() + 2);
    let value = g.choices.of(&[2.0, 0.5, 1.0, -1.0, 3.0, 1.7, 6.0]);
    let function = g.choices.of(FUNCTIONS);
    let scalar = g.scalar_of(rank, value);
    if function == Binary::Sub && g.choices.one_in(4) {
        return g.binary(function, scalar, x);
    }
    g.either(function, x, scalar)
}

/// With a constant that varies along one axis, or along another that is as long.
fn per_axis(g: &mut Grower<'_>) -> Option<ValueId> {
    let x = g.value();
    let shape = g.shape(x);
    let rank = shape.len().max(1);
    let (from, to) = (g.choices.below(rank), g.choices.below(rank));
    let mut own = vec![1; rank];
    let to = if g.choices.one_in(4) { to } else { from };
    own[to] = *shape.get(from)?;
    // Leading ones may be left out, or one more written.
    if g.choices.one_in(2) {
        own = own.split_off(g.choices.below(to + 1));
    } else if g.choices.one_in(8) {
        own.insert(0, 1);
    }
    let function = g.choices.of(FUNCTIONS);
    let constant = if function == Binary::Div { g.divisor(&own) } else { g.any(&own) };
    if function == Binary::Sub && g.choices.one_in(4) {
        return g.binary(function, constant, x);
    }
    g.either(function, x, constant)
}

/// With a constant along some of the axes.
fn broadcast(g: &mut Grower<'_>) -> Option<ValueId> {
    let x = g.value();
    let mut own = g.shape(x);
    own.iter_mut().for_each(|d| *d = if g.choices.one_in(2) { 1 } else { *d });
    let function = g.choices.of(&[Binary::Add, Binary::Mul]);
    let constant = g.any(&own);
    g.either(function, x, constant)
}

/// With another value, of whatever shape.
fn residual(g: &mut Grower<'_>) -> Option<ValueId> {
    let x = g.value();
    let other = g.companion(&g.shape(x));
    let function = g.choices.of(&[Binary::Add, Binary::Add, Binary::Mul, Binary::Sub]);
    g.either(function, x, other)
}

fn softmax(g: &mut Grower<'_>) -> Option<ValueId> {
    let x = g.value();
    let axis = g.choices.of(&[-1_i64, 0, 1, -2]);
    g.node(Op::Softmax { kind: SoftmaxKind::Softmax, axis }, &[x])
}

fn reduce(g: &mut Grower<'_>) -> Option<ValueId> {
    let x = g.value();
    let axis = g.choices.of(&[-1_i64, 1, 0, -2]);
    let kind = g.choices.of(&[ReduceKind::Mean, ReduceKind::Sum, ReduceKind::Max]);
    let keep_dims = !g.choices.one_in(3);
    // There is no greatest of nothing.
    if g.shape(x).contains(&0) {
        return None;
    }
    let axes = g.ints(&[axis]);
    g.node(Op::Reduce { kind, keep_dims, noop_with_empty_axes: false }, &[x, axes])
}

fn pool(g: &mut Grower<'_>) -> Option<ValueId> {
    let x = g.value();
    let spatial = g.shape(x).len().checked_sub(2).filter(|s| (1..=2).contains(s))?;
    if g.choices.one_in(4) {
        let kind = g.choices.of(&[PoolKind::Average, PoolKind::Max]);
        if g.shape(x)[2..].contains(&0) {
            return None;
        }
        return g.node(Op::GlobalPool { kind }, &[x]);
    }
    let kernel = g.choices.of(&[2, 3, 1, 5]);
    let pad = g.choices.of(&[0_i64, 1]).min(kernel as i64 / 2);
    let attributes = PoolAttributes {
        kind: g.choices.of(&[PoolKind::Max, PoolKind::Average]),
        kernel: vec![kernel; spatial],
        strides: vec![g.choices.of(&[2, 1, 3]); spatial],
        dilations: vec![],
        padding: Padding::Explicit(vec![pad; 2 * spatial]),
        ceil_mode: g.choices.one_in(2),
        count_include_pad: g.choices.one_in(2),
        column_major: false,
    };
    if g.shape(x)[2..].contains(&0) {
        return None;
    }
    g.node(Op::Pool(attributes), &[x])
}

/// Reshapes of every kind; some change nothing.
fn reshape(g: &mut Grower<'_>) -> Option<ValueId> {
    let x = g.value();
    let shape = g.shape(x);
    let rank = shape.len();
    let at = g.choices.below(rank + 1);
    match g.choices.below(7) {
        0 => g.node(Op::Flatten { axis: at as i64 }, &[x]),
        1 => {
            let axes = g.ints(&[at as i64]);
            g.node(Op::Unsqueeze, &[x, axes])
        }
        2 => {
            let axis = shape.iter().position(|&d| d == 1)?;
            let axes = g.ints(&[axis as i64]);
            g.node(Op::Squeeze, &[x, axes])
        }
        3 => g.node(Op::Squeeze, &[x]),
        // Two neighbouring axes become one.
        4 => {
            let at = at.min(rank.checked_sub(2)?);
            let mut dims: Vec<i64> = shape.iter().map(|&d| d as i64).collect();
            let next = dims.remove(at + 1);
            dims[at] *= next;
            target(g, x, &dims)
        }
        // One axis becomes two.
        5 => {
            let at = at.min(rank.checked_sub(1)?);
            let by = g.choices.of(&[2, 1, 4, 3]);
            let mut dims: Vec<i64> = shape.iter().map(|&d| d as i64).collect();
            if dims[at] % by != 0 {
                return None;
            }
            dims[at] /= by;
            dims.insert(at + g.choices.below(2), by);
            target(g, x, &dims)
        }
        // The same, or in another order of the same sizes.
        _ => {
            let mut dims: Vec<i64> = shape.iter().map(|&d| d as i64).collect();
            if rank > 1 && g.choices.one_in(2) {
                dims.swap(0, rank - 1);
            }
            target(g, x, &dims)
        }
    }
}

fn target(g: &mut Grower<'_>, x: ValueId, dims: &[i64]) -> Option<ValueId> {
    let shape = g.ints(dims);
    g.node(Op::Reshape { allow_zero: true }, &[x, shape])
}

fn transpose(g: &mut Grower<'_>) -> Option<ValueId> {
    let x = g.value();
    let rank = g.shape(x).len();
    let mut perm: Vec<usize> = (0..rank).collect();
    match (rank, g.choices.below(4)) {
        (4, 0) => perm = vec![0, 2, 1, 3],
        (4, 1) => perm = g.choices.of(&[[0, 2, 3, 1], [0, 3, 1, 2]]).to_vec(),
        (2.., 2) => perm.swap(rank - 1, rank - 2),
        _ => {
            for i in 0..rank {
                perm.swap(i, g.choices.below(rank));
            }
        }
    }
    g.node(Op::Transpose { perm }, &[x])
}

fn slice(g: &mut Grower<'_>) -> Option<ValueId> {
    let x = g.value();
    let shape = g.shape(x);
    let axis = g.choices.below(shape.len().max(1));
    let size = *shape.get(axis)? as i64;
    let start = g.choices.below(size as usize + 1).min(size as usize / 2) as i64;
    let inputs = [g.ints(&[start]), g.ints(&[size]), g.ints(&[axis as i64]), g.ints(&[1])];
    g.node(Op::Slice, &[&[x][..], &inputs].concat())
}

fn concat(g: &mut Grower<'_>) -> Option<ValueId> {
    let x = g.value();
    let other = g.companion(&g.shape(x));
    let axis = g.choices.below(g.shape(x).len().max(1)) as i64;
    g.node(Op::Concat { axis }, &[x, other])
}

fn identity(g: &mut Grower<'_>) -> Option<ValueId> {
    let x = g.value();
    g.node(Op::Identity, &[x])
}
