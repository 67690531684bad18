//! Matrix products: MatMul and Gemm.

use super::args::{Infos, broadcast, broadcast_strides, one, optional, required};
use super::facts::{Fact, bad_shape, known, same_type, shape};
use super::number::Number;
use super::real::{Mat, Product, load, store, with_product};
use super::{Inputs, OpError};
use crate::info::Info;
use crate::output::Output;
use crate::threads;

/// A product `[…, m, k] · […, k, n]` whose leading dimensions broadcast.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Batched {
    m: usize,
    k: usize,
    n: usize,
    /// Of the output, without the axes that a vector lacks.
    pub(super) shape: Vec<usize>,
    /// For each product, the index of the matrix in either input.
    pairs: Vec<[usize; 2]>,
}

impl Batched {
    /// The product of tensors of these shapes. A vector is a matrix of one row (left) or column (right).
    ///
    /// # Errors
    /// When an input is a scalar, or the shapes do not fit.
    pub(super) fn new(a: &[usize], b: &[usize]) -> Result<Self, OpError> {
        let (Some(&k), false) = (a.last(), b.is_empty()) else {
            return Err(bad_shape(usize::from(!a.is_empty()), &[], "a product needs at least one axis"));
        };
        let (a_batch, m) = if a.len() == 1 { (&[][..], 1) } else { (&a[..a.len() - 2], a[a.len() - 2]) };
        let (b_batch, [b_rows, n]) = match *b {
            [rows] => (&[][..], [rows, 1]),
            _ => (&b[..b.len() - 2], [b[b.len() - 2], b[b.len() - 1]]),
        };
        if b_rows != k {
            return Err(bad_shape(1, b, format!("its rows do not match the columns of {a:?}")));
        }
        let batch = broadcast(a_batch, b_batch)?;
        let mut shape = batch.clone();
        if a.len() > 1 {
            shape.push(m);
        }
        if b.len() > 1 {
            shape.push(n);
        }
        // A matrix on the right is the same for the whole batch, which then is one tall product.
        if b.len() <= 2 || b_batch.iter().all(|&d| d == 1) {
            let rows = shape.iter().product::<usize>().checked_div(n).unwrap_or(0);
            return Ok(Self { m: rows, k, n, shape, pairs: vec![[0, 0]] });
        }
        let mut pairs = vec![[0, 0]];
        let strides = [broadcast_strides(a_batch, batch.len()), broadcast_strides(b_batch, batch.len())];
        for (axis, &dim) in batch.iter().enumerate() {
            let step = [strides[0][axis], strides[1][axis]];
            pairs = pairs
                .iter()
                .flat_map(|p| (0..dim).map(move |i| [p[0] + i * step[0], p[1] + i * step[1]]))
                .collect();
        }
        Ok(Self { m, k, n, shape, pairs })
    }

    /// Computes all products into `c`.
    pub(super) fn run<T: Product>(&self, a: &[T], b: &[T], c: &mut [T]) {
        let Self { m, k, n, .. } = *self;
        if c.is_empty() {
            return;
        }
        threads::for_each_chunk(c, m * n, 1, |pair, c| {
            let [i, j] = self.pairs[pair];
            T::product(Mat::new(&a[i * m * k..][..m * k], m, k), Mat::new(&b[j * k * n..][..k * n], k, n), c);
        });
    }
}

fn infos<'a, F: Fact<'a>>(inputs: &[Option<F>]) -> Result<Vec<Info>, OpError> {
    let dtype = required(inputs, 0)?.element_type();
    same_type(inputs, [1], dtype)?;
    let (Some(a), Some(b)) = (shape(inputs, 0)?, shape(inputs, 1)?) else { return Ok(one(dtype, None)) };
    Ok(one(dtype, Some(Batched::new(a, b)?.shape)))
}

pub(super) fn infer_matmul(inputs: &Infos<'_>) -> Result<Vec<Info>, OpError> {
    infos(inputs)
}

pub(super) fn matmul(inputs: &Inputs<'_>, outputs: &mut [Output<'_>]) -> Result<(), OpError> {
    infos(inputs)?;
    let (a, b) = (required(inputs, 0)?, required(inputs, 1)?);
    let plan = Batched::new(a.shape(), b.shape())?;
    with_product!(a.dtype(), "MatMul", T => store::<T>(&mut outputs[0], a.dtype(), &plan.shape, |c| {
        plan.run(&load::<T>(a), &load::<T>(b), c);
        Ok(())
    }))
}

/// Rows, inner size and columns of a Gemm, and the two strides of `C`, 0 where it repeats.
struct GemmShape {
    m: usize,
    k: usize,
    n: usize,
    c: Vec<usize>,
}

impl GemmShape {
    fn new(
        a: &[usize],
        b: &[usize],
        c: Option<&[usize]>,
        trans_a: bool,
        trans_b: bool,
    ) -> Result<Self, OpError> {
        let matrix = |index, shape: &[usize], transpose| match *shape {
            [rows, cols] => Ok(if transpose { [cols, rows] } else { [rows, cols] }),
            _ => Err(bad_shape(index, shape, "Gemm needs a matrix")),
        };
        let ([m, k], [b_rows, n]) = (matrix(0, a, trans_a)?, matrix(1, b, trans_b)?);
        if b_rows != k {
            return Err(bad_shape(1, b, format!("its inner size does not match {a:?}")));
        }
        let c = c.unwrap_or(&[]);
        if broadcast(c, &[m, n])? != [m, n] {
            return Err(bad_shape(2, c, format!("it does not broadcast to [{m}, {n}]")));
        }
        Ok(Self { m, k, n, c: broadcast_strides(c, 2) })
    }
}

fn gemm_infos<'a, F: Fact<'a>>(
    trans_a: bool,
    trans_b: bool,
    inputs: &[Option<F>],
) -> Result<Vec<Info>, OpError> {
    let dtype = required(inputs, 0)?.element_type();
    same_type(inputs, [1, 2], dtype)?;
    let (Some(a), Some(b)) = (shape(inputs, 0)?, shape(inputs, 1)?) else { return Ok(one(dtype, None)) };
    let plan = GemmShape::new(a, b, optional(inputs, 2).and_then(Fact::dims), trans_a, trans_b)?;
    Ok(one(dtype, Some(vec![plan.m, plan.n])))
}

pub(super) fn infer_gemm(
    _alpha: f32,
    _beta: f32,
    trans_a: bool,
    trans_b: bool,
    inputs: &Infos<'_>,
) -> Result<Vec<Info>, OpError> {
    gemm_infos(trans_a, trans_b, inputs)
}

pub(super) fn gemm(
    alpha: f32,
    beta: f32,
    trans_a: bool,
    trans_b: bool,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    let infos = gemm_infos(trans_a, trans_b, inputs)?;
    let (a, b, c) = (required(inputs, 0)?, required(inputs, 1)?, optional(inputs, 2));
    let plan = GemmShape::new(a.shape(), b.shape(), c.map(|c| c.shape()), trans_a, trans_b)?;
    with_product!(a.dtype(), "Gemm", T => store::<T>(&mut outputs[0], a.dtype(), known(&infos, 0), |y| {
        let c = c.map(load::<T>);
        let factors = [alpha, beta].map(|v| T::from_f64(v.into()));
        gemm_into(&plan, [trans_a, trans_b], factors, [&load::<T>(a), &load::<T>(b)], c.as_deref(), y);
        Ok(())
    }))
}

/// `y = alpha · A' · B' + beta · C`.
fn gemm_into<T: Product>(
    plan: &GemmShape,
    [trans_a, trans_b]: [bool; 2],
    [alpha, beta]: [T; 2],
    [a, b]: [&[T]; 2],
    c: Option<&[T]>,
    y: &mut [T],
) {
    let GemmShape { m, k, n, .. } = *plan;
    let a = if trans_a { Mat::new(a, k, m).t() } else { Mat::new(a, m, k) };
    let b = if trans_b { Mat::new(b, n, k).t() } else { Mat::new(b, k, n) };
    T::product(a, b, y);
    let zero = T::default();
    for (i, row) in y.chunks_exact_mut(n.max(1)).enumerate() {
        for (j, v) in row.iter_mut().enumerate() {
            let bias = c.map_or(zero, |c| zero.mul_add(beta, c[i * plan.c[0] + j * plan.c[1]]));
            *v = bias.mul_add(alpha, *v);
        }
    }
}

#[cfg(test)]
mod tests {
    use poda_formats::DataType;
    use poda_formats::op::Op;

    use super::super::testing::{apply, assert_close, floats, input, noise};
    use super::*;

    #[test]
    fn products_broadcast() {
        let cases: [(&[usize], &[usize], Option<&[usize]>); 12] = [
            (&[2, 3], &[3, 4], Some(&[2, 4])),
            (&[3], &[3, 4], Some(&[4])),
            (&[2, 3], &[3], Some(&[2])),
            (&[3], &[3], Some(&[])),
            (&[5, 2, 3], &[3, 4], Some(&[5, 2, 4])),
            (&[5, 1, 2, 3], &[6, 3, 4], Some(&[5, 6, 2, 4])),
            (&[2, 3], &[6, 3, 4], Some(&[6, 2, 4])),
            (&[3], &[2, 3, 4], Some(&[2, 4])),
            (&[0, 3], &[3, 4], Some(&[0, 4])),
            (&[2, 0], &[0, 4], Some(&[2, 4])),
            (&[2, 3], &[4, 3], None),
            (&[], &[3, 3], None),
        ];
        for (a, b, expected) in cases {
            let (x, y) = (noise(a, 1), noise(b, 2));
            let result = apply(&Op::MatMul, &[x.clone(), y.clone()], 1);
            let Some(expected) = expected else {
                assert!(result.is_err(), "{a:?} {b:?}");
                continue;
            };
            let result = &result.unwrap()[0];
            assert_eq!(result.shape(), expected, "{a:?} {b:?}");
            let wide = |t: &Option<poda_formats::Tensor>| {
                let t = t.as_ref().unwrap();
                input(t.shape(), &floats(t).iter().map(|&v| f64::from(v)).collect::<Vec<_>>())
            };
            let reference = apply(&Op::MatMul, &[wide(&x), wide(&y)], 1).unwrap();
            let reference: Vec<f32> =
                reference[0].as_slice::<f64>().unwrap().iter().map(|&v| v as f32).collect();
            assert_close(floats(result), &reference, 1e-5);
        }
    }

    #[test]
    fn integers_wrap() {
        let result =
            apply(&Op::MatMul, &[input(&[1, 2], &[i32::MAX, 2]), input(&[2, 1], &[2, 3])], 1).unwrap();
        assert_eq!(result[0].as_slice::<i32>().unwrap(), [4]);
        let mixed = apply(&Op::MatMul, &[input(&[1, 1], &[1_i32]), input(&[1, 1], &[1_i64])], 1);
        assert_eq!(mixed, Err(OpError::InputType { index: 1, expected: "i32", found: DataType::I64 }));
    }

    #[test]
    fn gemm_transposes_scales_and_adds() {
        let gemm = |trans_a, trans_b| Op::Gemm { alpha: 2.0, beta: 0.5, trans_a, trans_b };
        let a = [1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0];
        let c = [10.0_f32, 20.0];
        let b = [1.0_f32, 1.0, 1.0, 0.0, 1.0, 2.0];
        let plain = apply(&gemm(false, true), &[input(&[2, 3], &a), input(&[2, 3], &b), input(&[2], &c)], 1);
        // Rows of a times rows of b: [6, 8], [15, 17].
        assert_close(floats(&plain.unwrap()[0]), &[17.0, 26.0, 35.0, 44.0], 1e-6);
        let both = apply(&gemm(true, false), &[input(&[3, 2], &a), input(&[3, 2], &b), None], 1).unwrap();
        assert_close(floats(&both[0]), &[2.0 * 9.0, 2.0 * 11.0, 2.0 * 12.0, 2.0 * 14.0], 1e-6);
        assert!(
            apply(&gemm(false, false), &[noise(&[2, 3], 0), noise(&[3, 2], 0), noise(&[3], 0)], 1).is_err()
        );
        assert!(
            apply(&gemm(false, false), &[noise(&[2, 3], 0), noise(&[3, 2], 0), noise(&[4, 2, 2], 0)], 1)
                .is_err()
        );
    }
}
