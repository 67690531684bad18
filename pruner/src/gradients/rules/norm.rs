//! Normalisations and softmax.
//!
//! With `x̂` the normalised input, `s` the inverse deviation and `ĝ` the gradient of `x̂`:
//! `dx = s · (ĝ − mean ĝ − x̂ · mean(ĝ · x̂))`. Ioffe and Szegedy, ICML 2015, <https://arxiv.org/abs/1502.03167>.
//!
//! Batch normalisation takes mean and variance as inputs. In training these are computed from the batch, by nodes of their
//! own through which their gradients flow on ([`crate::finetune`]).

use poda_formats::op::{Op, Padding, PoolAttributes, PoolKind, ReduceKind, SoftmaxKind, Unary};
use poda_formats::{Node, ValueId};

use super::{Call, Inputs};
use crate::gradients::{Emit, Refusal};

/// A normalised input `x̂` and the inverse deviation `s`.
struct Normalized {
    x: ValueId,
    inverse: ValueId,
}

/// Over `axes`, about the mean or, if not `centered`, about zero.
fn normalized(
    e: &mut Emit,
    x: ValueId,
    axes: &[usize],
    epsilon: f32,
    centered: bool,
) -> Result<Normalized, Refusal> {
    let mut x = x;
    if centered {
        let mean = e.mean(x, axes)?;
        x = e.sub(x, mean)?;
    }
    let square = e.mul(x, x)?;
    let variance = e.mean(square, axes)?;
    let inverse = inverse_root(e, variance, epsilon)?;
    Ok(Normalized { x: e.mul(x, inverse)?, inverse })
}

/// `1 / √(variance + epsilon)`
fn inverse_root(e: &mut Emit, variance: ValueId, epsilon: f32) -> Result<ValueId, Refusal> {
    let shifted = e.shift(variance, epsilon.into())?;
    let root = e.unary(Unary::Sqrt, shifted)?;
    e.unary(Unary::Reciprocal, root)
}

/// The gradient of the input from that of `x̂`.
fn through(
    e: &mut Emit,
    normal: &Normalized,
    g: ValueId,
    axes: &[usize],
    centered: bool,
) -> Result<ValueId, Refusal> {
    let product = e.mul(g, normal.x)?;
    let slope = e.mean(product, axes)?;
    let along = e.mul(normal.x, slope)?;
    let mut rest = e.sub(g, along)?;
    if centered {
        let mean = e.mean(g, axes)?;
        rest = e.sub(rest, mean)?;
    }
    e.mul(rest, normal.inverse)
}

/// Scale and bias that broadcast to the trailing axes.
fn trailing(e: &mut Emit, call: &Call<'_>, axis: i64, epsilon: f32, centered: bool) -> Inputs {
    let (x, scale, g) = (call.input(0)?, call.input(1)?, call.gradient()?);
    let axes: Vec<usize> = (e.axis(x, axis)?..e.shape(x)?.len()).collect();
    let normal = normalized(e, x, &axes, epsilon, centered)?;
    let mut made = vec![None; 3];
    if e.wants(Some(x)) {
        let scaled = e.mul(g, scale)?;
        made[0] = Some(through(e, &normal, scaled, &axes, centered)?);
    }
    if e.wants(Some(scale)) {
        let product = e.mul(g, normal.x)?;
        let shape = e.shape(scale)?;
        made[1] = Some(e.sum_to(product, &shape)?);
    }
    if let Some(bias) = call.node.input(2).filter(|&bias| e.wants(Some(bias))) {
        let shape = e.shape(bias)?;
        made[2] = Some(e.sum_to(g, &shape)?);
    }
    Ok(made)
}

pub(super) fn layer(e: &mut Emit, call: &Call<'_>) -> Inputs {
    let Op::LayerNormalization { axis, epsilon } = call.node.op else { return Err(Refusal::NoRule) };
    trailing(e, call, axis, epsilon, true)
}

pub(super) fn root_mean_square(e: &mut Emit, call: &Call<'_>) -> Inputs {
    let Op::RmsNormalization { axis, epsilon } = call.node.op else { return Err(Refusal::NoRule) };
    trailing(e, call, axis, epsilon, false)
}

/// Sums over batch and pixels of `[batch, channels, …]`: `[channels]`.
fn per_channel(e: &mut Emit, x: ValueId) -> Result<ValueId, Refusal> {
    let shape = e.shape(x)?;
    let axes: Vec<usize> = (0..shape.len()).filter(|&axis| axis != 1).collect();
    let sum = e.sum(x, &axes)?;
    e.reshape(sum, &shape[1..2])
}

/// `[channels]` as it broadcasts to `[batch, channels, …]`.
fn channels(e: &mut Emit, x: ValueId, rank: usize) -> Result<ValueId, Refusal> {
    let count = e.shape(x)?[0];
    let mut shape = vec![1; rank];
    shape[1] = count;
    e.reshape(x, &shape)
}

/// Normalised over runs of `[batch, parts, run]`, with scale and bias of channels.
fn grouped(e: &mut Emit, call: &Call<'_>, parts: usize, epsilon: f32) -> Inputs {
    let (x, scale, g) = (call.input(0)?, call.input(1)?, call.gradient()?);
    let shape = e.shape(x)?;
    let run = shape[1..].iter().product::<usize>().checked_div(parts).unwrap_or(0);
    let runs = [shape[0], parts, run];
    let flat = e.reshape(x, &runs)?;
    let normal = normalized(e, flat, &[2], epsilon, true)?;
    let mut made = vec![None; 3];
    if e.wants(Some(x)) {
        let factors = channels(e, scale, shape.len())?;
        let scaled = e.mul(g, factors)?;
        let scaled = e.reshape(scaled, &runs)?;
        let gradient = through(e, &normal, scaled, &[2], true)?;
        made[0] = Some(e.reshape(gradient, &shape)?);
    }
    if e.wants(Some(scale)) {
        let normal = e.reshape(normal.x, &shape)?;
        let product = e.mul(g, normal)?;
        made[1] = Some(per_channel(e, product)?);
    }
    if e.wants(call.node.input(2)) {
        made[2] = Some(per_channel(e, g)?);
    }
    Ok(made)
}

pub(super) fn instance(e: &mut Emit, call: &Call<'_>) -> Inputs {
    let Op::InstanceNormalization { epsilon } = call.node.op else { return Err(Refusal::NoRule) };
    let parts = e.shape(call.input(0)?)?[1];
    grouped(e, call, parts, epsilon)
}

pub(super) fn group(e: &mut Emit, call: &Call<'_>) -> Inputs {
    let Op::GroupNormalization { num_groups, epsilon } = call.node.op else { return Err(Refusal::NoRule) };
    grouped(e, call, num_groups, epsilon)
}

/// Inputs: x, scale, bias, mean, variance.
pub(super) fn batch(e: &mut Emit, call: &Call<'_>) -> Inputs {
    let Op::BatchNormalization { epsilon } = call.node.op else { return Err(Refusal::NoRule) };
    let (x, scale, mean, variance, g) =
        (call.input(0)?, call.input(1)?, call.input(3)?, call.input(4)?, call.gradient()?);
    let rank = e.shape(x)?.len();
    let inverse = inverse_root(e, variance, epsilon)?;
    let factor = e.mul(scale, inverse)?;
    let mut made = vec![None; 5];
    if e.wants(Some(x)) {
        let factor = channels(e, factor, rank)?;
        made[0] = Some(e.mul(g, factor)?);
    }
    let sum = per_channel(e, g)?;
    made[2] = Some(sum);
    if e.wants(Some(mean)) {
        let product = e.mul(sum, factor)?;
        made[3] = Some(e.unary(Unary::Neg, product)?);
    }
    if e.wants(Some(scale)) || e.wants(Some(variance)) {
        let center = channels(e, mean, rank)?;
        let centered = e.sub(x, center)?;
        let product = e.mul(g, centered)?;
        let product = per_channel(e, product)?;
        let slope = e.mul(product, inverse)?;
        made[1] = Some(slope);
        // −½ · scale · s³ · Σ g (x − mean)
        let cube = e.mul(factor, inverse)?;
        let cube = e.mul(cube, slope)?;
        made[4] = Some(e.scale(cube, -0.5)?);
    }
    Ok(made)
}

/// `y · (g − Σ g y)`; of the logarithm `g − exp(y) · Σ g`.
pub(super) fn softmax(e: &mut Emit, call: &Call<'_>) -> Inputs {
    let Op::Softmax { kind, axis } = call.node.op else { return Err(Refusal::NoRule) };
    let (y, g) = (call.output()?, call.gradient()?);
    let axes = [e.axis(y, axis)?];
    let gradient = if kind == SoftmaxKind::LogSoftmax {
        let share = e.unary(Unary::Exp, y)?;
        let sum = e.sum(g, &axes)?;
        let share = e.mul(share, sum)?;
        e.sub(g, share)?
    } else {
        let product = e.mul(g, y)?;
        let sum = e.sum(product, &axes)?;
        let rest = e.sub(g, sum)?;
        e.mul(y, rest)?
    };
    Ok(vec![Some(gradient)])
}

/// `x / ‖x‖`
pub(super) fn lp(e: &mut Emit, node: &Node) -> Result<Vec<Option<ValueId>>, Refusal> {
    let (Op::LpNormalization { axis, p }, Some(x)) = (&node.op, node.input(0)) else {
        return Err(Refusal::NoRule);
    };
    let axis = e.axis(x, *axis)?;
    let norm = e.reduce(if *p == 1 { ReduceKind::L1 } else { ReduceKind::L2 }, x, &[axis])?;
    Ok(vec![Some(e.div(x, norm)?)])
}

/// `(x − mean) / (deviation + 1e-9)`
pub(super) fn mean_variance(e: &mut Emit, node: &Node) -> Result<Vec<Option<ValueId>>, Refusal> {
    let (Op::MeanVarianceNormalization { axes }, Some(x)) = (&node.op, node.input(0)) else {
        return Err(Refusal::NoRule);
    };
    let axes = axes.iter().map(|&axis| e.axis(x, axis)).collect::<Result<Vec<_>, _>>()?;
    let mean = e.mean(x, &axes)?;
    let centered = e.sub(x, mean)?;
    let square = e.mul(centered, centered)?;
    let variance = e.mean(square, &axes)?;
    let deviation = e.unary(Unary::Sqrt, variance)?;
    let deviation = e.shift(deviation, 1e-9)?;
    Ok(vec![Some(e.div(centered, deviation)?)])
}

/// `x / (bias + alpha · mean of squares over neighbouring channels)^beta`
pub(super) fn local_response(e: &mut Emit, node: &Node) -> Result<Vec<Option<ValueId>>, Refusal> {
    let (&Op::Lrn { size, alpha, beta, bias }, Some(x)) = (&node.op, node.input(0)) else {
        return Err(Refusal::NoRule);
    };
    let shape = e.shape(x)?;
    let square = e.mul(x, x)?;
    let flat = e.reshape(square, &[shape[0], 1, shape[1], shape[2..].iter().product()])?;
    let before = (size as i64 - 1) / 2;
    let pool = Op::Pool(PoolAttributes {
        kind: PoolKind::Average,
        kernel: vec![size, 1],
        strides: Vec::new(),
        dilations: Vec::new(),
        padding: Padding::Explicit(vec![before, 0, size as i64 - 1 - before, 0]),
        ceil_mode: false,
        count_include_pad: true,
        column_major: false,
    });
    let mean = e.node(pool, &[flat])?;
    let mean = e.reshape(mean, &shape)?;
    let scaled = e.scale(mean, alpha.into())?;
    let base = e.shift(scaled, bias.into())?;
    let exponent = e.number(beta.into(), x)?;
    let power = e.node(Op::Binary(poda_formats::op::Binary::Pow), &[base, exponent])?;
    Ok(vec![Some(e.div(x, power)?)])
}
