//! Searches and sorts along one axis: ArgMax, ArgMin, TopK.

use poda_formats::DataType;
use poda_formats::op::ArgKind;

use super::args::{self, Infos, Known, around, integers, known_integers, one, required, sizes};
use super::number::{order_keys, with_width};
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
    let data = required(inputs, 0)?;
    let shape = without_axis(data.shape(), axis, keep_dims)?;
    let around = around(data.shape(), args::axis(axis, data.rank())?);
    let output = outputs[0].alloc::<i64>(&shape)?;
    if around[1] == 0 && !output.is_empty() {
        let reason = "the largest of nothing".to_owned();
        return Err(OpError::InputShape { index: 0, shape: data.shape().to_vec(), reason });
    }
    let keys = order_keys(data)?;
    match (kind, select_last_index) {
        (ArgKind::Max, false) => best(&keys, output, around, |new, old| new > old),
        (ArgKind::Max, true) => best(&keys, output, around, |new, old| new >= old),
        (ArgKind::Min, false) => best(&keys, output, around, |new, old| new < old),
        (ArgKind::Min, true) => best(&keys, output, around, |new, old| new <= old),
    }
    Ok(())
}

/// For each lane along the axis the index of the key that no later one wins against.
fn best(keys: &[u64], output: &mut [i64], [_, dim, inner]: [usize; 3], wins: impl Fn(u64, u64) -> bool) {
    if keys.is_empty() {
        return;
    }
    for (block, output) in keys.chunks_exact(dim * inner).zip(output.chunks_exact_mut(inner)) {
        let mut held = block[..inner].to_vec();
        output.fill(0);
        for (step, row) in block.chunks_exact(inner).enumerate().skip(1) {
            for ((at, held), &key) in output.iter_mut().zip(&mut held).zip(row) {
                if wins(key, *held) {
                    (*at, *held) = (step as i64, key);
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
    let data = required(inputs, 0)?;
    let shape = top_shape(data.shape(), axis, &integers(required(inputs, 1)?, 1)?)?;
    let axis = args::axis(axis, data.rank())?;
    let around = around(data.shape(), axis);
    let found = top(&order_keys(data)?, around, shape[axis], largest);
    let mut outputs = outputs.iter_mut();
    if let Some(values) = outputs.next().filter(|o| o.is_used()) {
        let bytes = values.alloc_bytes(data.dtype(), &shape)?;
        with_width!(data.dtype(), T => {
            let (from, [_, dim, inner]) = (bytemuck::cast_slice::<u8, T>(data.bytes()), around);
            let lane = shape[axis] * inner;
            for (i, to) in bytemuck::cast_slice_mut::<u8, T>(bytes).iter_mut().enumerate() {
                *to = from[(i / lane * dim + found[i]) * inner + i % inner];
            }
        });
    }
    if let Some(indices) = outputs.next().filter(|o| o.is_used()) {
        for (to, &index) in indices.alloc::<i64>(&shape)?.iter_mut().zip(&found) {
            *to = index as i64;
        }
    }
    Ok(())
}

/// For each lane along the axis the indices of the best `k`, best first.
fn top(keys: &[u64], [outer, dim, inner]: [usize; 3], k: usize, largest: bool) -> Vec<usize> {
    let mut found = vec![0; outer * k * inner];
    if found.is_empty() {
        return found;
    }
    // The better key is the smaller pair.
    let sign = if largest { u64::MAX } else { 0 };
    let mut lane: Vec<(u64, usize)> = Vec::with_capacity(dim);
    for (block, found) in keys.chunks_exact(dim * inner).zip(found.chunks_exact_mut(k * inner)) {
        for i in 0..inner {
            lane.clear();
            lane.extend(block[i..].iter().step_by(inner).enumerate().map(|(at, &key)| (key ^ sign, at)));
            if k < dim {
                lane.select_nth_unstable(k - 1);
            }
            lane[..k].sort_unstable();
            for (to, &(_, at)) in found[i..].iter_mut().step_by(inner).zip(&lane[..k]) {
                *to = at;
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
        let keys = [3, 1, 3, 2, 1, 3];
        assert_eq!(top(&keys, [1, 6, 1], 4, true), [0, 2, 5, 3]);
        assert_eq!(top(&keys, [1, 6, 1], 3, false), [1, 4, 3]);
        assert_eq!(top(&keys, [1, 3, 2], 1, true), [0, 2]);
        assert_eq!(top(&keys, [6, 1, 1], 0, true), [0; 0]);
    }

    #[test]
    fn the_first_or_the_last_of_equals_wins() {
        let keys = [1, 5, 5, 0, 5, 0];
        let mut output = [-1; 2];
        best(&keys, &mut output, [2, 3, 1], |new, old| new > old);
        assert_eq!(output, [1, 1]);
        best(&keys, &mut output, [2, 3, 1], |new, old| new >= old);
        assert_eq!(output, [2, 1]);
        best(&keys, &mut output, [1, 3, 2], |new, old| new < old);
        assert_eq!(output, [0, 1]);
    }
}
