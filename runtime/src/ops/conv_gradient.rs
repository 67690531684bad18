//! Gradient of a convolution with respect to its weight: for each group the product of the result's gradient with the
//! transposed im2col matrix of the image, summed over the batch.
//!
//! Images lie side by side in one matrix of a few thousand columns, so that small ones make no small products.

use poda_formats::op::ConvAttributes;

use super::args::{Infos, one, required};
use super::facts::{Fact, bad_shape, expect_shape, float_type, same_type, shape};
use super::geometry::{Convolution, Windows};
use super::real::{Mat, Product, load, store, with_real};
use super::{Inputs, OpError};
use crate::info::Info;
use crate::output::Output;
use crate::threads;
use crate::threads::share::{cost, for_rows};

/// Elements of an im2col matrix that are worked on at a time, unless one image has more.
const TILE: usize = 1 << 19;

/// Columns of an im2col matrix that are enough.
const COLUMNS: usize = 4096;

/// The convolution, and the shape of its weight.
fn plan<'a, F: Fact<'a>>(
    attributes: &ConvAttributes,
    inputs: &[Option<F>],
) -> Result<Option<(Convolution, Vec<usize>)>, OpError> {
    let dtype = float_type(inputs, 0)?;
    same_type(inputs, [1], dtype)?;
    let (Some(x), Some(g)) = (shape(inputs, 0)?, shape(inputs, 1)?) else { return Ok(None) };
    let ([_, channels, ..], [_, filters, ..]) = (x, g) else {
        return Err(bad_shape(1, g, "expected [batch, filters, spatial…]"));
    };
    let per_group = channels.checked_div(attributes.group).unwrap_or(0);
    let weight = [&[*filters, per_group], &attributes.kernel[..]].concat();
    let plan = Convolution::new(attributes, x, &weight)?;
    expect_shape(inputs, 1, &plan.output())?;
    Ok(Some((plan, weight)))
}

pub(super) fn infer_conv_gradient(
    attributes: &ConvAttributes,
    inputs: &Infos<'_>,
) -> Result<Vec<Info>, OpError> {
    Ok(one(required(inputs, 0)?.dtype, plan(attributes, inputs)?.map(|(_, weight)| weight)))
}

pub(super) fn conv_gradient(
    attributes: &ConvAttributes,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    let (x, g) = (required(inputs, 0)?, required(inputs, 1)?);
    let Some((plan, weight)) = plan(attributes, inputs)? else {
        return Err(OpError::MissingInput { index: 0 });
    };
    with_real!(x.dtype(), R => store::<R>(&mut outputs[0], x.dtype(), &weight, |w| {
        gradient(&plan, &load::<R>(x), &load::<R>(g), w);
        Ok(())
    }))
}

/// `w` `[filters, channels / groups, taps]` from `x` `[batch, channels, pixels]` and `g` `[batch, filters, outputs]`.
fn gradient<T: Product>(plan: &Convolution, x: &[T], g: &[T], w: &mut [T]) {
    let (pixels, n) = (plan.windows.inputs(), plan.windows.outputs());
    let (channels, filters) = (plan.channels / plan.groups, plan.filters / plan.groups);
    let k = channels * plan.windows.taps();
    w.fill(T::default());
    if w.is_empty() || plan.batch * n == 0 {
        return;
    }
    let images = (TILE / (k * n)).min(COLUMNS.div_ceil(n)).clamp(1, plan.batch);
    threads::for_each_chunk(w, filters * k, 1, |group, w| {
        T::with_scratch((k + filters) * images * n + filters * k, |scratch| {
            let (columns, rest) = scratch.split_at_mut(k * images * n);
            let (rows, part) = rest.split_at_mut(filters * images * n);
            for first in (0..plan.batch).step_by(images) {
                let count = images.min(plan.batch - first);
                let (columns, rows) = (&mut columns[..k * count * n], &mut rows[..filters * count * n]);
                let image = |i: usize| {
                    &x[((first + i) * plan.channels + group * channels) * pixels..][..channels * pixels]
                };
                im2col(&plan.windows, count, &image, columns);
                for (f, row) in rows.chunks_exact_mut(count * n).enumerate() {
                    for (i, row) in row.chunks_exact_mut(n).enumerate() {
                        let at = (first + i) * plan.filters + group * filters + f;
                        row.copy_from_slice(&g[at * n..][..n]);
                    }
                }
                let (rows, columns) =
                    (Mat::new(rows, filters, count * n), Mat::new(columns, k, count * n).t());
                T::product(rows, columns, part);
                w.iter_mut().zip(&*part).for_each(|(w, &part)| *w = w.add(part));
            }
        });
    });
}

/// Writes `[channels · taps, images · outputs]`; pads are zero.
fn im2col<'a, T: Product>(
    windows: &Windows,
    images: usize,
    image: &(impl Fn(usize) -> &'a [T] + Sync),
    out: &mut [T],
) {
    let (taps, pixels, n) = (windows.taps(), windows.inputs(), windows.outputs());
    for_rows(out, images * n, cost::COPY, |k, row| {
        row.fill(T::default());
        for (i, row) in row.chunks_exact_mut(n).enumerate() {
            let channel = &image(i)[k / taps * pixels..][..pixels];
            windows.runs(k % taps, 0..n, |column, count, at, step| {
                let values = channel[at..].iter().step_by(step);
                row[column..column + count].iter_mut().zip(values).for_each(|(y, &x)| *y = x);
            });
        }
    });
}

#[cfg(test)]
mod tests {
    use poda_formats::op::{Op, Padding};

    use super::super::testing::{apply, assert_close, floats, noise};
    use super::*;

    /// A convolution is linear in its weight, so its gradient in direction `e` is the product with what `e` gives.
    #[test]
    fn gradients_match_convolutions_with_one_weight() {
        // x, w, group, strides, dilations, padding
        type Case<'a> = (&'a [usize], &'a [usize], usize, &'a [usize], &'a [usize], Padding);
        let pads = |p: &[i64]| Padding::Explicit(p.to_vec());
        let cases: [Case<'_>; 8] = [
            (&[1, 3, 5, 6], &[4, 3, 3, 3], 1, &[], &[], pads(&[])),
            (&[2, 4, 7, 5], &[6, 2, 3, 2], 2, &[2, 1], &[1, 2], pads(&[1, 0, 2, 3])),
            (&[3, 3, 6, 6], &[3, 1, 3, 3], 3, &[2, 2], &[], Padding::SameLower),
            (&[2, 3, 6, 7], &[6, 1, 2, 4], 3, &[3, 2], &[], Padding::SameUpper),
            (&[70, 2, 9, 9], &[3, 2, 1, 1], 1, &[], &[], pads(&[])),
            (&[1, 2, 4, 4], &[3, 2, 2, 2], 1, &[], &[], pads(&[-1, 0, 0, -1])),
            (&[0, 2, 4, 4], &[3, 2, 2, 2], 1, &[], &[], pads(&[])),
            (&[2, 2, 9], &[3, 2, 4], 1, &[2], &[], pads(&[1, 1])),
        ];
        for (x_shape, w_shape, group, strides, dilations, padding) in cases {
            let attributes = ConvAttributes {
                group,
                kernel: w_shape[2..].to_vec(),
                strides: strides.to_vec(),
                dilations: dilations.to_vec(),
                padding,
            };
            let x = noise(x_shape, 1);
            let output = Convolution::new(&attributes, x_shape, w_shape).unwrap().output();
            let g = noise(&output, 2);
            let inputs = [x.clone(), g.clone()];
            let found = apply(&Op::ConvGradient(attributes.clone()), &inputs, 1).unwrap();
            assert_eq!(found[0].shape(), w_shape);
            let len: usize = w_shape.iter().product();
            for at in (0..len).step_by(7) {
                let mut e = vec![0.0_f32; len];
                e[at] = 1.0;
                let e = super::super::testing::input(w_shape, &e);
                let y = apply(&Op::Conv(attributes.clone()), &[x.clone(), e], 1).unwrap();
                let (y, g) = (floats(&y[0]), floats(g.as_ref().unwrap()));
                let dot: f64 = y.iter().zip(g).map(|(&y, &g)| f64::from(y) * f64::from(g)).sum();
                assert_close(&floats(&found[0])[at..=at], &[dot as f32], 1e-4);
            }
        }
    }

    #[test]
    fn misfits_are_errors() {
        let attributes = |group, kernel: &[usize]| {
            let kernel = kernel.to_vec();
            Op::ConvGradient(ConvAttributes {
                group,
                kernel,
                strides: vec![],
                dilations: vec![],
                padding: Padding::Valid,
            })
        };
        let cases: [(Op, &[usize], &[usize]); 5] = [
            (attributes(0, &[2, 2]), &[1, 2, 4, 4], &[1, 2, 3, 3]),
            (attributes(1, &[]), &[1, 2, 4, 4], &[1, 2, 3, 3]),
            (attributes(1, &[2, 2]), &[1, 2, 4, 4], &[1, 2, 3, 4]),
            (attributes(1, &[2, 2]), &[1, 2, 4, 4], &[2, 2, 3, 3]),
            (attributes(2, &[2, 2]), &[1, 2, 4, 4], &[3]),
        ];
        for (op, x, g) in cases {
            assert!(apply(&op, &[noise(x, 1), noise(g, 1)], 1).is_err(), "{op:?} {x:?} {g:?}");
        }
    }
}
