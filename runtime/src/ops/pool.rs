//! Pooling.

use std::ops::Range;

use poda_formats::DataType;
use poda_formats::op::{PoolAttributes, PoolKind};

use super::args::{Infos, required, unsupported_type};
use super::elementwise::wide::widest;
use super::facts::{Fact, known, shape};
use super::geometry::{Axis, Windows, spatial};
use super::number::Number;
use super::real::{Product, Real, load, store, with_real};
use super::{Inputs, OpError};
use crate::info::Info;
use crate::kernels::pool::max_2x2;
use crate::output::Output;
use crate::threads;
use crate::threads::share::{self, cost, for_rows};

fn infos<'a, F: Fact<'a>>(
    attributes: &PoolAttributes,
    inputs: &[Option<F>],
    outputs: usize,
) -> Result<Vec<Info>, OpError> {
    let dtype = required(inputs, 0)?.element_type();
    if !(dtype.is_float() || attributes.kind == PoolKind::Max && matches!(dtype, DataType::I8 | DataType::U8))
    {
        return Err(unsupported_type(attributes.kind, dtype));
    }
    if outputs > 1 && attributes.kind != PoolKind::Max {
        return Err(OpError::Invalid(format!("{:?} pooling has no indices", attributes.kind)));
    }
    let dims = shape(inputs, 0)?
        .map(|x| {
            let windows = Windows::new(attributes.into(), x, &attributes.kernel)?;
            Ok::<_, OpError>(x[..2].iter().copied().chain(windows.output()).collect::<Vec<_>>())
        })
        .transpose()?;
    let types = [dtype, DataType::I64].into_iter().take(outputs.max(1));
    Ok(types.map(|dtype| Info { dtype, shape: dims.clone(), value: None }).collect())
}

pub(super) fn infer_pool(
    attributes: &PoolAttributes,
    inputs: &Infos<'_>,
    outputs: usize,
) -> Result<Vec<Info>, OpError> {
    infos(attributes, inputs, outputs)
}

pub(super) fn pool(
    attributes: &PoolAttributes,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    let infos = infos(attributes, inputs, outputs.len())?;
    let x = required(inputs, 0)?;
    let windows = Windows::new(attributes.into(), x.shape(), &attributes.kernel)?;
    let dims = known(&infos, 0);
    match (attributes.kind, x.dtype()) {
        (PoolKind::Max, DataType::F32)
            if halves(&windows) && !outputs.iter().skip(1).any(Output::is_used) =>
        {
            let [_, h, w] = &windows.axes;
            let x = x.as_slice::<f32>()?;
            let y = outputs[0].alloc::<f32>(dims)?;
            let [input, output] = [[h.input, w.input], [h.output, w.output]];
            let parts = share::parts(y.len(), window_cost(&windows));
            let channels = (y.len() / windows.outputs().max(1)).div_ceil(parts).max(1);
            threads::for_each_chunk(y, channels * windows.outputs(), 1, |i, y| {
                let count = y.len() / windows.outputs() * windows.inputs();
                max_2x2(&x[i * channels * windows.inputs()..][..count], input, y, output);
            });
            Ok(())
        }
        (PoolKind::Max, DataType::I8) => {
            max::<i8>(attributes, &windows, x.as_slice()?, DataType::I8, dims, outputs)
        }
        (PoolKind::Max, DataType::U8) => {
            max::<u8>(attributes, &windows, x.as_slice()?, DataType::U8, dims, outputs)
        }
        (PoolKind::Max, dtype) => {
            with_real!(dtype, R => max::<R>(attributes, &windows, &load(x), dtype, dims, outputs))
        }
        (PoolKind::Average, dtype) => with_real!(dtype, R => store::<R>(&mut outputs[0], dtype, dims, |y| {
            average(attributes.count_include_pad, &windows, &load(x), y)
        })),
        (PoolKind::Lp { p }, dtype) => with_real!(dtype, R => store::<R>(&mut outputs[0], dtype, dims, |y| {
            let p = p.max(1) as i32;
            each_window(&windows, &load::<R>(x), y, |channel, window| {
                let mut sum = R::default();
                window.each(|at| sum += channel[at].abs().powi(p));
                sum.powf(R::from_f64(1.0 / f64::from(p)))
            });
            Ok(())
        })),
    }
}

/// The elements of a channel that one window reads.
struct Window<'a> {
    windows: &'a Windows,
    output: [usize; 3],
    taps: [Range<usize>; 3],
}

impl Window<'_> {
    /// Calls `visit` with the index of each element, in order.
    #[inline]
    fn each(&self, mut visit: impl FnMut(usize)) {
        let [d, h, w] = &self.windows.axes;
        let [z, y, x] = self.output;
        if self.taps[2].is_empty() {
            return;
        }
        let first = w.position(x, self.taps[2].start);
        for tz in self.taps[0].clone() {
            for ty in self.taps[1].clone() {
                let line = (d.position(z, tz) * h.input + h.position(y, ty)) * w.input;
                for i in 0..self.taps[2].len() {
                    visit(line + first + i * w.dilation);
                }
            }
        }
    }
}

/// Sets each element of `y` to `reduce(channel, window)`.
fn each_window<T: Number, U: Send>(
    windows: &Windows,
    x: &[T],
    y: &mut [U],
    reduce: impl Fn(&[T], &Window<'_>) -> U + Sync,
) {
    if y.is_empty() {
        return;
    }
    let [d, h, w] = &windows.axes;
    let channel = |i: usize, y: &mut [U]| {
        let x = &x[i * windows.inputs()..][..windows.inputs()];
        for (line, y) in y.chunks_exact_mut(w.output).enumerate() {
            let (oz, oy) = (line / h.output, line % h.output);
            let mut window = Window { windows, output: [oz, oy, 0], taps: [d.taps(oz), h.taps(oy), 0..0] };
            for (ox, y) in y.iter_mut().enumerate() {
                window.output[2] = ox;
                window.taps[2] = w.taps(ox);
                *y = reduce(x, &window);
            }
        }
    };
    for_rows(y, windows.outputs(), windows.taps().saturating_mul(cost::ARITHMETIC), channel);
}

/// Picoseconds that an element of the output takes.
fn window_cost(windows: &Windows) -> usize {
    windows.taps().saturating_mul(cost::ARITHMETIC / 4).saturating_add(cost::COPY)
}

/// Whether windows are 2×2 without padding, in steps of 2.
fn halves(windows: &Windows) -> bool {
    let [d, h, w] = &windows.axes;
    let halves =
        |a: &Axis| (a.kernel, a.stride, a.dilation, a.begin) == (2, 2, 1, 0) && 2 * a.output <= a.input;
    *d == Axis::UNIT && halves(h) && halves(w)
}

/// Padding beyond twice a line that is still worked with; more is a mistake in the model, and would take memory.
const MOST_PADDING: usize = 1 << 16;

/// Elements of lines that are folded at a time: what stays in L1.
const STRIP: usize = 4096;

/// Sets each element of `y` to the `fold` of its window, starting from `initial`. `finish` gets each line of `y` with its first
/// two indices.
///
/// First down the lines of the windows: a strip of lines, each as long as its windows reach, one after the other. These are
/// taken apart by their place within a stride, so that what the same tap of neighbouring windows reads is side by side, and
/// then folded along the whole strip at once, however short the lines are.
fn each_line<T: Product>(
    windows: &Windows,
    x: &[T],
    y: &mut [T],
    initial: T,
    fold: impl Fn(T, T) -> T + Sync,
    finish: impl Fn([usize; 2], &mut [T]) + Sync,
) -> Result<(), OpError> {
    if y.is_empty() {
        return Ok(());
    }
    let [d, h, w] = &windows.axes;
    // What the windows of one line cover, padding included; the part of it that is input.
    let covered = (w.output - 1) * w.stride + w.extent();
    if covered > 2 * w.input + MOST_PADDING {
        return Err(OpError::Invalid(format!("windows cover {covered} elements of a line of {}", w.input)));
    }
    let (from, pad) = (w.begin.min(0).unsigned_abs(), w.begin.max(0) as usize);
    let inside = w.input.saturating_sub(from).min(covered.saturating_sub(pad));
    // Places where a window of a line could start; elements of a line.
    let places = covered.div_ceil(w.stride);
    let width = places * w.stride;
    let lines = d.output * h.output;
    let strip = (STRIP / width).clamp(1, lines);
    let channel = |i: usize, y: &mut [T]| {
        let x = &x[i * windows.inputs()..][..windows.inputs()];
        T::with_scratch(strip * (2 * width + places), |scratch| {
            let (folded, rest) = scratch.split_at_mut(strip * width);
            let (apart, results) = rest.split_at_mut(strip * width);
            widest(
                #[inline(always)]
                || {
                    for (first, y) in (0..lines).step_by(strip).zip(y.chunks_mut(strip * w.output)) {
                        let count = y.len() / w.output;
                        let folded = &mut folded[..count * width];
                        folded.fill(initial);
                        for (line, to) in (first..).zip(folded.chunks_exact_mut(width)) {
                            let [oz, oy] = [line / h.output, line % h.output];
                            let taps = d.taps(oz).flat_map(|tz| h.taps(oy).map(move |ty| (tz, ty)));
                            for (tz, ty) in taps.take_while(|_| inside > 0) {
                                let row = (d.position(oz, tz) * h.input + h.position(oy, ty)) * w.input;
                                let values = &x[row + from..][..inside];
                                for (to, &v) in to[pad..][..inside].iter_mut().zip(values) {
                                    *to = fold(*to, v);
                                }
                            }
                        }
                        let (all, stride) = (count * places, w.stride);
                        let apart = match stride {
                            1 => &*folded,
                            2 => {
                                let (even, odd) = apart[..2 * all].split_at_mut(all);
                                let halves = even.iter_mut().zip(odd);
                                for ((even, odd), pair) in halves.zip(folded.chunks_exact(2)) {
                                    (*even, *odd) = (pair[0], pair[1]);
                                }
                                &apart[..2 * all]
                            }
                            _ => {
                                for (at, to) in apart[..stride * all].chunks_exact_mut(all).enumerate() {
                                    let values = folded[at..].iter().step_by(stride);
                                    to.iter_mut().zip(values).for_each(|(to, &v)| *to = v);
                                }
                                &apart[..stride * all]
                            }
                        };
                        let results = &mut results[..all];
                        for tap in 0..w.kernel {
                            let at = tap * w.dilation;
                            // Windows at the end of the strip have no such tap, but these are not asked for.
                            let (start, end) = (at % stride * all + at / stride, (at % stride + 1) * all);
                            let values = &apart[start..end];
                            if tap == 0 {
                                results.iter_mut().zip(values).for_each(|(to, &v)| *to = fold(initial, v));
                            } else {
                                results.iter_mut().zip(values).for_each(|(to, &v)| *to = fold(*to, v));
                            }
                        }
                        let rows = results.chunks_exact(places).zip(y.chunks_exact_mut(w.output));
                        for (line, (from, to)) in (first..).zip(rows) {
                            to.copy_from_slice(&from[..w.output]);
                            finish([line / h.output, line % h.output], to);
                        }
                    }
                },
            );
        });
    };
    for_rows(y, windows.outputs(), window_cost(windows), channel);
    Ok(())
}

fn average<R: Real>(count_padding: bool, windows: &Windows, x: &[R], y: &mut [R]) -> Result<(), OpError> {
    let [d, h, w] = &windows.axes;
    let count = |axis: &Axis, output: usize| {
        if count_padding { axis.padded_taps(output) } else { axis.taps(output).len() }
    };
    let widths: Vec<R> = (0..w.output).map(|ox| R::from_f64(count(w, ox) as f64)).collect();
    each_line(
        windows,
        x,
        y,
        R::default(),
        #[inline(always)]
        |a, b| a + b,
        #[inline(always)]
        |[oz, oy], y| {
            let lines = R::from_f64((count(d, oz) * count(h, oy)) as f64);
            let one = R::from_f64(1.0);
            for (y, &width) in y.iter_mut().zip(&widths) {
                // A window in the padding alone has the sum 0.
                let taps = lines * width;
                *y /= if taps < one { one } else { taps };
            }
        },
    )
}

/// The larger of two numbers; NaN counts as largest.
#[inline]
fn larger<T: PartialOrd>(a: T, b: T) -> T {
    let is_nan = b.partial_cmp(&b).is_none();
    if b > a || is_nan { b } else { a }
}

/// Index of the largest element, the first of several; NaN counts as largest. `None` for a window in the padding alone.
fn largest<T: Number>(channel: &[T], window: &Window<'_>) -> Option<usize> {
    let mut best: Option<usize> = None;
    window.each(|at| {
        let is_nan = |v: T| v.partial_cmp(&v).is_none();
        if best.is_none_or(|b| channel[at] > channel[b] || is_nan(channel[at]) && !is_nan(channel[b])) {
            best = Some(at);
        }
    });
    best
}

fn max<T: Product>(
    attributes: &PoolAttributes,
    windows: &Windows,
    x: &[T],
    dtype: DataType,
    dims: &[usize],
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    store::<T>(&mut outputs[0], dtype, dims, |y| {
        let lowest = T::from_f64(f64::NEG_INFINITY);
        each_line(windows, x, y, lowest, larger, |_, _| {})
    })?;
    let Some(output) = outputs.get_mut(1).filter(|o| o.is_used()) else { return Ok(()) };
    let indices = output.alloc::<i64>(dims)?;
    each_window(windows, x, indices, |channel, window| largest(channel, window).map_or(-1, |at| at as i64));
    let [d, h, w] = windows.axes.map(|a| a.input as i64);
    for (i, channel) in indices.chunks_exact_mut(windows.outputs().max(1)).enumerate() {
        let base = (i * windows.inputs()) as i64;
        for index in channel.iter_mut().filter(|i| **i >= 0) {
            let (z, y, x) = (*index / (h * w), *index / w % h, *index % w);
            *index = base + if attributes.column_major { (x * h + y) * d + z } else { *index };
        }
    }
    Ok(())
}

fn global_infos<'a, F: Fact<'a>>(kind: PoolKind, inputs: &[Option<F>]) -> Result<Vec<Info>, OpError> {
    let dtype = required(inputs, 0)?.element_type();
    if !dtype.is_float() {
        return Err(unsupported_type(kind, dtype));
    }
    let dims = shape(inputs, 0)?
        .map(|x| Ok::<_, OpError>([&x[..2.min(x.len())], &vec![1; spatial(0, x)?.len()]].concat()))
        .transpose()?;
    Ok(vec![Info { dtype, shape: dims, value: None }])
}

pub(super) fn infer_global_pool(kind: PoolKind, inputs: &Infos<'_>) -> Result<Vec<Info>, OpError> {
    global_infos(kind, inputs)
}

pub(super) fn global_pool(
    kind: PoolKind,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    let infos = global_infos(kind, inputs)?;
    let x = required(inputs, 0)?;
    with_real!(x.dtype(), R => store::<R>(&mut outputs[0], x.dtype(), known(&infos, 0), |y| {
        let (x, pixels) = (load::<R>(x), x.shape()[2..].iter().product::<usize>());
        let channel = |i: usize, y: &mut [R]| y[0] = reduce(kind, &x[i * pixels..][..pixels]);
        for_rows(y, 1, pixels.saturating_mul(cost::ARITHMETIC / 3), channel);
        Ok(())
    }))
}

fn reduce<R: Real>(kind: PoolKind, channel: &[R]) -> R {
    match kind {
        PoolKind::Average => R::total(channel) / R::from_f64(channel.len() as f64),
        PoolKind::Max => channel.iter().fold(R::from_f64(f64::NEG_INFINITY), |max, &v| max.larger(v)),
        PoolKind::Lp { p } => {
            let p = p.max(1) as i32;
            let sum: R = channel.iter().map(|v| v.abs().powi(p)).sum();
            sum.powf(R::from_f64(1.0 / f64::from(p)))
        }
    }
}

#[cfg(test)]
mod tests {
    use poda_formats::op::{Op, Padding};

    use super::super::testing::{apply, assert_close, floats, input, noise};
    use super::*;

    fn attributes(kind: PoolKind, kernel: &[usize], strides: &[usize], pads: &[i64]) -> PoolAttributes {
        PoolAttributes {
            kind,
            kernel: kernel.to_vec(),
            strides: strides.to_vec(),
            dilations: vec![],
            padding: Padding::Explicit(pads.to_vec()),
            ceil_mode: false,
            count_include_pad: false,
            column_major: false,
        }
    }

    #[test]
    fn windows_at_the_edges_count_what_they_cover() {
        // ceil_mode, count_include_pad
        let cases: [(bool, bool, &[f32]); 4] = [
            (false, false, &[1.5, 3.0]),
            (false, true, &[1.0, 3.0]),
            (true, false, &[1.5, 3.0, 4.0]),
            (true, true, &[1.0, 3.0, 2.0]),
        ];
        for (ceil_mode, count_include_pad, expected) in cases {
            let base = attributes(PoolKind::Average, &[3], &[2], &[1, 1]);
            let op = Op::Pool(PoolAttributes { ceil_mode, count_include_pad, ..base });
            let result = apply(&op, &[input(&[1, 1, 4], &[1.0_f32, 2.0, 3.0, 4.0])], 1).unwrap();
            assert_close(floats(&result[0]), expected, 1e-6);
        }
        let lp = Op::Pool(attributes(PoolKind::Lp { p: 2 }, &[2], &[2], &[]));
        let result = apply(&lp, &[input(&[1, 1, 4], &[3.0_f32, -4.0, 0.0, 5.0])], 1).unwrap();
        assert_close(floats(&result[0]), &[5.0, 5.0], 1e-6);
    }

    #[test]
    fn a_partial_window_may_be_the_only_one() {
        let pool = |kind, count_include_pad, [kernel, stride]: [usize; 2], pads: &[i64], x: &[f32]| {
            let base = attributes(kind, &[kernel], &[stride], pads);
            let op = Op::Pool(PoolAttributes { ceil_mode: true, count_include_pad, ..base });
            floats(&apply(&op, &[input(&[1, 1, x.len()], x)], 1).unwrap()[0]).to_vec()
        };
        assert_eq!(pool(PoolKind::Max, false, [2, 2], &[], &[-3.0]), [-3.0]);
        assert_eq!(pool(PoolKind::Average, true, [2, 2], &[], &[3.0]), [3.0]);
        assert_eq!(pool(PoolKind::Average, false, [4, 3], &[], &[3.0, 5.0]), [4.0]);
        assert_eq!(pool(PoolKind::Lp { p: 1 }, false, [4, 3], &[], &[3.0, 5.0]), [8.0]);
        // One pad on either side counts, what rounding up added does not.
        assert_eq!(pool(PoolKind::Average, false, [5, 2], &[1, 1], &[1.0, 2.0]), [1.5]);
        assert_eq!(pool(PoolKind::Average, true, [5, 2], &[1, 1], &[1.0, 2.0]), [0.75]);
        let base = attributes(PoolKind::Max, &[3, 3], &[2, 2], &[]);
        let op = Op::Pool(PoolAttributes { ceil_mode: true, ..base });
        let x = input(&[1, 1, 2, 2], &[1.0_f32, 7.0, 3.0, 5.0]);
        let result = apply(&op, &[x], 2).unwrap();
        assert_eq!(
            (floats(&result[0]), result[1].as_slice::<i64>().unwrap()),
            (&[7.0_f32][..], &[1_i64][..])
        );
    }

    #[test]
    fn indices_count_over_the_whole_tensor() {
        let x = input(&[1, 2, 2, 3], &[1.0_f32, 5.0, 2.0, 4.0, 3.0, 6.0, f32::NAN, 0.0, 0.0, 0.0, 0.0, 7.0]);
        for (column_major, expected) in [(false, [1, 5, 6, 11]), (true, [2, 5, 6, 11])] {
            let base = attributes(PoolKind::Max, &[2, 2], &[1, 1], &[]);
            let op = Op::Pool(PoolAttributes { column_major, ..base });
            let result = apply(&op, std::slice::from_ref(&x), 2).unwrap();
            assert_close(floats(&result[0]), &[5.0, 6.0, f32::NAN, 7.0], 0.0);
            assert_eq!(result[1].as_slice::<i64>().unwrap(), expected);
        }
        let bytes = input(&[1, 1, 4], &[-3_i8, -1, -8, -9]);
        let op = Op::Pool(attributes(PoolKind::Max, &[2], &[2], &[]));
        assert_eq!(apply(&op, &[bytes], 1).unwrap()[0].as_slice::<i8>().unwrap(), [-1, -8]);
    }

    #[test]
    fn windows_of_two_by_two_match_the_definition() {
        for [channels, height, width] in [[1, 2, 2], [3, 5, 7], [2, 14, 14], [2, 6, 33], [1, 8, 70]] {
            let x = noise(&[1, channels, height, width], 7);
            let values = floats(x.as_ref().unwrap());
            for kind in [PoolKind::Max, PoolKind::Average] {
                let op = Op::Pool(attributes(kind, &[2, 2], &[2, 2], &[]));
                let mut expected = Vec::new();
                for c in 0..channels {
                    for (oy, ox) in (0..height / 2).flat_map(|oy| (0..width / 2).map(move |ox| (oy, ox))) {
                        let at = (c * height + 2 * oy) * width + 2 * ox;
                        let window = [at, at + 1, at + width, at + width + 1].map(|at| values[at]);
                        expected.push(match kind {
                            PoolKind::Max => window.into_iter().fold(f32::NEG_INFINITY, f32::max),
                            _ => window.iter().sum::<f32>() / 4.0,
                        });
                    }
                }
                let result = apply(&op, std::slice::from_ref(&x), 1).unwrap();
                assert_close(floats(&result[0]), &expected, 1e-6);
            }
        }
    }

    /// Narrow and wide maps, strides with and without a rest, dilations, pads on one side, windows that ceil mode adds.
    #[test]
    fn windows_of_every_kind_match_the_definition() {
        for (size, kernel, stride, dilation, pads) in [
            ([7, 7], 3, 2, 1, [1, 1]),
            ([1, 1], 1, 1, 1, [0, 0]),
            ([5, 3], 3, 1, 1, [1, 1]),
            ([14, 9], 5, 1, 1, [2, 2]),
            ([9, 70], 3, 3, 1, [0, 1]),
            ([11, 13], 2, 4, 1, [1, 0]),
            ([12, 12], 3, 2, 2, [2, 1]),
            ([3, 300], 3, 2, 1, [1, 1]),
        ] {
            let [height, width] = size;
            let x = noise(&[1, 3, height, width], 5);
            let values = floats(x.as_ref().unwrap());
            for (kind, ceil_mode, count_include_pad) in [PoolKind::Max, PoolKind::Average]
                .into_iter()
                .flat_map(|k| [(k, false, true), (k, true, false)])
            {
                let op = Op::Pool(PoolAttributes {
                    dilations: vec![dilation; 2],
                    ceil_mode,
                    count_include_pad,
                    ..attributes(kind, &[kernel; 2], &[stride; 2], &[pads[0], pads[0], pads[1], pads[1]])
                });
                let result = apply(&op, std::slice::from_ref(&x), 1).unwrap();
                let &[_, _, lines, columns] = result[0].shape() else { panic!() };
                let inside = |at: i64, size: usize| (0..size as i64).contains(&at);
                let padded = |at: i64, size: usize| at < size as i64 + pads[1];
                let mut expected = Vec::new();
                for (c, oy, ox) in (0..3)
                    .flat_map(|c| (0..lines).flat_map(move |oy| (0..columns).map(move |ox| (c, oy, ox))))
                {
                    let places = (0..kernel * kernel).map(|t| {
                        [(oy, t / kernel), (ox, t % kernel)]
                            .map(|(o, t)| (o * stride + t * dilation) as i64 - pads[0])
                    });
                    let covered =
                        places.clone().filter(|&[y, x]| padded(y, height) && padded(x, width)).count();
                    let read: Vec<f32> = places
                        .filter(|&[y, x]| inside(y, height) && inside(x, width))
                        .map(|[y, x]| values[(c * height + y as usize) * width + x as usize])
                        .collect();
                    expected.push(match kind {
                        PoolKind::Max => read.iter().copied().fold(f32::NEG_INFINITY, f32::max),
                        _ => {
                            let count = if count_include_pad { covered } else { read.len() };
                            read.iter().sum::<f32>() / count.max(1) as f32
                        }
                    });
                }
                assert_close(floats(&result[0]), &expected, 1e-5);
            }
        }
    }

    #[test]
    fn odd_shapes_give_results_or_errors() {
        let op = |kernel: &[usize], strides: &[usize]| {
            Op::Pool(attributes(PoolKind::Average, kernel, strides, &[]))
        };
        assert_eq!(apply(&op(&[2], &[1]), &[noise(&[0, 3, 4], 0)], 1).unwrap()[0].shape(), [0, 3, 3]);
        for (kernel, strides, x) in [
            (&[2][..], &[0][..], &[1, 1, 4][..]),
            (&[5], &[1], &[1, 1, 4]),
            (&[2, 2], &[1], &[1, 1, 4]),
            (&[], &[], &[1, 1, 4]),
            (&[2], &[1], &[4]),
            (&[1; 4], &[1; 4], &[1, 1, 2, 2, 2, 2]),
        ] {
            assert!(apply(&op(kernel, strides), &[noise(x, 0)], 1).is_err(), "{kernel:?} {strides:?} {x:?}");
        }
        for kind in [PoolKind::Average, PoolKind::Max, PoolKind::Lp { p: 1 }] {
            let op = Op::GlobalPool { kind };
            let result = apply(&op, &[input(&[1, 2, 2], &[1.0_f32, 3.0, 2.0, 2.0])], 1).unwrap();
            let expected = match kind {
                PoolKind::Average => [2.0, 2.0],
                PoolKind::Max => [3.0, 2.0],
                PoolKind::Lp { .. } => [4.0, 4.0],
            };
            assert_close(floats(&result[0]), &expected, 1e-6);
            assert!(apply(&op, &[noise(&[3], 0)], 1).is_err());
        }
    }
}
