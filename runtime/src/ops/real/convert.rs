//! Elements of tensors as numbers of another type, and back.

use std::borrow::Cow;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use poda_formats::dtype::Boolean;
use poda_formats::{DataType, Element, TensorView};

use super::super::OpError;
use super::super::number::Number;
use crate::output::Output;
use crate::threads::share::{cost, for_elements};

/// The elements as `R`, borrowed when they are.
pub(crate) fn load<R: Number>(view: TensorView<'_>) -> Cow<'_, [R]> {
    fn each<T: Element, R: Number>(view: TensorView<'_>, convert: impl Fn(T) -> f64) -> Vec<R> {
        let values: &[T] = view.as_slice().expect("the type just matched");
        values.iter().map(|&v| R::from_f64(convert(v))).collect()
    }
    if let Ok(values) = view.as_slice::<R>() {
        return Cow::Borrowed(values);
    }
    Cow::Owned(match view.dtype() {
        DataType::F32 => each(view, |v: f32| f64::from(v)),
        DataType::F64 => each(view, |v: f64| v),
        DataType::F16 if R::DTYPE == DataType::F32 => {
            let values: &[f16] = view.as_slice().expect("the type just matched");
            let mut out = vec![R::default(); values.len()];
            for_elements(&mut out, cost::COPY, |start, out| {
                values[start..][..out.len()].convert_to_f32_slice(bytemuck::cast_slice_mut(out));
            });
            out
        }
        DataType::F16 => each(view, f16::to_f64),
        DataType::BF16 if R::DTYPE == DataType::F32 => {
            let values: &[bf16] = view.as_slice().expect("the type just matched");
            let mut out = vec![R::default(); values.len()];
            for_elements(&mut out, cost::COPY, |start, out| {
                values[start..][..out.len()].convert_to_f32_slice(bytemuck::cast_slice_mut(out));
            });
            out
        }
        DataType::BF16 => each(view, bf16::to_f64),
        DataType::I8 => each(view, |v: i8| f64::from(v)),
        DataType::I16 => each(view, |v: i16| f64::from(v)),
        DataType::I32 => each(view, |v: i32| f64::from(v)),
        DataType::I64 => each(view, |v: i64| v as f64),
        DataType::U8 => each(view, |v: u8| f64::from(v)),
        DataType::U16 => each(view, |v: u16| f64::from(v)),
        DataType::U32 => each(view, |v: u32| f64::from(v)),
        DataType::U64 => each(view, |v: u64| v as f64),
        DataType::Bool => each(view, |v: Boolean| f64::from(u8::from(v.get()))),
    })
}

/// Has `fill` write an output of type `dtype`, rounding from `R` when that is another type. An output that nobody reads
/// is not computed. What `fill` is given holds unspecified values.
pub(crate) fn store<R: Number>(
    output: &mut Output<'_>,
    dtype: DataType,
    shape: &[usize],
    fill: impl FnOnce(&mut [R]) -> Result<(), OpError>,
) -> Result<(), OpError> {
    if !output.is_used() {
        return Ok(());
    }
    let bytes = output.alloc_bytes(dtype, shape)?;
    if dtype == R::DTYPE {
        return fill(bytemuck::cast_slice_mut(bytes));
    }
    let mut values = vec![R::default(); bytes.len() / dtype.size()];
    fill(&mut values)?;
    convert(&values, dtype, bytes);
    Ok(())
}

/// Writes `values` as elements of `dtype`. Integers truncate and saturate.
pub(crate) fn convert<R: Number>(values: &[R], dtype: DataType, bytes: &mut [u8]) {
    fn each<R: Number, T: Element>(values: &[R], bytes: &mut [u8], convert: impl Fn(f64) -> T) {
        let out: &mut [T] = bytemuck::cast_slice_mut(bytes);
        out.iter_mut().zip(values).for_each(|(y, v)| *y = convert(v.to_f64()));
    }
    match dtype {
        DataType::F32 => each(values, bytes, |v| v as f32),
        DataType::F64 => each(values, bytes, |v| v),
        DataType::F16 if R::DTYPE == DataType::F32 => {
            let values = bytemuck::cast_slice::<R, f32>(values);
            for_elements(bytemuck::cast_slice_mut::<u8, f16>(bytes), cost::COPY, |start, out| {
                out.convert_from_f32_slice(&values[start..][..out.len()]);
            });
        }
        DataType::F16 => each(values, bytes, f16::from_f64),
        DataType::BF16 if R::DTYPE == DataType::F32 => {
            let values = bytemuck::cast_slice::<R, f32>(values);
            for_elements(bytemuck::cast_slice_mut::<u8, bf16>(bytes), cost::COPY, |start, out| {
                out.convert_from_f32_slice(&values[start..][..out.len()]);
            });
        }
        DataType::BF16 => each(values, bytes, bf16::from_f64),
        DataType::I8 => each(values, bytes, |v| v as i8),
        DataType::I16 => each(values, bytes, |v| v as i16),
        DataType::I32 => each(values, bytes, |v| v as i32),
        DataType::I64 => each(values, bytes, |v| v as i64),
        DataType::U8 => each(values, bytes, |v| v as u8),
        DataType::U16 => each(values, bytes, |v| v as u16),
        DataType::U32 => each(values, bytes, |v| v as u32),
        DataType::U64 => each(values, bytes, |v| v as u64),
        DataType::Bool => each(values, bytes, |v| Boolean::from(v != 0.0)),
    }
}
