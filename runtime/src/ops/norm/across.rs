//! Normalisations across chosen axes: LpNormalization, MeanVarianceNormalization, LRN.

use super::super::args::{Infos, around, axes, axis, one, required, strides};
use super::super::facts::{Fact, bad_shape, float_type, shape};
use super::super::number::Number;
use super::super::real::{load, store, with_real};
use super::super::{Inputs, OpError};
use crate::info::Info;
use crate::output::Output;
use crate::threads;

/// The output is like `x`, whose shape `check` accepts.
fn like_x<'a, F: Fact<'a>>(
    inputs: &[Option<F>],
    check: impl FnOnce(&[usize]) -> Result<(), OpError>,
) -> Result<Vec<Info>, OpError> {
    let dtype = float_type(inputs, 0)?;
    let dims = shape(inputs, 0)?;
    dims.map_or(Ok(()), check)?;
    Ok(one(dtype, dims.map(<[usize]>::to_vec)))
}

fn lp_infos<'a, F: Fact<'a>>(at: i64, p: u32, inputs: &[Option<F>]) -> Result<Vec<Info>, OpError> {
    if !matches!(p, 1 | 2) {
        return Err(OpError::Invalid(format!("LpNormalization with p = {p}; only 1 and 2 are defined")));
    }
    like_x(inputs, |x| axis(at, x.len()).map(|_| ()))
}

pub(in super::super) fn infer_lp_normalization(
    axis: i64,
    p: u32,
    inputs: &Infos<'_>,
) -> Result<Vec<Info>, OpError> {
    lp_infos(axis, p, inputs)
}

pub(in super::super) fn lp_normalization(
    at: i64,
    p: u32,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    lp_infos(at, p, inputs)?;
    let x = required(inputs, 0)?;
    let [_, dim, inner] = around(x.shape(), axis(at, x.rank())?);
    with_real!(x.dtype(), R => store::<R>(&mut outputs[0], x.dtype(), x.shape(), |y| {
            y.copy_from_slice(&load::<R>(x));
            for block in y.chunks_exact_mut((dim * inner).max(1)) {
                for i in 0..inner {
                    let lane = block.iter().skip(i).step_by(inner);
                    let norm = match p {
                        1 => lane.map(|v| v.abs()).sum::<R>(),
                        _ => lane.map(|&v| v * v).sum::<R>().sqrt(),
                    };
                    // A lane of zeros stays one.
    let norm = if norm == R::default() { R::from_f64(1.0) } else { norm };
                    block.iter_mut().skip(i).step_by(inner).for_each(|v| *v /= norm);
                }
            }
            Ok(())
        }))
}

pub(in super::super) fn infer_mean_variance_normalization(
    given: &[i64],
    inputs: &Infos<'_>,
) -> Result<Vec<Info>, OpError> {
    like_x(inputs, |x| axes(given, x.len()).map(|_| ()))
}

pub(in super::super) fn mean_variance_normalization(
    given: &[i64],
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    like_x(inputs, |_| Ok(()))?;
    let x = required(inputs, 0)?;
    let across = axes(given, x.rank())?;
    let (dims, from) = (x.shape(), strides(x.shape()));
    let kept: Vec<usize> = (0..dims.len()).filter(|a| !across.contains(a)).collect();
    let kept_dims: Vec<usize> = kept.iter().map(|&a| dims[a]).collect();
    let to = strides(&kept_dims);
    // The group that an element belongs to: its position along the axes that are kept.
    let group =
        |i: usize| kept.iter().zip(&to).map(|(&a, stride)| i / from[a] % dims[a] * stride).sum::<usize>();
    let groups: usize = kept_dims.iter().product();
    with_real!(x.dtype(), R => store::<R>(&mut outputs[0], x.dtype(), dims, |y| {
            let values = load::<R>(x);
            let count = R::from_f64(values.len() as f64 / groups.max(1) as f64);
            let mean_of = |value: &dyn Fn(usize) -> R| {
                let mut sums = vec![R::default(); groups];
                (0..values.len()).for_each(|i| sums[group(i)] += value(i));
                for v in &mut sums {
    *v /= count;
    }
                sums
            };
            let mean = mean_of(&|i| values[i]);
            let variance = mean_of(&|i| (values[i] - mean[group(i)]) * (values[i] - mean[group(i)]));
            for (i, y) in y.iter_mut().enumerate() {
                let g = group(i);
                *y = (values[i] - mean[g]) / (variance[g].sqrt() + R::from_f64(1e-9));
            }
            Ok(())
        }))
}

fn lrn_infos<'a, F: Fact<'a>>(size: usize, inputs: &[Option<F>]) -> Result<Vec<Info>, OpError> {
    if size == 0 {
        return Err(OpError::Invalid("LRN over 0 channels".to_owned()));
    }
    like_x(
        inputs,
        |x| {
            if x.len() < 2 { Err(bad_shape(0, x, "expected [batch, channels, …]")) } else { Ok(()) }
        },
    )
}

pub(in super::super) fn infer_lrn(
    size: usize,
    _alpha: f32,
    _beta: f32,
    _bias: f32,
    inputs: &Infos<'_>,
) -> Result<Vec<Info>, OpError> {
    lrn_infos(size, inputs)
}

pub(in super::super) fn lrn(
    size: usize,
    alpha: f32,
    beta: f32,
    bias: f32,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    lrn_infos(size, inputs)?;
    let x = required(inputs, 0)?;
    let [_, channels, pixels] = around(x.shape(), 1);
    with_real!(x.dtype(), R => store::<R>(&mut outputs[0], x.dtype(), x.shape(), |y| {
        let values = load::<R>(x);
        threads::for_each_chunk(y, pixels.max(1), 1, |i, y| {
            let c = i % channels;
            let first = c.saturating_sub((size - 1) / 2);
            let last = c.saturating_add(size / 2).min(channels - 1);
            let image = &values[(i - c) * pixels..];
            for (p, y) in y.iter_mut().enumerate() {
                let squares: R = (first..=last).map(|c| image[c * pixels + p] * image[c * pixels + p]).sum();
                let scale = R::from_f64(f64::from(alpha) / size as f64);
                let base = R::from_f64(bias.into()) + scale * squares;
                *y = image[c * pixels + p] / base.powf(R::from_f64(beta.into()));
            }
        });
        Ok(())
    }))
}
