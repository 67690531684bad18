//! Functions of two inputs, with broadcasting.

use num_traits::AsPrimitive;
use poda_formats::op::Binary;
use poda_formats::{Boolean, DataType, Element, TensorView};

use super::broadcast::{Broadcast, combine};
use super::power::power;
use crate::info::Info;
use crate::ops::args::{Infos, broadcast, broadcast_infos, one, required, unsupported_type};
use crate::ops::number::{Number, by_way_of_f32, with_number, with_type};
use crate::ops::{Inputs, OpError};
use crate::output::Output;
use crate::threads::share::cost;

/// Whether the result is boolean whatever the inputs are.
fn compares(function: Binary) -> bool {
    match function {
        Binary::Equal
        | Binary::Greater
        | Binary::GreaterOrEqual
        | Binary::Less
        | Binary::LessOrEqual
        | Binary::And
        | Binary::Or
        | Binary::Xor => true,
        Binary::Add
        | Binary::Sub
        | Binary::Mul
        | Binary::Div
        | Binary::Pow
        | Binary::Mod { .. }
        | Binary::BitwiseAnd
        | Binary::BitwiseOr
        | Binary::BitwiseXor
        | Binary::BitShift { .. }
        | Binary::PRelu => false,
    }
}

/// The shape of the result. PRelu's slope broadcasts to the data only.
fn result_shape(function: Binary, left: &[usize], right: &[usize]) -> Result<Vec<usize>, OpError> {
    let shape = broadcast(left, right)?;
    if function == Binary::PRelu && shape != left {
        return Err(OpError::Broadcast { left: left.to_vec(), right: right.to_vec() });
    }
    Ok(shape)
}

fn check_types(function: Binary, left: DataType, right: DataType) -> Result<(), OpError> {
    if left == right || function == Binary::Pow {
        return Ok(());
    }
    Err(OpError::InputType { index: 1, expected: left.name(), found: right })
}

pub(in crate::ops) fn infer_binary(function: Binary, inputs: &Infos<'_>) -> Result<Vec<Info>, OpError> {
    let (left, right) = (required(inputs, 0)?, required(inputs, 1)?);
    check_types(function, left.dtype, right.dtype)?;
    let dtype = if compares(function) { DataType::Bool } else { left.dtype };
    let shape = match (&left.shape, &right.shape) {
        (Some(left), Some(right)) => Some(result_shape(function, left, right)?),
        _ => broadcast_infos(&[left, right])?,
    };
    Ok(one(dtype, shape))
}

pub(in crate::ops) fn binary(
    function: Binary,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    by_way_of_f32(inputs, outputs, |inputs, outputs| {
        let (left, right) = (required(inputs, 0)?, required(inputs, 1)?);
        check_types(function, left.dtype(), right.dtype())?;
        let pair = Pair {
            left,
            right,
            shape: result_shape(function, left.shape(), right.shape())?,
            output: &mut outputs[0],
        };
        pair.run(function)
    })
}

/// Two inputs and where the result goes.
pub(super) struct Pair<'a, 'b, 'c> {
    pub(super) left: TensorView<'a>,
    pub(super) right: TensorView<'a>,
    pub(super) shape: Vec<usize>,
    pub(super) output: &'b mut Output<'c>,
}

impl Pair<'_, '_, '_> {
    fn run(self, function: Binary) -> Result<(), OpError> {
        let dtype = self.left.dtype();
        let undefined = || Err(unsupported_type(function, dtype));
        match function {
            Binary::Pow => power(self),
            Binary::And => self.map(|a: Boolean, b: Boolean| Boolean::from(a.get() && b.get())),
            Binary::Or => self.map(|a: Boolean, b: Boolean| Boolean::from(a.get() || b.get())),
            Binary::Xor => self.map(|a: Boolean, b: Boolean| Boolean::from(a.get() != b.get())),
            Binary::Equal if dtype == DataType::Bool => {
                self.map(|a: Boolean, b: Boolean| Boolean::from(a == b))
            }
            Binary::BitwiseAnd | Binary::BitwiseOr | Binary::BitwiseXor => with_type!(
                dtype, T in [i8, i16, i32, i64, u8, u16, u32, u64] => self.bits::<T>(function),
                else => undefined()
            ),
            Binary::BitShift { left } => with_type!(
                dtype, T in [u8, u16, u32, u64] => self.map(|a: T, b: T| {
                    // A shift by the width or more leaves nothing.
                    let by: u32 = b.min(64).as_();
                    if left { a.checked_shl(by) } else { a.checked_shr(by) }.unwrap_or(0)
                }),
                else => undefined()
            ),
            Binary::Add
            | Binary::Sub
            | Binary::Mul
            | Binary::Div
            | Binary::Mod { .. }
            | Binary::Equal
            | Binary::Greater
            | Binary::GreaterOrEqual
            | Binary::Less
            | Binary::LessOrEqual
            | Binary::PRelu => with_number!(dtype, T => self.number::<T>(function), else => undefined()),
        }
    }

    fn bits<T>(self, function: Binary) -> Result<(), OpError>
    where
        T: Number + std::ops::BitAnd<Output = T> + std::ops::BitOr<Output = T> + std::ops::BitXor<Output = T>,
    {
        match function {
            Binary::BitwiseAnd => self.map(|a: T, b: T| a & b),
            Binary::BitwiseOr => self.map(|a: T, b: T| a | b),
            _ => self.map(|a: T, b: T| a ^ b),
        }
    }

    fn number<T: Number>(self, function: Binary) -> Result<(), OpError> {
        let divides = matches!(function, Binary::Div | Binary::Mod { .. });
        if divides && !self.left.dtype().is_float() && self.right.as_slice::<T>()?.contains(&T::ZERO) {
            return Err(OpError::Invalid(format!("{function:?}: an integer divided by zero")));
        }
        match function {
            Binary::Add => self.map_numbers(T::add),
            Binary::Sub => self.map_numbers(T::sub),
            Binary::Mul => self.map_numbers(T::mul),
            Binary::Div => self.map_numbers(T::div),
            Binary::Mod { fmod: true } => self.map_numbers(T::rem_truncated),
            Binary::Mod { fmod: false } => self.map_numbers(T::rem_floored),
            Binary::Equal => self.map_numbers(|a: T, b: T| Boolean::from(a == b)),
            Binary::Greater => self.map_numbers(|a: T, b: T| Boolean::from(a > b)),
            Binary::GreaterOrEqual => self.map_numbers(|a: T, b: T| Boolean::from(a >= b)),
            Binary::Less => self.map_numbers(|a: T, b: T| Boolean::from(a < b)),
            Binary::LessOrEqual => self.map_numbers(|a: T, b: T| Boolean::from(a <= b)),
            Binary::PRelu => self.map_numbers(|x: T, slope: T| if x < T::ZERO { x.mul(slope) } else { x }),
            Binary::Pow
            | Binary::And
            | Binary::Or
            | Binary::Xor
            | Binary::BitwiseAnd
            | Binary::BitwiseOr
            | Binary::BitwiseXor
            | Binary::BitShift { .. } => Err(unsupported_type(function, T::DTYPE)),
        }
    }

    /// Applies `function` to each pair of elements.
    pub(super) fn map<A: Element, B: Element, R: Element>(
        self,
        function: impl Fn(A, B) -> R + Sync,
    ) -> Result<(), OpError> {
        self.map_at(cost::ARITHMETIC, function)
    }

    /// As [`Pair::map`], of a function that takes `cost` picoseconds.
    pub(super) fn map_at<A: Element, B: Element, R: Element>(
        self,
        cost: usize,
        function: impl Fn(A, B) -> R + Sync,
    ) -> Result<(), OpError> {
        let (left, right) = (self.left.as_slice::<A>()?, self.right.as_slice::<B>()?);
        let output = self.output.alloc::<R>(&self.shape)?;
        Broadcast::new(&self.shape, [self.left.shape(), self.right.shape()]).for_each(
            output,
            cost,
            &|output, [a, b]| combine(output, &left[a], &right[b], &function),
        );
        Ok(())
    }

    /// As [`Pair::map`], in the loops of the numbers.
    pub(super) fn map_numbers<T: Number, R: Element>(
        self,
        function: impl Fn(T, T) -> R + Sync,
    ) -> Result<(), OpError> {
        let (left, right) = (self.left.as_slice::<T>()?, self.right.as_slice::<T>()?);
        let output = self.output.alloc::<R>(&self.shape)?;
        let layout = Broadcast::new(&self.shape, [self.left.shape(), self.right.shape()]);
        layout.for_each(output, cost::ARITHMETIC, &|output, [a, b]| {
            T::looped(|| combine(output, &left[a], &right[b], &function));
        });
        Ok(())
    }
}
