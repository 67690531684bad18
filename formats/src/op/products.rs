//! Which operands of which operators are weights of a product, and how they lie as its matrix.
//!
//! The one list: pruning, storing, counting and lowering all read it, so that nothing is pruned that no kernel takes.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::Op;
use super::einsum::Equation;

/// How a tensor lies as the matrix `[parts · rows, cols]` of a product: a row is one output, a column one input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MatrixForm {
    /// Matrices one after the other in the tensor: directions of a recurrent layer, groups, a batch.
    pub parts: usize,
    /// Outputs of each.
    pub rows: usize,
    /// Inputs of each.
    pub cols: usize,
    /// Whether each lies as `[cols, rows]`.
    pub transposed: bool,
}

impl MatrixForm {
    /// One matrix: the axes of `shape` before `at` are its rows, the others its columns; if transposed, the other way round.
    /// `None` when there are no axes on one side, or sizes overflow.
    pub fn split(shape: &[usize], at: usize, transposed: bool) -> Option<Self> {
        let (first, second) = shape.split_at_checked(at)?;
        if first.is_empty() || second.is_empty() {
            return None;
        }
        let [first, second] = [product(first)?, product(second)?];
        first.checked_mul(second)?;
        let (rows, cols) = if transposed { (second, first) } else { (first, second) };
        Some(Self { parts: 1, rows, cols, transposed })
    }

    /// The common forms: `[out, in…]`, and, transposed, `[in, out]`.
    pub fn of(shape: &[usize], transposed: bool) -> Option<Self> {
        Self::split(shape, 1, transposed).filter(|_| !transposed || shape.len() == 2)
    }

    /// The elements of a tensor in the order of the matrix: row by row.
    pub fn rows_of<'a, T: Copy + Default>(&self, values: &'a [T]) -> Cow<'a, [T]> {
        if !self.transposed {
            return Cow::Borrowed(values);
        }
        let mut to = vec![T::default(); values.len()];
        transpose_parts([self.cols, self.rows], values, &mut to);
        Cow::Owned(to)
    }

    /// Writes the tensor whose elements, row by row of the matrix, are `rows`.
    pub fn tensor_of<T: Copy>(&self, rows: &[T], to: &mut [T]) {
        if self.transposed {
            transpose_parts([self.rows, self.cols], rows, to);
        } else {
            to.copy_from_slice(rows);
        }
    }

    /// Rows and columns of the whole matrix.
    pub fn size(&self) -> [usize; 2] {
        [self.parts * self.rows, self.cols]
    }

    /// Elements; `None` when they overflow.
    pub fn elements(&self) -> Option<usize> {
        self.parts.checked_mul(self.rows)?.checked_mul(self.cols)
    }

    /// Whether a tensor of `shape` has as many elements.
    pub fn fits(&self, shape: &[usize]) -> bool {
        shape.len() > 1 && product(shape).is_some_and(|len| self.elements() == Some(len))
    }

    /// Place in the tensor of an element of the whole matrix.
    #[inline]
    pub fn at(&self, row: usize, col: usize) -> usize {
        if self.transposed {
            (row / self.rows * self.cols + col) * self.rows + row % self.rows
        } else {
            row * self.cols + col
        }
    }
}

/// Transposes each part, `[a, b]` in `from`.
fn transpose_parts<T: Copy>([a, b]: [usize; 2], from: &[T], to: &mut [T]) {
    let len = (a * b).max(1);
    for (from, to) in from.chunks_exact(len).zip(to.chunks_exact_mut(len)) {
        // Strips of 16 rows, so that both sides stay in cache.
        for first in (0..a).step_by(16) {
            for col in 0..b {
                for row in first..a.min(first + 16) {
                    to[col * a + row] = from[row * b + col];
                }
            }
        }
    }
}

/// An operand that is the weight of a product wherever it is constant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Product {
    /// The operand.
    pub input: usize,
    /// How it lies.
    pub form: MatrixForm,
    /// Columns that each row is multiplied with, where the shapes say.
    pub columns: Option<usize>,
}

fn product(dims: &[usize]) -> Option<usize> {
    dims.iter().try_fold(1_usize, |p, &d| p.checked_mul(d))
}

impl Op {
    /// The operands that are weights of a product if they are constant, as far as the shapes of the operands and of the
    /// first output tell how they lie.
    pub fn products(&self, inputs: &[Option<&[usize]>], output: Option<&[usize]>) -> Vec<Product> {
        let shape = |i: usize| inputs.get(i).copied().flatten();
        // Each row makes one element of the output for each column.
        let by_output = |form: MatrixForm| {
            let rows = form.parts.checked_mul(form.rows)?;
            Some(product(output?)?.checked_div(rows).unwrap_or(0))
        };
        let operand = |input: usize, form: Option<MatrixForm>| {
            let form = form.filter(|form| shape(input).is_some_and(|shape| form.fits(shape)))?;
            Some(Product { input, form, columns: by_output(form) })
        };
        let split = |i: usize, at: usize, transposed| MatrixForm::split(shape(i)?, at, transposed);
        if let Self::MatMul | Self::MatMulInteger | Self::QLinearMatMul = self {
            let right = if matches!(self, Self::QLinearMatMul) { 3 } else { 1 };
            let left = split(0, 1, false).filter(|_| shape(0).is_some_and(|s| s.len() == 2));
            let all = [operand(right, shape(right).and_then(right_hand)), operand(0, left)];
            return all.into_iter().flatten().collect();
        }
        if let Self::Gemm { trans_a, trans_b, .. } = self {
            let all = [operand(1, split(1, 1, !trans_b)), operand(0, split(0, 1, *trans_a))];
            return all.into_iter().flatten().collect();
        }
        if let Self::Conv(_) | Self::ConvInteger(_) | Self::QLinearConv(_) = self {
            let weight = if matches!(self, Self::QLinearConv(_)) { 3 } else { 1 };
            return operand(weight, split(weight, 1, false)).into_iter().collect();
        }
        if let Self::ConvTranspose { conv, .. } = self {
            // `[channels, filters / groups, kernel…]`
            let form =
                split(1, 1, true).filter(|form| conv.group > 0 && form.cols.is_multiple_of(conv.group));
            let form =
                form.map(|form| MatrixForm { parts: conv.group, cols: form.cols / conv.group, ..form });
            let pixels =
                shape(0).and_then(|x| Some(product(x)?.checked_div(x.get(1).copied()?).unwrap_or(0)));
            return operand(1, form).into_iter().map(|p| Product { columns: pixels, ..p }).collect();
        }
        if let Self::Recurrent(_) = self {
            // W and R, `[directions, gates · hidden, inputs]` each.
            let steps = shape(0).and_then(|x| product(x.get(..2)?));
            let all = [1, 2].map(|i| operand(i, split(i, 2, false)));
            return all.into_iter().flatten().map(|p| Product { columns: steps, ..p }).collect();
        }
        if let Self::Einsum { equation } = self {
            let Ok(equation) = Equation::parse(equation) else { return Vec::new() };
            let all = [0, 1].map(|i| operand(i, equation.form(i, shape(i)?)));
            return all.into_iter().flatten().collect();
        }
        Vec::new()
    }
}

/// The right operand of a MatMul: `[…, inputs, outputs]`.
fn right_hand(shape: &[usize]) -> Option<MatrixForm> {
    let &[ref batch @ .., cols, rows] = shape else { return None };
    Some(MatrixForm { parts: product(batch)?, rows, cols, transposed: true })
}

/// What an axis of a weight is to the product of an Einsum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AxisRole {
    /// An axis of all three: of a batch of products.
    Batch,
    /// Of the weight and the result.
    Row,
    /// Of the weight and the other operand: summed over.
    Col,
}

impl Equation {
    /// What each axis of operand `index`, of shape `shape`, is to a product with the one other operand. `None` when the
    /// equation is no product, or when an axis that both have might be spread over the other's.
    pub fn roles(&self, index: usize, shape: &[usize]) -> Option<Vec<AxisRole>> {
        let [a, b] = &self.inputs[..] else { return None };
        let (own, other) = if index == 0 { (a, b) } else { (b, a) };
        let names = own.names(shape.len())?;
        let distinct = names.iter().enumerate().all(|(i, name)| !names[..i].contains(name));
        // An axis that `...` hides in the other operand must be in the result, where it then is one of its columns.
        let hidden_lost = other.after.is_some() && self.output.as_ref().is_some_and(|o| o.after.is_none());
        let output = self.output_letters();
        let others: Vec<char> = other.letters().collect();
        // (Nor may the other be summed over alone, or take a diagonal.)
        let others_fit = others
            .iter()
            .enumerate()
            .all(|(i, name)| !others[..i].contains(name) && (names.contains(name) || output.contains(name)));
        if !distinct || hidden_lost || !others_fit {
            return None;
        }
        let role = |(name, &dim): (&char, &usize)| match (others.contains(name), output.contains(name)) {
            (true, _) if dim == 1 => None,
            (true, true) => Some(AxisRole::Batch),
            (true, false) => Some(AxisRole::Col),
            (false, true) => Some(AxisRole::Row),
            (false, false) => None,
        };
        names.iter().zip(shape).map(role).collect()
    }

    /// How operand `index` lies as a matrix: `[batch…, rows…, cols…]`, `[batch…, cols…, rows…]` or `[rows…, cols…, rows…]`.
    fn form(&self, index: usize, shape: &[usize]) -> Option<MatrixForm> {
        let roles = self.roles(index, shape)?;
        let mut runs: Vec<(AxisRole, usize)> = Vec::new();
        for (&role, &dim) in roles.iter().zip(shape) {
            match runs.last_mut() {
                Some((last, size)) if *last == role => *size = size.checked_mul(dim)?,
                _ => runs.push((role, dim)),
            }
        }
        let (parts, rest) = match runs[..] {
            [(AxisRole::Batch, parts), ref rest @ ..] => (parts, rest),
            [(AxisRole::Row, parts), (AxisRole::Col, _), (AxisRole::Row, _)] => (parts, &runs[1..]),
            ref rest => (1, rest),
        };
        match *rest {
            [(AxisRole::Row, rows), (AxisRole::Col, cols)] => {
                Some(MatrixForm { parts, rows, cols, transposed: false })
            }
            [(AxisRole::Col, cols), (AxisRole::Row, rows)] => {
                Some(MatrixForm { parts, rows, cols, transposed: true })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::{ConvAttributes, Direction, Padding, RecurrentAttributes, RecurrentKind};

    fn form(parts: usize, rows: usize, cols: usize, transposed: bool) -> MatrixForm {
        MatrixForm { parts, rows, cols, transposed }
    }

    fn listed(op: &Op, inputs: &[&[usize]], output: &[usize]) -> Vec<(usize, MatrixForm, Option<usize>)> {
        let inputs: Vec<_> = inputs.iter().map(|&s| Some(s)).collect();
        op.products(&inputs, Some(output)).into_iter().map(|p| (p.input, p.form, p.columns)).collect()
    }

    #[test]
    fn every_operator_that_multiplies_lists_its_weights() {
        let gemm = |trans_a, trans_b| Op::Gemm { alpha: 1.0, beta: 1.0, trans_a, trans_b };
        let conv = |group| ConvAttributes {
            group,
            kernel: vec![],
            strides: vec![],
            dilations: vec![],
            padding: Padding::Valid,
        };
        assert_eq!(
            listed(&Op::MatMul, &[&[2, 5, 7], &[7, 3]], &[2, 5, 3]),
            [(1, form(1, 3, 7, true), Some(10))]
        );
        assert_eq!(
            listed(&Op::MatMul, &[&[4, 7], &[2, 7, 3]], &[2, 4, 3]),
            [(1, form(2, 3, 7, true), Some(4)), (0, form(1, 4, 7, false), Some(6))]
        );
        assert_eq!(listed(&Op::MatMul, &[&[7], &[7]], &[]), []);
        assert_eq!(
            listed(&gemm(false, true), &[&[5, 7], &[3, 7]], &[5, 3]),
            [(1, form(1, 3, 7, false), Some(5)), (0, form(1, 5, 7, false), Some(3))]
        );
        let found = listed(&Op::Conv(conv(2)), &[&[1, 4, 9, 9], &[6, 2, 3, 3]], &[1, 6, 7, 7]);
        assert_eq!(found, [(1, form(1, 6, 18, false), Some(49))]);
        let op = Op::ConvTranspose { conv: conv(2), output_padding: vec![], output_shape: vec![] };
        let found = listed(&op, &[&[3, 4, 5, 5], &[4, 6, 2, 2]], &[3, 12, 6, 6]);
        assert_eq!(found, [(1, form(2, 24, 2, true), Some(75))]);
        let op = Op::Recurrent(RecurrentAttributes {
            kind: RecurrentKind::Rnn,
            hidden_size: 3,
            direction: Direction::Bidirectional,
            activations: vec![],
            activation_alpha: vec![],
            activation_beta: vec![],
            clip: None,
            batch_first: false,
        });
        let found = listed(&op, &[&[5, 2, 4], &[2, 3, 4], &[2, 3, 3]], &[5, 2, 2, 3]);
        assert_eq!(found, [(1, form(1, 6, 4, false), Some(10)), (2, form(1, 6, 3, false), Some(10))]);
        assert_eq!(listed(&Op::Identity, &[&[4, 4]], &[4, 4]), []);
    }

    #[test]
    fn equations_that_are_products_say_how_their_weight_lies() {
        let cases: [(&str, &[usize], Option<MatrixForm>); 11] = [
            ("bnc,cd->bnd", &[4, 6], Some(form(1, 6, 4, true))),
            ("...c,dc->...d", &[6, 4], Some(form(1, 6, 4, false))),
            ("bqc,chd->bhqd", &[4, 2, 3], Some(form(1, 6, 4, true))),
            ("bqhd,hde->bqe", &[2, 3, 5], Some(form(1, 5, 6, true))),
            ("bqc,hcd->bhqd", &[2, 4, 3], Some(form(2, 3, 4, true))),
            ("ebn,ebm->enm", &[3, 4, 5], Some(form(3, 5, 4, true))),
            // An axis of one element may be spread.
            ("bnc,cd->bnd", &[1, 6], None),
            // Summed over alone, a diagonal, no axis of its own, elementwise.
            ("bnc,cd->bn", &[4, 6], None),
            ("bnc,cc->bn", &[4, 4], None),
            ("bnc,nc->bn", &[4, 6], None),
            ("bnc,nc->bnc", &[4, 6], None),
        ];
        for (equation, shape, expected) in cases {
            let op = Op::Einsum { equation: equation.to_owned() };
            let found = op.products(&[None, Some(shape)], None);
            let expected: Vec<_> =
                expected.map(|form| Product { input: 1, form, columns: None }).into_iter().collect();
            assert_eq!(found, expected, "{equation}");
        }
    }

    #[test]
    fn places_in_the_tensor_are_each_taken_once() {
        for form in [form(1, 3, 4, false), form(1, 3, 4, true), form(2, 3, 4, true), form(2, 3, 4, false)] {
            let [rows, cols] = form.size();
            let mut places: Vec<_> = (0..rows).flat_map(|r| (0..cols).map(move |c| form.at(r, c))).collect();
            places.sort_unstable();
            assert_eq!(places, (0..rows * cols).collect::<Vec<_>>());
        }
        assert_eq!(form(2, 3, 4, true).at(4, 2), 12 + 2 * 3 + 1);
    }
}
