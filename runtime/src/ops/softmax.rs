//! Softmax, `LogSoftmax` and Hardmax along one axis.

use poda_formats::DataType;
use poda_formats::op::SoftmaxKind;

use super::args::{Infos, around, axis, one, required};
use super::facts::{Fact, float_type, shape};
use super::real::{Real, load, store, with_real};
use super::{Inputs, OpError};
use crate::info::Info;
use crate::kernels::{softmax_columns, softmax_rows};
use crate::output::Output;
use crate::threads::share::{cost, for_rows};

fn infos<'a, F: Fact<'a>>(at: i64, inputs: &[Option<F>]) -> Result<Vec<Info>, OpError> {
    let dtype = float_type(inputs, 0)?;
    let Some(x) = shape(inputs, 0)? else { return Ok(one(dtype, None)) };
    // A scalar has one lane, of one element.
    axis(at, x.len().max(1))?;
    Ok(one(dtype, Some(x.to_vec())))
}

pub(super) fn infer_softmax(_kind: SoftmaxKind, axis: i64, inputs: &Infos<'_>) -> Result<Vec<Info>, OpError> {
    infos(axis, inputs)
}

pub(super) fn softmax(
    kind: SoftmaxKind,
    at: i64,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    infos(at, inputs)?;
    let x = required(inputs, 0)?;
    let dims = if x.rank() == 0 { &[1] } else { x.shape() };
    let [outer, dim, inner] = around(dims, axis(at, dims.len())?);
    if x.dtype() == DataType::F32 && kind != SoftmaxKind::Hardmax {
        let y = outputs[0].alloc::<f32>(x.shape())?;
        let log = kind == SoftmaxKind::LogSoftmax;
        match inner {
            1 => softmax_rows(x.as_slice()?, y, dim, log),
            _ => softmax_columns(x.as_slice()?, y, [outer, dim, inner], log),
        }
        return Ok(());
    }
    with_real!(x.dtype(), R => store::<R>(&mut outputs[0], x.dtype(), x.shape(), |y| {
        let values = load::<R>(x);
        for_rows(y, dim * inner, cost::FUNCTION, |i, block| {
            block.copy_from_slice(&values[i * dim * inner..][..block.len()]);
            match inner {
                1 => one_lane(kind, block),
                _ => strided(kind, block, inner),
            }
        });
        Ok(())
    }))
}

/// Changes the `inner` interleaved lanes of `block`.
fn strided<R: Real>(kind: SoftmaxKind, block: &mut [R], inner: usize) {
    let mut lane = vec![R::default(); block.len() / inner];
    for i in 0..inner {
        lane.iter_mut().zip(block[i..].iter().step_by(inner)).for_each(|(l, &v)| *l = v);
        one_lane(kind, &mut lane);
        block[i..].iter_mut().step_by(inner).zip(&lane).for_each(|(v, &l)| *v = l);
    }
}

fn one_lane<R: Real>(kind: SoftmaxKind, lane: &mut [R]) {
    match kind {
        SoftmaxKind::Softmax => R::softmax(lane),
        SoftmaxKind::LogSoftmax => R::log_softmax(lane),
        SoftmaxKind::Hardmax => {
            let mut best = 0;
            for i in 1..lane.len() {
                if lane[i] > lane[best] {
                    best = i;
                }
            }
            lane.fill(R::default());
            lane[best] = R::from_f64(1.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use poda_formats::op::Op;

    use super::super::testing::{apply, assert_close, floats, input, noise};
    use super::*;

    #[test]
    fn lanes_along_any_axis() {
        let cases = [[3, 5, 40], [2, 3, 1], [1, 7, 15], [4, 1, 33], [2, 9, 64], [5, 16, 100]];
        let each = |dims| (-3..3).map(move |a| (dims, a));
        let kinds = [SoftmaxKind::Softmax, SoftmaxKind::LogSoftmax];
        for ((dims, at), kind) in cases.into_iter().flat_map(each).flat_map(|c| kinds.map(|kind| (c, kind))) {
            let x = noise(&dims, 1);
            let result = apply(&Op::Softmax { kind, axis: at }, std::slice::from_ref(&x), 1).unwrap();
            let [_, dim, inner] = around(&dims, axis(at, 3).unwrap());
            let values = floats(x.as_ref().unwrap());
            let expected: Vec<f32> = (0..values.len())
                .map(|i| {
                    let first = i / (dim * inner) * dim * inner + i % inner;
                    let sum: f64 = (0..dim).map(|j| f64::from(values[first + j * inner]).exp()).sum();
                    let share = f64::from(values[i]).exp() / sum;
                    (if kind == SoftmaxKind::Softmax { share } else { share.ln() }) as f32
                })
                .collect();
            assert_close(floats(&result[0]), &expected, 1e-5);
        }
    }

    #[test]
    fn extremes_and_empty_lanes() {
        let run = |kind, x: &[f32]| {
            let result = apply(&Op::Softmax { kind, axis: -1 }, &[input(&[x.len()], x)], 1).unwrap();
            floats(&result[0]).to_vec()
        };
        assert_close(&run(SoftmaxKind::Softmax, &[1e30, -1e30, 1e30]), &[0.5, 0.0, 0.5], 1e-6);
        assert_close(&run(SoftmaxKind::Softmax, &[f32::NEG_INFINITY, 0.0]), &[0.0, 1.0], 1e-6);
        let infinite = [f32::NEG_INFINITY; 20];
        assert!(run(SoftmaxKind::Softmax, &infinite).iter().all(|y| y.is_nan()));
        // A NaN anywhere makes all of its lane NaN.
        for at in [0, 15, 16, 39] {
            let mut x: Vec<f32> = (0..40).map(|i| i as f32).collect();
            x[at] = f32::NAN;
            for kind in [SoftmaxKind::Softmax, SoftmaxKind::LogSoftmax] {
                assert!(run(kind, &x).iter().all(|y| y.is_nan()), "{at}");
            }
        }
        // The same of lanes that lie side by side, and lanes of nothing but −∞, or with NaN.
        let (low, nan) = (f32::NEG_INFINITY, f32::NAN);
        let op = Op::Softmax { kind: SoftmaxKind::Softmax, axis: 0 };
        let result =
            apply(&op, &[input(&[2, 4], &[1e30_f32, low, low, nan, 1e30, 0.0, low, 0.0])], 1).unwrap();
        assert_close(floats(&result[0]), &[0.5, 0.0, nan, nan, 0.5, 1.0, nan, nan], 1e-6);
        assert_close(&run(SoftmaxKind::Hardmax, &[1.0, 3.0, 3.0]), &[0.0, 1.0, 0.0], 0.0);
        assert!(run(SoftmaxKind::Softmax, &[]).is_empty());
        let scalar =
            apply(&Op::Softmax { kind: SoftmaxKind::Softmax, axis: 0 }, &[input(&[], &[3.0_f32])], 1);
        assert_close(floats(&scalar.unwrap()[0]), &[1.0], 1e-6);
        assert!(
            apply(&Op::Softmax { kind: SoftmaxKind::Softmax, axis: 2 }, &[noise(&[2, 2], 1)], 1).is_err()
        );
    }
}
