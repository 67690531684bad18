//! Functions of one input, element by element.

use poda_formats::op::Unary;
use poda_formats::{Boolean, DataType, Element};

use super::unary_float::{f32_cost, float_f32, float_f64};
use crate::info::Info;
use crate::ops::args::{Infos, one, required, unsupported_type};
use crate::ops::number::{Number, by_way_of_f32, with_type};
use crate::ops::{Inputs, OpError};
use crate::output::Output;
use crate::threads::share::{cost, for_elements};

pub(in crate::ops) fn infer_unary(function: Unary, inputs: &Infos<'_>) -> Result<Vec<Info>, OpError> {
    let data = required(inputs, 0)?;
    let tests = matches!(function, Unary::IsNan | Unary::IsInf { .. });
    Ok(one(if tests { DataType::Bool } else { data.dtype }, data.shape.clone()))
}

pub(in crate::ops) fn unary(
    function: Unary,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    by_way_of_f32(inputs, outputs, |inputs, outputs| {
        let data = required(inputs, 0)?;
        let (dtype, shape) = (data.dtype(), data.shape());
        let output = &mut outputs[0];
        match dtype {
            DataType::F32 => match function {
                Unary::IsNan | Unary::IsInf { .. } => {
                    classify::<f32>(function, data.as_slice()?, output.alloc(shape)?);
                    Ok(())
                }
                _ => apply(data.as_slice::<f32>()?, output.alloc(shape)?, f32_cost(function), |from, to| {
                    float_f32(function, from, to)
                }),
            },
            DataType::F64 => match function {
                Unary::IsNan | Unary::IsInf { .. } => {
                    classify::<f64>(function, data.as_slice()?, output.alloc(shape)?);
                    Ok(())
                }
                _ => apply(data.as_slice::<f64>()?, output.alloc(shape)?, cost::SCALAR, |from, to| {
                    float_f64(function, from, to)
                }),
            },
            DataType::Bool => match function {
                Unary::Not => {
                    apply(data.as_slice::<Boolean>()?, output.alloc(shape)?, cost::COPY, |from, to| {
                        map(from, to, |b: Boolean| Boolean::from(!b.get()));
                        Ok(())
                    })
                }
                _ => Err(unsupported_type(function, dtype)),
            },
            _ => with_type!(dtype, T in [i8, i16, i32, i64, u8, u16, u32, u64] => {
                apply(data.as_slice::<T>()?, output.alloc(shape)?, cost::COPY, |from, to| {
                    integer::<T>(function, from, to)
                })
            }, else => Err(unsupported_type(function, dtype))),
        }
    })
}

/// Applies a function that takes `cost` picoseconds an element.
fn apply<T: Element, R: Element>(
    input: &[T],
    output: &mut [R],
    cost: usize,
    function: impl Fn(&[T], &mut [R]) -> Result<(), OpError> + Sync,
) -> Result<(), OpError> {
    // Whether a function is defined for a type does not depend on the elements, so ask it once.
    function(&[], &mut [])?;
    for_elements(output, cost, |start, output| {
        let defined = function(&input[start..][..output.len()], output);
        debug_assert!(defined.is_ok());
    });
    Ok(())
}

fn map<T: Copy, R>(input: &[T], output: &mut [R], function: impl Fn(T) -> R) {
    for (to, &from) in output.iter_mut().zip(input) {
        *to = function(from);
    }
}

fn classify<T: Number>(function: Unary, input: &[T], output: &mut [Boolean]) {
    match function {
        Unary::IsInf { negative, positive } => map(input, output, |x: T| {
            Boolean::from((negative && x == T::LOWEST) || (positive && x == T::HIGHEST))
        }),
        _ => map(input, output, |x: T| Boolean::from(x.is_nan())),
    }
}

fn integer<T: Number + std::ops::Not<Output = T>>(
    function: Unary,
    input: &[T],
    output: &mut [T],
) -> Result<(), OpError> {
    match function {
        Unary::Abs => map(input, output, T::abs),
        Unary::Neg => map(input, output, |x: T| T::ZERO.sub(x)),
        Unary::Relu => map(input, output, |x: T| if x < T::ZERO { T::ZERO } else { x }),
        Unary::BitwiseNot => map(input, output, |x: T| !x),
        Unary::Sign => map(input, output, |x: T| {
            if x > T::ZERO {
                T::ONE
            } else if x < T::ZERO {
                T::ZERO.sub(T::ONE)
            } else {
                T::ZERO
            }
        }),
        Unary::Acos
        | Unary::Acosh
        | Unary::Asin
        | Unary::Asinh
        | Unary::Atan
        | Unary::Atanh
        | Unary::Ceil
        | Unary::Celu { .. }
        | Unary::Cos
        | Unary::Cosh
        | Unary::Elu { .. }
        | Unary::Erf
        | Unary::Exp
        | Unary::Floor
        | Unary::Gelu { .. }
        | Unary::HardSigmoid { .. }
        | Unary::HardSwish
        | Unary::IsInf { .. }
        | Unary::IsNan
        | Unary::LeakyRelu { .. }
        | Unary::Log
        | Unary::Mish
        | Unary::Not
        | Unary::Reciprocal
        | Unary::Round
        | Unary::Selu { .. }
        | Unary::Shrink { .. }
        | Unary::Sigmoid
        | Unary::Sin
        | Unary::Sinh
        | Unary::Softplus
        | Unary::Softsign
        | Unary::Sqrt
        | Unary::Swish { .. }
        | Unary::Tan
        | Unary::Tanh
        | Unary::ThresholdedRelu { .. } => return Err(unsupported_type(function, T::DTYPE)),
    }
    Ok(())
}
