//! Max, Min, Sum and Mean of one or more inputs, and Clip.

use poda_formats::op::Variadic;
use poda_formats::{Element, TensorView};

use super::broadcast::Broadcast;
use crate::info::Info;
use crate::kernels::movement::copy;
use crate::ops::args::{Infos, broadcast, broadcast_infos, one, optional, required, unsupported_type};
use crate::ops::expand::broadcast_axes;
use crate::ops::number::{Number, by_way_of_f32, with_number};
use crate::ops::{Inputs, OpError};
use crate::output::Output;
use crate::threads::share::cost;

pub(in crate::ops) fn infer_variadic(_: Variadic, inputs: &Infos<'_>) -> Result<Vec<Info>, OpError> {
    let dtype = required(inputs, 0)?.dtype;
    let inputs: Vec<&Info> = inputs.iter().flatten().copied().collect();
    Ok(one(dtype, broadcast_infos(&inputs)?))
}

pub(in crate::ops) fn variadic(
    function: Variadic,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    by_way_of_f32(inputs, outputs, |inputs, outputs| {
        let first = required(inputs, 0)?;
        let inputs: Vec<TensorView<'_>> = inputs.iter().flatten().copied().collect();
        let shape = inputs.iter().try_fold(Vec::new(), |shape, view| broadcast(&shape, view.shape()))?;
        let dtype = first.dtype();
        with_number!(dtype, T => {
            let output = outputs[0].alloc::<T>(&shape)?;
            copy(output, &broadcast_axes(first.shape(), &shape), first.as_slice::<T>()?, 0);
            accumulate(function, &inputs, &shape, output)
        }, else => Err(unsupported_type(function, dtype)))
    })
}

/// Folds all inputs but the first into `output`, which holds the first.
fn accumulate<T: Number>(
    function: Variadic,
    inputs: &[TensorView<'_>],
    shape: &[usize],
    output: &mut [T],
) -> Result<(), OpError> {
    if matches!(function, Variadic::Sum | Variadic::Mean) && !T::DTYPE.is_float() {
        return Err(unsupported_type(function, T::DTYPE));
    }
    for view in &inputs[1..] {
        let from = view.as_slice::<T>()?;
        let layout = Broadcast::new(shape, [view.shape()]);
        match function {
            Variadic::Max => fold(&layout, output, from, T::larger),
            Variadic::Min => fold(&layout, output, from, T::smaller),
            Variadic::Sum | Variadic::Mean => fold(&layout, output, from, T::add),
        }
    }
    if function == Variadic::Mean {
        let count = T::from_i64(inputs.len() as i64);
        for to in output {
            *to = to.div(count);
        }
    }
    Ok(())
}

fn fold<T: Number>(layout: &Broadcast<1>, output: &mut [T], from: &[T], function: impl Fn(T, T) -> T + Sync) {
    layout.for_each(output, cost::ARITHMETIC, &|output, [range]| {
        let from = &from[range];
        T::looped(|| match from {
            &[value] => output.iter_mut().for_each(|to| *to = function(*to, value)),
            values => output.iter_mut().zip(values).for_each(|(to, &value)| *to = function(*to, value)),
        });
    });
}

pub(in crate::ops) fn infer_clip(inputs: &Infos<'_>) -> Result<Vec<Info>, OpError> {
    let data = required(inputs, 0)?;
    Ok(one(data.dtype, data.shape.clone()))
}

pub(in crate::ops) fn clip(inputs: &Inputs<'_>, outputs: &mut [Output<'_>]) -> Result<(), OpError> {
    by_way_of_f32(inputs, outputs, |inputs, outputs| {
        let data = required(inputs, 0)?;
        let [low, high] = [1, 2].map(|i| optional(inputs, i));
        with_number!(data.dtype(), T => {
            let (low, high) = (bound::<T>(low, 1)?, bound::<T>(high, 2)?);
            let (low, high) = (low.unwrap_or(T::LOWEST), high.unwrap_or(T::HIGHEST));
            let input = data.as_slice::<T>()?;
            let output = outputs[0].alloc::<T>(data.shape())?;
            Broadcast::new(data.shape(), [data.shape()]).for_each(output, cost::ARITHMETIC, &|output, [range]| {
                let input = &input[range];
                // NaN passes; where the bounds cross the upper one wins.
                T::looped(|| {
                    for (to, &x) in output.iter_mut().zip(input) {
                        let x = if x < low { low } else { x };
                        *to = if x > high { high } else { x };
                    }
                });
            });
            Ok(())
        }, else => Err(unsupported_type("Clip", data.dtype())))
    })
}

/// A bound: one element, of the type of the data.
fn bound<T: Element>(view: Option<TensorView<'_>>, index: usize) -> Result<Option<T>, OpError> {
    let Some(view) = view else { return Ok(None) };
    match *view.as_slice::<T>()? {
        [value] => Ok(Some(value)),
        _ => {
            let reason = "not one element".to_owned();
            Err(OpError::InputShape { index, shape: view.shape().to_vec(), reason })
        }
    }
}
