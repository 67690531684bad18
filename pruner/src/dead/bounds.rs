//! Bounds along a dimension, and how operators change them.

use poda_formats::op::{Binary, ConvAttributes, Padding, Unary};
use poda_formats::{Op, Tensor, ValueId};
use poda_runtime::{Output, ops};

use crate::criterion::float_values;
use crate::dependency::Facts;

/// Weights below this count as zero: nothing that fits f32 makes their products felt.
pub(super) const TINY: f32 = 1e-30;

/// Bounds along one dimension of a value; other dimensions share them.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Ranges {
    /// The dimension, counted from the end.
    pub(super) from_end: usize,
    pub(super) low: Vec<f64>,
    pub(super) high: Vec<f64>,
}

impl Ranges {
    /// The value of a channel that has only one.
    pub(super) fn constant(&self, channel: usize) -> Option<f64> {
        let (low, high) = (*self.low.get(channel)?, *self.high.get(channel)?);
        (low == high && low.is_finite()).then_some(low)
    }

    pub(super) fn map(&self, f: impl Fn(f64, f64) -> (f64, f64)) -> Self {
        let (low, high) = self.low.iter().zip(&self.high).map(|(&l, &h)| f(l, h)).unzip();
        Self { from_end: self.from_end, low, high }
    }

    /// With zero within the bounds, as padding brings in.
    pub(super) fn with_zero(&self) -> Self {
        self.map(|low, high| (low.min(0.0), high.max(0.0)))
    }
}

/// `x · y`, where anything finite times zero is zero.
pub(super) fn times(x: f64, y: f64) -> f64 {
    if x == 0.0 || y == 0.0 { 0.0 } else { x * y }
}

pub(super) fn last(x: &Ranges) -> bool {
    x.from_end == 1
}

pub(super) fn ordered(a: f64, b: f64) -> (f64, f64) {
    (a.min(b), a.max(b))
}

pub(super) fn each(x: &Ranges, mut f: impl FnMut(f64, f64) -> (f64, f64)) -> Ranges {
    let (low, high) = x.low.iter().zip(&x.high).map(|(&l, &h)| f(l, h)).unzip();
    Ranges { from_end: x.from_end, low, high }
}

/// A tensor with at most one dimension of more than one element.
pub(super) fn vector(tensor: &Tensor) -> Option<Ranges> {
    let wide: Vec<usize> = (0..tensor.rank()).filter(|&d| tensor.shape()[d] != 1).collect();
    let from_end = match wide[..] {
        [] => 1,
        [dim] => tensor.rank() - dim,
        _ => return None,
    };
    let values: Vec<f64> = float_values(tensor)?.into_iter().map(f64::from).collect();
    Some(Ranges { from_end, low: values.clone(), high: values })
}

pub(super) fn padded(padding: &Padding) -> bool {
    match padding {
        Padding::Explicit(pads) => pads.iter().any(|&p| p != 0),
        Padding::SameUpper | Padding::SameLower => true,
        Padding::Valid => false,
    }
}

pub(super) fn convolution(
    conv: &ConvAttributes,
    weight: &[f32],
    shape: &[usize],
    bias: Option<&[f32]>,
    x: Option<Ranges>,
) -> Ranges {
    let (out, each, window) = (shape[0], shape[1], shape[2..].iter().product::<usize>());
    let rank = shape.len();
    let group = conv.group.max(1);
    let x = x.filter(|x| x.from_end + 1 == rank).unwrap_or_else(|| unbounded(each * group));
    let x = if padded(&conv.padding) { x.with_zero() } else { x };
    let (mut low, mut high) = (Vec::with_capacity(out), Vec::with_capacity(out));
    for o in 0..out {
        let shift = bias.and_then(|b| b.get(o)).map_or(0.0, |&b| f64::from(b));
        let (mut l, mut h) = (shift, shift);
        for i in 0..each {
            let channel = o / (out / group).max(1) * each + i;
            for &w in &weight[(o * each + i) * window..][..window] {
                add_scaled(&mut l, &mut h, w, x.low[channel], x.high[channel]);
            }
        }
        low.push(l);
        high.push(h);
    }
    Ranges { from_end: rank - 1, low, high }
}

pub(super) fn add_scaled(low: &mut f64, high: &mut f64, weight: f32, x_low: f64, x_high: f64) {
    if weight.abs() >= TINY || weight.is_nan() {
        let (a, b) = ordered(times(f64::from(weight), x_low), times(f64::from(weight), x_high));
        *low += a;
        *high += b;
    }
}

pub(super) fn unbounded(channels: usize) -> Ranges {
    Ranges { from_end: 1, low: vec![f64::NEG_INFINITY; channels], high: vec![f64::INFINITY; channels] }
}

/// `alpha · x W + bias` with W `[k, n]`, or `[n, k]` transposed.
pub(super) fn product(
    weight: &[f32],
    shape: &[usize],
    transposed: bool,
    alpha: f32,
    bias: Option<&[f32]>,
    x: Option<Ranges>,
) -> Ranges {
    let (k, n) = if transposed { (shape[1], shape[0]) } else { (shape[0], shape[1]) };
    let x = x.filter(|x| x.low.len() == k).unwrap_or_else(|| unbounded(k));
    let (mut low, mut high) = (vec![0.0; n], vec![0.0; n]);
    for i in 0..k {
        for o in 0..n {
            let w = weight[if transposed { o * k + i } else { i * n + o }] * alpha;
            add_scaled(&mut low[o], &mut high[o], w, x.low[i], x.high[i]);
        }
    }
    if let Some(bias) = bias {
        for o in 0..n {
            let shift = f64::from(bias[if bias.len() == 1 { 0 } else { o }]);
            low[o] += shift;
            high[o] += shift;
        }
    }
    Ranges { from_end: 1, low, high }
}

pub(super) fn is_monotone(unary: Unary) -> bool {
    matches!(
        unary,
        Unary::Relu
            | Unary::Sigmoid
            | Unary::Tanh
            | Unary::HardSigmoid { .. }
            | Unary::Softplus
            | Unary::Softsign
            | Unary::Exp
            | Unary::Erf
            | Unary::Neg
            | Unary::Ceil
            | Unary::Floor
            | Unary::Round
            | Unary::Atan
            | Unary::Asinh
    )
}

/// Bounds of a function of one input; of one that is not monotone only for constants.
pub(super) fn unary_ranges(unary: Unary, x: &Ranges) -> Option<Ranges> {
    let at = |values: &[f64]| -> Option<Vec<f64>> {
        let values: Vec<f32> = values.iter().map(|&v| v as f32).collect();
        let tensor = Tensor::from_slice(&[values.len()], &values);
        let mut outputs = [Output::Fresh(None)];
        ops::run(&Op::Unary(unary), &[Some(tensor.view())], &mut outputs).ok()?;
        let Output::Fresh(Some(result)) = outputs.into_iter().next()? else { return None };
        Some(float_values(&result.into_tensor())?.into_iter().map(f64::from).collect())
    };
    let (low, high) = (at(&x.low)?, at(&x.high)?);
    let monotone = is_monotone(unary);
    let bounds = |i: usize| match (low[i], high[i]) {
        (a, b) if (monotone || x.constant(i).is_some()) && !a.is_nan() && !b.is_nan() => ordered(a, b),
        _ => (f64::NEG_INFINITY, f64::INFINITY),
    };
    let (low, high) = (0..x.low.len()).map(bounds).unzip();
    Some(Ranges { from_end: x.from_end, low, high })
}

pub(super) fn binary_ranges(binary: Binary, x: Option<Ranges>, y: Option<Ranges>) -> Option<Ranges> {
    // An operand without bounds leaves only what a zero makes of it.
    let (x, y) = match (x, y) {
        (Some(x), Some(y)) => (x, y),
        (Some(x), None) | (None, Some(x)) if binary == Binary::Mul => {
            let y = Ranges { from_end: x.from_end, ..unbounded(x.low.len()) };
            (x, y)
        }
        _ => return None,
    };
    let (n, m) = (x.low.len(), y.low.len());
    if n != 1 && m != 1 && (n != m || x.from_end != y.from_end) {
        return None;
    }
    let from_end = if n == 1 { y.from_end } else { x.from_end };
    let get =
        |r: &Ranges, i: usize| if r.low.len() == 1 { (r.low[0], r.high[0]) } else { (r.low[i], r.high[i]) };
    let mut low = Vec::new();
    let mut high = Vec::new();
    for i in 0..n.max(m) {
        let ((a, b), (c, d)) = (get(&x, i), get(&y, i));
        let (l, h) = match binary {
            Binary::Add => (a + c, b + d),
            Binary::Sub => (a - d, b - c),
            Binary::Mul => {
                let all = [times(a, c), times(a, d), times(b, c), times(b, d)];
                (
                    all.iter().copied().fold(f64::INFINITY, f64::min),
                    all.iter().copied().fold(f64::NEG_INFINITY, f64::max),
                )
            }
            Binary::Div if c > 0.0 || d < 0.0 => {
                let all = [a / c, a / d, b / c, b / d];
                (
                    all.iter().copied().fold(f64::INFINITY, f64::min),
                    all.iter().copied().fold(f64::NEG_INFINITY, f64::max),
                )
            }
            _ => return None,
        };
        low.push(if l.is_nan() { f64::NEG_INFINITY } else { l });
        high.push(if h.is_nan() { f64::INFINITY } else { h });
    }
    Some(Ranges { from_end, low, high })
}

/// Bounds along a dimension that stays, or that is merged with others.
pub(super) fn reshaped(x: &Ranges, from: &[usize], to: &[usize]) -> Option<Ranges> {
    let dim = from.len() - x.from_end;
    let inner: usize = from[dim + 1..].iter().product();
    let size = x.low.len();
    if from[dim] != size || size <= 1 {
        return None;
    }
    let mut after = 1;
    for (at, &n) in to.iter().enumerate().rev() {
        if after <= inner
            && after * n >= inner * size
            && inner.is_multiple_of(after)
            && (after * n).is_multiple_of(inner * size)
        {
            let channel = |i: usize| i * after / inner % size;
            let (low, high) = (0..n).map(|i| (x.low[channel(i)], x.high[channel(i)])).unzip();
            return Some(Ranges { from_end: to.len() - at, low, high });
        }
        after *= n;
    }
    None
}

pub(super) fn concatenated(
    all: &[Option<Ranges>],
    facts: Facts<'_>,
    inputs: &[ValueId],
    axis: i64,
) -> Option<Ranges> {
    let rank = facts.shape(*inputs.first()?)?.len();
    let dim = if axis < 0 { axis + rank as i64 } else { axis } as usize;
    let from_end = rank.checked_sub(dim)?;
    let (mut low, mut high) = (Vec::new(), Vec::new());
    for id in inputs {
        let size = *facts.shape(*id)?.get(dim)?;
        let part = all[id.index()].clone().filter(|r| r.from_end == from_end && r.low.len() == size);
        let part = part.unwrap_or_else(|| unbounded(size));
        low.extend(part.low);
        high.extend(part.high);
    }
    Some(Ranges { from_end, low, high })
}
