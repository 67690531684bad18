//! Reductions along axes.
//!
//! The input is read once, in order, in runs along its innermost axis (neighbouring axes that are reduced alike are
//! joined): a run folds into one element of the output, or element by element into a run of it.

use std::ops::Range;

use poda_formats::op::ReduceKind;
use poda_formats::{DataType, TensorView};

use super::args::{self, Infos, Known, known_integers, one, optional_integers, required, unsupported_type};
use super::cast::converted;
use super::number::{Number, by_way_of_f32, with_number};
use super::{Inputs, OpError};
use crate::info::Info;
use crate::output::Output;
use crate::threads;
use crate::threads::share::{cost, parts};

/// For each axis of a rank whether it is reduced: all, when no axes are given, unless `noop`.
fn reduced_axes(axes: Option<&[i64]>, rank: usize, noop: bool) -> Result<Vec<bool>, OpError> {
    let axes = axes.unwrap_or(&[]);
    if axes.is_empty() {
        return Ok(vec![!noop; rank]);
    }
    let mut reduced = vec![false; rank];
    for axis in args::axes(axes, rank)? {
        reduced[axis] = true;
    }
    Ok(reduced)
}

fn reduced_shape(data: &[usize], reduced: &[bool], keep_dims: bool) -> Vec<usize> {
    let dims = data.iter().zip(reduced);
    if keep_dims {
        dims.map(|(&dim, &reduced)| if reduced { 1 } else { dim }).collect()
    } else {
        dims.filter(|&(_, &reduced)| !reduced).map(|(&dim, _)| dim).collect()
    }
}

pub(super) fn infer_reduce(
    _: ReduceKind,
    keep_dims: bool,
    noop_with_empty_axes: bool,
    inputs: &Infos<'_>,
) -> Result<Vec<Info>, OpError> {
    let data = required(inputs, 0)?;
    let axes = match known_integers(inputs, 1)? {
        Known::Later => return Ok(one(data.dtype, None)),
        Known::Absent => None,
        Known::Now(axes) => Some(axes),
    };
    let Some(shape) = &data.shape else { return Ok(one(data.dtype, None)) };
    let reduced = reduced_axes(axes.as_deref(), shape.len(), noop_with_empty_axes)?;
    Ok(one(data.dtype, Some(reduced_shape(shape, &reduced, keep_dims))))
}

pub(super) fn reduce(
    kind: ReduceKind,
    keep_dims: bool,
    noop_with_empty_axes: bool,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    by_way_of_f32(inputs, outputs, |inputs, outputs| {
        let data = required(inputs, 0)?;
        let axes = optional_integers(inputs, 1)?;
        let reduced = reduced_axes(axes.as_deref(), data.rank(), noop_with_empty_axes)?;
        let shape = reduced_shape(data.shape(), &reduced, keep_dims);
        let layout = Layout::new(data.shape(), &reduced);
        let dtype = data.dtype();
        let output = outputs[0].alloc_bytes(dtype, &shape)?;
        if dtype == DataType::Bool && matches!(kind, ReduceKind::Max | ReduceKind::Min) {
            fold(kind, &layout, data.bytes(), output);
            for value in output {
                *value = u8::from(*value != 0);
            }
            return Ok(());
        }
        with_number!(dtype, T => {
            reduce_numbers::<T>(kind, &layout, data, bytemuck::cast_slice_mut(output))
        }, else => Err(unsupported_type(kind, dtype)))
    })
}

fn reduce_numbers<T: Number>(
    kind: ReduceKind,
    layout: &Layout,
    data: TensorView<'_>,
    output: &mut [T],
) -> Result<(), OpError> {
    let roots = matches!(kind, ReduceKind::L2 | ReduceKind::LogSum | ReduceKind::LogSumExp);
    if roots && !T::DTYPE.is_float() {
        let mut exact = vec![0.0; output.len()];
        let input = converted::<f64>(data)?;
        fold(kind, layout, &input, &mut exact);
        for (to, from) in output.iter_mut().zip(exact) {
            *to = T::from_f64(from);
        }
        return Ok(());
    }
    if kind == ReduceKind::Mean && layout.count == 0 && !output.is_empty() && !T::DTYPE.is_float() {
        return Err(OpError::Invalid("the mean of no integers".to_owned()));
    }
    fold(kind, layout, data.as_slice()?, output);
    Ok(())
}

/// Which axes are reduced, joined where neighbours are alike.
struct Layout {
    axes: Vec<Axis>,
    /// Elements that fold into one.
    count: usize,
}

#[derive(Debug, Clone, Copy)]
struct Axis {
    dim: usize,
    reduced: bool,
}

impl Layout {
    fn new(shape: &[usize], reduced: &[bool]) -> Self {
        let mut axes: Vec<Axis> = Vec::with_capacity(shape.len());
        for (&dim, &reduced) in shape.iter().zip(reduced).filter(|&(&dim, _)| dim != 1) {
            match axes.last_mut() {
                Some(outer) if outer.reduced == reduced => outer.dim *= dim,
                _ => axes.push(Axis { dim, reduced }),
            }
        }
        let count = axes.iter().filter(|a| a.reduced).map(|a| a.dim).product();
        Self { axes, count }
    }

    /// Calls `run` with each run of the input, in order, what it folds into (one element, or as many as the run has),
    /// and the place of that in the output. Splits over the pool where the parts write to different places.
    fn for_each<T: Number>(
        &self,
        input: &[T],
        output: &mut [T],
        run: &(dyn Fn(&mut [T], &[T], usize) + Sync),
    ) {
        if input.is_empty() {
            return;
        }
        let bytes = bytemuck::cast_slice_mut(output);
        self.for_each_bytes(input.len(), bytes, size_of::<T>(), &|output, range, place| {
            run(bytemuck::cast_slice_mut(output), &input[range], place);
        });
    }

    /// [`Layout::for_each`] on the bytes of elements of `size` bytes, so that it is compiled once; `len` is the number of
    /// elements of the input, at least 1.
    fn for_each_bytes(&self, len: usize, output: &mut [u8], size: usize, run: &Run<'_>) {
        let parts = parts(len, cost::ARITHMETIC);
        match self.axes.split_first() {
            Some((first, rest)) if !first.reduced && parts > 1 => {
                let steps = first.dim.div_ceil(parts);
                let (input_step, output_step) = (len / first.dim, output.len() / first.dim);
                threads::for_each_chunk(output, steps * output_step, 1, |i, output| {
                    let first = Axis { dim: output.len() / output_step, reduced: false };
                    let start = i * steps * input_step;
                    let range = start..start + first.dim * input_step;
                    walk(
                        &[&[first], rest].concat(),
                        range,
                        output,
                        size,
                        i * steps * output_step / size,
                        run,
                    );
                });
            }
            _ => walk(&self.axes, 0..len, output, size, 0, run),
        }
    }
}

/// What to do with one run: the bytes to fold into, where the run is in the input, and the place in the output.
type Run<'a> = dyn Fn(&mut [u8], Range<usize>, usize) + Sync + 'a;

/// See [`Layout::for_each_bytes`]; `place` is the place of `output` in the whole output.
fn walk(axes: &[Axis], input: Range<usize>, output: &mut [u8], size: usize, place: usize, run: &Run<'_>) {
    let (inner, outer) = axes.split_last().map_or((Axis { dim: 1, reduced: false }, axes), |(i, o)| (*i, o));
    let width = if inner.reduced { 1 } else { inner.dim };
    let mut strides = vec![0; outer.len()];
    let mut stride = width;
    for (to, axis) in strides.iter_mut().zip(outer).rev() {
        if !axis.reduced {
            *to = stride;
            stride *= axis.dim;
        }
    }
    let mut index = vec![0; outer.len()];
    let mut at = 0;
    for start in input.step_by(inner.dim) {
        run(&mut output[at * size..(at + width) * size], start..start + inner.dim, place + at);
        for ((index, axis), stride) in index.iter_mut().zip(outer).zip(&strides).rev() {
            *index += 1;
            at += stride;
            if *index < axis.dim {
                break;
            }
            *index = 0;
            at -= stride * axis.dim;
        }
    }
}

fn fold<T: Number>(kind: ReduceKind, layout: &Layout, input: &[T], output: &mut [T]) {
    let root = |value: T| T::from_f64(value.to_f64().sqrt());
    let log = |value: T| T::from_f64(value.to_f64().ln());
    let square = |x: T| x.mul(x);
    let same = |x: T| x;
    match kind {
        ReduceKind::Sum => fold_with(layout, input, output, T::ZERO, same, T::add),
        ReduceKind::Mean => {
            fold_with(layout, input, output, T::ZERO, same, T::add);
            let count = T::from_i64(layout.count as i64);
            finish(output, |sum| sum.div(count));
        }
        ReduceKind::Max => fold_with(layout, input, output, T::LOWEST, same, T::larger),
        ReduceKind::Min => fold_with(layout, input, output, T::HIGHEST, same, T::smaller),
        ReduceKind::Prod => fold_with(layout, input, output, T::ONE, same, T::mul),
        ReduceKind::L1 => fold_with(layout, input, output, T::ZERO, T::abs, T::add),
        ReduceKind::L2 => {
            fold_with(layout, input, output, T::ZERO, square, T::add);
            finish(output, root);
        }
        ReduceKind::SumSquare => fold_with(layout, input, output, T::ZERO, square, T::add),
        ReduceKind::LogSum => {
            fold_with(layout, input, output, T::ZERO, same, T::add);
            finish(output, log);
        }
        ReduceKind::LogSumExp => {
            fold_with(layout, input, output, T::LOWEST, same, T::larger);
            // Sums of exponentials relative to the largest, which may be infinite itself.
            let offset = |max: T| if max.to_f64().is_finite() { max } else { T::ZERO };
            let largest: Vec<T> = output.iter().copied().map(offset).collect();
            output.fill(T::ZERO);
            let term = |x: T, largest: T| T::from_f64(x.sub(largest).to_f64().exp());
            layout.for_each(input, output, &|output, run, place| match output {
                [to] => *to = run.iter().fold(*to, |sum, &x| sum.add(term(x, largest[place]))),
                many => {
                    for ((to, &x), &largest) in many.iter_mut().zip(run).zip(&largest[place..]) {
                        *to = to.add(term(x, largest));
                    }
                }
            });
            for (to, largest) in output.iter_mut().zip(largest) {
                *to = log(*to).add(largest);
            }
        }
    }
}

fn finish<T: Copy>(output: &mut [T], function: impl Fn(T) -> T) {
    for value in output {
        *value = function(*value);
    }
}

/// Independent sums along a run, so that additions need not wait for each other.
const LANES: usize = 32;

fn fold_with<T: Number>(
    layout: &Layout,
    input: &[T],
    output: &mut [T],
    identity: T,
    map: impl Fn(T) -> T + Sync,
    combine: impl Fn(T, T) -> T + Sync,
) {
    output.fill(identity);
    layout.for_each(input, output, &|output, run, _| {
        T::looped(|| fold_run(output, run, identity, &map, &combine));
    });
}

/// Folds a run into one element, or element by element into as many.
#[inline(always)]
fn fold_run<T: Number>(
    output: &mut [T],
    run: &[T],
    identity: T,
    map: impl Fn(T) -> T,
    combine: impl Fn(T, T) -> T,
) {
    let [to] = output else {
        for (to, &x) in output.iter_mut().zip(run) {
            *to = combine(*to, map(x));
        }
        return;
    };
    let mut lanes = [identity; LANES];
    let chunks = run.chunks_exact(LANES);
    let tail = chunks.remainder();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = combine(*lane, map(x));
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(tail) {
        *lane = combine(*lane, map(x));
    }
    let mut width = LANES;
    while width > 1 {
        width /= 2;
        for i in 0..width {
            lanes[i] = combine(lanes[i], lanes[i + width]);
        }
    }
    *to = combine(*to, lanes[0]);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sums by the definition.
    fn reference(shape: &[usize], reduced: &[bool], input: &[i64]) -> Vec<i64> {
        let kept = reduced_shape(shape, reduced, true);
        let mut output = vec![0; kept.iter().product()];
        for (i, &x) in input.iter().enumerate() {
            let (mut rest, mut place, mut stride) = (i, 0, 1);
            for axis in (0..shape.len()).rev() {
                let at = rest % shape[axis];
                rest /= shape[axis];
                if !reduced[axis] {
                    place += at * stride;
                    stride *= shape[axis];
                }
            }
            output[place] += x;
        }
        output
    }

    #[test]
    fn sums_match_the_definition() {
        let cases: [(&[usize], &[bool]); 11] = [
            (&[], &[]),
            (&[5], &[true]),
            (&[5], &[false]),
            (&[2, 3, 4], &[true, false, true]),
            (&[2, 3, 4], &[false, true, false]),
            (&[2, 3, 4, 5], &[false, true, false, true]),
            (&[7, 65], &[false, true]),
            (&[7, 65], &[true, false]),
            (&[3, 0], &[false, true]),
            (&[61, 40, 41], &[false, true, false]),
            (&[61, 40, 41], &[true, false, true]),
        ];
        for (shape, reduced) in cases {
            let input: Vec<i64> = (0..shape.iter().product::<usize>() as i64).collect();
            let expected = reference(shape, reduced, &input);
            let mut output = vec![i64::MAX; expected.len()];
            fold(ReduceKind::Sum, &Layout::new(shape, reduced), &input, &mut output);
            assert_eq!(output, expected, "{shape:?} along {reduced:?}");
        }
    }

    #[test]
    fn reductions_of_nothing_and_of_infinities() {
        let all = |kind, input: &[f32]| {
            let mut output = [f32::NAN];
            fold(kind, &Layout::new(&[input.len()], &[true]), input, &mut output);
            output[0]
        };
        assert_eq!(all(ReduceKind::Sum, &[]), 0.0);
        assert_eq!(all(ReduceKind::Prod, &[]), 1.0);
        assert_eq!(all(ReduceKind::Max, &[]), f32::NEG_INFINITY);
        assert!(all(ReduceKind::Mean, &[]).is_nan());
        assert_eq!(all(ReduceKind::LogSumExp, &[]), f32::NEG_INFINITY);
        assert_eq!(all(ReduceKind::LogSumExp, &[f32::NEG_INFINITY; 2]), f32::NEG_INFINITY);
        assert_eq!(all(ReduceKind::LogSumExp, &[f32::INFINITY, 0.0]), f32::INFINITY);
        assert_eq!(all(ReduceKind::LogSumExp, &[1000.0, 1000.0]), 1000.0 + 2f32.ln());
        assert!(all(ReduceKind::Max, &[1.0, f32::NAN, 2.0]).is_nan());
    }
}
