//! Functions of one input: `dx = dy · f′(x)`, by way of `y` where that is cheaper.

use poda_formats::ValueId;
use poda_formats::op::{Binary, Op, Unary};

use super::{Call, Inputs};
use crate::gradients::{Emit, Refusal};

pub(super) fn unary(e: &mut Emit, call: &Call<'_>) -> Inputs {
    let Op::Unary(function) = call.node.op else { return Err(Refusal::NoRule) };
    let (x, y, g) = (call.input(0)?, call.output()?, call.gradient()?);
    Ok(vec![gradient(e, function, x, y, g)?])
}

fn gradient(
    e: &mut Emit,
    function: Unary,
    x: ValueId,
    y: ValueId,
    g: ValueId,
) -> Result<Option<ValueId>, Refusal> {
    let slope = match function {
        Unary::BitwiseNot
        | Unary::Ceil
        | Unary::Floor
        | Unary::IsInf { .. }
        | Unary::IsNan
        | Unary::Not
        | Unary::Round
        | Unary::Sign => return Ok(None),
        // By cases: what flows is chosen, so that an infinite slope elsewhere does no harm.
        Unary::LeakyRelu { alpha } => return either_side(e, g, x, Some(alpha.into())),
        Unary::ThresholdedRelu { alpha } => {
            return e.keep_where(g, x, Binary::Greater, alpha.into()).map(Some);
        }
        Unary::Shrink { lambda, .. } => {
            let size = e.unary(Unary::Abs, x)?;
            return e.keep_where(g, size, Binary::Greater, lambda.into()).map(Some);
        }
        Unary::HardSigmoid { alpha, .. } => {
            let below = e.keep_where(g, y, Binary::Less, 1.0)?;
            let inside = e.keep_where(below, y, Binary::Greater, 0.0)?;
            return e.scale(inside, alpha.into()).map(Some);
        }
        Unary::Elu { alpha } => return exponential(e, g, x, y, [1.0, 1.0, alpha.into()]).map(Some),
        Unary::Selu { alpha, gamma } => {
            let (alpha, gamma) = (f64::from(alpha), f64::from(gamma));
            return exponential(e, g, x, y, [gamma, 1.0, alpha * gamma]).map(Some);
        }
        Unary::Celu { alpha } => {
            return exponential(e, g, x, y, [1.0, 1.0 / f64::from(alpha), 1.0]).map(Some);
        }
        Unary::Neg => return e.unary(Unary::Neg, g).map(Some),
        Unary::Log => return e.div(g, x).map(Some),
        Unary::Sqrt => {
            let twice = e.scale(y, 2.0)?;
            return e.div(g, twice).map(Some);
        }
        // 0 or 1, for what it gives is never negative.
        Unary::Relu => e.unary(Unary::Sign, y)?,
        Unary::Abs => e.unary(Unary::Sign, x)?,
        Unary::Exp => y,
        Unary::Reciprocal => {
            let square = e.mul(y, y)?;
            e.unary(Unary::Neg, square)?
        }
        Unary::Sigmoid => {
            let other = one_minus(e, y)?;
            e.mul(y, other)?
        }
        Unary::Tanh => {
            let square = e.mul(y, y)?;
            one_minus(e, square)?
        }
        Unary::Tan => {
            let square = e.mul(y, y)?;
            e.shift(square, 1.0)?
        }
        Unary::Sin => e.unary(Unary::Cos, x)?,
        Unary::Cos => {
            let sine = e.unary(Unary::Sin, x)?;
            e.unary(Unary::Neg, sine)?
        }
        Unary::Sinh => e.unary(Unary::Cosh, x)?,
        Unary::Cosh => e.unary(Unary::Sinh, x)?,
        Unary::Asin => inverse(e, x, [1.0, -1.0], true, 1.0)?,
        Unary::Acos => inverse(e, x, [1.0, -1.0], true, -1.0)?,
        Unary::Asinh => inverse(e, x, [1.0, 1.0], true, 1.0)?,
        Unary::Acosh => inverse(e, x, [-1.0, 1.0], true, 1.0)?,
        Unary::Atan => inverse(e, x, [1.0, 1.0], false, 1.0)?,
        Unary::Atanh => inverse(e, x, [1.0, -1.0], false, 1.0)?,
        Unary::Erf => bell(e, x, 1.0, std::f64::consts::FRAC_2_SQRT_PI)?,
        Unary::Gelu { approximate: false } => {
            // Φ(x) + x · φ(x)
            let scaled = e.scale(x, std::f64::consts::FRAC_1_SQRT_2)?;
            let erf = e.unary(Unary::Erf, scaled)?;
            let half = e.scale(erf, 0.5)?;
            let whole = e.shift(half, 0.5)?;
            let density = bell(e, x, 0.5, 1.0 / (2.0 * std::f64::consts::PI).sqrt())?;
            let density = e.mul(x, density)?;
            e.add(whole, density)?
        }
        Unary::Gelu { approximate: true } => gelu_tanh(e, x)?,
        Unary::HardSwish => {
            // 0 below −3, (2x + 3) / 6 to 3, 1 beyond.
            let line = e.scale(x, 1.0 / 3.0)?;
            let line = e.shift(line, 0.5)?;
            let above = e.keep_where(line, x, Binary::Greater, -3.0)?;
            let (three, one) = (e.number(3.0, x)?, e.number(1.0, x)?);
            let beyond = e.node(Op::Binary(Binary::GreaterOrEqual), &[x, three])?;
            e.choose(beyond, one, above)?
        }
        Unary::Softplus => e.unary(Unary::Sigmoid, x)?,
        Unary::Softsign => {
            let size = e.unary(Unary::Abs, x)?;
            let size = e.shift(size, 1.0)?;
            let square = e.mul(size, size)?;
            e.unary(Unary::Reciprocal, square)?
        }
        Unary::Swish { alpha } => {
            // s + αx · s(1 − s)
            let scaled = e.scale(x, alpha.into())?;
            let s = e.unary(Unary::Sigmoid, scaled)?;
            let rest = one_minus(e, s)?;
            let slope = e.mul(s, rest)?;
            let slope = e.mul(scaled, slope)?;
            e.add(s, slope)?
        }
        Unary::Mish => {
            // t + x · sigmoid(x) · (1 − t²), t = tanh(softplus(x))
            let softplus = e.unary(Unary::Softplus, x)?;
            let t = e.unary(Unary::Tanh, softplus)?;
            let square = e.mul(t, t)?;
            let rest = one_minus(e, square)?;
            let s = e.unary(Unary::Sigmoid, x)?;
            let slope = e.mul(s, rest)?;
            let slope = e.mul(x, slope)?;
            e.add(t, slope)?
        }
    };
    e.mul(g, slope).map(Some)
}

fn one_minus(e: &mut Emit, x: ValueId) -> Result<ValueId, Refusal> {
    let one = e.number(1.0, x)?;
    e.sub(one, x)
}

/// `g` where `x > 0`, `alpha · g` elsewhere.
fn either_side(e: &mut Emit, g: ValueId, x: ValueId, alpha: Option<f64>) -> Result<Option<ValueId>, Refusal> {
    let (zero, other) = (e.number(0.0, x)?, e.scale(g, alpha.unwrap_or(0.0))?);
    let positive = e.node(Op::Binary(Binary::Greater), &[x, zero])?;
    e.choose(positive, g, other).map(Some)
}

/// `positive · g` where `x > 0`, `g · (factor · y + offset)` elsewhere.
fn exponential(
    e: &mut Emit,
    g: ValueId,
    x: ValueId,
    y: ValueId,
    [positive, factor, offset]: [f64; 3],
) -> Result<ValueId, Refusal> {
    let slope = e.scale(y, factor)?;
    let slope = e.shift(slope, offset)?;
    let (zero, linear) = (e.number(0.0, x)?, e.number(positive, x)?);
    let holds = e.node(Op::Binary(Binary::Greater), &[x, zero])?;
    let slope = e.choose(holds, linear, slope)?;
    e.mul(g, slope)
}

/// `factor / (offset + sign · x²)`, or over the root of that.
fn inverse(
    e: &mut Emit,
    x: ValueId,
    [offset, sign]: [f64; 2],
    root: bool,
    factor: f64,
) -> Result<ValueId, Refusal> {
    let square = e.mul(x, x)?;
    let square = e.scale(square, sign)?;
    let mut below = e.shift(square, offset)?;
    if root {
        below = e.unary(Unary::Sqrt, below)?;
    }
    let above = e.number(factor, x)?;
    e.div(above, below)
}

/// `factor · exp(−rate · x²)`
fn bell(e: &mut Emit, x: ValueId, rate: f64, factor: f64) -> Result<ValueId, Refusal> {
    let square = e.mul(x, x)?;
    let exponent = e.scale(square, -rate)?;
    let value = e.unary(Unary::Exp, exponent)?;
    e.scale(value, factor)
}

/// `½(1 + t) + ½x(1 − t²) · c(1 + 3 · 0.044715 x²)`, `t = tanh(c(x + 0.044715 x³))`.
fn gelu_tanh(e: &mut Emit, x: ValueId) -> Result<ValueId, Refusal> {
    const CUBIC: f64 = 0.044_715;
    let c = (2.0 / std::f64::consts::PI).sqrt();
    let square = e.mul(x, x)?;
    let inner = e.scale(square, c * CUBIC)?;
    let inner = e.shift(inner, c)?;
    let inner = e.mul(x, inner)?;
    let t = e.unary(Unary::Tanh, inner)?;
    let slope = e.scale(square, 3.0 * c * CUBIC)?;
    let slope = e.shift(slope, c)?;
    let t_square = e.mul(t, t)?;
    let rest = one_minus(e, t_square)?;
    let slope = e.mul(rest, slope)?;
    let slope = e.mul(x, slope)?;
    let sum = e.add(t, slope)?;
    let sum = e.shift(sum, 1.0)?;
    e.scale(sum, 0.5)
}
