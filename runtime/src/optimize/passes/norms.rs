//! LayerNormalization and RMSNormalization spelled out.

use poda_formats::op::{Binary, ReduceKind, Unary};
use poda_formats::{Op, Tensor, ValueId};

use crate::optimize::facts::places;
use crate::optimize::matching::{View, input};
use crate::optimize::{Rewrite, Rewriter};

/// `(x - mean) / sqrt(variance + epsilon)` or `x / sqrt(mean(x²) + epsilon)`, by division or by a reciprocal root.
pub(in crate::optimize) fn rewrite(r: &mut Rewriter<'_>, at: usize) -> Option<Rewrite> {
    let node = r.node(at);
    let output = node.output(0)?;
    let (numerator, (square_mean, epsilon)) = if let Some((a, b)) = r.binary(output, Binary::Div) {
        (a, root(r, b)?)
    } else {
        let (a, b) = r.binary(output, Binary::Mul)?;
        match (reciprocal_root(r, b), reciprocal_root(r, a)) {
            (Some(root), _) => (a, root),
            (None, Some(root)) => (b, root),
            (None, None) => return None,
        }
    };
    let (square, axis) = trailing_mean(r, square_mean)?;
    if !is_square_of(r, square, numerator) {
        return None;
    }
    let centred = r.binary(numerator, Binary::Sub).filter(|&(x, mean)| {
        trailing_mean(r, mean).is_some_and(|(of, mean_axis)| of == x && mean_axis == axis)
    });
    let x = centred.map_or(numerator, |(x, _)| x);
    if !r.same_rank(x, output) {
        return None;
    }
    // A single one where sizes are open: scales broadcast.
    let sizes: Option<Vec<usize>> = r.facts.sizes(x)?[axis..].iter().copied().collect();
    let sizes = sizes.unwrap_or_else(|| vec![1]);
    let scale = r.add_constant(Tensor::from_slice(&sizes, &vec![1.0_f32; sizes.iter().product()]));
    let axis = axis as i64;
    let op = if centred.is_some() {
        Op::LayerNormalization { axis, epsilon }
    } else {
        Op::RmsNormalization { axis, epsilon }
    };
    Some((op, vec![Some(x), Some(scale)]))
}

/// `v` and `epsilon` of `sqrt(v + epsilon)`.
fn root(r: &Rewriter<'_>, id: ValueId) -> Option<(ValueId, f32)> {
    let by_power = || {
        let (base, exponent) = r.binary(id, Binary::Pow)?;
        (r.scalar(exponent)? == 0.5).then_some(base)
    };
    let inner = r.unary(id, Unary::Sqrt).or_else(by_power)?;
    r.with_scalar(inner, Binary::Add)
}

/// `v` and `epsilon` of `1 / sqrt(v + epsilon)`.
fn reciprocal_root(r: &Rewriter<'_>, id: ValueId) -> Option<(ValueId, f32)> {
    if let Some(inner) = r.unary(id, Unary::Reciprocal) {
        return root(r, inner);
    }
    if let Some((one, inner)) = r.binary(id, Binary::Div) {
        return root(r, inner).filter(|_| r.scalar(one) == Some(1.0));
    }
    let (base, exponent) = r.binary(id, Binary::Pow)?;
    (r.scalar(exponent)? == -0.5).then(|| r.with_scalar(base, Binary::Add))?
}

/// `x` and the first axis of a mean of `x` over trailing axes that keeps dimensions.
fn trailing_mean(r: &Rewriter<'_>, id: ValueId) -> Option<(ValueId, usize)> {
    let (op, inputs) = r.made_by(id)?;
    let Op::Reduce { kind: ReduceKind::Mean, keep_dims: true, .. } = op else { return None };
    let x = input(inputs, 0)?;
    let rank = r.facts.rank(x)?;
    let mut axes = places(r.facts.asked(r.constant(input(inputs, 1)?))?.as_slice::<i64>().ok()?, rank)?;
    axes.sort_unstable();
    let first = *axes.first()?;
    axes.into_iter().eq(first..rank).then_some((x, first))
}

fn is_square_of(r: &Rewriter<'_>, square: ValueId, x: ValueId) -> bool {
    // A subtraction may be written twice.
    let same = |a: ValueId| {
        a == x || r.binary(a, Binary::Sub).is_some_and(|pair| Some(pair) == r.binary(x, Binary::Sub))
    };
    if let Some((base, exponent)) = r.binary(square, Binary::Pow) {
        return r.scalar(exponent) == Some(2.0) && same(base);
    }
    r.binary(square, Binary::Mul).is_some_and(|(a, b)| same(a) && same(b))
}
