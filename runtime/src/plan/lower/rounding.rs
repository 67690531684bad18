//! QuantizeLinear followed by DequantizeLinear, as quantisers write around products: one rounding of floats, which the product
//! before it takes into its epilogue. The numbers are those of the two operators.
//!
//! Between products of integers, which read by a scale of 1 and write by one of 1 (`super::integer`), the two have different scales.

use poda_formats::{DataType, Op};

use super::requantize::Requantize;
use super::{Rewrite, Rewriter};
use crate::kernels::{Activation, Rounding};
use crate::ops::elementwise::chain::{Chain, Link};
use crate::optimize::matching::View;
use crate::plan::draft::Kind;

/// A pair with one zero point for the whole tensor, and a scale for each of the two.
pub(super) fn rewrite(rewriter: &mut Rewriter<'_, '_>, at: usize) -> Option<Rewrite> {
    let node = rewriter.node(at);
    let Op::DequantizeLinear { block_size: 0, .. } = node.op()? else { return None };
    let (op, quantize) = rewriter.op(node.input(0)?)?;
    let Op::QuantizeLinear { block_size: 0, .. } = op else { return None };
    let (draft, x) = (&rewriter.draft, quantize.input(0)?);
    let [scale, to] = [draft.scalar(quantize.input(1)?)?, draft.scalar(node.input(1)?)?];
    let all = range_of(draft.dtype(node.input(0)?)?)?;
    let zero = |input: Option<poda_formats::ValueId>| match input {
        None => Some(0.0),
        Some(id) => integer(draft.constant(id)?),
    };
    let zero_point = zero(node.input(2))?;
    let typed = draft.dtype(x)? == DataType::F32 && draft.dtype(node.output(0)?)? == DataType::F32;
    // Scales must keep their meaning as a divisor and a factor, and so must all multiples of them.
    let proper = |scale: f32| (1e-30..1e30).contains(&scale);
    if !typed || zero(quantize.input(2))? != zero_point || !proper(scale) || !proper(to) {
        return None;
    }
    // A NaN becomes 0, as casts to integers make it.
    let rounding = Rounding {
        clamp: [f32::NEG_INFINITY, f32::INFINITY],
        scale,
        to,
        range: all.map(|bound| bound - zero_point),
        nan: 0.0_f32.clamp(all[0], all[1]) - zero_point,
    };
    // From one product of integers to the next they stay floats.
    if let Some(producer) = rewriter.producer(x)
        && let Some(requantize) = producer.lowered::<Requantize>().filter(|r| r.gives(&rounding))
    {
        if to == 1.0 {
            return Some(Rewrite::new(Kind::Op(Op::Identity), vec![Some(x)]));
        }
        if rewriter.once(x) {
            return Some(Rewrite::new(Kind::lowered(requantize.times(to)), producer.inputs.clone()));
        }
    }
    let shape = draft.shape(x)?;
    let chain = Chain::new(vec![Link::Activation(Activation::Rounded(rounding))], shape, &[shape]);
    Some(Rewrite::new(Kind::lowered(chain), vec![Some(x)]))
}

/// The least and the greatest value of an integer type of up to 16 bits.
pub(super) fn range_of(dtype: DataType) -> Option<[f32; 2]> {
    match dtype {
        DataType::U8 => Some([0.0, 255.0]),
        DataType::I8 => Some([-128.0, 127.0]),
        DataType::U16 => Some([0.0, 65535.0]),
        DataType::I16 => Some([-32768.0, 32767.0]),
        _ => None,
    }
}

/// The one element of a tensor of integers of up to 16 bits.
fn integer(tensor: &poda_formats::Tensor) -> Option<f32> {
    let one = |values: Option<i32>| values.map(|value| value as f32);
    if tensor.len() != 1 {
        return None;
    }
    match tensor.dtype() {
        DataType::U8 => one(tensor.as_slice::<u8>().ok().map(|v| v[0].into())),
        DataType::I8 => one(tensor.as_slice::<i8>().ok().map(|v| v[0].into())),
        DataType::U16 => one(tensor.as_slice::<u16>().ok().map(|v| v[0].into())),
        DataType::I16 => one(tensor.as_slice::<i16>().ok().map(|v| v[0].into())),
        _ => None,
    }
}
