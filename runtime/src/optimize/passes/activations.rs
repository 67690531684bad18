//! Activations spelled out: GELU, SiLU, hard swish, Mish.

use poda_formats::op::{Binary, Unary};
use poda_formats::{Op, ValueId};

use crate::optimize::matching::{View, close, input};
use crate::optimize::{Rewrite, Rewriter};

pub(in crate::optimize) fn rewrite(r: &mut Rewriter<'_>, at: usize) -> Option<Rewrite> {
    let node = r.node(at);
    // Each of these ends in a multiplication or a division.
    if !matches!(node.op, Op::Binary(Binary::Mul | Binary::Div)) {
        return None;
    }
    let output = node.output(0)?;
    let (factors, coefficient) = r.factors(output);
    let (x, function) = match factors[..] {
        [a] => (hard_sigmoid(r, a, coefficient)?, Unary::HardSigmoid { alpha: 1.0 / 6.0, beta: 0.5 }),
        [a, b] => gated(r, a, b, coefficient).or_else(|| gated(r, b, a, coefficient))?,
        _ => return None,
    };
    // Broadcasting against itself cannot change the shape, against a constant of higher rank it can.
    if !r.same_rank(x, output) {
        return None;
    }
    Some((Op::Unary(function), vec![Some(x)]))
}

/// `coefficient · x · gate`, where the gate is a function of `x`.
fn gated(r: &Rewriter<'_>, x: ValueId, gate: ValueId, coefficient: f32) -> Option<(ValueId, Unary)> {
    let is_x = |id: ValueId| (id == x).then_some(());
    // `x · sigmoid(alpha · x)`
    if let Some(inner) = r.unary(gate, Unary::Sigmoid).filter(|_| coefficient == 1.0) {
        if inner == x {
            return Some((x, Unary::Swish { alpha: 1.0 }));
        }
        let (factors, alpha) = r.factors(inner);
        return (factors == [x]).then_some((x, Unary::Swish { alpha }));
    }
    if let Some(inner) = r.unary(gate, Unary::Tanh).filter(|_| coefficient == 1.0) {
        is_x(r.unary(inner, Unary::Softplus)?)?;
        return Some((x, Unary::Mish));
    }
    if let Some((Op::Unary(Unary::HardSigmoid { alpha, beta }), inputs)) = r.made_by(gate) {
        is_x(input(inputs, 0)?)?;
        return (close(coefficient, 1.0) && close(*alpha, 1.0 / 6.0) && *beta == 0.5)
            .then_some((x, Unary::HardSwish));
    }
    if let Some(inner) = hard_sigmoid(r, gate, coefficient) {
        is_x(inner)?;
        return Some((x, Unary::HardSwish));
    }
    // `x / 2 · (1 + …)`
    let (inner, one) = r.with_scalar(gate, Binary::Add)?;
    if one != 1.0 || coefficient != 0.5 {
        return None;
    }
    if let Some(inner) = r.unary(inner, Unary::Erf) {
        let (factors, scale) = r.factors(inner);
        return (factors == [x] && close(scale, std::f32::consts::FRAC_1_SQRT_2))
            .then_some((x, Unary::Gelu { approximate: false }));
    }
    let (factors, scale) = r.factors(r.unary(inner, Unary::Tanh)?);
    if !close(scale, (2.0 / std::f32::consts::PI).sqrt()) {
        return None;
    }
    let cubic = |id: ValueId, powers: &[ValueId]| {
        let (factors, scale) = r.factors(id);
        factors == powers && close(scale, 0.044_715)
    };
    let matches = match factors[..] {
        // `x + 0.044715 · x³`
        [sum] => {
            let (a, b) = r.binary(sum, Binary::Add)?;
            (a == x && cubic(b, &[x; 3])) || (b == x && cubic(a, &[x; 3]))
        }
        // `x · (1 + 0.044715 · x²)`
        [a, b] => {
            let sum = if a == x { b } else { a };
            let (square, one) = r.with_scalar(sum, Binary::Add)?;
            (a == x || b == x) && one == 1.0 && cubic(square, &[x; 2])
        }
        _ => false,
    };
    matches.then_some((x, Unary::Gelu { approximate: true }))
}

/// The `x` of `clip(x + 3, 0, 6) · coefficient`, with a coefficient of a sixth.
fn hard_sigmoid(r: &Rewriter<'_>, clip: ValueId, coefficient: f32) -> Option<ValueId> {
    let (op, inputs) = r.made_by(clip)?;
    let bound = |i: usize| r.scalar(input(inputs, i)?);
    if !matches!(op, Op::Clip) || bound(1)? != 0.0 || bound(2)? != 6.0 || !close(coefficient, 1.0 / 6.0) {
        return None;
    }
    let (x, three) = r.with_scalar(input(inputs, 0)?, Binary::Add)?;
    (three == 3.0).then_some(x)
}
