//! LayerNormalization and RMSNormalization spelled out.

use poda_formats::op::{Binary, ReduceKind, Unary};
use poda_formats::{Op, Tensor, ValueId};

use super::{Rewrite, Rewriter};
use crate::plan::draft::Kind;

/// `(x - mean) / sqrt(variance + epsilon)` or `x / sqrt(mean(x²) + epsilon)`, by division or by a reciprocal root.
pub(super) fn rewrite(rewriter: &mut Rewriter<'_, '_>, at: usize) -> Option<Rewrite> {
    let node = rewriter.node(at);
    let output = node.output(0)?;
    let (numerator, (square_mean, epsilon)) = if let Some((a, b)) = rewriter.binary(output, Binary::Div) {
        (a, root(rewriter, b)?)
    } else {
        let (a, b) = rewriter.binary(output, Binary::Mul)?;
        match (reciprocal_root(rewriter, b), reciprocal_root(rewriter, a)) {
            (Some(root), _) => (a, root),
            (None, Some(root)) => (b, root),
            (None, None) => return None,
        }
    };
    let (square, axis) = trailing_mean(rewriter, square_mean)?;
    if !is_square_of(rewriter, square, numerator) {
        return None;
    }
    let centred = rewriter.binary(numerator, Binary::Sub).filter(|&(x, mean)| {
        trailing_mean(rewriter, mean).is_some_and(|(of, mean_axis)| of == x && mean_axis == axis)
    });
    let x = centred.map_or(numerator, |(x, _)| x);
    let shape = rewriter.draft.shape(x)?;
    if rewriter.draft.shape(output)? != shape {
        return None;
    }
    let scale = &shape[axis..];
    let ones = Tensor::from_slice(scale, &vec![1.0_f32; scale.iter().product()]);
    let scale = rewriter.draft.add_constant(ones);
    let axis = axis as i64;
    let op = if centred.is_some() {
        Op::LayerNormalization { axis, epsilon }
    } else {
        Op::RmsNormalization { axis, epsilon }
    };
    Some(Rewrite::new(Kind::Op(op), vec![Some(x), Some(scale)]))
}

/// A constant scale or bias that follows a normalisation made by [`rewrite`] becomes its parameter.
pub(super) fn affine(rewriter: &mut Rewriter<'_, '_>, at: usize) -> Option<Rewrite> {
    let output = rewriter.node(at).output(0)?;
    let scaling = matches!(rewriter.node(at).op()?, Op::Binary(Binary::Mul));
    let (a, b) = rewriter.binary(output, if scaling { Binary::Mul } else { Binary::Add })?;
    [(a, b), (b, a)].into_iter().find_map(|(normed, parameter)| {
        let (op, node) = rewriter.op(normed)?;
        let takes_bias = matches!(op, Op::LayerNormalization { .. });
        let (Op::LayerNormalization { axis, .. } | Op::RmsNormalization { axis, .. }) = op else {
            return None;
        };
        let shape = rewriter.draft.shape(normed)?;
        let axis = usize::try_from(*axis).ok()?;
        let expected = &shape[axis..];
        let parameter_shape = rewriter.draft.shape(parameter)?;
        let leading = parameter_shape.len().checked_sub(expected.len())?;
        let plain = rewriter.draft.f32s(node.input(1)?)?.iter().all(|&s| s == 1.0);
        let fits = rewriter.once(normed)
            && rewriter.draft.f32s(parameter).is_some()
            && parameter_shape.len() <= shape.len()
            && parameter_shape[..leading].iter().all(|&d| d == 1)
            && &parameter_shape[leading..] == expected
            && node.input(2).is_none()
            && if scaling { plain } else { takes_bias };
        if !fits {
            return None;
        }
        let op = op.clone();
        let (x, scale) = (node.input(0), node.input(1));
        let tensor = rewriter.draft.constant(parameter)?.reshaped(expected.to_vec()).ok()?;
        let parameter = Some(rewriter.draft.add_constant(tensor));
        let inputs = if scaling { vec![x, parameter] } else { vec![x, scale, parameter] };
        Some(Rewrite::new(Kind::Op(op), inputs))
    })
}

/// `v` and `epsilon` of `sqrt(v + epsilon)`.
fn root(r: &Rewriter<'_, '_>, id: ValueId) -> Option<(ValueId, f32)> {
    let by_power = || {
        let (base, exponent) = r.binary(id, Binary::Pow)?;
        (r.draft.scalar(exponent)? == 0.5).then_some(base)
    };
    let inner = r.unary(id, Unary::Sqrt).or_else(by_power)?;
    r.with_scalar(inner, Binary::Add)
}

/// `v` and `epsilon` of `1 / sqrt(v + epsilon)`.
fn reciprocal_root(r: &Rewriter<'_, '_>, id: ValueId) -> Option<(ValueId, f32)> {
    if let Some(inner) = r.unary(id, Unary::Reciprocal) {
        return root(r, inner);
    }
    if let Some((one, inner)) = r.binary(id, Binary::Div) {
        return root(r, inner).filter(|_| r.draft.scalar(one) == Some(1.0));
    }
    let (base, exponent) = r.binary(id, Binary::Pow)?;
    (r.draft.scalar(exponent)? == -0.5).then(|| r.with_scalar(base, Binary::Add))?
}

/// `x` and the first axis of a mean of `x` over trailing axes that keeps dimensions.
fn trailing_mean(r: &Rewriter<'_, '_>, id: ValueId) -> Option<(ValueId, usize)> {
    let (op, node) = r.op(id)?;
    let Op::Reduce { kind: ReduceKind::Mean, keep_dims: true, .. } = op else { return None };
    let x = node.input(0)?;
    let rank = r.draft.shape(x)?.len();
    let axes = r.draft.constant(node.input(1)?)?.as_slice::<i64>().ok()?;
    let mut axes: Vec<usize> =
        axes.iter().map(|&a| if a < 0 { (a + rank as i64) as usize } else { a as usize }).collect();
    axes.sort_unstable();
    let first = *axes.first()?;
    axes.into_iter().eq(first..rank).then_some((x, first))
}

fn is_square_of(r: &Rewriter<'_, '_>, square: ValueId, x: ValueId) -> bool {
    // A subtraction may be written twice.
    let same = |a: ValueId| {
        a == x || r.binary(a, Binary::Sub).is_some_and(|pair| Some(pair) == r.binary(x, Binary::Sub))
    };
    if let Some((base, exponent)) = r.binary(square, Binary::Pow) {
        return r.draft.scalar(exponent) == Some(2.0) && same(base);
    }
    r.binary(square, Binary::Mul).is_some_and(|(a, b)| same(a) && same(b))
}
