//! Copies of elements from one layout to another: what Transpose, Slice, Concat, Split, Expand, Tile and their kin are made of.

use smallvec::SmallVec;

use crate::packing::transpose::transpose;
use crate::simd::{Simd, Supported, Vectorized};
use crate::threads::share::{cost, parts};
use crate::threads::{self, SyncPtr};

/// One axis of a copy: how many steps, and how far each goes in the input, in elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Axis {
    pub(crate) dim: usize,
    pub(crate) stride: isize,
}

/// An axis as it walks input and output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Step {
    dim: usize,
    from: isize,
    to: usize,
}

type Steps = SmallVec<[Step; 6]>;

/// Fills `output`, row-major over `axes`, from `input`: the element at index `i` comes from `start + Σ iₐ · strideₐ`.
///
/// # Panics
/// When an index falls outside `input`, or `output` has another length than the axes say.
pub(crate) fn copy<T: bytemuck::Pod + Send + Sync>(
    output: &mut [T],
    axes: &[Axis],
    input: &[T],
    start: usize,
) {
    assert_eq!(output.len(), axes.iter().map(|a| a.dim).product::<usize>());
    let mut steps: Steps = axes.iter().map(|a| Step { dim: a.dim, from: a.stride, to: 1 }).collect();
    for i in (1..steps.len()).rev() {
        steps[i - 1].to = steps[i].to * steps[i].dim.max(1);
    }
    run(output, 0, &steps, input, start);
}

/// Copies `rows` rows of `len` elements, which are `from_step` apart from `from` on in `input` and `to_step` from `to` on in
/// `output`.
///
/// # Panics
/// When a row falls outside of either, or rows of the output overlap.
pub(crate) fn copy_rows<T: bytemuck::Pod + Send + Sync>(
    [rows, len]: [usize; 2],
    output: &mut [T],
    [to, to_step]: [usize; 2],
    input: &[T],
    [from, from_step]: [usize; 2],
) {
    let steps =
        [Step { dim: rows, from: from_step as isize, to: to_step }, Step { dim: len, from: 1, to: 1 }];
    run(output, to, &steps, input, from);
}

/// Copies the box of `steps`, from `from` on in `input` to `to` on in `output`.
fn run<T: bytemuck::Pod + Send + Sync>(
    output: &mut [T],
    to: usize,
    steps: &[Step],
    input: &[T],
    from: usize,
) {
    if steps.iter().any(|s| s.dim == 0) {
        return;
    }
    let steps = merge(steps);
    // Everything below relies on this: no step leaves the input or the output, and no two write to one place.
    let reach = |step: &Step, by: i128| (step.dim as i128 - 1) * by;
    let sum = |by: &dyn Fn(&Step) -> i128| steps.iter().map(|step| reach(step, by(step))).sum::<i128>();
    let [low, high] = [sum(&|s| (s.from as i128).min(0)), sum(&|s| (s.from as i128).max(0))];
    let [low, high, last] = [from as i128 + low, from as i128 + high, to as i128 + sum(&|s| s.to as i128)];
    assert!(low >= 0 && high < input.len() as i128, "{low}..={high} of {} elements", input.len());
    assert!(last < output.len() as i128, "element {last} of {}", output.len());
    let inner = |i: usize| steps[i + 1..].iter().map(|s| reach(s, s.to as i128)).sum::<i128>();
    assert!((0..steps.len()).all(|i| steps[i].to as i128 > inner(i)), "rows of the output overlap");
    let count: usize = steps.iter().map(|s| s.dim).product();
    let moves = Moves { input: SyncPtr(input.as_ptr().cast_mut()), output: SyncPtr(output.as_mut_ptr()) };
    let level = Supported::best();
    // Bytes cost by the word.
    let cost = (cost::COPY * size_of::<T>()).div_ceil(4);
    let parts = parts(count, cost);
    // The first axis that is long enough, or else the longest.
    let axis = (0..steps.len())
        .find(|&i| steps[i].dim >= 16 * parts)
        .or_else(|| (0..steps.len()).max_by_key(|&i| steps[i].dim));
    let Some((axis, true)) = axis.map(|axis| (axis, parts > 1)) else {
        return level.run(Part { moves, steps: &steps, from: from as isize, to });
    };
    let dim = steps[axis].dim;
    let len = dim.div_ceil(parts);
    // Whole vectors where the axis is long.
    let len = if len >= 16 { len.next_multiple_of(16) } else { len };
    threads::for_each(dim.div_ceil(len), 1, |i| {
        let (mut part, start) = (steps.clone(), i * len);
        part[axis].dim = len.min(dim - start);
        let from = from as isize + start as isize * steps[axis].from;
        let to = to + start * steps[axis].to;
        level.run(Part { moves, steps: &part, from, to });
    });
}

/// Drops axes of one step and joins neighbours that walk on in equal strides.
fn merge(steps: &[Step]) -> Steps {
    let mut merged = Steps::new();
    for &step in steps.iter().filter(|s| s.dim != 1) {
        match merged.last_mut() {
            Some(outer) if outer.from == step.from * step.dim as isize && outer.to == step.to * step.dim => {
                *outer = Step { dim: outer.dim * step.dim, ..step };
            }
            _ => merged.push(step),
        }
    }
    merged
}

/// From where to where; which elements, says a [`Part`].
struct Moves<T> {
    input: SyncPtr<T>,
    output: SyncPtr<T>,
}

impl<T> Clone for Moves<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Moves<T> {}

/// A part of a copy, checked by [`run`].
struct Part<'a, T> {
    moves: Moves<T>,
    steps: &'a [Step],
    from: isize,
    to: usize,
}

impl<T: bytemuck::Pod> Vectorized for Part<'_, T> {
    type Output = ();

    #[inline(always)]
    fn eval<S: Simd>(self, simd: S) {
        let Self { moves, steps, from, to } = self;
        let (input, output) = (moves.input.get().cast_const(), moves.output.get());
        let Some((&inner, outer)) = steps.split_last() else {
            // SAFETY: `run` checked that the one element is there.
            unsafe { *output.add(to) = *input.offset(from) };
            return;
        };
        // An axis that walks the input element by element, where the innermost one does not.
        let beside = outer.iter().rposition(|s| s.from == 1).filter(|_| inner.from > 1 && inner.to == 1);
        let mut walked = Steps::from_slice(outer);
        let beside = beside.map(|at| walked.remove(at));
        walk(&walked, from, to, |from, to| {
            // SAFETY: `run` checked that no step of the box leaves the input or the output; parts write disjoint places, and
            // `output` is borrowed mutably, so it is not the input.
            unsafe {
                let (from, to) = (input.offset(from), output.add(to));
                match beside {
                    Some(beside) => turn(simd, from, to, beside, inner),
                    None => line(from, to, inner),
                }
            }
        });
    }
}

/// Calls `f` with each place of the axes, in row-major order.
#[inline(always)]
fn walk(axes: &[Step], mut from: isize, mut to: usize, f: impl Fn(isize, usize)) {
    let mut index: SmallVec<[usize; 6]> = SmallVec::from_elem(0, axes.len());
    loop {
        f(from, to);
        let mut axis = axes.len();
        loop {
            if axis == 0 {
                return;
            }
            axis -= 1;
            let step = axes[axis];
            index[axis] += 1;
            from += step.from;
            to += step.to;
            if index[axis] < step.dim {
                break;
            }
            from -= step.from * step.dim as isize;
            to -= step.to * step.dim;
            index[axis] = 0;
        }
    }
}

/// Copies along one axis.
///
/// # Safety
/// Its elements must be readable and writable, and apart from each other.
#[inline(always)]
unsafe fn line<T: Copy>(from: *const T, to: *mut T, step: Step) {
    // SAFETY: by the caller.
    unsafe {
        match (step.from, step.to) {
            (1, 1) => std::ptr::copy_nonoverlapping(from, to, step.dim),
            (0, 1) => std::slice::from_raw_parts_mut(to, step.dim).fill(*from),
            _ => {
                for i in 0..step.dim {
                    *to.add(i * step.to) = *from.offset(i as isize * step.from);
                }
            }
        }
    }
}

/// Copies a plane that `beside` walks element by element in the input, and `inner` in the output: in blocks, so that both
/// sides touch whole cache lines.
///
/// # Safety
/// As [`line`].
#[inline(always)]
unsafe fn turn<S: Simd, T: bytemuck::Pod>(simd: S, from: *const T, to: *mut T, beside: Step, inner: Step) {
    const TILE: usize = 8;
    let (from_step, to_step) = (inner.from as usize, beside.to);
    // SAFETY: by the caller. Elements of four bytes are moved as f32, bit for bit.
    unsafe {
        if size_of::<T>() == size_of::<f32>() && align_of::<T>() == align_of::<f32>() {
            return transpose(simd, from.cast(), from_step, [inner.dim, beside.dim], to.cast(), to_step);
        }
        for row in (0..beside.dim).step_by(TILE) {
            for col in (0..inner.dim).step_by(TILE) {
                for i in row..beside.dim.min(row + TILE) {
                    for j in col..inner.dim.min(col + TILE) {
                        *to.add(i * to_step + j) = *from.add(j * from_step + i);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::threads::Threads;

    fn reference<T: Copy>(axes: &[Axis], input: &[T], start: usize) -> Vec<T> {
        let mut places = vec![start as isize];
        for axis in axes {
            let next = places.iter().flat_map(|&p| (0..axis.dim as isize).map(move |i| p + i * axis.stride));
            places = next.collect();
        }
        places.into_iter().map(|p| input[p as usize]).collect()
    }

    fn check<T: bytemuck::Pod + Send + Sync + PartialEq + std::fmt::Debug>(of: impl Fn(usize) -> T) {
        let input: Vec<T> = (0..200_000).map(&of).collect();
        // Axes as [dim, stride] and the start.
        let cases: [(&[[isize; 2]], usize); 17] = [
            (&[], 5),
            (&[[1, 7]], 5),
            (&[[3, 1]], 0),
            (&[[0, 1], [3, 1]], 0),
            (&[[3, 4], [4, 1]], 1),
            (&[[5, 1], [7, 5]], 0),
            (&[[17, 1], [33, 17]], 3),
            (&[[2, 561], [17, 1], [33, 17]], 0),
            (&[[8, 1], [3, 128], [16, 8]], 0),
            (&[[17, 1], [3, 300], [15, 19]], 2),
            (&[[4, 0], [5, 2], [3, 0]], 9),
            (&[[4, -10], [3, -2]], 50),
            (&[[3, 1], [5, -3]], 50),
            (&[[300, 1], [400, 300]], 0),
            (&[[3, 1], [50_000, 3]], 0),
            (&[[2, 60_000], [3, 1], [20_000, 3]], 7),
            (&[[70_000, 1], [2, 70_000]], 0),
        ];
        for (axes, start) in cases {
            let axes: Vec<Axis> =
                axes.iter().map(|&[dim, stride]| Axis { dim: dim as usize, stride }).collect();
            let expected = reference(&axes, &input, start);
            for threads in [1, 2] {
                let mut output = vec![of(777); expected.len()];
                Threads::new(threads).unwrap().install(|| copy(&mut output, &axes, &input, start));
                assert!(output == expected, "{axes:?} from {start}, {threads} threads");
            }
        }
    }

    #[test]
    fn copies_match_the_definition() {
        check(|i| i as u8);
        check(|i| i as u16);
        check(|i| i as u32);
        check(|i| i as u64);
    }

    #[test]
    fn rows_go_to_their_places_and_no_others() {
        for [rows, len] in [[0, 3], [3, 0], [1, 5], [4, 3], [2, 30_000]] {
            let input: Vec<u32> = (0..70_000).collect();
            let mut output = vec![u32::MAX; 70_000];
            Threads::new(2).unwrap().install(|| {
                copy_rows([rows, len], &mut output, [2, len + 1], &input, [5, len + 2]);
            });
            for (i, &v) in output.iter().enumerate() {
                let at = i.checked_sub(2).map(|i| [i / (len + 1), i % (len + 1)]);
                let expected = at.filter(|&[row, col]| row < rows && col < len);
                let expected = expected.map_or(u32::MAX, |[row, col]| (5 + row * (len + 2) + col) as u32);
                assert_eq!(v, expected, "{rows} x {len}: {i}");
            }
        }
    }

    #[test]
    #[should_panic(expected = "elements")]
    fn what_lies_outside_is_refused() {
        copy(&mut [0_u8; 4], &[Axis { dim: 4, stride: -1 }], &[0; 8], 2);
    }

    #[test]
    #[should_panic(expected = "overlap")]
    fn rows_that_overlap_are_refused() {
        copy_rows([2, 3], &mut [0_u8; 8], [0, 2], &[0; 8], [0, 3]);
    }
}
