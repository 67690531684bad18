//! Sequences of tensors, which exporters make only to take them apart again: an element at a constant position is a
//! slice of what was split, or one of the parts.

use std::rc::Rc;

use crate::graph::ValueId;
use crate::onnx::read::{Call, Unsupported};
use crate::op::Op;

/// How a sequence came to be.
#[derive(Clone)]
pub(in crate::onnx) enum Sequence {
    /// Of these tensors.
    Parts(Rc<[ValueId]>),
    /// By cutting `data` along `axis` at multiples of `step`.
    Equal { data: ValueId, axis: i64, step: i64 },
    /// By cutting `data` along `axis` into pieces that end at these positions.
    Pieces { data: ValueId, axis: i64, ends: Rc<[i64]> },
    /// One tensor for each position of `axis`, without that axis.
    Unstacked { data: ValueId, axis: i64 },
}

/// Operators on sequences. Those that make one are remembered, and stay foreign for whoever needs the sequence itself.
pub(in crate::onnx) fn read(call: &mut Call) -> Result<Option<Op>, Unsupported> {
    match call.op_type {
        "SequenceConstruct" => {
            let parts: Option<Rc<[ValueId]>> = call.inputs.iter().copied().collect();
            if let (Some(parts), Some(&Some(output))) = (parts, call.outputs.first()) {
                call.builder.sequences.insert(output, Sequence::Parts(parts));
            }
            Err(Unsupported::Operator)
        }
        "SplitToSequence" => {
            let sequence = split(call)?;
            if let (Some(sequence), Some(&Some(output))) = (sequence, call.outputs.first()) {
                call.builder.sequences.insert(output, sequence);
            }
            Err(Unsupported::Operator)
        }
        "SequenceAt" => at(call).map(Some),
        "ConcatFromSequence" => concat(call).map(Some),
        _ => Ok(None),
    }
}

fn split(call: &Call) -> Result<Option<Sequence>, Unsupported> {
    let data = call.required(0)?;
    let axis = call.attributes.int("axis", 0)?;
    let keep_dims = call.attributes.flag("keepdims", true)?;
    let Some(split) = call.input(1) else {
        return Ok(Some(if keep_dims {
            Sequence::Equal { data, axis, step: 1 }
        } else {
            Sequence::Unstacked { data, axis }
        }));
    };
    let scalar = call.builder.facts(split).rank == Some(0);
    let Some(sizes) = call.builder.integers(split) else { return Ok(None) };
    if let ([step], true) = (&sizes[..], scalar) {
        return Ok(Some(Sequence::Equal { data, axis, step: *step }));
    }
    let ends = sizes.iter().scan(0_i64, |end, &size| {
        *end = end.checked_add(size).filter(|_| size >= 0)?;
        Some(*end)
    });
    let ends: Rc<[i64]> = ends.collect();
    Ok((ends.len() == sizes.len()).then_some(Sequence::Pieces { data, axis, ends }))
}

fn known(call: &Call) -> Result<Sequence, Unsupported> {
    let sequence = call.required(0)?;
    call.builder.sequences.get(&sequence).cloned().ok_or(Unsupported::Operator)
}

fn at(call: &mut Call) -> Result<Op, Unsupported> {
    let sequence = known(call)?;
    let position = call.required(1)?;
    let Some(&[position]) = call.builder.integers(position).as_deref() else {
        return Err(Unsupported::NotConstant { index: 1 });
    };
    let invalid = Unsupported::Position { position };
    // Counted from the end where negative, of a sequence whose length is known.
    let from_start = |len: usize| {
        let at = if position < 0 { position + len as i64 } else { position };
        usize::try_from(at).ok().filter(|&at| at < len)
    };
    let (data, axis, start, end) = match sequence {
        Sequence::Parts(parts) => {
            let Some(index) = from_start(parts.len()) else { return Err(invalid) };
            call.inputs = vec![Some(parts[index])];
            return Ok(Op::Identity);
        }
        Sequence::Unstacked { data, axis } => {
            let index = call.weight("position", crate::tensor::Tensor::scalar(position));
            call.inputs = vec![Some(data), Some(index)];
            return Ok(Op::Gather { axis });
        }
        Sequence::Equal { data, axis, step } => {
            let start = (position >= 0 && step > 0).then(|| position.checked_mul(step)).flatten();
            let Some((start, end)) = start.and_then(|s| Some((s, s.checked_add(step)?))) else {
                return Err(invalid);
            };
            (data, axis, start, end)
        }
        Sequence::Pieces { data, axis, ends } => {
            let Some(index) = from_start(ends.len()) else { return Err(invalid) };
            (data, axis, if index == 0 { 0 } else { ends[index - 1] }, ends[index])
        }
    };
    let start = call.vector("start", &[start]);
    let end = call.vector("end", &[end]);
    let axes = call.vector("axes", &[axis]);
    call.inputs = vec![Some(data), Some(start), Some(end), Some(axes)];
    Ok(Op::Slice)
}

fn concat(call: &mut Call) -> Result<Op, Unsupported> {
    let Sequence::Parts(parts) = known(call)? else { return Err(Unsupported::Operator) };
    // Once only: many uses of one long sequence would make a large graph of a small file.
    call.builder.sequences.remove(&call.required(0)?);
    let axis = call.attributes.required_int("axis")?;
    let mut inputs: Vec<Option<ValueId>> = parts.iter().copied().map(Some).collect();
    if call.attributes.flag("new_axis", false)? {
        let axes = call.vector("axes", &[axis]);
        for (index, input) in inputs.iter_mut().enumerate() {
            *input = Some(call.emit(Op::Unsqueeze, &[*input, Some(axes)], &format!("part{index}")));
        }
    }
    call.inputs = inputs;
    Ok(Op::Concat { axis })
}
