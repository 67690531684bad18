//! Conversions between element types: Cast and CastLike.
//!
//! Floats become integers by truncation, saturated, NaN as 0 (ONNX leaves both open); integers wrap into narrower ones;
//! whatever is not 0 is true.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use num_traits::AsPrimitive;
use poda_formats::{Boolean, DataType, Element, TensorView};

use super::args::{Infos, one, required};
use super::elementwise::broadcast::Broadcast;
use super::number::{Number, with_number};
use super::{Inputs, OpError};
use crate::info::Info;
use crate::output::Output;
use crate::threads::share::{cost, for_elements};

pub(super) fn infer_cast(to: DataType, inputs: &Infos<'_>) -> Result<Vec<Info>, OpError> {
    Ok(one(to, required(inputs, 0)?.shape.clone()))
}

pub(super) fn cast(to: DataType, inputs: &Inputs<'_>, outputs: &mut [Output<'_>]) -> Result<(), OpError> {
    let data = required(inputs, 0)?;
    if data.dtype() == to {
        let bytes = data.bytes();
        for_elements(outputs[0].alloc_bytes(to, data.shape())?, cost::COPY / 4, |start, to| {
            to.copy_from_slice(&bytes[start..][..to.len()]);
        });
        return Ok(());
    }
    let output = &mut outputs[0];
    let shape = data.shape();
    match data.dtype() {
        DataType::Bool => {
            let bits: Vec<u8> = data.as_slice::<Boolean>()?.iter().map(|b| u8::from(b.get())).collect();
            cast_from(&bits, shape, to, output)
        }
        DataType::F16 if to == DataType::F32 => {
            let values = data.as_slice::<f16>()?;
            for_elements(output.alloc::<f32>(shape)?, cost::COPY, |start, to| {
                values[start..][..to.len()].convert_to_f32_slice(to);
            });
            Ok(())
        }
        DataType::F32 if to == DataType::F16 => {
            let values = data.as_slice::<f32>()?;
            for_elements(output.alloc::<f16>(shape)?, cost::COPY, |start, to| {
                to.convert_from_f32_slice(&values[start..][..to.len()]);
            });
            Ok(())
        }
        DataType::F16 => cast_from(&widened(data.as_slice()?, f16::to_f32), shape, to, output),
        DataType::BF16 => cast_from(&widened(data.as_slice()?, bf16::to_f32), shape, to, output),
        dtype => with_number!(dtype, T => cast_from(data.as_slice::<T>()?, shape, to, output), else => {
            Err(super::args::unsupported_type("Cast", dtype))
        }),
    }
}

fn widened<T: Copy>(values: &[T], to_f32: impl Fn(T) -> f32) -> Vec<f32> {
    values.iter().map(|&v| to_f32(v)).collect()
}

/// A number that converts to every other number.
trait Castable:
    Number
    + AsPrimitive<f32>
    + AsPrimitive<f64>
    + AsPrimitive<i8>
    + AsPrimitive<i16>
    + AsPrimitive<i32>
    + AsPrimitive<i64>
    + AsPrimitive<u8>
    + AsPrimitive<u16>
    + AsPrimitive<u32>
    + AsPrimitive<u64>
{
}

impl<T> Castable for T where
    T: Number
        + AsPrimitive<f32>
        + AsPrimitive<f64>
        + AsPrimitive<i8>
        + AsPrimitive<i16>
        + AsPrimitive<i32>
        + AsPrimitive<i64>
        + AsPrimitive<u8>
        + AsPrimitive<u16>
        + AsPrimitive<u32>
        + AsPrimitive<u64>
{
}

fn cast_from<T: Castable>(
    from: &[T],
    shape: &[usize],
    to: DataType,
    output: &mut Output<'_>,
) -> Result<(), OpError> {
    match to {
        DataType::Bool => convert(from, output.alloc(shape)?, |v| Boolean::from(v != T::ZERO)),
        DataType::F16 => convert(from, output.alloc(shape)?, |v| f16::from_f64(v.to_f64())),
        DataType::BF16 => convert(from, output.alloc(shape)?, |v| bf16::from_f64(v.to_f64())),
        DataType::F32 => convert(from, output.alloc::<f32>(shape)?, T::as_),
        DataType::F64 => convert(from, output.alloc::<f64>(shape)?, T::as_),
        DataType::I8 => convert(from, output.alloc::<i8>(shape)?, T::as_),
        DataType::I16 => convert(from, output.alloc::<i16>(shape)?, T::as_),
        DataType::I32 => convert(from, output.alloc::<i32>(shape)?, T::as_),
        DataType::I64 => convert(from, output.alloc::<i64>(shape)?, T::as_),
        DataType::U8 => convert(from, output.alloc::<u8>(shape)?, T::as_),
        DataType::U16 => convert(from, output.alloc::<u16>(shape)?, T::as_),
        DataType::U32 => convert(from, output.alloc::<u32>(shape)?, T::as_),
        DataType::U64 => convert(from, output.alloc::<u64>(shape)?, T::as_),
    }
    Ok(())
}

fn convert<T: Element, R: Element>(from: &[T], to: &mut [R], function: impl Fn(T) -> R + Sync) {
    let shape = [to.len()];
    Broadcast::new(&shape, [&shape]).for_each(to, cost::COPY, &|to, [range]| {
        for (to, &from) in to.iter_mut().zip(&from[range]) {
            *to = function(from);
        }
    });
}

/// The elements of `view`, converted.
pub(super) fn converted<T: Element>(view: TensorView<'_>) -> Result<Vec<T>, OpError> {
    let mut values = vec![bytemuck::Zeroable::zeroed(); view.len()];
    let bytes = bytemuck::cast_slice_mut(&mut values);
    let output = Output::Planned { dtype: T::DTYPE, shape: view.shape(), bytes };
    cast(T::DTYPE, &[Some(view)], &mut [output])?;
    Ok(values)
}

pub(super) fn infer_cast_like(inputs: &Infos<'_>) -> Result<Vec<Info>, OpError> {
    infer_cast(required(inputs, 1)?.dtype, inputs)
}

pub(super) fn cast_like(inputs: &Inputs<'_>, outputs: &mut [Output<'_>]) -> Result<(), OpError> {
    cast(required(inputs, 1)?.dtype(), inputs, outputs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_truncate_and_saturate_and_integers_wrap() {
        let floats = [1.9f32, -1.9, f32::NAN, f32::INFINITY, -1e30, 0.0, 300.0];
        let view = TensorView::from_slice(&[7], &floats);
        assert_eq!(converted::<i32>(view).unwrap(), [1, -1, 0, i32::MAX, i32::MIN, 0, 300]);
        assert_eq!(converted::<u8>(view).unwrap(), [1, 0, 0, 255, 0, 0, 255]);
        let truths = [true, true, true, true, true, false, true].map(Boolean::from);
        assert_eq!(converted::<Boolean>(view).unwrap(), truths);
        let integers = [-1i64, 256, 1 << 40];
        let view = TensorView::from_slice(&[3], &integers);
        assert_eq!(converted::<u8>(view).unwrap(), [255, 0, 0]);
        assert_eq!(converted::<f16>(view).unwrap(), [-1.0, 256.0, f32::INFINITY].map(f16::from_f32));
    }
}
