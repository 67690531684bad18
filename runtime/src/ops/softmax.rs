//! Softmax, `LogSoftmax` and Hardmax along one axis.

use poda_formats::op::SoftmaxKind;
use rayon::prelude::*;

use super::args::{Infos, PARALLEL_ABOVE, around, axis, one, required};
use super::facts::{Fact, float_type, shape};
use super::real::{Real, load, store, with_real};
use super::{Inputs, OpError};
use crate::info::Info;
use crate::output::Output;

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
    let [_, dim, inner] = around(dims, axis(at, dims.len())?);
    with_real!(x.dtype(), R => store::<R>(&mut outputs[0], x.dtype(), x.shape(), |y| {
        y.copy_from_slice(&load::<R>(x));
        if y.is_empty() {
            return Ok(());
        }
        let parallel = y.len() >= PARALLEL_ABOVE;
        if inner == 1 && parallel {
            let rows = y.par_chunks_exact_mut(dim).with_min_len((4096 / dim).max(1));
            rows.for_each(|lane| one_lane(kind, lane));
        } else if inner == 1 {
            y.chunks_exact_mut(dim).for_each(|lane| one_lane(kind, lane));
        } else if parallel {
            y.par_chunks_exact_mut(dim * inner).for_each(|block| strided(kind, block, inner));
        } else {
            y.chunks_exact_mut(dim * inner).for_each(|block| strided(kind, block, inner));
        }
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
