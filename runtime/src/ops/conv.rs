//! Convolution, as a product of the weights with the im2col matrix of the image.

use poda_formats::DataType;
use poda_formats::op::ConvAttributes;

use super::args::{Infos, one, optional, required};
use super::facts::{Fact, expect_shape, float_type, known, same_type, shape};
use super::geometry::{Convolution, Windows};
use super::real::{Mat, Product, load, store, with_real};
use super::{Inputs, OpError};
use crate::info::Info;
use crate::output::Output;
use crate::threads;
use crate::threads::share::{cost, for_rows};

/// Elements of an im2col matrix that are worked on at a time, unless one column is larger.
const TILE: usize = 1 << 20;

fn infos<'a, F: Fact<'a>>(attributes: &ConvAttributes, inputs: &[Option<F>]) -> Result<Vec<Info>, OpError> {
    let dtype = float_type(inputs, 0)?;
    same_type(inputs, [1, 2], dtype)?;
    output_info(dtype, attributes, inputs, [0, 1, 2])
}

/// The output, of type `dtype`, for image, weight and bias at these places among the inputs.
pub(super) fn output_info<'a, F: Fact<'a>>(
    dtype: DataType,
    attributes: &ConvAttributes,
    inputs: &[Option<F>],
    [x, w, bias]: [usize; 3],
) -> Result<Vec<Info>, OpError> {
    let (Some(x), Some(w)) = (shape(inputs, x)?, shape(inputs, w)?) else { return Ok(one(dtype, None)) };
    let plan = Convolution::new(attributes, x, w)?;
    expect_shape(inputs, bias, &[plan.filters])?;
    Ok(one(dtype, Some(plan.output())))
}

pub(super) fn infer_conv(attributes: &ConvAttributes, inputs: &Infos<'_>) -> Result<Vec<Info>, OpError> {
    infos(attributes, inputs)
}

pub(super) fn conv(
    attributes: &ConvAttributes,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    let infos = infos(attributes, inputs)?;
    let (x, w, bias) = (required(inputs, 0)?, required(inputs, 1)?, optional(inputs, 2));
    let plan = Convolution::new(attributes, x.shape(), w.shape())?;
    with_real!(x.dtype(), R => store::<R>(&mut outputs[0], x.dtype(), known(&infos, 0), |y| {
        convolve(&plan, &load::<R>(x), &load::<R>(w), bias.map(load::<R>).as_deref(), y);
        Ok(())
    }))
}

/// `y = w * x + bias`, with the shapes of [`Convolution`]; `bias` is `[filters]`.
pub(super) fn convolve<T: Product>(plan: &Convolution, x: &[T], w: &[T], bias: Option<&[T]>, y: &mut [T]) {
    if y.is_empty() {
        return;
    }
    let (inputs, outputs) = (plan.windows.inputs(), plan.windows.outputs());
    let (channels, filters) = (plan.channels / plan.groups, plan.filters / plan.groups);
    let k = channels * plan.windows.taps();
    threads::for_each_chunk(y, filters * outputs, 1, |i, y| {
        let g = i % plan.groups;
        let weights = Mat::new(&w[g * filters * k..][..filters * k], filters, k);
        one_group(&plan.windows, &x[i * channels * inputs..][..channels * inputs], weights, y);
        let Some(bias) = bias else { return };
        for (row, &bias) in y.chunks_exact_mut(outputs).zip(&bias[g * filters..]) {
            for v in row {
                *v = v.add(bias);
            }
        }
    });
}

/// The product of `weights` `[filters, k]` with the im2col matrix of `image` `[channels, spatial…]`.
fn one_group<T: Product>(windows: &Windows, image: &[T], weights: Mat<'_, T>, y: &mut [T]) {
    let (filters, k, n) = (weights.rows, weights.cols, windows.outputs());
    if windows.is_identity() {
        return T::product(weights, Mat::new(image, k, n), y);
    }
    let tile = (TILE / k.max(1)).max(1).min(n);
    T::with_scratch(k * tile, |columns| {
        if tile == n {
            im2col(windows, image, 0, n, columns);
            return T::product(weights, Mat::new(columns, k, n), y);
        }
        T::with_scratch(filters * tile, |part| {
            for start in (0..n).step_by(tile) {
                let width = tile.min(n - start);
                let (columns, part) = (&mut columns[..k * width], &mut part[..filters * width]);
                im2col(windows, image, start, width, columns);
                T::product(weights, Mat::new(columns, k, width), part);
                for (row, part) in y.chunks_exact_mut(n).zip(part.chunks_exact(width)) {
                    row[start..][..width].copy_from_slice(part);
                }
            }
        });
    });
}

/// Writes `width` columns of the im2col matrix `[channels · taps, outputs]`, from column `start` on; pads are zero.
fn im2col<T: Product>(windows: &Windows, image: &[T], start: usize, width: usize, out: &mut [T]) {
    let (taps, pixels) = (windows.taps(), windows.inputs());
    for_rows(out, width, cost::COPY, |k, row| {
        row.fill(T::default());
        let channel = &image[k / taps * pixels..][..pixels];
        windows.runs(k % taps, start..start + width, |column, count, at, step| {
            let out = &mut row[column..column + count];
            if step == 1 {
                out.copy_from_slice(&channel[at..at + count]);
            } else {
                out.iter_mut().zip(channel[at..].iter().step_by(step)).for_each(|(y, &x)| *y = x);
            }
        });
    });
}

#[cfg(test)]
mod tests {
    use poda_formats::op::{Op, Padding};

    use super::super::testing::{apply, assert_close, floats, noise};
    use super::*;

    /// The definition, for 2-D: every output is a sum over the window.
    fn reference(plan: &Convolution, x: &[f32], w: &[f32], bias: &[f32]) -> Vec<f32> {
        let [_, h, v] = plan.windows.axes;
        let (per_group, filters) = (plan.channels / plan.groups, plan.filters / plan.groups);
        let mut y = Vec::new();
        for (b, f) in (0..plan.batch).flat_map(|b| (0..plan.filters).map(move |f| (b, f))) {
            for (oy, ox) in (0..h.output).flat_map(|oy| (0..v.output).map(move |ox| (oy, ox))) {
                let mut sum = f64::from(bias[f]);
                for c in 0..per_group {
                    let channel = b * plan.channels + f / filters * per_group + c;
                    for (ky, kx) in (0..h.kernel).flat_map(|ky| (0..v.kernel).map(move |kx| (ky, kx))) {
                        let iy = (oy * h.stride + ky * h.dilation) as isize - h.begin;
                        let ix = (ox * v.stride + kx * v.dilation) as isize - v.begin;
                        if (0..h.input as isize).contains(&iy) && (0..v.input as isize).contains(&ix) {
                            let at = (channel * h.input + iy as usize) * v.input + ix as usize;
                            let weight = ((f * per_group + c) * h.kernel + ky) * v.kernel + kx;
                            sum += f64::from(x[at]) * f64::from(w[weight]);
                        }
                    }
                }
                y.push(sum as f32);
            }
        }
        y
    }

    #[test]
    fn convolutions_match_the_definition() {
        // x, w, group, strides, dilations, padding
        type Case<'a> = (&'a [usize], &'a [usize], usize, &'a [usize], &'a [usize], Padding);
        let pads = |p: &[i64]| Padding::Explicit(p.to_vec());
        let cases: [Case<'_>; 12] = [
            (&[1, 3, 5, 6], &[4, 3, 3, 3], 1, &[], &[], pads(&[])),
            (&[2, 4, 7, 5], &[6, 2, 3, 2], 2, &[2, 1], &[1, 2], pads(&[1, 0, 2, 3])),
            (&[2, 3, 6, 6], &[3, 1, 3, 3], 3, &[2, 2], &[], Padding::SameLower),
            (&[2, 3, 6, 7], &[6, 1, 2, 4], 3, &[3, 2], &[], Padding::SameUpper),
            (&[1, 2, 4, 4], &[3, 2, 1, 1], 1, &[], &[], pads(&[])),
            (&[1, 2, 4, 4], &[3, 2, 1, 1], 1, &[], &[], pads(&[1, 1, 1, 1])),
            (&[1, 2, 4, 4], &[3, 2, 2, 2], 1, &[], &[], pads(&[-1, 0, 0, -1])),
            (&[0, 2, 4, 4], &[3, 2, 2, 2], 1, &[], &[], pads(&[])),
            (&[1, 0, 4, 4], &[3, 0, 2, 2], 1, &[], &[], pads(&[])),
            (&[1, 2, 4, 4], &[0, 2, 2, 2], 1, &[], &[], pads(&[])),
            (&[1, 1, 1, 1], &[1, 1, 3, 3], 1, &[5, 5], &[], pads(&[4, 4, 4, 4])),
            (&[1, 70, 70, 70], &[2, 70, 5, 5], 1, &[], &[], pads(&[2, 2, 2, 2])),
        ];
        for (x, w, group, strides, dilations, padding) in cases {
            let attributes = ConvAttributes {
                group,
                kernel: vec![],
                strides: strides.to_vec(),
                dilations: dilations.to_vec(),
                padding,
            };
            let plan = Convolution::new(&attributes, x, w).unwrap();
            let inputs = [noise(x, 1), noise(w, 2), noise(&[w[0]], 3)];
            let result = apply(&Op::Conv(attributes), &inputs, 1).unwrap();
            let [x, w, bias] = inputs.map(Option::unwrap);
            assert_close(floats(&result[0]), &reference(&plan, floats(&x), floats(&w), floats(&bias)), 1e-4);
        }
    }

    #[test]
    fn one_and_three_axes_agree_with_two() {
        let attributes = |padding, strides: &[usize]| ConvAttributes {
            group: 1,
            kernel: vec![],
            strides: strides.to_vec(),
            dilations: vec![],
            padding,
        };
        let (x, w) = (noise(&[1, 2, 4, 5], 1).unwrap(), noise(&[3, 2, 3, 2], 2).unwrap());
        let two = attributes(Padding::Explicit(vec![1, 0, 1, 1]), &[2, 1]);
        let expected = apply(&Op::Conv(two), &[Some(x.clone()), Some(w.clone())], 1).unwrap();
        let three = attributes(Padding::Explicit(vec![0, 1, 0, 0, 1, 1]), &[1, 2, 1]);
        let inputs = [x.reshaped(vec![1, 2, 1, 4, 5]), w.reshaped(vec![3, 2, 1, 3, 2])].map(Result::ok);
        let result = apply(&Op::Conv(three), &inputs, 1).unwrap();
        assert_eq!(floats(&result[0]), floats(&expected[0]));

        let (x, w) = (noise(&[1, 2, 5], 1).unwrap(), noise(&[3, 2, 2], 2).unwrap());
        let one = attributes(Padding::SameLower, &[2]);
        let expected = apply(&Op::Conv(one), &[Some(x.clone()), Some(w.clone())], 1).unwrap();
        let two = attributes(Padding::SameLower, &[1, 2]);
        let inputs = [x.reshaped(vec![1, 2, 1, 5]), w.reshaped(vec![3, 2, 1, 2])].map(Result::ok);
        assert_eq!(floats(&apply(&Op::Conv(two), &inputs, 1).unwrap()[0]), floats(&expected[0]));
    }

    #[test]
    fn misfits_are_errors() {
        let attributes = |group, kernel: &[usize], strides: &[usize]| {
            let (kernel, strides) = (kernel.to_vec(), strides.to_vec());
            Op::Conv(ConvAttributes { group, kernel, strides, dilations: vec![], padding: Padding::Valid })
        };
        let cases: [(Op, &[usize], &[usize], usize); 8] = [
            (attributes(0, &[], &[]), &[1, 2, 4, 4], &[2, 2, 3, 3], 2),
            (attributes(2, &[], &[]), &[1, 2, 4, 4], &[3, 1, 3, 3], 3),
            (attributes(1, &[2, 2], &[]), &[1, 2, 4, 4], &[2, 2, 3, 3], 2),
            (attributes(1, &[], &[0, 1]), &[1, 2, 4, 4], &[2, 2, 3, 3], 2),
            (attributes(1, &[], &[1]), &[1, 2, 4, 4], &[2, 2, 3, 3], 2),
            (attributes(1, &[], &[]), &[1, 2, 4, 4], &[2, 2, 3, 3], 3),
            (attributes(1, &[], &[]), &[1, 2, 4, 4], &[2, 2, 5, 3], 2),
            (attributes(1, &[], &[]), &[1, 2, 4, 4], &[2, 2, 3], 2),
        ];
        for (op, x, w, bias) in cases {
            assert!(
                apply(&op, &[noise(x, 1), noise(w, 1), noise(&[bias], 1)], 1).is_err(),
                "{op:?} {x:?} {w:?}"
            );
        }
    }
}
