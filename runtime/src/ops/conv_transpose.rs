//! Transposed convolution: the image times the transposed weights, scattered over the output by the windows of the
//! convolution that would lead back.

use poda_formats::op::{ConvAttributes, Padding};

use super::args::{Infos, one, optional, required};
use super::facts::{Fact, bad_shape, expect_shape, float_type, known, same_type, shape};
use super::geometry::{Axis, LIMIT, Windows, explicit, kernel_of, per_axis};
use super::real::{Mat, Product, load, store, with_real};
use super::{Inputs, OpError};
use crate::info::Info;
use crate::output::Output;
use crate::threads;

/// Elements of the product that are worked on at a time, unless one column is larger.
const TILE: usize = 1 << 20;

/// A transposed convolution of `x` `[batch, channels, spatial…]` with `w` `[channels, filters / groups, kernel…]`.
struct Plan {
    channels: usize,
    filters: usize,
    groups: usize,
    /// Those of the convolution from output to input.
    windows: Windows,
    shape: Vec<usize>,
}

/// Attributes besides those of a convolution.
#[derive(Debug, Clone, Copy)]
struct Extra<'a> {
    output_padding: &'a [usize],
    output_shape: &'a [usize],
}

impl Plan {
    fn new(attributes: &ConvAttributes, extra: Extra<'_>, x: &[usize], w: &[usize]) -> Result<Self, OpError> {
        let kernel = kernel_of(attributes, x, w)?;
        let groups = attributes.group;
        if w[0] != x[1] || groups == 0 || !x[1].is_multiple_of(groups) {
            return Err(bad_shape(1, w, format!("it does not fit {} channels in {groups} groups", x[1])));
        }
        let Some(filters) = w[1].checked_mul(groups) else {
            return Err(bad_shape(1, w, format!("{groups} groups are too many")));
        };
        let axes = axes(attributes, extra, x, kernel)?;
        let shape = [x[0], filters].into_iter().chain(axes.iter().map(|a| a.input)).collect();
        let windows = Windows::from_axes(x, &axes)?;
        Ok(Self { channels: x[1], filters, groups, windows, shape })
    }
}

/// The windows of the convolution that leads from the output back to `x`.
fn axes(
    attributes: &ConvAttributes,
    extra: Extra<'_>,
    x: &[usize],
    kernel: &[usize],
) -> Result<Vec<Axis>, OpError> {
    let (input, count) = (&x[2..], kernel.len());
    let kernel = per_axis("kernel", kernel, 1, count)?;
    let strides = per_axis("stride", &attributes.strides, 1, count)?;
    let dilations = per_axis("dilation", &attributes.dilations, 1, count)?;
    let padding = extra.output_padding;
    if !(padding.is_empty() || padding.len() == count && padding.iter().all(|&p| p < LIMIT)) {
        return Err(OpError::Invalid(format!("output_padding {padding:?} should have {count} small values")));
    }
    // Some writers give the whole shape.
    let wanted = match extra.output_shape {
        [] => None,
        all if all.len() == count => Some(all),
        all if all.len() == count + 2 => Some(&all[2..]),
        other => return Err(OpError::Invalid(format!("output_shape {other:?} should have {count} values"))),
    };
    let pads = match &attributes.padding {
        Padding::Explicit(pads) => explicit(pads, count)?,
        Padding::SameUpper | Padding::SameLower | Padding::Valid => vec![[0, 0]; count],
    };
    let same = matches!(attributes.padding, Padding::SameUpper | Padding::SameLower);
    (0..count)
        .map(|i| {
            let too_large = || bad_shape(0, x, format!("the output along spatial axis {i} is out of range"));
            // Without pads: from the start of the first window to the end of the last.
            let full = input[i]
                .saturating_sub(1)
                .checked_mul(strides[i])
                .and_then(|v| v.checked_add((kernel[i] - 1).checked_mul(dilations[i])?))
                .and_then(|v| v.checked_add(1 + padding.get(i).copied().unwrap_or(0)))
                .filter(|&v| v < LIMIT)
                .ok_or_else(too_large)? as isize;
            let wanted = match wanted {
                Some(shape) => Some(shape[i]),
                None if same => Some(input[i].checked_mul(strides[i]).ok_or_else(too_large)?),
                None => None,
            };
            let [begin, end] = match wanted {
                None => pads[i],
                Some(wanted) if wanted >= LIMIT => return Err(too_large()),
                Some(wanted) => {
                    let total = full - wanted as isize;
                    // What is missing is added at the end; what is too much is cut at both ends.
                    let (half, rest) = (total.max(0) / 2, total - total.max(0) / 2);
                    let more_at_end = total < 0 || attributes.padding == Padding::SameUpper;
                    if more_at_end { [half, rest] } else { [rest, half] }
                }
            };
            let output = usize::try_from(full - begin - end).map_err(|_| too_large())?;
            Ok(Axis {
                input: output,
                kernel: kernel[i],
                stride: strides[i],
                dilation: dilations[i],
                begin,
                end,
                output: input[i],
            })
        })
        .collect()
}

/// The number of filters, and the windows of the convolution that leads from the output back to `x`.
///
/// # Errors
/// When the shapes do not fit each other or the attributes.
pub(crate) fn windows(
    attributes: &ConvAttributes,
    output_padding: &[usize],
    output_shape: &[usize],
    x: &[usize],
    w: &[usize],
) -> Result<(usize, Windows), OpError> {
    let plan = Plan::new(attributes, Extra { output_padding, output_shape }, x, w)?;
    Ok((plan.filters, plan.windows))
}

fn infos<'a, F: Fact<'a>>(
    attributes: &ConvAttributes,
    extra: Extra<'_>,
    inputs: &[Option<F>],
) -> Result<Vec<Info>, OpError> {
    let dtype = float_type(inputs, 0)?;
    same_type(inputs, [1, 2], dtype)?;
    let (Some(x), Some(w)) = (shape(inputs, 0)?, shape(inputs, 1)?) else { return Ok(one(dtype, None)) };
    let plan = Plan::new(attributes, extra, x, w)?;
    expect_shape(inputs, 2, &[plan.filters])?;
    Ok(one(dtype, Some(plan.shape)))
}

pub(super) fn infer_conv_transpose(
    attributes: &ConvAttributes,
    output_padding: &[usize],
    output_shape: &[usize],
    inputs: &Infos<'_>,
) -> Result<Vec<Info>, OpError> {
    infos(attributes, Extra { output_padding, output_shape }, inputs)
}

pub(super) fn conv_transpose(
    attributes: &ConvAttributes,
    output_padding: &[usize],
    output_shape: &[usize],
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    let extra = Extra { output_padding, output_shape };
    let infos = infos(attributes, extra, inputs)?;
    let (x, w, bias) = (required(inputs, 0)?, required(inputs, 1)?, optional(inputs, 2));
    let plan = Plan::new(attributes, extra, x.shape(), w.shape())?;
    with_real!(x.dtype(), R => store::<R>(&mut outputs[0], x.dtype(), known(&infos, 0), |y| {
        let bias = bias.map(load::<R>);
        let (x, w) = (load::<R>(x), load::<R>(w));
        let (inputs, outputs) = (plan.windows.outputs(), plan.windows.inputs());
        let (channels, filters) = (plan.channels / plan.groups, plan.filters / plan.groups);
        let rows = filters * plan.windows.taps();
        if y.is_empty() {
            return Ok(());
        }
        threads::for_each_chunk(y, filters * outputs, 1, |i, y| {
            let g = i % plan.groups;
            for (f, channel) in y.chunks_exact_mut(outputs).enumerate() {
                channel.fill(bias.as_ref().map_or(R::default(), |b| b[g * filters + f]));
            }
            let weights = Mat::new(&w[g * channels * rows..][..channels * rows], channels, rows).t();
            one_group(&plan.windows, Mat::new(&x[i * channels * inputs..][..channels * inputs], channels, inputs), weights, y);
        });
        Ok(())
    }))
}

/// Adds the products of `weights` `[filters · taps, channels]` with `image` `[channels, pixels]` to `y` `[filters, …]`.
fn one_group<T: Product>(windows: &Windows, image: Mat<'_, T>, weights: Mat<'_, T>, y: &mut [T]) {
    let (rows, n, taps) = (weights.rows, image.cols, windows.taps());
    let tile = (TILE / rows.max(1)).max(1).min(n);
    T::with_scratch(rows * tile, |scratch| {
        for start in (0..n).step_by(tile.max(1)) {
            let width = tile.min(n - start);
            let products = &mut scratch[..rows * width];
            let data = image.data.get(start..).unwrap_or_default();
            T::product(weights, Mat { data, cols: width, ..image }, products);
            let filters = y.chunks_exact_mut(windows.inputs()).zip(products.chunks_exact(taps * width));
            let scatter = |(channel, products): (&mut [T], &[T])| {
                for (tap, row) in products.chunks_exact(width).enumerate() {
                    windows.runs(tap, start..start + width, |column, count, at, step| {
                        let to = channel[at..].iter_mut().step_by(step);
                        to.zip(&row[column..column + count]).for_each(|(y, &v)| *y = y.add(v));
                    });
                }
            };
            filters.for_each(scatter);
        }
    });
}

#[cfg(test)]
mod tests {
    use poda_formats::op::Op;

    use super::super::geometry::Convolution;
    use super::super::testing::{apply, assert_close, floats, noise};
    use super::*;

    /// `⟨conv(y), x⟩ = ⟨y, conv_transpose(x)⟩` for every y: the definition of a transpose.
    #[test]
    fn it_is_the_transpose_of_a_convolution() {
        // shape of y, weights, group, strides, dilations, pads
        let cases: [(&[usize], &[usize], usize, &[usize], &[usize], &[i64]); 5] = [
            (&[1, 2, 5, 6], &[3, 2, 3, 3], 1, &[1, 1], &[1, 1], &[0, 0, 0, 0]),
            (&[2, 4, 7, 7], &[6, 2, 3, 3], 2, &[2, 2], &[1, 1], &[1, 1, 1, 1]),
            (&[1, 2, 9, 8], &[2, 1, 2, 4], 2, &[3, 1], &[2, 1], &[0, 2, 2, 1]),
            (&[1, 1, 9], &[2, 1, 3], 1, &[2], &[2], &[1, 1]),
            (&[1, 2, 3, 4, 5], &[3, 2, 2, 2, 2], 1, &[1, 1, 1], &[1, 1, 1], &[0, 0, 0, 0, 0, 0]),
        ];
        for (y, w, group, strides, dilations, pads) in cases {
            let attributes = ConvAttributes {
                group,
                kernel: vec![],
                strides: strides.to_vec(),
                dilations: dilations.to_vec(),
                padding: Padding::Explicit(pads.to_vec()),
            };
            let x = Convolution::new(&attributes, y, w).unwrap().output();
            // What the windows do not reach is output padding.
            let reached = |i: usize| {
                let extent = (w[2 + i] - 1) * dilations[i] + 1;
                (x[2 + i] - 1) * strides[i] + extent - (pads[i] + pads[strides.len() + i]) as usize
            };
            let output_padding = (0..strides.len()).map(|i| y[2 + i] - reached(i)).collect();
            let (y, w, x) = (noise(y, 1), noise(w, 2), noise(&x, 3));
            let forward = apply(&Op::Conv(attributes.clone()), &[y.clone(), w.clone()], 1).unwrap();
            let op = Op::ConvTranspose { conv: attributes, output_padding, output_shape: vec![] };
            let back = apply(&op, &[x.clone(), w], 1).unwrap();
            assert_eq!(back[0].shape(), y.as_ref().unwrap().shape());
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
            let left = dot(floats(&forward[0]), floats(&x.unwrap()));
            assert_close(&[left], &[dot(floats(&back[0]), floats(&y.unwrap()))], 1e-4);
        }
    }

    #[test]
    fn output_sizes_follow_onnx() {
        let run = |padding: Padding, output_padding: &[usize], output_shape: &[usize]| {
            let conv =
                ConvAttributes { group: 1, kernel: vec![], strides: vec![2], dilations: vec![], padding };
            let (output_padding, output_shape) = (output_padding.to_vec(), output_shape.to_vec());
            let op = Op::ConvTranspose { conv, output_padding, output_shape };
            apply(&op, &[noise(&[1, 1, 4], 1), noise(&[1, 1, 3], 2), noise(&[1], 3)], 1)
                .map(|r| r[0].shape()[2])
        };
        let none = || Padding::Explicit(vec![]);
        assert_eq!(run(none(), &[], &[]), Ok(9));
        assert_eq!(run(none(), &[1], &[]), Ok(10));
        assert_eq!(run(Padding::Explicit(vec![1, 2]), &[], &[]), Ok(6));
        assert_eq!(run(Padding::SameUpper, &[], &[]), Ok(8));
        assert_eq!(run(none(), &[], &[12]), Ok(12));
        assert_eq!(run(none(), &[], &[1, 1, 5]), Ok(5));
        assert!(run(Padding::Explicit(vec![5, 5]), &[], &[]).is_err());
        assert!(run(none(), &[], &[usize::MAX]).is_err());
        assert!(run(none(), &[usize::MAX], &[]).is_err());
    }
}
