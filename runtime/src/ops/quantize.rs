//! QuantizeLinear, DequantizeLinear and DynamicQuantizeLinear.

use num_traits::AsPrimitive;
use poda_formats::{DataType, Element};

use super::args::{Infos, around, axis, one, optional, required, unsupported_type};
use super::elementwise::wide::{map_vector, widest};
use super::facts::{Fact, bad_shape, expect_shape, float_type, shape};
use super::number::with_type;
use super::real::{Real, load, store};
use super::{Inputs, OpError};
use crate::info::Info;
use crate::kernels::{Rounding, range};
use crate::output::Output;
use crate::threads::share::{cost, for_elements};

/// Which scale belongs to an element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Granularity {
    Tensor,
    /// One for each place along an axis of `dim` places, each of `inner` elements.
    Axis {
        dim: usize,
        inner: usize,
    },
    /// One for each `block` places along an axis.
    Block {
        dim: usize,
        inner: usize,
        block: usize,
    },
}

impl Granularity {
    /// That of `x` (input 0) with `scale` (input 1).
    fn new(at: i64, block: usize, x: &[usize], scale: &[usize]) -> Result<Self, OpError> {
        if block == 0 && scale.iter().product::<usize>() == 1 && scale.len() <= 1 {
            return Ok(Self::Tensor);
        }
        let at = axis(at, x.len())?;
        let [_, dim, inner] = around(x, at);
        let mut expected = x.to_vec();
        if block == 0 {
            expected = vec![dim];
        } else {
            expected[at] = dim.div_ceil(block);
        }
        if scale != expected {
            return Err(bad_shape(1, scale, format!("expected {expected:?}")));
        }
        Ok(if block == 0 { Self::Axis { dim, inner } } else { Self::Block { dim, inner, block } })
    }

    /// From element `i` on, how many elements in a row are alike, up to `most`, and which scales are theirs.
    fn run(self, i: usize, most: usize) -> (usize, Scales) {
        match self {
            Self::Tensor => (most, Scales::One(0)),
            Self::Axis { dim, inner: 1 } => (most.min(dim - i % dim), Scales::From(i % dim)),
            Self::Axis { dim, inner } => (most.min(inner - i % inner), Scales::One(i / inner % dim)),
            Self::Block { dim, inner, block } => {
                let (outer, place) = (i / (dim * inner), i / inner % dim);
                let scale = (outer * dim.div_ceil(block) + place / block) * inner + i % inner;
                match inner {
                    1 => (most.min(block - place % block).min(dim - place), Scales::One(scale)),
                    _ => (most.min(inner - i % inner), Scales::From(scale)),
                }
            }
        }
    }
}

/// The scales of a run of elements.
#[derive(Debug, Clone, Copy)]
enum Scales {
    /// One for all.
    One(usize),
    /// One each, from here on.
    From(usize),
}

/// Sets each element to `value(x, scale, zero)` of its element of `x` and of the scale and zero point that are its.
fn fill<X: Copy + Sync, R: Real, Y: Send>(
    y: &mut [Y],
    x: &[X],
    granularity: Granularity,
    scale: &[R],
    zero: Option<&[R]>,
    value: impl Fn(X, R, R) -> Y + Sync,
) {
    for_elements(y, cost::ARITHMETIC, |start, y| {
        let mut at = 0;
        while at < y.len() {
            let (len, scales) = granularity.run(start + at, y.len() - at);
            let pairs = y[at..][..len].iter_mut().zip(&x[start + at..][..len]);
            widest(
                #[inline(always)]
                || match scales {
                    Scales::One(i) => {
                        let (scale, zero) = (scale[i], zero.map_or(R::default(), |zero| zero[i]));
                        pairs.for_each(
                            #[inline(always)]
                            |(y, &x)| *y = value(x, scale, zero),
                        );
                    }
                    Scales::From(i) => {
                        for ((y, &x), i) in pairs.zip(i..) {
                            *y = value(x, scale[i], zero.map_or(R::default(), |zero| zero[i]));
                        }
                    }
                },
            );
            at += len;
        }
    });
}

/// What QuantizeLinear gives.
trait Narrow: Element {
    const RANGE: [f32; 2];

    /// The low bits.
    fn low(bits: u32) -> Self;
}

macro_rules! narrow {
    ($($type:ident)*) => {$(
        impl Narrow for $type {
            const RANGE: [f32; 2] = [$type::MIN as f32, $type::MAX as f32];

            #[inline(always)]
            fn low(bits: u32) -> Self {
                bits as Self
            }
        }
    )*};
}

narrow! { u8 i8 u16 i16 }

/// The nearest integer, ties to even, plus `zero`, saturated; NaN gives 0.
///
/// A cast would give the same, but not by vectors. Of an integer of up to 22 bits plus 1.5 · 2²³ the low bits are the integer.
#[inline(always)]
fn rounded<R: Real + AsPrimitive<f32>, Y: Narrow>(value: R, zero: R) -> Y {
    const SHIFT: f32 = 12_582_912.0;
    let value: f32 = (value.round_ties_even() + zero).as_();
    let [low, high] = Y::RANGE;
    let value = if value.is_nan() { 0.0 } else { value };
    let value = if value > low { value } else { low };
    let value = if value < high { value } else { high };
    Y::low((value + SHIFT).to_bits())
}

/// Checks scale and zero point; gives the output like `x`.
fn like_x<'a, F: Fact<'a>>(
    dtype: DataType,
    at: i64,
    block: usize,
    inputs: &[Option<F>],
) -> Result<Vec<Info>, OpError> {
    float_type(inputs, 1)?;
    let (Some(x), Some(scale)) = (shape(inputs, 0)?, shape(inputs, 1)?) else {
        return Ok(one(dtype, shape(inputs, 0)?.map(<[usize]>::to_vec)));
    };
    // One for the whole tensor may be a scalar beside a vector of one element, as ONNX Runtime's tools write them for biases.
    let whole = matches!(Granularity::new(at, block, x, scale)?, Granularity::Tensor);
    let single = optional(inputs, 2).and_then(Fact::dims).is_some_and(|zero| matches!(zero, [] | [1]));
    if !(whole && single) {
        expect_shape(inputs, 2, scale)?;
    }
    Ok(one(dtype, Some(x.to_vec())))
}

fn quantize_infos<'a, F: Fact<'a>>(
    at: i64,
    block: usize,
    to: Option<DataType>,
    inputs: &[Option<F>],
) -> Result<Vec<Info>, OpError> {
    let found = required(inputs, 0)?.element_type();
    if !found.is_float() && found != DataType::I32 {
        return Err(OpError::InputType { index: 0, expected: "a floating-point type or i32", found });
    }
    let dtype = optional(inputs, 2).map(Fact::element_type).or(to).unwrap_or(DataType::U8);
    if !matches!(dtype, DataType::U8 | DataType::I8 | DataType::U16 | DataType::I16) {
        return Err(unsupported_type("QuantizeLinear", dtype));
    }
    like_x(dtype, at, block, inputs)
}

pub(super) fn infer_quantize_linear(
    axis: i64,
    block_size: usize,
    _saturate: bool,
    to: Option<DataType>,
    inputs: &Infos<'_>,
) -> Result<Vec<Info>, OpError> {
    quantize_infos(axis, block_size, to, inputs)
}

pub(super) fn quantize_linear(
    axis: i64,
    block_size: usize,
    _saturate: bool,
    to: Option<DataType>,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    let dtype = quantize_infos(axis, block_size, to, inputs)?[0].dtype;
    match required(inputs, 0)?.dtype() {
        // Not every i32 is an f32.
        DataType::F64 | DataType::I32 => quantize::<f64>(dtype, axis, block_size, inputs, &mut outputs[0]),
        _ => quantize::<f32>(dtype, axis, block_size, inputs, &mut outputs[0]),
    }
}

fn quantize<R: Real + AsPrimitive<f32>>(
    dtype: DataType,
    axis: i64,
    block_size: usize,
    inputs: &Inputs<'_>,
    output: &mut Output<'_>,
) -> Result<(), OpError> {
    let (x, scale) = (required(inputs, 0)?, required(inputs, 1)?);
    let granularity = Granularity::new(axis, block_size, x.shape(), scale.shape())?;
    let (values, scale, zero) = (load::<R>(x), load::<R>(scale), optional(inputs, 2).map(load::<R>));
    macro_rules! fill_as {
        ($type:ty) => {
            fill(
                output.alloc::<$type>(x.shape())?,
                &values,
                granularity,
                &scale,
                zero.as_deref(),
                #[inline(always)]
                |x, scale, zero| rounded::<R, $type>(x / scale, zero),
            )
        };
    }
    match dtype {
        DataType::I8 => fill_as!(i8),
        DataType::U16 => fill_as!(u16),
        DataType::I16 => fill_as!(i16),
        _ => fill_as!(u8),
    }
    Ok(())
}

fn dequantize_infos<'a, F: Fact<'a>>(
    at: i64,
    block: usize,
    inputs: &[Option<F>],
) -> Result<Vec<Info>, OpError> {
    let found = required(inputs, 0)?.element_type();
    let narrow = [DataType::U8, DataType::I8, DataType::U16, DataType::I16, DataType::I32];
    if !narrow.contains(&found) {
        return Err(OpError::InputType { index: 0, expected: "i8, u8, i16, u16 or i32", found });
    }
    super::facts::same_type(inputs, [2], found)?;
    like_x(float_type(inputs, 1)?, at, block, inputs)
}

pub(super) fn infer_dequantize_linear(
    axis: i64,
    block_size: usize,
    inputs: &Infos<'_>,
) -> Result<Vec<Info>, OpError> {
    dequantize_infos(axis, block_size, inputs)
}

pub(super) fn dequantize_linear(
    axis: i64,
    block_size: usize,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    dequantize_infos(axis, block_size, inputs)?;
    let (x, scale) = (required(inputs, 0)?, required(inputs, 1)?);
    // Not every i32 is an f32.
    match (x.dtype(), scale.dtype()) {
        (DataType::I32, _) | (_, DataType::F64) => {
            dequantize::<f64, f64>(axis, block_size, inputs, &load::<f64>(x), &mut outputs[0])
        }
        (dtype, _) => with_type!(dtype, X in [u8, i8, u16, i16] => {
            dequantize::<X, f32>(axis, block_size, inputs, x.as_slice::<X>()?, &mut outputs[0])
        }, else => Err(unsupported_type("DequantizeLinear", dtype))),
    }
}

fn dequantize<X: Copy + Sync + Into<R>, R: Real>(
    axis: i64,
    block_size: usize,
    inputs: &Inputs<'_>,
    values: &[X],
    output: &mut Output<'_>,
) -> Result<(), OpError> {
    let (x, scale) = (required(inputs, 0)?, required(inputs, 1)?);
    let granularity = Granularity::new(axis, block_size, x.shape(), scale.shape())?;
    store::<R>(output, scale.dtype(), x.shape(), |y| {
        let (scale, zero) = (load::<R>(scale), optional(inputs, 2).map(load::<R>));
        fill(
            y,
            values,
            granularity,
            &scale,
            zero.as_deref(),
            #[inline(always)]
            |x: X, scale, zero| (x.into() - zero) * scale,
        );
        Ok(())
    })
}

pub(super) fn infer_dynamic_quantize_linear(inputs: &Infos<'_>) -> Result<Vec<Info>, OpError> {
    dynamic_infos(inputs)
}

fn dynamic_infos<'a, F: Fact<'a>>(inputs: &[Option<F>]) -> Result<Vec<Info>, OpError> {
    let found = required(inputs, 0)?.element_type();
    if found != DataType::F32 {
        return Err(OpError::InputType { index: 0, expected: "f32", found });
    }
    let y = Info { dtype: DataType::U8, shape: shape(inputs, 0)?.map(<[usize]>::to_vec), value: None };
    Ok(vec![y, Info::new(DataType::F32, vec![]), Info::new(DataType::U8, vec![])])
}

pub(super) fn dynamic_quantize_linear(
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    dynamic_infos(inputs)?;
    let x = required(inputs, 0)?;
    let values = x.as_slice::<f32>()?;
    let (scale, zero) = dynamic_range(values);
    if outputs[0].is_used() {
        let y = outputs[0].alloc::<u8>(x.shape())?;
        fill(
            y,
            values,
            Granularity::Tensor,
            &[scale],
            Some(&[f32::from(zero)]),
            #[inline(always)]
            |x, scale, zero| rounded::<f32, u8>(x / scale, zero),
        );
    }
    scalar(outputs, 1, scale)?;
    scalar(outputs, 2, zero)
}

/// Scale and zero point for these values.
fn dynamic_range(values: &[f32]) -> (f32, u8) {
    // The range holds 0, so that it is represented exactly.
    let [low, high] = range(values);
    let scale = if low == high { 1.0 } else { (high - low) / 255.0 };
    (scale, (-low / scale).round_ties_even() as u8)
}

/// The integers that DynamicQuantizeLinear gives, less their zero point, as floats in `y`; and scale and zero point.
pub(crate) fn round_dynamically(x: &[f32], y: &mut [f32]) -> (f32, u8) {
    let (scale, zero_point) = dynamic_range(x);
    let zero = f32::from(zero_point);
    // That of infinite or next to no values is no ordinary number, and divides as the operator does.
    let proper = (1e-30..1e30).contains(&scale);
    let (clamp, range) = ([f32::NEG_INFINITY, f32::INFINITY], [-zero, 255.0 - zero]);
    let rounding = Rounding { clamp, scale, to: 1.0, range, nan: -zero };
    for_elements(y, cost::ARITHMETIC, |start, y| {
        let x = &x[start..][..y.len()];
        if proper {
            map_vector(&rounding, x, y);
        } else {
            let integers = x.iter().map(|x| rounded::<f32, u8>(x / scale, zero));
            y.iter_mut().zip(integers).for_each(|(y, integer)| *y = f32::from(integer) - zero);
        }
    });
    (scale, zero_point)
}

/// Writes output `index`, if it is used.
pub(crate) fn scalar<T: Element>(outputs: &mut [Output<'_>], index: usize, value: T) -> Result<(), OpError> {
    if let Some(output) = outputs.get_mut(index).filter(|o| o.is_used()) {
        output.alloc::<T>(&[])?[0] = value;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use num_traits::AsPrimitive;
    use poda_formats::Element;
    use poda_formats::op::Op;

    use super::super::testing::{apply, assert_close, floats, input, noise};

    fn quantize_op(axis: i64, block_size: usize) -> Op {
        Op::QuantizeLinear { axis, block_size, saturate: true, to: None }
    }

    #[test]
    fn values_round_to_even_and_saturate() {
        let x = input(&[6], &[0.5_f32, 1.5, -3.0, 300.0, f32::INFINITY, f32::NEG_INFINITY]);
        let run = |zero| apply(&quantize_op(1, 0), &[x.clone(), input(&[], &[1.0_f32]), zero], 1).unwrap();
        assert_eq!(run(None)[0].as_slice::<u8>().unwrap(), [0, 2, 0, 255, 255, 0]);
        let result = run(input(&[], &[-1_i8]));
        assert_eq!(result[0].as_slice::<i8>().unwrap(), [-1, 1, -4, 127, 127, -128]);
    }

    /// Against casts.
    fn check<T: Element + Into<f32> + PartialEq>(x: &[f32], zero: T)
    where
        f32: AsPrimitive<T>,
    {
        let expected: Vec<T> = x.iter().map(|x| (x.round_ties_even() + zero.into()).as_()).collect();
        let wide: Vec<f64> = x.iter().map(|&x| x.into()).collect();
        let inputs = [input(&[x.len()], x), input(&[], &[1.0_f32]), input(&[], &[zero])];
        let wide = [input(&[x.len()], &wide), input(&[], &[1.0_f64]), input(&[], &[zero])];
        for inputs in [inputs, wide] {
            let result = apply(&quantize_op(1, 0), &inputs, 1).unwrap();
            assert!(result[0].as_slice::<T>().unwrap() == expected, "{}", T::DTYPE);
        }
    }

    #[test]
    fn integers_are_those_that_casts_give() {
        // Halves of all integers of 16 bits, and what is beyond them.
        let mut x: Vec<f32> = (-140_000..140_000).map(|i| i as f32 / 2.0).collect();
        x.extend([1e9, -1e9, f32::MAX, f32::MIN, f32::NAN, 8_388_607.5, 4_194_303.5, -4_194_304.5]);
        [0, 17, 255].into_iter().for_each(|zero: u8| check(&x, zero));
        [-128, 0, 100].into_iter().for_each(|zero: i8| check(&x, zero));
        [0, 65_535].into_iter().for_each(|zero: u16| check(&x, zero));
        [-32_768, 0, 5].into_iter().for_each(|zero: i16| check(&x, zero));
    }

    #[test]
    fn scales_belong_to_tensors_axes_or_blocks() {
        let x = input(&[2, 3], &[10_i8, 20, 30, 40, 50, 60]);
        let op = |axis, block_size| Op::DequantizeLinear { axis, block_size };
        // axis, block size, scale's shape, expected
        let cases: [(i64, usize, &[usize], &[f32]); 4] = [
            (1, 0, &[], &[10.0, 20.0, 30.0, 40.0, 50.0, 60.0]),
            (0, 0, &[2], &[10.0, 20.0, 30.0, 80.0, 100.0, 120.0]),
            (-1, 0, &[3], &[10.0, 40.0, 90.0, 40.0, 100.0, 180.0]),
            (1, 2, &[2, 2], &[10.0, 20.0, 60.0, 120.0, 150.0, 240.0]),
        ];
        for (axis, block, shape, expected) in cases {
            let scale: Vec<f32> = (1..=shape.iter().product()).map(|i: usize| i as f32).collect();
            let result = apply(&op(axis, block), &[x.clone(), input(shape, &scale)], 1).unwrap();
            assert_close(floats(&result[0]), expected, 1e-6);
        }
        for (scale, zero) in [(&[1][..], &[][..]), (&[], &[1])] {
            let inputs = [x.clone(), input(scale, &[0.5_f32]), input(zero, &[10_i8])];
            let result = apply(&op(0, 0), &inputs, 1).unwrap();
            assert_close(floats(&result[0]), &[0.0, 5.0, 10.0, 15.0, 20.0, 25.0], 1e-6);
        }
        let two = input(&[2], &[0_i8, 0]);
        assert!(apply(&op(0, 0), &[x.clone(), input(&[1], &[0.5_f32]), two], 1).is_err());
        assert!(apply(&op(1, 0), &[x.clone(), noise(&[2], 1)], 1).is_err());
        assert!(apply(&op(1, 2), &[x.clone(), noise(&[2, 3], 1)], 1).is_err());
        assert!(apply(&op(5, 0), &[x, noise(&[2], 1)], 1).is_err());
    }

    /// Also of values that no range holds.
    #[test]
    fn floats_are_the_integers_less_their_zero_point() {
        let far = [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, f32::MAX];
        let ordinary = [(0, None), (1, None), (97, None), (40_000, None)].into_iter();
        for (len, last) in ordinary.chain(far.map(|last| (33, Some(last)))).chain([(1, Some(1e-44))]) {
            let mut x: Vec<f32> = (0..len).map(|i| ((i * 7919) % 1013) as f32 / 100.0 - 3.0).collect();
            x.last_mut().into_iter().zip(last).for_each(|(x, last)| *x = last);
            let expected = apply(&Op::DynamicQuantizeLinear, &[input(&[len], &x)], 3).unwrap();
            let mut y = vec![f32::NAN; len];
            let (scale, zero) = super::round_dynamically(&x, &mut y);
            assert_eq!(floats(&expected[1])[0].to_bits(), scale.to_bits());
            assert_eq!(expected[2].as_slice::<u8>().unwrap(), [zero]);
            let integers = expected[0].as_slice::<u8>().unwrap().iter();
            assert_eq!(
                integers.map(|&i| f32::from(i) - f32::from(zero)).collect::<Vec<_>>(),
                y,
                "{len} {last:?}"
            );
        }
    }

    #[test]
    fn ranges_hold_zero() {
        let run = |x: &[f32]| apply(&Op::DynamicQuantizeLinear, &[input(&[x.len()], x)], 3).unwrap();
        let result = run(&[1.0, 255.0]);
        assert_eq!(result[0].as_slice::<u8>().unwrap(), [1, 255]);
        assert_eq!((floats(&result[1]), result[2].as_slice::<u8>().unwrap()), (&[1.0][..], &[0][..]));
        assert_eq!(run(&[0.0])[0].as_slice::<u8>().unwrap(), [0]);
        assert_eq!(run(&[])[0].shape(), [0]);
    }
}
