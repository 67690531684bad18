//! Walking several inputs under one broadcast shape, run by run.
//!
//! Neighbouring axes that every input walks alike are joined. Along what is then the innermost axis each input either
//! moves on element by element or stays, so a run is a loop over slices, of which some have length 1.

use std::ops::Range;

use poda_formats::Element;
use smallvec::SmallVec;

use crate::ops::args::broadcast_strides;
use crate::threads;
use crate::threads::share;

/// How `N` inputs repeat under a broadcast shape.
#[derive(Debug, Clone)]
pub(in crate::ops) struct Broadcast<const N: usize> {
    /// Joined axes, outermost first, without the innermost.
    outer: Vec<Axis<N>>,
    inner: Axis<N>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Axis<const N: usize> {
    dim: usize,
    /// 0 where the input stays.
    strides: [usize; N],
}

/// What to do with one run: the bytes to write, and where each of `N` inputs has its elements.
type Run<'a, const N: usize> = dyn Fn(&mut [u8], [Range<usize>; N]) + Sync + 'a;

impl<const N: usize> Broadcast<N> {
    /// For inputs of these shapes, which broadcast to `shape`.
    pub(in crate::ops) fn new(shape: &[usize], inputs: [&[usize]; N]) -> Self {
        let strides = inputs.map(|input| broadcast_strides(input, shape.len()));
        let mut axes: Vec<Axis<N>> = Vec::with_capacity(shape.len());
        for (i, &dim) in shape.iter().enumerate().filter(|&(_, &dim)| dim != 1) {
            let strides: [usize; N] = std::array::from_fn(|input| strides[input][i]);
            match axes.last_mut() {
                Some(outer) if outer.strides == strides.map(|s| s * dim) => {
                    *outer = Axis { dim: outer.dim * dim, strides };
                }
                _ => axes.push(Axis { dim, strides }),
            }
        }
        let inner = axes.pop().unwrap_or(Axis { dim: 1, strides: [0; N] });
        Self { outer: axes, inner }
    }

    /// Calls `run` for each run: the part of `output` to write, and where each input has its elements (a range as long
    /// as the output, or of one element). An element takes `cost` picoseconds, see [`share`].
    pub(in crate::ops) fn for_each<R: Element>(
        &self,
        output: &mut [R],
        cost: usize,
        run: &(dyn Fn(&mut [R], [Range<usize>; N]) + Sync),
    ) {
        self.for_each_bytes(bytemuck::cast_slice_mut(output), size_of::<R>(), cost, &|output, ranges| {
            run(bytemuck::cast_slice_mut(output), ranges);
        });
    }

    /// [`Broadcast::for_each`] on the bytes of elements of `size` bytes, so that it is compiled once.
    fn for_each_bytes(&self, output: &mut [u8], size: usize, cost: usize, run: &Run<'_, N>) {
        let part = share::part(output.len() / size, cost);
        threads::for_each_chunk(output, part * size, 1, |i, output| self.walk(i * part, output, size, run));
    }

    /// The runs of the elements of the output from `start` on.
    fn walk(&self, start: usize, mut output: &mut [u8], size: usize, run: &Run<'_, N>) {
        if output.is_empty() {
            return;
        }
        let mut within = start % self.inner.dim;
        let mut row = start / self.inner.dim;
        let mut index: SmallVec<[usize; 6]> = SmallVec::from_elem(0, self.outer.len());
        let mut offsets = [0; N];
        for (index, axis) in index.iter_mut().zip(&self.outer).rev() {
            *index = row % axis.dim;
            row /= axis.dim;
            for (offset, stride) in offsets.iter_mut().zip(axis.strides) {
                *offset += *index * stride;
            }
        }
        while !output.is_empty() {
            let len = (output.len() / size).min(self.inner.dim - within);
            let (now, later) = output.split_at_mut(len * size);
            let range = |i: usize| {
                let (offset, stride) = (offsets[i], self.inner.strides[i]);
                if stride == 0 { offset..offset + 1 } else { offset + within..offset + within + len }
            };
            run(now, std::array::from_fn(range));
            output = later;
            within = 0;
            for (index, axis) in index.iter_mut().zip(&self.outer).rev() {
                *index += 1;
                for (offset, stride) in offsets.iter_mut().zip(axis.strides) {
                    *offset += stride;
                }
                if *index < axis.dim {
                    break;
                }
                *index = 0;
                for (offset, stride) in offsets.iter_mut().zip(axis.strides) {
                    *offset -= stride * axis.dim;
                }
            }
        }
    }
}

impl Broadcast<1> {
    /// Whether the input is read element by element, as the output is written.
    pub(super) fn is_plain(&self) -> bool {
        self.outer.is_empty() && (self.inner.strides == [1] || self.inner.dim == 1)
    }

    /// Which element the `len` elements of the output from `start` on read, where that is one.
    pub(super) fn one(&self, start: usize, len: usize) -> Option<usize> {
        let dim = self.inner.dim;
        if self.inner.strides != [0] || start % dim + len > dim {
            return None;
        }
        let mut row = start / dim;
        Some(self.outer.iter().rev().fold(0, |offset, axis| {
            let index = row % axis.dim;
            row /= axis.dim;
            offset + index * axis.strides[0]
        }))
    }

    /// Copies what the elements of the output from `start` on read.
    pub(super) fn spread<T: Element>(&self, start: usize, from: &[T], output: &mut [T]) {
        self.walk(start, bytemuck::cast_slice_mut(output), size_of::<T>(), &|output, [range]| {
            let output = bytemuck::cast_slice_mut::<u8, T>(output);
            match &from[range] {
                &[value] => output.fill(value),
                values => output.copy_from_slice(values),
            }
        });
    }
}

/// `output = function(a, b)`, element by element; slices of one element repeat.
#[inline(always)]
pub(super) fn combine<A: Copy, B: Copy, R>(output: &mut [R], a: &[A], b: &[B], function: impl Fn(A, B) -> R) {
    match (a, b) {
        (&[a], &[b]) => output.iter_mut().for_each(|to| *to = function(a, b)),
        (&[a], b) => output.iter_mut().zip(b).for_each(|(to, &b)| *to = function(a, b)),
        (a, &[b]) => output.iter_mut().zip(a).for_each(|(to, &a)| *to = function(a, b)),
        (a, b) => {
            for ((to, &a), &b) in output.iter_mut().zip(a).zip(b) {
                *to = function(a, b);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Adds by the definition of broadcasting.
    fn reference(shape: &[usize], a: &[usize], b: &[usize]) -> Vec<u64> {
        let strides = [a, b].map(|input| broadcast_strides(input, shape.len()));
        let place = |mut at: usize, strides: &[usize]| {
            let mut place = 0;
            for (&dim, stride) in shape.iter().zip(strides).rev() {
                place += at % dim * stride;
                at /= dim;
            }
            place
        };
        (0..shape.iter().product())
            .map(|i| (place(i, &strides[0]) + 1000 * place(i, &strides[1])) as u64)
            .collect()
    }

    #[test]
    fn broadcasts_match_the_definition() {
        let cases: [(&[usize], &[usize], &[usize]); 10] = [
            (&[], &[], &[]),
            (&[5], &[5], &[]),
            (&[2, 3, 4], &[2, 3, 4], &[2, 3, 4]),
            (&[2, 3, 4], &[3, 1], &[2, 3, 4]),
            (&[2, 3, 4], &[2, 1, 4], &[4]),
            (&[2, 3, 4], &[2, 3, 1], &[1, 1, 4]),
            (&[2, 3, 4, 5], &[2, 1, 4, 1], &[3, 1, 5]),
            (&[0, 3], &[0, 3], &[3]),
            (&[4, 20_000], &[20_000], &[4, 1]),
            (&[3, 7, 9_000], &[7, 1], &[3, 1, 9_000]),
        ];
        for (shape, a, b) in cases {
            let mut output = vec![u64::MAX; shape.iter().product()];
            let inputs: Vec<u64> = (0..output.len().max(1) as u64).collect();
            Broadcast::new(shape, [a, b]).for_each(&mut output, share::cost::COPY, &|output, [a, b]| {
                combine(output, &inputs[a], &inputs[b], |a, b| a + 1000 * b);
            });
            assert_eq!(output, reference(shape, a, b), "{a:?} and {b:?}");
        }
    }
}
