//! Copies of elements from one layout to another: what Transpose, Slice, Expand, Tile and their kin are made of.

use super::args::PARALLEL_ABOVE;
use crate::threads;

/// One axis of a copy: how many steps, and how far each goes in the input, in elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Axis {
    pub(super) dim: usize,
    pub(super) stride: isize,
}

/// Fills `output`, row-major over `axes`, from `input`: the element at index `i` comes from `start + Σ iₐ · strideₐ`.
///
/// # Panics
/// When an index falls outside `input`, or `output` has another length than the axes say.
pub(super) fn copy<T: Copy + Send + Sync>(output: &mut [T], axes: &[Axis], input: &[T], start: usize) {
    assert_eq!(output.len(), axes.iter().map(|a| a.dim).product::<usize>());
    if output.is_empty() {
        return;
    }
    let axes = merge(axes);
    let start = start as isize;
    if output.len() < PARALLEL_ABOVE || threads::current() == 1 || axes.is_empty() {
        return copy_part(output, &axes, input, start);
    }
    // Blocks of whole steps of the outermost axis, several for each thread.
    let (first, rest) = (axes[0], &axes[1..]);
    let steps = first.dim.div_ceil(4 * threads::current()).next_multiple_of(TILE);
    let step_len: usize = rest.iter().map(|a| a.dim).product();
    threads::for_each_chunk(output, steps * step_len, 1, |i, part| {
        let mut axes = axes.clone();
        axes[0].dim = part.len() / step_len;
        copy_part(part, &axes, input, start + (i * steps) as isize * first.stride);
    });
}

/// Drops axes of one step and joins neighbours that walk on in equal strides.
fn merge(axes: &[Axis]) -> Vec<Axis> {
    let mut merged: Vec<Axis> = Vec::with_capacity(axes.len());
    for &axis in axes.iter().filter(|a| a.dim != 1) {
        match merged.last_mut() {
            Some(outer) if outer.stride == axis.stride * axis.dim as isize => {
                *outer = Axis { dim: outer.dim * axis.dim, stride: axis.stride };
            }
            _ => merged.push(axis),
        }
    }
    merged
}

fn copy_part<T: Copy>(output: &mut [T], axes: &[Axis], input: &[T], start: isize) {
    let Some((&inner, outer)) = axes.split_last() else {
        output[0] = input[start as usize];
        return;
    };
    match outer.iter().rposition(|a| a.stride == 1) {
        Some(at) if inner.stride > 1 => return transpose(output, axes, at, input, start),
        _ => {}
    }
    let mut walk = Walk::new(outer, start);
    for run in output.chunks_exact_mut(inner.dim) {
        let from = walk.offset as usize;
        match inner.stride {
            1 => run.copy_from_slice(&input[from..from + inner.dim]),
            0 => run.fill(input[from]),
            stride if stride > 0 => {
                for (to, &element) in run.iter_mut().zip(input[from..].iter().step_by(stride as usize)) {
                    *to = element;
                }
            }
            stride => {
                let backwards = input[..=from].iter().rev().step_by(stride.unsigned_abs());
                for (to, &element) in run.iter_mut().zip(backwards) {
                    *to = element;
                }
            }
        }
        walk.advance();
    }
}

/// A position that goes through an index space in row-major order.
struct Walk<'a> {
    axes: &'a [Axis],
    index: Vec<usize>,
    offset: isize,
}

impl<'a> Walk<'a> {
    fn new(axes: &'a [Axis], start: isize) -> Self {
        Self { axes, index: vec![0; axes.len()], offset: start }
    }

    fn advance(&mut self) {
        for (index, axis) in self.index.iter_mut().zip(self.axes).rev() {
            *index += 1;
            self.offset += axis.stride;
            if *index < axis.dim {
                return;
            }
            self.offset -= axis.stride * axis.dim as isize;
            *index = 0;
        }
    }
}

/// Side of a tile of [`transpose`].
const TILE: usize = 8;

/// A copy whose axis `at` walks the input in steps of one element, and whose last axis does not: tile by tile, so that
/// both sides touch whole cache lines.
fn transpose<T: Copy>(output: &mut [T], axes: &[Axis], at: usize, input: &[T], start: isize) {
    let last = axes.len() - 1;
    let (rows, cols) = (axes[at].dim, axes[last].dim);
    let input_step = axes[last].stride as usize;
    let output_step: usize = axes[at + 1..].iter().map(|a| a.dim).product();
    // The other axes, as they walk the input and the output.
    let (mut from, mut to) = (Vec::new(), Vec::new());
    let mut output_stride = 1;
    for (i, axis) in axes.iter().enumerate().rev() {
        if i != at && i != last {
            from.insert(0, *axis);
            to.insert(0, Axis { dim: axis.dim, stride: output_stride });
        }
        output_stride *= axis.dim as isize;
    }
    let (mut from, mut to) = (Walk::new(&from, start), Walk::new(&to, 0));
    for _ in 0..output.len() / (rows * cols) {
        let input = &input[from.offset as usize..];
        let output = &mut output[to.offset as usize..];
        for row in (0..rows).step_by(TILE) {
            for col in (0..cols).step_by(TILE) {
                let (tile_rows, tile_cols) = (TILE.min(rows - row), TILE.min(cols - col));
                if tile_rows == TILE && tile_cols == TILE {
                    let mut tile = [[input[0]; TILE]; TILE];
                    for (i, line) in tile.iter_mut().enumerate() {
                        let first = (col + i) * input_step + row;
                        line.copy_from_slice(&input[first..first + TILE]);
                    }
                    for i in 0..TILE {
                        let first = (row + i) * output_step + col;
                        output[first..first + TILE].copy_from_slice(&tile.map(|line| line[i]));
                    }
                } else {
                    for i in row..row + tile_rows {
                        for j in col..col + tile_cols {
                            output[i * output_step + j] = input[j * input_step + i];
                        }
                    }
                }
            }
        }
        from.advance();
        to.advance();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference(axes: &[Axis], input: &[u32], start: usize) -> Vec<u32> {
        let mut walk = Walk::new(axes, start as isize);
        let len = axes.iter().map(|a| a.dim).product();
        (0..len)
            .map(|_| {
                let element = input[walk.offset as usize];
                walk.advance();
                element
            })
            .collect()
    }

    #[test]
    fn copies_match_the_definition() {
        let input: Vec<u32> = (0..200_000).collect();
        // Axes as [dim, stride] and the start.
        let cases: [(&[[isize; 2]], usize); 13] = [
            (&[], 5),
            (&[[1, 7]], 5),
            (&[[3, 1]], 0),
            (&[[0, 1], [3, 1]], 0),
            (&[[3, 4], [4, 1]], 1),
            (&[[5, 1], [7, 5]], 0),
            (&[[17, 1], [33, 17]], 3),
            (&[[2, 561], [17, 1], [33, 17]], 0),
            (&[[8, 1], [3, 128], [16, 8]], 0),
            (&[[4, 0], [5, 2], [3, 0]], 9),
            (&[[4, -10], [3, -2]], 50),
            (&[[300, 1], [400, 300]], 0),
            (&[[70_000, 1], [2, 70_000]], 0),
        ];
        for (axes, start) in cases {
            let axes: Vec<Axis> =
                axes.iter().map(|&[dim, stride]| Axis { dim: dim as usize, stride }).collect();
            let expected = reference(&axes, &input, start);
            let mut output = vec![u32::MAX; expected.len()];
            copy(&mut output, &axes, &input, start);
            assert_eq!(output, expected, "{axes:?} from {start}");
        }
    }
}
