//! Random chains of operators that move, join and mix dimensions.

use poda_formats::op::{Binary, CumulativeKind, ReduceKind, SoftmaxKind, Unary};
use poda_formats::{DataType, Graph, Op, Tensor};

use super::{Chain, numbers};

/// A step of a random chain: what is done, and numbers that say how.
pub(crate) type Link = (u8, [usize; 3]);

/// Applies links to `[samples, …]`; those that do not fit are left out. Returns the graph.
pub(crate) fn chain(dims: &[usize], samples: usize, links: &[Link]) -> Graph {
    let mut c = Chain::new(dims);
    let mut shape: Vec<usize> = std::iter::once(samples).chain(dims.iter().copied()).collect();
    for &(kind, [a, b, d]) in links {
        let (x, rank) = (c.at, shape.len());
        if rank == 0 || shape.iter().product::<usize>() > 5000 {
            break;
        }
        let axis = a % rank;
        let ints = |c: &mut Chain, values: &[i64]| c.weight(Tensor::from_slice(&[values.len()], values));
        match kind {
            0 => {
                c.unary(Unary::Tanh, x);
            }
            1 => {
                // A constant that broadcasts along some axes, perhaps with the batch's.
                let own: Vec<usize> = shape
                    .iter()
                    .enumerate()
                    .skip(b % (rank + 1))
                    .map(|(i, &dim)| if i == axis { 1 } else { dim })
                    .collect();
                let w = c.weight(numbers(&own, d, 0.0));
                c.binary(Binary::Add, x, w);
            }
            2 => {
                let mut perm: Vec<usize> = (0..rank).collect();
                perm.swap(axis, b % rank);
                shape = perm.iter().map(|&p| shape[p]).collect();
                c.node(Op::Transpose { perm }, &[x]);
            }
            3 if rank > 1 => {
                // Two neighbours become one, with or without the size.
                let at = a % (rank - 1);
                let joined = shape[at] * shape[at + 1];
                shape.splice(at..at + 2, [joined]);
                let mut target: Vec<i64> = shape.iter().map(|&dim| dim as i64).collect();
                // (A 0 otherwise stands for the dimension of the input, and beside a -1 for nothing.)
                let allow_zero = target.contains(&0);
                if b % 2 == 0 && !allow_zero {
                    target[at] = -1;
                }
                let target = ints(&mut c, &target);
                c.node(Op::Reshape { allow_zero }, &[x, target]);
            }
            4 if rank < 4 => {
                // One becomes two.
                let divisor = [1, 2, 3, samples][b % 4];
                if shape[axis].is_multiple_of(divisor) {
                    shape.splice(axis..=axis, [divisor, shape[axis] / divisor]);
                    let mut target: Vec<i64> = shape.iter().map(|&dim| dim as i64).collect();
                    let allow_zero = target.contains(&0);
                    if d % 2 == 0 && !allow_zero {
                        target[d / 2 % (rank + 1)] = -1;
                    }
                    let target = ints(&mut c, &target);
                    c.node(Op::Reshape { allow_zero }, &[x, target]);
                }
            }
            5 => {
                let keep_dims = b % 2 == 0;
                let axes = ints(&mut c, &[axis as i64 - if d % 2 == 0 { rank as i64 } else { 0 }]);
                c.node(
                    Op::Reduce { kind: ReduceKind::Max, keep_dims, noop_with_empty_axes: false },
                    &[x, axes],
                );
                shape.splice(axis..=axis, keep_dims.then_some(1));
            }
            6 => {
                c.node(Op::Softmax { kind: SoftmaxKind::Softmax, axis: axis as i64 }, &[x]);
            }
            7 => {
                // All of an axis or less, forwards or backwards.
                let (len, step) = (shape[axis] as i64, if b % 2 == 0 { 1 } else { -1 });
                let (start, end) = if step == 1 { ((d % 2) as i64, len) } else { (len - 1, -len - 1) };
                let parameters = [start, end, axis as i64, step].map(|v| ints(&mut c, &[v]));
                shape[axis] = if step == 1 { (len - start).max(0) as usize } else { len as usize };
                c.node(Op::Slice, &[x, parameters[0], parameters[1], parameters[2], parameters[3]]);
            }
            8 => {
                c.node(Op::Concat { axis: axis as i64 }, &[x, x]);
                shape[axis] *= 2;
            }
            9 if rank > 1 => {
                let (k, m) = (shape[rank - 1], 1 + b % 3);
                let w = c.weight(numbers(&[k, m], d, 0.3));
                c.node(Op::MatMul, &[x, w]);
                shape[rank - 1] = m;
            }
            10 if rank > 1 => {
                // A constant on the left.
                let (k, m) = (shape[rank - 2], 1 + b % 3);
                let w = c.weight(numbers(&[m, k], d, 0.3));
                c.node(Op::MatMul, &[w, x]);
                shape[rank - 2] = m;
            }
            11 if rank > 1 => {
                // With its own transpose.
                let mut perm: Vec<usize> = (0..rank).collect();
                perm.swap(rank - 2, rank - 1);
                let y = c.node(Op::Transpose { perm }, &[x]);
                c.node(Op::MatMul, &[x, y]);
                shape[rank - 1] = shape[rank - 2];
            }
            12 if shape[axis] > 0 => {
                let index = c.weight(Tensor::from_slice(&[2], &[0_i64, shape[axis] as i64 - 1]));
                c.node(Op::Gather { axis: axis as i64 }, &[x, index]);
                shape[axis] = 2;
            }
            13 => {
                let at = c.weight(Tensor::from_slice(&[], &[axis as i64]));
                c.node(
                    Op::Cumulative { kind: CumulativeKind::Sum, exclusive: false, reverse: b % 2 == 0 },
                    &[x, at],
                );
            }
            14 => {
                // What is computed from the shape.
                let sizes = c.node(Op::Shape { start: 0, end: None }, &[x]);
                let one = ints(&mut c, &[1]);
                let expanded = c.node(Op::Expand, &[one, sizes]);
                let floats = c.node(Op::Cast { to: DataType::F32 }, &[expanded]);
                c.binary(Binary::Add, x, floats);
            }
            15 if rank < 4 => {
                let axes = ints(&mut c, &[(a % (rank + 1)) as i64]);
                c.node(Op::Unsqueeze, &[x, axes]);
                shape.insert(a % (rank + 1), 1);
            }
            16 => {
                c.node(Op::Squeeze, &[x]);
                shape.retain(|&dim| dim != 1);
            }
            17 if shape[axis] == 1 => {
                let mut target: Vec<i64> = vec![1; rank];
                target[axis] = [2, samples as i64][b % 2];
                shape[axis] = target[axis] as usize;
                let target = ints(&mut c, &target);
                c.node(Op::Expand, &[x, target]);
            }
            _ => {}
        }
    }
    c.finish()
}
