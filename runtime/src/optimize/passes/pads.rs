//! Zero pads of an image before a convolution become the convolution's.

use poda_formats::Op;
use poda_formats::op::{PadMode, Padding};

use crate::optimize::matching::{View, input};
use crate::optimize::{Rewrite, Rewriter};

pub(in crate::optimize) fn rewrite(r: &mut Rewriter<'_>, at: usize) -> Option<Rewrite> {
    let node = r.node(at);
    let Op::Conv(attributes) = &node.op else { return None };
    let (op, padding) = r.made_by(node.input(0)?)?;
    let zero = input(padding, 2).is_none_or(|value| r.scalar(value) == Some(0.0));
    if !matches!(op, Op::Pad { mode: PadMode::Constant }) || !zero || input(padding, 3).is_some() {
        return None;
    }
    let pads = r.facts.asked(r.constant(input(padding, 1)?))?.as_slice::<i64>().ok()?;
    let rank = pads.len() / 2;
    let spatial = rank.checked_sub(2)?;
    let mut own = match &attributes.padding {
        Padding::Explicit(own) if own.is_empty() => vec![0; 2 * spatial],
        Padding::Explicit(own) => own.clone(),
        Padding::Valid => vec![0; 2 * spatial],
        Padding::SameUpper | Padding::SameLower => return None,
    };
    let outside = [0, 1, rank, rank + 1];
    if own.len() != 2 * spatial || outside.iter().any(|&i| pads[i] != 0) || pads.iter().any(|&p| p < 0) {
        return None;
    }
    for axis in 0..spatial {
        own[axis] = own[axis].checked_add(pads[2 + axis])?;
        own[spatial + axis] = own[spatial + axis].checked_add(pads[rank + 2 + axis])?;
    }
    let mut attributes = attributes.clone();
    attributes.padding = Padding::Explicit(own);
    let mut inputs = node.inputs.clone();
    inputs[0] = input(padding, 0);
    Some((Op::Conv(attributes), inputs))
}
