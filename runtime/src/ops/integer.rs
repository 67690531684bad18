//! Products of quantised tensors: MatMulInteger, ConvInteger, QLinearMatMul, QLinearConv.

use poda_formats::op::ConvAttributes;
use poda_formats::{DataType, TensorView};

use super::args::{Infos, one, optional, required};
use super::conv::{convolve, output_info};
use super::elementwise::wide::widest;
use super::facts::{Fact, bad_shape, float_type, known, same_type, shape};
use super::geometry::Convolution;
use super::matmul::Batched;
use super::real::load;
use super::{Inputs, OpError};
use crate::info::Info;
use crate::output::Output;
use crate::packing::scratch::Scratch;
use crate::threads::share::{cost, for_elements, for_rows};

/// Element type of input `index`, which must have 8 bits.
fn byte_type<'a, F: Fact<'a>>(inputs: &[Option<F>], index: usize) -> Result<DataType, OpError> {
    match required(inputs, index)?.element_type() {
        found @ (DataType::I8 | DataType::U8) => Ok(found),
        found => Err(OpError::InputType { index, expected: "i8 or u8", found }),
    }
}

/// The elements of `view`, of 8 bits, as i32.
fn widen(view: TensorView<'_>) -> Vec<i32> {
    let bytes = view.bytes();
    let signed = view.dtype() == DataType::I8;
    let mut values = vec![0; bytes.len()];
    for_elements(&mut values, cost::COPY, |start, values| {
        let bytes = &bytes[start..][..values.len()];
        widest(
            #[inline(always)]
            || {
                let pairs = values.iter_mut().zip(bytes);
                if signed {
                    pairs.for_each(|(v, &byte)| *v = i32::from(byte as i8));
                } else {
                    pairs.for_each(|(v, &byte)| *v = i32::from(byte));
                }
            },
        );
    });
    values
}

/// Subtracts from each row of `len` elements what `zero` writes for it.
fn subtract(values: &mut [i32], len: usize, zero: impl Fn(usize) -> i32 + Sync) {
    for_rows(values, len.max(1), cost::COPY, |i, row| {
        let zero = zero(i);
        widest(
            #[inline(always)]
            || row.iter_mut().for_each(|v| *v -= zero),
        );
    });
}

/// A parameter with one value, or one for each row or column.
struct PerLine<T> {
    values: Vec<T>,
}

impl<T: Copy> PerLine<T> {
    /// Input `index`, which has one value, `lines` values, or a multiple that fits all matrices of a batch.
    fn new(index: usize, shape: &[usize], values: Vec<T>, lines: usize) -> Result<Self, OpError> {
        if values.len() == 1 || (!values.is_empty() && lines > 1 && values.len().is_multiple_of(lines)) {
            return Ok(Self { values });
        }
        Err(bad_shape(index, shape, format!("expected one value or {lines}")))
    }

    fn of(&self, line: usize) -> T {
        self.values[line % self.values.len()]
    }
}

/// Input `index` as zero points for `lines` lines; 0 when it is left out.
fn zeros(inputs: &Inputs<'_>, index: usize, lines: usize) -> Result<PerLine<i32>, OpError> {
    match optional(inputs, index) {
        Some(view) => PerLine::new(index, view.shape(), widen(view), lines),
        None => Ok(PerLine { values: vec![0] }),
    }
}

/// Input `index` as scales for `lines` lines.
fn scales(inputs: &Inputs<'_>, index: usize, lines: usize) -> Result<PerLine<f32>, OpError> {
    let view = required(inputs, index)?;
    PerLine::new(index, view.shape(), load::<f32>(view).into_owned(), lines)
}

/// Shape of the product of inputs `a` and `b`.
fn product_infos<'a, F: Fact<'a>>(
    dtype: DataType,
    inputs: &[Option<F>],
    [a, b]: [usize; 2],
) -> Result<Vec<Info>, OpError> {
    let (Some(a), Some(b)) = (shape(inputs, a)?, shape(inputs, b)?) else { return Ok(one(dtype, None)) };
    Ok(one(dtype, Some(Batched::new(a, b)?.shape)))
}

/// The product of inputs `a` and `b` less their zero points; `zero` are the inputs that hold these.
fn product(
    inputs: &Inputs<'_>,
    [a, b]: [usize; 2],
    zero: [usize; 2],
    y: &mut [i32],
) -> Result<Batched, OpError> {
    let (a, b) = (required(inputs, a)?, required(inputs, b)?);
    let plan = Batched::new(a.shape(), b.shape())?;
    let (rows, k, cols) = (rows(a), a.shape().last().copied().unwrap_or(0), cols(b));
    let (mut left, mut right) = (widen(a), widen(b));
    let zero_a = zeros(inputs, zero[0], rows)?;
    subtract(&mut left, k, |i| zero_a.of(i));
    let zero_b = zeros(inputs, zero[1], cols)?;
    if zero_b.values.len() == 1 {
        subtract(&mut right, cols, |_| zero_b.of(0));
    } else {
        for_rows(&mut right, cols.max(1), cost::ARITHMETIC, |i, row| {
            let matrix = i / k.max(1) * cols;
            row.iter_mut().enumerate().for_each(|(j, v)| *v -= zero_b.of(matrix + j));
        });
    }
    plan.run(&left, &right, y);
    Ok(plan)
}

/// Rows of a matrix on the left.
fn rows(a: TensorView<'_>) -> usize {
    a.rank().checked_sub(2).map_or(1, |i| a.shape()[i])
}

/// Columns of a matrix on the right.
fn cols(b: TensorView<'_>) -> usize {
    if b.rank() < 2 { 1 } else { b.shape()[b.rank() - 1] }
}

fn matmul_infos<'a, F: Fact<'a>>(inputs: &[Option<F>]) -> Result<Vec<Info>, OpError> {
    for (index, zero) in [(0, 2), (1, 3)] {
        same_type(inputs, [zero], byte_type(inputs, index)?)?;
    }
    product_infos(DataType::I32, inputs, [0, 1])
}

pub(super) fn infer_matmul_integer(inputs: &Infos<'_>) -> Result<Vec<Info>, OpError> {
    matmul_infos(inputs)
}

pub(super) fn matmul_integer(inputs: &Inputs<'_>, outputs: &mut [Output<'_>]) -> Result<(), OpError> {
    let infos = matmul_infos(inputs)?;
    product(inputs, [0, 1], [2, 3], outputs[0].alloc(known(&infos, 0))?)?;
    Ok(())
}

/// Writes `round(value · scale) + zero` in the type of input `zero`, where `scales` writes the scales of a row of `len` values.
fn requantize(
    inputs: &Inputs<'_>,
    zero: usize,
    (products, len): (&[i32], usize),
    scales: impl Fn(usize, &mut [f32]) + Sync,
    dims: &[usize],
    output: &mut Output<'_>,
) -> Result<(), OpError> {
    /// Rows that `round` turns into elements of another type.
    fn rows<Y: Send>(
        (products, len): (&[i32], usize),
        scales: impl Fn(usize, &mut [f32]) + Sync,
        y: &mut [Y],
        round: impl Fn(f32) -> Y + Sync,
    ) {
        for_rows(y, len.max(1), 2 * cost::ARITHMETIC, |i, y| {
            let mut scratch = Scratch::new(y.len());
            scales(i, &mut scratch);
            let values = products[i * len..].iter().zip(&*scratch);
            widest(
                #[inline(always)]
                || y.iter_mut().zip(values).for_each(|(y, (&v, scale))| *y = round(v as f32 * scale)),
            );
        });
    }
    let zero_point = zeros(inputs, zero, 1)?.of(0) as f32;
    let products = (products, len);
    if required(inputs, zero)?.dtype() == DataType::I8 {
        rows(
            products,
            scales,
            output.alloc::<i8>(dims)?,
            #[inline(always)]
            |v| (v.round_ties_even() + zero_point) as i8,
        );
    } else {
        rows(
            products,
            scales,
            output.alloc::<u8>(dims)?,
            #[inline(always)]
            |v| (v.round_ties_even() + zero_point) as u8,
        );
    }
    Ok(())
}

fn qlinear_matmul_infos<'a, F: Fact<'a>>(inputs: &[Option<F>]) -> Result<Vec<Info>, OpError> {
    same_type(inputs, [2], byte_type(inputs, 0)?)?;
    same_type(inputs, [5], byte_type(inputs, 3)?)?;
    for index in [1, 4, 6] {
        float_type(inputs, index)?;
    }
    product_infos(byte_type(inputs, 7)?, inputs, [0, 3])
}

pub(super) fn infer_qlinear_matmul(inputs: &Infos<'_>) -> Result<Vec<Info>, OpError> {
    qlinear_matmul_infos(inputs)
}

pub(super) fn qlinear_matmul(inputs: &Inputs<'_>, outputs: &mut [Output<'_>]) -> Result<(), OpError> {
    let infos = qlinear_matmul_infos(inputs)?;
    let dims = known(&infos, 0);
    let mut products = vec![0_i32; dims.iter().product()];
    product(inputs, [0, 3], [2, 5], &mut products)?;
    let (m, n) = (rows(required(inputs, 0)?), cols(required(inputs, 3)?));
    let (a, b, y) = (scales(inputs, 1, m)?, scales(inputs, 4, n)?, scales(inputs, 6, 1)?.of(0));
    let scales = |row: usize, scales: &mut [f32]| {
        let (a, first) = (a.of(row), row / m.max(1) * n);
        scales.iter_mut().enumerate().for_each(|(i, scale)| *scale = a * b.of(first + i) / y);
    };
    requantize(inputs, 7, (&products, n), scales, dims, &mut outputs[0])
}

/// The convolution of inputs `x` and `w` less their zero points; `zero` are the inputs that hold these.
fn convolution(
    attributes: &ConvAttributes,
    inputs: &Inputs<'_>,
    [x, w]: [usize; 2],
    zero: [usize; 2],
    bias: Option<&[i32]>,
    y: &mut [i32],
) -> Result<Convolution, OpError> {
    let (x, w) = (required(inputs, x)?, required(inputs, w)?);
    let plan = Convolution::new(attributes, x.shape(), w.shape())?;
    let zero_x = zeros(inputs, zero[0], 1)?.of(0);
    let zero_w = zeros(inputs, zero[1], plan.filters)?;
    let (mut image, mut weights) = (widen(x), widen(w));
    let pixels = plan.windows.inputs();
    subtract(&mut image, pixels, |_| zero_x);
    let filter = weights.len().checked_div(plan.filters).unwrap_or(0);
    subtract(&mut weights, filter, |f| zero_w.of(f));
    convolve(&plan, &image, &weights, bias, y);
    Ok(plan)
}

fn conv_infos<'a, F: Fact<'a>>(
    attributes: &ConvAttributes,
    inputs: &[Option<F>],
) -> Result<Vec<Info>, OpError> {
    for (index, zero) in [(0, 2), (1, 3)] {
        same_type(inputs, [zero], byte_type(inputs, index)?)?;
    }
    output_info(DataType::I32, attributes, inputs, [0, 1, 4])
}

pub(super) fn infer_conv_integer(
    attributes: &ConvAttributes,
    inputs: &Infos<'_>,
) -> Result<Vec<Info>, OpError> {
    conv_infos(attributes, inputs)
}

pub(super) fn conv_integer(
    attributes: &ConvAttributes,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    let infos = conv_infos(attributes, inputs)?;
    let y = outputs[0].alloc(known(&infos, 0))?;
    convolution(attributes, inputs, [0, 1], [2, 3], None, y)?;
    Ok(())
}

fn qlinear_conv_infos<'a, F: Fact<'a>>(
    attributes: &ConvAttributes,
    inputs: &[Option<F>],
) -> Result<Vec<Info>, OpError> {
    same_type(inputs, [2], byte_type(inputs, 0)?)?;
    same_type(inputs, [5], byte_type(inputs, 3)?)?;
    for index in [1, 4, 6] {
        float_type(inputs, index)?;
    }
    same_type(inputs, [8], DataType::I32)?;
    output_info(byte_type(inputs, 7)?, attributes, inputs, [0, 3, 8])
}

pub(super) fn infer_qlinear_conv(
    attributes: &ConvAttributes,
    inputs: &Infos<'_>,
) -> Result<Vec<Info>, OpError> {
    qlinear_conv_infos(attributes, inputs)
}

pub(super) fn qlinear_conv(
    attributes: &ConvAttributes,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    let infos = qlinear_conv_infos(attributes, inputs)?;
    let dims = known(&infos, 0);
    let bias = optional(inputs, 8).map(|view| view.as_slice::<i32>()).transpose()?;
    let mut products = vec![0_i32; dims.iter().product()];
    let plan = convolution(attributes, inputs, [0, 3], [2, 5], bias, &mut products)?;
    let (x, y) = (scales(inputs, 1, 1)?.of(0), scales(inputs, 6, 1)?.of(0));
    let w = scales(inputs, 4, plan.filters)?;
    let scales = |row: usize, scales: &mut [f32]| scales.fill(x * w.of(row % plan.filters.max(1)) / y);
    requantize(inputs, 7, (&products, plan.windows.outputs()), scales, dims, &mut outputs[0])
}

#[cfg(test)]
mod tests {
    use poda_formats::op::{Op, Padding};

    use super::super::testing::{apply, input};
    use super::*;

    #[test]
    fn zero_points_of_tensors_rows_and_columns() {
        let (m, k, n) = (3, 700, 40);
        let a: Vec<u8> = (0..m * k).map(|i| (i * 37 % 256) as u8).collect();
        let b: Vec<i8> = (0..k * n).map(|i| (i * 91 % 256) as u8 as i8).collect();
        let per_row = [3_u8, 128, 255];
        let per_col: Vec<i8> = (0..n).map(|j| j as i8 - 20).collect();
        let cases = [(vec![], vec![]), (vec![9], vec![-128]), (per_row.to_vec(), per_col)];
        for (zero_a, zero_b) in cases {
            let expected: Vec<i32> = (0..m * n)
                .map(|at| {
                    let (i, j) = (at / n, at % n);
                    let [za, zb] = [
                        zero_a.get(i).or(zero_a.first()).map_or(0, |&z| i32::from(z)),
                        zero_b.get(j).or(zero_b.first()).map_or(0, |&z: &i8| i32::from(z)),
                    ];
                    (0..k).map(|l| (i32::from(a[i * k + l]) - za) * (i32::from(b[l * n + j]) - zb)).sum()
                })
                .collect();
            let zero_a = (!zero_a.is_empty()).then(|| input(&[zero_a.len()], &zero_a)).flatten();
            let zero_b = (!zero_b.is_empty()).then(|| input(&[zero_b.len()], &zero_b)).flatten();
            let inputs = [input(&[m, k], &a), input(&[k, n], &b), zero_a, zero_b];
            let result = apply(&Op::MatMulInteger, &inputs, 1).unwrap();
            assert_eq!(result[0].as_slice::<i32>().unwrap(), expected);
        }
        let inputs = [input(&[1, 2], &[1_u8, 2]), input(&[2, 2], &[1_u8; 4]), input(&[2], &[1_u8; 2])];
        assert!(apply(&Op::MatMulInteger, &inputs, 1).is_err());
    }

    #[test]
    fn padding_is_the_zero_point() {
        let attributes = ConvAttributes {
            group: 1,
            kernel: vec![],
            strides: vec![],
            dilations: vec![],
            padding: Padding::Explicit(vec![1, 1]),
        };
        let (x, w) = (input(&[1, 1, 2], &[12_u8, 11]), input(&[1, 1, 3], &[1_u8, 2, 3]));
        let zero = || input(&[], &[10_u8]);
        let result = apply(&Op::ConvInteger(attributes.clone()), &[x.clone(), w.clone(), zero()], 1).unwrap();
        assert_eq!(result[0].as_slice::<i32>().unwrap(), [7, 4]);
        let scale = |v: f32| input(&[], &[v]);
        let bias = input(&[1], &[1_i32]);
        let inputs = [
            x,
            scale(0.5),
            zero(),
            w,
            input(&[1], &[2.0_f32]),
            input(&[1], &[0_u8]),
            scale(2.0),
            input(&[], &[100_i8]),
            bias,
        ];
        let result = apply(&Op::QLinearConv(attributes), &inputs, 1).unwrap();
        // (7 + 1) · 0.5 and (4 + 1) · 0.5, rounded to even, plus 100.
        assert_eq!(result[0].as_slice::<i8>().unwrap(), [104, 102]);
    }
}
