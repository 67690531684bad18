//! Between which bounds the elements of a value stay, and how operators change them.

use poda_formats::op::{Binary, ConvAttributes, Padding, Unary};
use poda_formats::{DataType, Op, Tensor, ValueId};
use poda_runtime::{Output, ops};

use super::range::Bounds;
use crate::criterion::float_values;
use crate::dependency::Facts;

/// Bounds of the elements of a value: a pair for each index along one dimension, or one pair for all elements.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Ranges {
    /// The dimension, counted from the end; means nothing when there is one pair.
    from_end: usize,
    pairs: Vec<(f64, f64)>,
}

impl Ranges {
    /// The same bounds for all elements.
    pub(super) fn all(low: f64, high: f64) -> Self {
        Self { from_end: 1, pairs: vec![(low, high)] }
    }

    /// Bounds by index along a dimension; nothing is known when there is none.
    pub(super) fn along(from_end: usize, pairs: Vec<(f64, f64)>) -> Self {
        if pairs.is_empty() { Self::unknown() } else { Self { from_end, pairs } }
    }

    /// No bounds.
    pub(super) fn unknown() -> Self {
        Self::all(f64::NEG_INFINITY, f64::INFINITY)
    }

    /// What an input of the model may hold: any finite number up to `greatest`.
    pub(super) fn of_input(dtype: DataType, greatest: f64) -> Self {
        let most = match dtype {
            DataType::F32 | DataType::BF16 => f64::from(f32::MAX),
            DataType::F16 => 65504.0,
            DataType::F64 => f64::MAX,
            _ => return Self::unknown(),
        };
        Self::all(-most.min(greatest), most.min(greatest))
    }

    /// Bounds of a constant.
    pub(super) fn of(tensor: &Tensor) -> Option<Self> {
        let values = float_values(tensor)?;
        if values.iter().any(|v| v.is_nan()) {
            return Some(Self::unknown());
        }
        let wide: Vec<usize> = (0..tensor.rank()).filter(|&d| tensor.shape()[d] != 1).collect();
        let pairs: Vec<(f64, f64)> = values.into_iter().map(|v| (f64::from(v), f64::from(v))).collect();
        Some(match wide[..] {
            [dim] => Self::along(tensor.rank() - dim, pairs),
            _ => Self::along(1, hull(&pairs).into_iter().collect()),
        })
    }

    /// A pair for each of `n` indices along a dimension: bounds along another one are widened to hold all.
    pub(super) fn spread(&self, from_end: usize, n: usize) -> Vec<(f64, f64)> {
        if self.from_end == from_end && self.pairs.len() == n {
            return self.pairs.clone();
        }
        vec![hull(&self.pairs).unwrap_or((f64::NEG_INFINITY, f64::INFINITY)); n]
    }

    /// Bounds that hold for every element.
    pub(super) fn hull(&self) -> Self {
        Self::along(1, hull(&self.pairs).into_iter().collect())
    }

    /// The dimension, counted from the end, and its size; `None` when all elements share their bounds.
    pub(super) fn dimension(&self) -> Option<(usize, usize)> {
        (self.pairs.len() > 1).then_some((self.from_end, self.pairs.len()))
    }

    pub(super) fn map(&self, mut f: impl FnMut((f64, f64)) -> (f64, f64)) -> Self {
        let pairs = self.pairs.iter().map(|&pair| known(f(pair))).collect();
        Self { from_end: self.from_end, pairs }
    }

    /// With zero within the bounds, as padding brings in.
    pub(super) fn with_zero(&self) -> Self {
        self.map(|(low, high)| (low.min(0.0), high.max(0.0)))
    }

    /// The same bounds along the dimension that another rank counts `from_end` from its end.
    pub(super) fn moved(self, from_end: usize) -> Self {
        Self { from_end, ..self }
    }
}

fn hull(pairs: &[(f64, f64)]) -> Option<(f64, f64)> {
    pairs.iter().copied().reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))
}

/// What is not a number bounds nothing.
fn known((low, high): (f64, f64)) -> (f64, f64) {
    (if low.is_nan() { f64::NEG_INFINITY } else { low }, if high.is_nan() { f64::INFINITY } else { high })
}

/// The value of elements that have only one.
pub(super) fn constant((low, high): (f64, f64)) -> Option<f64> {
    (low == high && low.is_finite()).then_some(low)
}

/// `x · y`, where anything times zero is zero.
pub(super) fn times(x: f64, y: f64) -> f64 {
    if x == 0.0 || y == 0.0 { 0.0 } else { x * y }
}

pub(super) fn ordered(a: f64, b: f64) -> (f64, f64) {
    if a.is_nan() || b.is_nan() { (f64::NEG_INFINITY, f64::INFINITY) } else { (a.min(b), a.max(b)) }
}

pub(super) fn padded(padding: &Padding) -> bool {
    match padding {
        Padding::Explicit(pads) => pads.iter().any(|&p| p != 0),
        Padding::SameUpper | Padding::SameLower => true,
        Padding::Valid => false,
    }
}

/// A sum of bounded terms, each scaled.
#[derive(Clone, Copy, Default)]
struct Sum(f64, f64);

impl Sum {
    fn add(&mut self, weight: f32, (low, high): (f64, f64)) {
        let weight = f64::from(weight);
        let (a, b) = ordered(times(weight, low), times(weight, high));
        (self.0, self.1) = (self.0 + a, self.1 + b);
    }
}

/// `bias` has a pair for each output channel.
pub(super) fn convolution(
    conv: &ConvAttributes,
    weight: &[f32],
    shape: &[usize],
    bias: &[(f64, f64)],
    x: &Ranges,
) -> Option<Ranges> {
    let (&out, &each, window) = (shape.first()?, shape.get(1)?, shape.get(2..)?.iter().product::<usize>());
    let group = conv.group.max(1);
    let x = if padded(&conv.padding) { x.with_zero() } else { x.clone() };
    let x = x.spread(shape.len() - 1, each * group);
    let pairs = (0..out).map(|o| {
        let mut sum = Sum::default();
        for i in 0..each {
            let channel = o / (out / group).max(1) * each + i;
            let taps = weight.get((o * each + i) * window..).unwrap_or_default().iter().take(window);
            taps.for_each(|&w| {
                sum.add(w, x.get(channel).copied().unwrap_or((f64::NEG_INFINITY, f64::INFINITY)));
            });
        }
        sum.add(1.0, bias[o]);
        known((sum.0, sum.1))
    });
    Some(Ranges::along(shape.len() - 1, pairs.collect()))
}

/// `alpha · x W + bias` with W `[k, n]`, or `[n, k]` transposed; `bias` has a pair for each of the n.
pub(super) fn product(
    weight: &[f32],
    shape: &[usize],
    transposed: bool,
    alpha: f32,
    bias: &[(f64, f64)],
    x: &Ranges,
) -> Option<Ranges> {
    let [rows, columns] = *shape else { return None };
    let (k, n) = if transposed { (columns, rows) } else { (rows, columns) };
    let x = x.spread(1, k);
    let mut sums = vec![Sum::default(); n];
    for (i, &x) in x.iter().enumerate() {
        for (o, sum) in sums.iter_mut().enumerate() {
            sum.add(weight[if transposed { o * k + i } else { i * n + o }] * alpha, x);
        }
    }
    sums.iter_mut().zip(bias).for_each(|(sum, &bias)| sum.add(1.0, bias));
    Some(Ranges::along(1, sums.into_iter().map(|sum| known((sum.0, sum.1))).collect()))
}

fn is_monotone(unary: Unary) -> bool {
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
    let at = |end: &dyn Fn(&(f64, f64)) -> f64| -> Option<Vec<f64>> {
        let values: Vec<f32> = x.pairs.iter().map(|pair| end(pair) as f32).collect();
        let tensor = Tensor::from_slice(&[values.len()], &values);
        let mut outputs = [Output::Fresh(None)];
        ops::run(&Op::Unary(unary), &[Some(tensor.view())], &mut outputs).ok()?;
        let Output::Fresh(Some(result)) = outputs.into_iter().next()? else { return None };
        Some(float_values(&result.into_tensor())?.into_iter().map(f64::from).collect())
    };
    let (low, high) = (at(&|pair| pair.0)?, at(&|pair| pair.1)?);
    let monotone = is_monotone(unary);
    let mut ends = low.into_iter().zip(high);
    Some(x.map(|pair| match ends.next() {
        Some((a, b)) if monotone || constant(pair).is_some() => ordered(a, b),
        _ => (f64::NEG_INFINITY, f64::INFINITY),
    }))
}

pub(super) fn binary_ranges(binary: Binary, x: &Ranges, y: &Ranges) -> Ranges {
    let (from_end, n) = match (x.dimension(), y.dimension()) {
        (Some(one), Some(other)) if one != other => return binary_ranges(binary, &x.hull(), &y.hull()),
        (Some(one), _) | (None, Some(one)) => one,
        (None, None) => (1, 1),
    };
    let (x, y) = (x.spread(from_end, n), y.spread(from_end, n));
    let pairs = x.into_iter().zip(y).map(|((a, b), (c, d))| {
        known(match binary {
            Binary::Add => (a + c, b + d),
            Binary::Sub => (a - d, b - c),
            Binary::Mul => among([times(a, c), times(a, d), times(b, c), times(b, d)]),
            Binary::Div if c > 0.0 || d < 0.0 => among([a / c, a / d, b / c, b / d]),
            _ => (f64::NEG_INFINITY, f64::INFINITY),
        })
    });
    Ranges::along(from_end, pairs.collect())
}

fn among(all: [f64; 4]) -> (f64, f64) {
    if all.iter().any(|v| v.is_nan()) {
        return (f64::NEG_INFINITY, f64::INFINITY);
    }
    (all.iter().copied().fold(f64::INFINITY, f64::min), all.iter().copied().fold(f64::NEG_INFINITY, f64::max))
}

/// Bounds along a dimension that stays, or that is merged with others; else those of all elements.
pub(super) fn reshaped(x: &Ranges, from: &[usize], to: &[usize]) -> Ranges {
    let Some((from_end, size)) = x.dimension() else { return x.clone() };
    let Some(dim) = from.len().checked_sub(from_end).filter(|&dim| from[dim] == size) else {
        return x.hull();
    };
    let inner: usize = from[dim + 1..].iter().product();
    let mut after = 1;
    for (at, &n) in to.iter().enumerate().rev() {
        if after > 0
            && after <= inner
            && after * n >= inner * size
            && inner.is_multiple_of(after)
            && (after * n).is_multiple_of(inner * size)
        {
            let channel = |i: usize| i * after / inner % size;
            return Ranges::along(to.len() - at, (0..n).map(|i| x.pairs[channel(i)]).collect());
        }
        after *= n;
    }
    x.hull()
}

pub(super) fn concatenated(all: &Bounds, facts: Facts<'_>, inputs: &[ValueId], axis: i64) -> Option<Ranges> {
    let rank = facts.shape(*inputs.first()?)?.len();
    let dim = usize::try_from(if axis < 0 { axis + rank as i64 } else { axis }).ok()?;
    let from_end = rank.checked_sub(dim)?;
    let mut pairs = Vec::new();
    for &id in inputs {
        pairs.extend(all.of(id).spread(from_end, *facts.shape(id)?.get(dim)?));
    }
    Some(Ranges::along(from_end, pairs))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_along_a_dimension_of_any_rank() {
        let scalar = Ranges::of(&Tensor::scalar(2.0_f32)).unwrap();
        assert_eq!(scalar, Ranges::all(2.0, 2.0));
        assert_eq!(reshaped(&scalar, &[], &[1, 1]), scalar);
        let two = Ranges::of(&Tensor::from_slice(&[2, 1], &[1.0_f32, 3.0])).unwrap();
        assert_eq!(two.dimension(), Some((2, 2)));
        // Seen along the last dimension, each element is one of both.
        assert_eq!(two.spread(1, 2), [(1.0, 3.0); 2]);
        assert_eq!(reshaped(&two, &[2, 1], &[1, 2, 1]).dimension(), Some((2, 2)));
        assert_eq!(reshaped(&two, &[2, 0], &[0, 2]), Ranges::all(1.0, 3.0));
        let sum = binary_ranges(
            Binary::Add,
            &two,
            &Ranges::of(&Tensor::from_slice(&[2], &[0.0_f32, 5.0])).unwrap(),
        );
        assert_eq!(sum, Ranges::all(1.0, 8.0));
        assert_eq!(Ranges::of(&Tensor::from_slice::<f32>(&[2, 0], &[])).unwrap(), Ranges::unknown());
    }

    #[test]
    fn only_exact_zeros_silence_what_is_unbounded() {
        let x = Ranges::all(f64::NEG_INFINITY, f64::INFINITY);
        let weight = [0.0, 1e-38, 0.0, 0.0];
        let y = product(&weight, &[2, 2], false, 1.0, &[(0.5, 0.5), (1.0, 1.0)], &x).unwrap();
        assert_eq!(y.spread(1, 2), [(0.5, 0.5), (f64::NEG_INFINITY, f64::INFINITY)]);
        let tanh = unary_ranges(Unary::Tanh, &y).unwrap();
        assert_eq!(tanh.spread(1, 2)[1], (-1.0, 1.0));
        let gelu = unary_ranges(Unary::Gelu { approximate: false }, &tanh).unwrap();
        assert!(constant(gelu.spread(1, 2)[0]).is_some());
        assert_eq!(gelu.spread(1, 2)[1], (f64::NEG_INFINITY, f64::INFINITY));
    }
}
