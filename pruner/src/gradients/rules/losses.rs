//! Losses by class numbers: softmax less one-hot labels.

use poda_formats::op::{Binary, LossReduction, Op, SoftmaxKind};

use super::{Call, Inputs};
use crate::gradients::{Emit, Refusal};

pub(super) fn by_class(e: &mut Emit, call: &Call<'_>) -> Inputs {
    let (attributes, logits) = match &call.node.op {
        Op::SoftmaxCrossEntropyLoss(attributes) => (*attributes, true),
        Op::NegativeLogLikelihoodLoss(attributes) => (*attributes, false),
        _ => return Err(Refusal::NoRule),
    };
    let (scores, labels, g) = (call.input(0)?, call.input(1)?, call.gradient()?);
    let shape = e.shape(scores)?;
    // Of each label its weight, [batch, …].
    let mut weight = match call.node.input(2) {
        Some(_) if attributes.ignore_index.is_some() => {
            return Err(Refusal::Unsupported("it has both weights and labels that do not count"));
        }
        Some(weights) => e.node(Op::Gather { axis: 0 }, &[weights, labels])?,
        None => e.filled(1.0, &e.shape(labels)?, scores)?,
    };
    if let Some(ignored) = attributes.ignore_index {
        let like = e.dtype(labels)?;
        let ignored = e.ints(&[ignored]);
        let ignored = e.node(Op::Cast { to: like }, &[ignored])?;
        let skip = e.node(Op::Binary(Binary::Equal), &[labels, ignored])?;
        let zero = e.number(0.0, scores)?;
        weight = e.choose(skip, zero, weight)?;
    }
    let mut factor = e.mul(weight, g)?;
    if attributes.reduction == LossReduction::Mean {
        let axes: Vec<usize> = (0..shape.len() - 1).collect();
        let total = e.sum(weight, &axes)?;
        factor = e.div(factor, total)?;
    }
    // A label that does not count may be no class: its column is zero.
    let depth = e.ints(&[shape[1] as i64]);
    let values = e.numbers(&[0.0, 1.0], &[2], scores)?;
    let mut one_hot = e.node(Op::OneHot { axis: 1 }, &[labels, depth, values])?;
    if logits {
        let softmax = e.node(Op::Softmax { kind: SoftmaxKind::Softmax, axis: 1 }, &[scores])?;
        one_hot = e.sub(softmax, one_hot)?;
    } else {
        one_hot = e.scale(one_hot, -1.0)?;
    }
    let factor = e.reshape(factor, &[&shape[..1], &[1], &shape[2..]].concat())?;
    Ok(vec![Some(e.mul(one_hot, factor)?)])
}
