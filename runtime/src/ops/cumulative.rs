//! CumSum and CumProd.

use poda_formats::op::CumulativeKind;

use super::args::{self, Infos, around, integers, one, required, unsupported_type};
use super::number::{Number, by_way_of_f32, with_number};
use super::{Inputs, OpError};
use crate::info::Info;
use crate::output::Output;

pub(super) fn infer_cumulative(
    _: CumulativeKind,
    _: bool,
    _: bool,
    inputs: &Infos<'_>,
) -> Result<Vec<Info>, OpError> {
    let data = required(inputs, 0)?;
    required(inputs, 1)?;
    Ok(one(data.dtype, data.shape.clone()))
}

pub(super) fn cumulative(
    kind: CumulativeKind,
    exclusive: bool,
    reverse: bool,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    by_way_of_f32(inputs, outputs, |inputs, outputs| {
        let data = required(inputs, 0)?;
        let axis = match *integers(required(inputs, 1)?, 1)? {
            [axis] => args::axis(axis, data.rank())?,
            ref axes => return Err(OpError::Invalid(format!("{axes:?} is not one axis"))),
        };
        let around = around(data.shape(), axis);
        with_number!(data.dtype(), T => {
            let (input, output) = (data.as_slice::<T>()?, outputs[0].alloc::<T>(data.shape())?);
            match kind {
                CumulativeKind::Sum => scan(input, output, around, exclusive, reverse, T::ZERO, T::add),
                CumulativeKind::Prod => scan(input, output, around, exclusive, reverse, T::ONE, T::mul),
            }
            Ok(())
        }, else => Err(unsupported_type(kind, data.dtype())))
    })
}

fn scan<T: Number>(
    input: &[T],
    output: &mut [T],
    [_, dim, inner]: [usize; 3],
    exclusive: bool,
    reverse: bool,
    identity: T,
    combine: impl Fn(T, T) -> T,
) {
    if input.is_empty() {
        return;
    }
    let mut totals = vec![identity; inner];
    for (from, to) in input.chunks_exact(dim * inner).zip(output.chunks_exact_mut(dim * inner)) {
        totals.fill(identity);
        for step in 0..dim {
            let start = if reverse { dim - 1 - step } else { step } * inner;
            let range = start..start + inner;
            for ((to, &x), total) in to[range.clone()].iter_mut().zip(&from[range]).zip(&mut totals) {
                let before = *total;
                *total = combine(before, x);
                *to = if exclusive { before } else { *total };
            }
        }
    }
}
