//! Searches and sorts along one axis: ArgMax, ArgMin, TopK.

use std::cmp::Ordering;

use poda_formats::DataType;
use poda_formats::op::ArgKind;

use super::args::{
    self, Infos, Known, around, integers, known_integers, one, required, sizes, unsupported_type,
};
use super::number::{Number, by_way_of_f32, with_number};
use super::{Inputs, OpError};
use crate::info::Info;
use crate::output::Output;

fn without_axis(data: &[usize], axis: i64, keep_dims: bool) -> Result<Vec<usize>, OpError> {
    let axis = args::axis(axis, data.len())?;
    let mut shape = data.to_vec();
    if keep_dims {
        shape[axis] = 1;
    } else {
        shape.remove(axis);
    }
    Ok(shape)
}

pub(super) fn infer_arg_reduce(
    _: ArgKind,
    axis: i64,
    keep_dims: bool,
    _: bool,
    inputs: &Infos<'_>,
) -> Result<Vec<Info>, OpError> {
    let shape = required(inputs, 0)?.shape.as_ref();
    Ok(one(DataType::I64, shape.map(|data| without_axis(data, axis, keep_dims)).transpose()?))
}

pub(super) fn arg_reduce(
    kind: ArgKind,
    axis: i64,
    keep_dims: bool,
    select_last_index: bool,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    by_way_of_f32(inputs, outputs, |inputs, outputs| {
        let data = required(inputs, 0)?;
        let shape = without_axis(data.shape(), axis, keep_dims)?;
        let around = around(data.shape(), args::axis(axis, data.rank())?);
        let output = outputs[0].alloc::<i64>(&shape)?;
        if around[1] == 0 && !output.is_empty() {
            let reason = "the largest of nothing".to_owned();
            return Err(OpError::InputShape { index: 0, shape: data.shape().to_vec(), reason });
        }
        with_number!(data.dtype(), T => {
            let input = data.as_slice::<T>()?;
            match (kind, select_last_index) {
                (ArgKind::Max, false) => best(input, output, around, |new, old| new > old),
                (ArgKind::Max, true) => best(input, output, around, |new, old| new >= old),
                (ArgKind::Min, false) => best(input, output, around, |new, old| new < old),
                (ArgKind::Min, true) => best(input, output, around, |new, old| new <= old),
            }
            Ok(())
        }, else => Err(unsupported_type(kind, data.dtype())))
    })
}

fn best<T: Number>(
    input: &[T],
    output: &mut [i64],
    [_, dim, inner]: [usize; 3],
    wins: impl Fn(T, T) -> bool,
) {
    if input.is_empty() {
        return;
    }
    for (block, output) in input.chunks_exact(dim * inner).zip(output.chunks_exact_mut(inner)) {
        let mut values = block[..inner].to_vec();
        output.fill(0);
        for (step, row) in block.chunks_exact(inner).enumerate().skip(1) {
            for ((at, value), &x) in output.iter_mut().zip(&mut values).zip(row) {
                if wins(x, *value) {
                    (*at, *value) = (step as i64, x);
                }
            }
        }
    }
}

/// The shape of the best `k` along an axis.
fn top_shape(data: &[usize], axis: i64, k: &[i64]) -> Result<Vec<usize>, OpError> {
    let axis = args::axis(axis, data.len())?;
    let mut shape = data.to_vec();
    match *sizes(k)? {
        [k] if k <= data[axis] => shape[axis] = k,
        _ => return Err(OpError::Invalid(format!("k is {k:?} for {} elements", data[axis]))),
    }
    Ok(shape)
}

pub(super) fn infer_top_k(axis: i64, _: bool, _: bool, inputs: &Infos<'_>) -> Result<Vec<Info>, OpError> {
    let data = required(inputs, 0)?;
    required(inputs, 1)?;
    let shape = match (&data.shape, known_integers(inputs, 1)?) {
        (Some(data), Known::Now(k)) => Some(top_shape(data, axis, &k)?),
        _ => None,
    };
    let [values, indices] = [data.dtype, DataType::I64].map(|dtype| one(dtype, shape.clone()));
    Ok([values, indices].concat())
}

/// The values come sorted even where that is not asked for. Equal ones are in the order of their indices; NaN counts as
/// larger than every number.
pub(super) fn top_k(
    axis: i64,
    largest: bool,
    _sorted: bool,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    by_way_of_f32(inputs, outputs, |inputs, outputs| {
        let data = required(inputs, 0)?;
        let shape = top_shape(data.shape(), axis, &integers(required(inputs, 1)?, 1)?)?;
        let axis = args::axis(axis, data.rank())?;
        let k = shape[axis];
        with_number!(data.dtype(), T => {
            let found = top(data.as_slice::<T>()?, around(data.shape(), axis), k, largest);
            let mut outputs = outputs.iter_mut();
            if let Some(values) = outputs.next().filter(|o| o.is_used()) {
                for (to, &(value, _)) in values.alloc::<T>(&shape)?.iter_mut().zip(&found) {
                    *to = value;
                }
            }
            if let Some(indices) = outputs.next().filter(|o| o.is_used()) {
                for (to, &(_, index)) in indices.alloc::<i64>(&shape)?.iter_mut().zip(&found) {
                    *to = index;
                }
            }
            Ok(())
        }, else => Err(unsupported_type("TopK", data.dtype())))
    })
}

fn top<T: Number>(input: &[T], [outer, dim, inner]: [usize; 3], k: usize, largest: bool) -> Vec<(T, i64)> {
    let mut found = vec![(T::ZERO, 0); outer * k * inner];
    if found.is_empty() {
        return found;
    }
    let order = |a: T, b: T| a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()));
    let better = |a: &(T, i64), b: &(T, i64)| -> Ordering {
        let by_value = if largest { order(b.0, a.0) } else { order(a.0, b.0) };
        by_value.then(a.1.cmp(&b.1))
    };
    let mut lane = Vec::with_capacity(dim);
    for (block, found) in input.chunks_exact(dim * inner).zip(found.chunks_exact_mut(k * inner)) {
        for i in 0..inner {
            lane.clear();
            lane.extend(block[i..].iter().step_by(inner).zip(0..).map(|(&x, at)| (x, at)));
            if k < dim {
                lane.select_nth_unstable_by(k - 1, better);
            }
            lane[..k].sort_unstable_by(better);
            for (to, &from) in found[i..].iter_mut().step_by(inner).zip(&lane[..k]) {
                *to = from;
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_top_keeps_the_order_of_equals() {
        let input = [3, 1, 3, 2, 1, 3];
        assert_eq!(top(&input, [1, 6, 1], 4, true), [(3, 0), (3, 2), (3, 5), (2, 3)]);
        assert_eq!(top(&input, [1, 6, 1], 3, false), [(1, 1), (1, 4), (2, 3)]);
        assert_eq!(top(&input, [1, 3, 2], 1, true), [(3, 0), (3, 2)]);
        assert_eq!(top(&input, [6, 1, 1], 0, true), []);
        let found = top(&[1.0, f32::NAN, 2.0], [1, 3, 1], 2, true);
        assert_eq!((found[0].1, found[1]), (1, (2.0, 2)));
    }

    #[test]
    fn the_first_or_the_last_of_equals_wins() {
        let input = [1, 5, 5, 0, 5, 0];
        let mut output = [-1; 2];
        best(&input, &mut output, [2, 3, 1], |new, old| new > old);
        assert_eq!(output, [1, 1]);
        best(&input, &mut output, [2, 3, 1], |new, old| new >= old);
        assert_eq!(output, [2, 1]);
        best(&input, &mut output, [1, 3, 2], |new, old| new < old);
        assert_eq!(output, [0, 1]);
    }
}
