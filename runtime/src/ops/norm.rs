//! Normalisations by mean and variance: of a channel, an instance, a group of channels, a layer.

mod across;

pub(super) use across::{
    infer_lp_normalization, infer_lrn, infer_mean_variance_normalization, lp_normalization, lrn,
    mean_variance_normalization,
};

use std::borrow::Cow;

use poda_formats::{DataType, TensorView};

use super::args::{Infos, axis, broadcast, broadcast_strides, one, optional, required, strides};
use super::facts::{Fact, bad_shape, expect_shape, float_type, known, shape};
use super::number::Number;
use super::real::{Real, load, store, with_real};
use super::{Inputs, OpError};
use crate::info::Info;
use crate::output::Output;
use crate::threads::share::{cost, for_rows};

/// Copies each row of `len` elements of `x` to `y` and has `change(index, row)` change it; in parallel when it is much.
fn each_row<R: Real>(x: &[R], y: &mut [R], len: usize, change: impl Fn(usize, &mut [R]) + Sync) {
    if y.is_empty() {
        return;
    }
    for_rows(y, len, 2 * cost::ARITHMETIC, |i, y| {
        y.copy_from_slice(&x[i * len..][..len]);
        change(i, y);
    });
}

/// Elements below which a call for each channel takes longer than the channel.
const SHORT: usize = 32;

/// Mean and inverse standard deviation.
fn moments<R: Real>(values: &[R], epsilon: f32) -> (R, R) {
    let n = R::from_f64(values.len() as f64);
    let mean = R::total(values) / n;
    let variance = R::squares(values, mean) / n;
    (mean, R::from_f64(1.0) / (variance + R::from_f64(epsilon.into())).sqrt())
}

/// Facts for `x` `[batch, channels, …]` and further inputs `[channels]`; gives the output like `x`.
fn per_channel<'a, F: Fact<'a>>(inputs: &[Option<F>], parameters: usize) -> Result<Vec<Info>, OpError> {
    let dtype = float_type(inputs, 0)?;
    for index in 1..=parameters {
        float_type(inputs, index)?;
    }
    let Some(x) = shape(inputs, 0)? else { return Ok(one(dtype, None)) };
    let &[_, channels, ..] = x else { return Err(bad_shape(0, x, "expected [batch, channels, …]")) };
    for index in 1..=parameters {
        expect_shape(inputs, index, &[channels])?;
    }
    Ok(one(dtype, Some(x.to_vec())))
}

pub(super) fn infer_batch_normalization(_epsilon: f32, inputs: &Infos<'_>) -> Result<Vec<Info>, OpError> {
    per_channel(inputs, 4)
}

pub(super) fn batch_normalization(
    epsilon: f32,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    per_channel(inputs, 4)?;
    let x = required(inputs, 0)?;
    let (channels, len) = (x.shape()[1], x.shape()[2..].iter().product());
    with_real!(x.dtype(), R => {
        let parameter = |index| required(inputs, index).map(load::<R>);
        let (scale, bias, mean, variance) = (parameter(1)?, parameter(2)?, parameter(3)?, parameter(4)?);
        let variance = variance.iter().map(|&v| (v + R::from_f64(epsilon.into())).sqrt());
        let factors: Vec<R> = scale.iter().zip(variance).map(|(&scale, deviation)| scale / deviation).collect();
        store::<R>(&mut outputs[0], x.dtype(), x.shape(), |y| {
            let values = load::<R>(x);
            if len < SHORT {
                each_row(&values, y, channels * len, |_, image| {
                    for (c, row) in image.chunks_exact_mut(len).enumerate() {
                        row.iter_mut().for_each(|v| *v = (*v - mean[c]) * factors[c] + bias[c]);
                    }
                });
            } else {
                each_row(&values, y, len, |i, row| {
                    let c = i % channels;
                    R::affine(row, mean[c], factors[c], bias[c]);
                });
            }
            Ok(())
        })
    })
}

pub(super) fn infer_instance_normalization(_epsilon: f32, inputs: &Infos<'_>) -> Result<Vec<Info>, OpError> {
    per_channel(inputs, 2)
}

pub(super) fn instance_normalization(
    epsilon: f32,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    per_channel(inputs, 2)?;
    let channels = required(inputs, 0)?.shape()[1];
    by_group(channels, epsilon, inputs, outputs)
}

fn group_infos<'a, F: Fact<'a>>(groups: usize, inputs: &[Option<F>]) -> Result<Vec<Info>, OpError> {
    let infos = per_channel(inputs, 2)?;
    match infos[0].shape.as_deref() {
        Some(x) if groups == 0 || !x[1].is_multiple_of(groups) => {
            Err(bad_shape(0, x, format!("its channels do not divide into {groups} groups")))
        }
        _ => Ok(infos),
    }
}

pub(super) fn infer_group_normalization(
    num_groups: usize,
    _epsilon: f32,
    inputs: &Infos<'_>,
) -> Result<Vec<Info>, OpError> {
    group_infos(num_groups, inputs)
}

pub(super) fn group_normalization(
    num_groups: usize,
    epsilon: f32,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    group_infos(num_groups, inputs)?;
    by_group(num_groups, epsilon, inputs, outputs)
}

/// Normalises `groups` groups of the channels of each image; scale and bias are per channel.
fn by_group(
    groups: usize,
    epsilon: f32,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    let x = required(inputs, 0)?;
    let pixels: usize = x.shape()[2..].iter().product();
    let channels = x.shape()[1].checked_div(groups).unwrap_or(0);
    with_real!(x.dtype(), R => {
        let (scale, bias) = (load::<R>(required(inputs, 1)?), load::<R>(required(inputs, 2)?));
        store::<R>(&mut outputs[0], x.dtype(), x.shape(), |y| {
            each_row(&load::<R>(x), y, channels * pixels, |i, group| {
                let (mean, inverse) = moments(group, epsilon);
                for (c, row) in group.chunks_exact_mut(pixels).enumerate() {
                    let c = i % groups * channels + c;
                    R::affine(row, mean, inverse * scale[c], bias[c]);
                }
            });
            Ok(())
        })
    })
}

/// Facts for a normalisation over the axes of `x` from `from` on; scale (and bias) broadcast to those axes.
fn trailing<'a, F: Fact<'a>>(
    from: i64,
    inputs: &[Option<F>],
    parameters: usize,
    outputs: usize,
) -> Result<Vec<Info>, OpError> {
    let dtype = float_type(inputs, 0)?;
    float_type(inputs, 1)?;
    let statistics = |dims: &[usize], at: usize| [&dims[..at], &vec![1; dims.len() - at]].concat();
    let mut infos = vec![Info::dynamic(DataType::F32); outputs.max(1)];
    infos[0].dtype = dtype;
    let Some(x) = shape(inputs, 0)? else { return Ok(infos) };
    let at = axis(from, x.len())?;
    for index in 1..=parameters {
        if let Some(parameter) = optional(inputs, index).and_then(Fact::dims)
            && broadcast(parameter, &x[at..])? != x[at..]
        {
            return Err(bad_shape(index, parameter, format!("it does not broadcast to {:?}", &x[at..])));
        }
    }
    for (i, info) in infos.iter_mut().enumerate() {
        info.shape = Some(if i == 0 { x.to_vec() } else { statistics(x, at) });
    }
    Ok(infos)
}

/// The elements of `view` broadcast to `dims`.
fn spread<'a, R: Real>(view: TensorView<'a>, dims: &[usize]) -> Cow<'a, [R]> {
    let values = load::<R>(view);
    let len = dims.iter().product();
    if values.len() == len {
        return values;
    }
    let (from, to) = (broadcast_strides(view.shape(), dims.len()), strides(dims));
    let at = |i: usize| (0..dims.len()).map(|a| i / to[a] % dims[a] * from[a]).sum::<usize>();
    Cow::Owned((0..len).map(|i| values[at(i)]).collect())
}

pub(super) fn infer_layer_normalization(
    axis: i64,
    _epsilon: f32,
    inputs: &Infos<'_>,
    outputs: usize,
) -> Result<Vec<Info>, OpError> {
    trailing(axis, inputs, 2, outputs)
}

pub(super) fn layer_normalization(
    axis: i64,
    epsilon: f32,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    let infos = trailing(axis, inputs, 2, outputs.len())?;
    let x = required(inputs, 0)?;
    let dims = &x.shape()[super::args::axis(axis, x.rank())?..];
    let len: usize = dims.iter().product();
    with_real!(x.dtype(), R => {
        let values = load::<R>(x);
        let scale = spread::<R>(required(inputs, 1)?, dims);
        let bias = optional(inputs, 2).map(|b| spread::<R>(b, dims));
        store::<R>(&mut outputs[0], x.dtype(), x.shape(), |y| {
            each_row(&values, y, len, |_, row| {
                let (mean, inverse) = moments(row, epsilon);
                R::normalize(row, mean, inverse, Some(&scale), bias.as_deref());
            });
            Ok(())
        })?;
        for (i, output) in outputs.iter_mut().enumerate().skip(1) {
            store::<R>(output, DataType::F32, known(&infos, i), |y| {
                for (v, row) in y.iter_mut().zip(values.chunks_exact(len.max(1))) {
                    let (mean, inverse) = moments(row, epsilon);
                    *v = if i == 1 { mean } else { inverse };
                }
                Ok(())
            })?;
        }
        Ok(())
    })
}

pub(super) fn infer_rms_normalization(
    axis: i64,
    _epsilon: f32,
    inputs: &Infos<'_>,
) -> Result<Vec<Info>, OpError> {
    trailing(axis, inputs, 1, 1)
}

pub(super) fn rms_normalization(
    axis: i64,
    epsilon: f32,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    trailing(axis, inputs, 1, 1)?;
    let x = required(inputs, 0)?;
    let dims = &x.shape()[super::args::axis(axis, x.rank())?..];
    let len: usize = dims.iter().product();
    with_real!(x.dtype(), R => {
        let scale = spread::<R>(required(inputs, 1)?, dims);
        store::<R>(&mut outputs[0], x.dtype(), x.shape(), |y| {
            each_row(&load::<R>(x), y, len, |_, row| {
                let square = R::squares(row, R::default()) / R::from_f64(row.len() as f64);
                let inverse = R::from_f64(1.0) / (square + R::from_f64(epsilon.into())).sqrt();
                R::normalize(row, R::default(), inverse, Some(&scale), None);
            });
            Ok(())
        })
    })
}

#[cfg(test)]
mod tests {
    use half::f16;
    use poda_formats::op::Op;

    use super::super::testing::{apply, assert_close, floats, input, noise};

    /// Normalised by the mean and variance of each run of `len` elements.
    fn reference(x: &[f32], len: usize, epsilon: f64) -> Vec<f32> {
        x.chunks_exact(len)
            .flat_map(|row| {
                let mean = row.iter().map(|&v| f64::from(v)).sum::<f64>() / len as f64;
                let variance = row.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / len as f64;
                row.iter().map(move |&v| ((f64::from(v) - mean) / (variance + epsilon).sqrt()) as f32)
            })
            .collect()
    }

    #[test]
    fn layers_groups_and_instances_are_normalised() {
        let dims = [2, 4, 3, 7];
        let x = noise(&dims, 1);
        let values = floats(x.as_ref().unwrap()).to_vec();
        let per_channel = |scale: &[f32], bias: &[f32], y: Vec<f32>| -> Vec<f32> {
            y.iter().enumerate().map(|(i, v)| v * scale[i / 21 % 4] + bias[i / 21 % 4]).collect()
        };
        let (scale, bias) = (noise(&[4], 2), noise(&[4], 3));
        let [s, b] = [&scale, &bias].map(|t| floats(t.as_ref().unwrap()).to_vec());
        let inputs = [x.clone(), scale, bias];
        let result = apply(&Op::InstanceNormalization { epsilon: 1e-3 }, &inputs, 1).unwrap();
        assert_close(floats(&result[0]), &per_channel(&s, &b, reference(&values, 21, 1e-3)), 1e-4);
        let result = apply(&Op::GroupNormalization { num_groups: 2, epsilon: 1e-3 }, &inputs, 1).unwrap();
        assert_close(floats(&result[0]), &per_channel(&s, &b, reference(&values, 42, 1e-3)), 1e-4);
        assert!(apply(&Op::GroupNormalization { num_groups: 3, epsilon: 1e-3 }, &inputs, 1).is_err());
        assert!(apply(&Op::GroupNormalization { num_groups: 0, epsilon: 1e-3 }, &inputs, 1).is_err());

        let scale = noise(&[3, 7], 4);
        let s = floats(scale.as_ref().unwrap()).to_vec();
        let op = Op::LayerNormalization { axis: -2, epsilon: 1e-3 };
        let result = apply(&op, &[x.clone(), scale.clone(), None], 3).unwrap();
        let expected: Vec<f32> =
            reference(&values, 21, 1e-3).iter().enumerate().map(|(i, v)| v * s[i % 21]).collect();
        assert_close(floats(&result[0]), &expected, 1e-4);
        assert_eq!((result[1].shape(), result[2].shape()), (&[2, 4, 1, 1][..], &[2, 4, 1, 1][..]));
        let mean: Vec<f32> = values.chunks_exact(21).map(|row| row.iter().sum::<f32>() / 21.0).collect();
        assert_close(floats(&result[1]), &mean, 1e-5);
        // A scale that broadcasts.
        let result = apply(&op, &[x.clone(), input(&[1], &[2.0_f32])], 1).unwrap();
        let twice: Vec<f32> = reference(&values, 21, 1e-3).iter().map(|v| v * 2.0).collect();
        assert_close(floats(&result[0]), &twice, 1e-4);
        assert!(apply(&op, &[x, noise(&[2, 7], 1)], 1).is_err());
    }

    #[test]
    fn halves_are_computed_in_f32() {
        let x: Vec<f16> = (0..8).map(|i| f16::from_f32(i as f32 * 100.0)).collect();
        let ones = vec![f16::ONE; 8];
        let op = Op::RmsNormalization { axis: -1, epsilon: 0.0 };
        let result = apply(&op, &[input(&[1, 8], &x), input(&[8], &ones)], 1).unwrap();
        // The squares are beyond f16.
        let rms = (140.0_f32 / 8.0).sqrt() * 100.0;
        for (y, x) in result[0].as_slice::<f16>().unwrap().iter().zip(&x) {
            assert_close(&[y.to_f32()], &[x.to_f32() / rms], 1e-3);
        }
    }

    #[test]
    fn channels_are_scaled_and_empty_batches_pass() {
        let parameters = || [input(&[2], &[2.0_f32, 1.0]), input(&[2], &[1.0_f32, 0.0])];
        let statistics = || [input(&[2], &[1.0_f32, -1.0]), input(&[2], &[4.0_f32, 0.25])];
        let op = Op::BatchNormalization { epsilon: 0.0 };
        let run = |x: Option<poda_formats::Tensor>| {
            apply(&op, &[&[x][..], &parameters()[..], &statistics()[..]].concat(), 1)
        };
        let result = run(input(&[1, 2, 2], &[3.0_f32, 5.0, 0.0, 1.0])).unwrap();
        assert_close(floats(&result[0]), &[3.0, 5.0, 2.0, 4.0], 1e-6);
        assert_eq!(run(noise(&[0, 2, 3], 1)).unwrap()[0].shape(), [0, 2, 3]);
        assert_eq!(run(noise(&[2, 2, 0], 1)).unwrap()[0].shape(), [2, 2, 0]);
        assert!(run(noise(&[1, 3, 3], 1)).is_err());
        assert!(run(noise(&[2], 1)).is_err());
    }
}
