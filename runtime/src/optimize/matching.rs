//! Reading a graph backwards from a node: what patterns of passes and of lowering ask alike.

use poda_formats::op::{Binary, Unary};
use poda_formats::{Op, Tensor, ValueId};

/// What a pattern sees.
pub(crate) trait View {
    /// The operator that makes a value as its first output, and its inputs.
    fn made_by(&self, id: ValueId) -> Option<(&Op, &[Option<ValueId>])>;
    /// The elements of a dense constant.
    fn constant(&self, id: ValueId) -> Option<&Tensor>;
    /// Whether a value is used once, as an input or as a result.
    fn once(&self, id: ValueId) -> bool;

    /// Elements of a dense f32 constant.
    fn f32s(&self, id: ValueId) -> Option<&[f32]> {
        self.constant(id)?.as_slice().ok()
    }

    /// The one element of an f32 constant, of whatever rank.
    fn scalar(&self, id: ValueId) -> Option<f32> {
        match *self.f32s(id)? {
            [value] => Some(value),
            _ => None,
        }
    }

    /// The input of the function `f` that makes a value.
    fn unary(&self, id: ValueId, f: Unary) -> Option<ValueId> {
        let (op, inputs) = self.made_by(id)?;
        (*op == Op::Unary(f)).then(|| input(inputs, 0))?
    }

    /// The inputs of the function `f` that makes a value.
    fn binary(&self, id: ValueId, f: Binary) -> Option<(ValueId, ValueId)> {
        let (op, inputs) = self.made_by(id)?;
        (*op == Op::Binary(f)).then(|| input(inputs, 0).zip(input(inputs, 1)))?
    }

    /// The other input and the scalar of a commutative function `f` that makes a value.
    fn with_scalar(&self, id: ValueId, f: Binary) -> Option<(ValueId, f32)> {
        let (a, b) = self.binary(id, f)?;
        match (self.scalar(a), self.scalar(b)) {
            (_, Some(scalar)) => Some((a, scalar)),
            (Some(scalar), None) => Some((b, scalar)),
            (None, None) => None,
        }
    }

    /// The dividend and the scalar by which it is divided.
    fn with_divisor(&self, id: ValueId) -> Option<(ValueId, f32)> {
        let (a, b) = self.binary(id, Binary::Div)?;
        Some((a, self.scalar(b)?))
    }

    /// The base and the exponent of a small power.
    fn power(&self, id: ValueId) -> Option<(ValueId, usize)> {
        let (base, exponent) = self.binary(id, Binary::Pow)?;
        let exponent = self.scalar(exponent)?;
        [1, 2, 3].into_iter().find(|&n| n as f32 == exponent).map(|n| (base, n))
    }

    /// A value as a product: its factors and a coefficient. Goes through multiplications, divisions by scalars, negations
    /// and small powers, as long as nobody else uses what they give.
    fn factors(&self, id: ValueId) -> (Vec<ValueId>, f32) {
        let (mut factors, mut coefficient) = (Vec::new(), 1.0);
        let mut open = vec![id];
        while let Some(value) = open.pop() {
            if let Some(scalar) = self.scalar(value) {
                coefficient *= scalar;
                continue;
            }
            // Beyond a few factors no pattern is looked for.
            if factors.len() + open.len() > 8 || (value != id && !self.once(value)) {
                factors.push(value);
                continue;
            }
            if let Some((a, b)) = self.binary(value, Binary::Mul) {
                open.extend([a, b]);
            } else if let Some((a, scalar)) = self.with_divisor(value) {
                coefficient /= scalar;
                open.push(a);
            } else if let Some(a) = self.unary(value, Unary::Neg) {
                coefficient = -coefficient;
                open.push(a);
            } else if let Some((base, power)) = self.power(value) {
                open.extend(std::iter::repeat_n(base, power));
            } else {
                factors.push(value);
            }
        }
        factors.sort_unstable();
        (factors, coefficient)
    }
}

/// Input `index`, when present.
pub(crate) fn input(inputs: &[Option<ValueId>], index: usize) -> Option<ValueId> {
    inputs.get(index).copied().flatten()
}

/// Whether a constant, perhaps the product of several, is `b` but for its rounding to f32. A constant that is written with
/// fewer digits is another function.
pub(crate) fn close(a: f32, b: f32) -> bool {
    (a - b).abs() <= 4.0 * f32::EPSILON * b.abs()
}
