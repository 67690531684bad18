//! Functions spelled out as exporters do, and almost so.

use poda_formats::op::{Binary, ReduceKind, Unary};
use poda_formats::{Op, ValueId};

use crate::grow::Grower;

/// A constant, mostly as it should be.
fn about(g: &mut Grower<'_>, value: f32) -> f32 {
    value * g.choices.of(&[1.0, 1.0, 1.0, 1.0, 1.0, 1.002, 0.999, 1.5])
}

pub(super) fn gelu(g: &mut Grower<'_>) -> Option<ValueId> {
    let x = g.value();
    let gate = if g.choices.one_in(2) {
        let inner = match g.choices.below(3) {
            0 => {
                let cubic = about(g, 0.044_715);
                let cube = g.by(Binary::Pow, x, 3.0)?;
                let cube = g.by(Binary::Mul, cube, cubic)?;
                g.either(Binary::Add, x, cube)?
            }
            1 => {
                let square = g.either(Binary::Mul, x, x)?;
                let square = g.by(Binary::Mul, square, 0.044_715)?;
                let sum = g.by(Binary::Add, square, 1.0)?;
                g.either(Binary::Mul, x, sum)?
            }
            _ => {
                let a = g.by(Binary::Mul, x, 0.044_715)?;
                let a = g.either(Binary::Mul, a, x)?;
                let a = g.either(Binary::Mul, a, x)?;
                g.either(Binary::Add, x, a)?
            }
        };
        let scale = about(g, (2.0 / std::f32::consts::PI).sqrt());
        let inner = g.by(Binary::Mul, inner, scale)?;
        g.unary(Unary::Tanh, inner)?
    } else {
        let root = about(g, std::f32::consts::SQRT_2);
        let inner =
            if g.choices.one_in(2) { g.by(Binary::Mul, x, 1.0 / root)? } else { g.by(Binary::Div, x, root)? };
        g.unary(Unary::Erf, inner)?
    };
    let one = about(g, 1.0);
    let gate = g.by(Binary::Add, gate, one)?;
    let half = about(g, 0.5);
    match g.choices.below(3) {
        0 => {
            let y = g.either(Binary::Mul, x, gate)?;
            g.by(Binary::Mul, y, half)
        }
        1 => {
            let x = g.by(Binary::Mul, x, half)?;
            g.either(Binary::Mul, x, gate)
        }
        _ => {
            let gate = g.by(Binary::Mul, gate, half)?;
            g.either(Binary::Mul, x, gate)
        }
    }
}

/// SiLU, quick GELU, Mish.
pub(super) fn gated(g: &mut Grower<'_>) -> Option<ValueId> {
    let x = g.value();
    let gate = match g.choices.below(3) {
        0 => g.unary(Unary::Sigmoid, x)?,
        1 => {
            let scaled = g.by(Binary::Mul, x, 1.702)?;
            g.unary(Unary::Sigmoid, scaled)?
        }
        _ => {
            let soft = g.unary(Unary::Softplus, x)?;
            g.unary(Unary::Tanh, soft)?
        }
    };
    g.either(Binary::Mul, x, gate)
}

/// Hard sigmoid and hard swish.
pub(super) fn hard(g: &mut Grower<'_>) -> Option<ValueId> {
    let x = g.value();
    let (three, low, high) = (about(g, 3.0), g.choices.of(&[0.0, 0.0, 0.0, 0.01]), about(g, 6.0));
    let sum = g.by(Binary::Add, x, three)?;
    let (low, high) = (g.scalar(low), g.scalar(high));
    let mut y = g.node(Op::Clip, &[sum, low, high])?;
    let (times_x, first) = (g.choices.one_in(2), g.choices.one_in(2));
    if times_x && first {
        y = g.either(Binary::Mul, x, y)?;
    }
    let six = about(g, 6.0);
    y = if g.choices.one_in(2) { g.by(Binary::Mul, y, 1.0 / six)? } else { g.by(Binary::Div, y, six)? };
    if times_x && !first { g.either(Binary::Mul, x, y) } else { Some(y) }
}

pub(super) fn clip(g: &mut Grower<'_>) -> Option<ValueId> {
    let x = g.value();
    let (low, high) = g.choices.of(&[(0.0, 6.0), (-0.5, 0.5), (0.0, f32::INFINITY), (0.25, 0.0)]);
    let (low, high) = (g.scalar(low), g.scalar(high));
    g.node(Op::Clip, &[x, low, high])
}

/// Layer and RMS normalisation, over axes that may or may not be the last ones, with scale and bias of shapes that may or
/// may not be those of the axes.
pub(super) fn norm(g: &mut Grower<'_>) -> Option<ValueId> {
    let x = g.value();
    let shape = g.shape(x);
    // Nothing has no mean.
    if shape.contains(&0) {
        return None;
    }
    let axes = g.choices.of(&[&[-1_i64][..], &[-2, -1], &[-1, -2], &[1], &[1, 2], &[-2]]);
    let mean = |g: &mut Grower<'_>, x: ValueId, keep_dims: bool| {
        let axes = g.ints(axes);
        g.node(Op::Reduce { kind: ReduceKind::Mean, keep_dims, noop_with_empty_axes: false }, &[x, axes])
    };
    let mut centred = x;
    if !g.choices.one_in(3) {
        let keep = !g.choices.one_in(10);
        let m = mean(g, x, keep)?;
        centred = g.binary(Binary::Sub, x, m)?;
    }
    let square = if g.choices.one_in(2) {
        g.either(Binary::Mul, centred, centred)?
    } else {
        g.by(Binary::Pow, centred, 2.0)?
    };
    let v = mean(g, square, true)?;
    let epsilon = g.choices.of(&[1e-3, 1e-2]);
    let v = g.by(Binary::Add, v, epsilon)?;
    let y = match g.choices.below(4) {
        0 => {
            let root = g.unary(Unary::Sqrt, v)?;
            g.binary(Binary::Div, centred, root)?
        }
        1 => {
            let root = g.by(Binary::Pow, v, 0.5)?;
            g.binary(Binary::Div, centred, root)?
        }
        2 => {
            let root = g.unary(Unary::Sqrt, v)?;
            let inverse = g.unary(Unary::Reciprocal, root)?;
            g.either(Binary::Mul, centred, inverse)?
        }
        _ => {
            let inverse = g.by(Binary::Pow, v, -0.5)?;
            g.either(Binary::Mul, centred, inverse)?
        }
    };
    let parameter = |g: &mut Grower<'_>| {
        let from = match g.choices.below(4) {
            0 => shape.len().saturating_sub(1),
            1 => shape.len() - axes.len().min(shape.len()),
            2 => 0,
            _ => shape.len(),
        };
        let mut own = shape[from..].to_vec();
        if g.choices.one_in(5) {
            own.insert(0, 1);
        }
        g.any(&own)
    };
    let mut y = y;
    if !g.choices.one_in(3) {
        let scale = parameter(g);
        y = g.either(Binary::Mul, y, scale)?;
    }
    if !g.choices.one_in(3) {
        let bias = parameter(g);
        y = g.either(Binary::Add, y, bias)?;
    }
    Some(y)
}
