//! What follows a product and fits its epilogue: scale, bias, batch-norm, residual, activation.

use poda_formats::op::{Binary, Unary};
use poda_formats::{Op, ValueId};

use super::product::Product;
use super::{Rewrite, Rewriter};
use crate::kernels::{Activation, Rounding};
use crate::ops::elementwise::chain::{Chain, Link};
use crate::optimize::matching::View;
use crate::plan::draft::{Draft, DraftNode, Kind};

/// The greatest factor that is folded into weights; those of batch-norms and scalings are far smaller.
const MOST_FACTOR: f32 = 1e12;

/// What a node does to its input.
enum Effect {
    Activation(Activation),
    /// `factor · x + shift`, for each channel.
    Affine {
        factor: Option<Vec<f32>>,
        shift: Option<Vec<f32>>,
    },
    Residual(ValueId),
}

pub(super) fn absorb(rewriter: &mut Rewriter<'_, '_>, at: usize) -> Option<Rewrite> {
    let node = rewriter.node(at);
    if let Some([Link::Activation(activation)]) = node.lowered::<Chain>().map(|chain| &chain.links[..]) {
        let (mut id, mut activation) = (node.input(0)?, *activation);
        // A clamp between two roundings goes to the second.
        if let Some((op, before)) = rewriter.op(id)
            && rewriter.once(id)
            && let Some(joined) =
                bounding(rewriter.draft, op, &before.inputs).and_then(|clamp| joined(clamp, activation))
        {
            (id, activation) = (before.input(0)?, joined);
        }
        let producer = rewriter.producer(id)?;
        let mut product = producer.lowered::<Product>()?.clone();
        product.activation = joined(product.activation, activation)?;
        return rewriter.once(id).then(|| with_epilogue(producer, product, producer.inputs.clone()));
    }
    let op = node.op()?;
    // A sum of two products goes to the later one, whose residual then exists.
    let both = matches!(op, Op::Binary(Binary::Add | Binary::Mul));
    let mut candidates: Vec<ValueId> =
        node.inputs.iter().take(if both { 2 } else { 1 }).flatten().copied().collect();
    candidates.sort_by_key(|id| std::cmp::Reverse(rewriter.producers[id.index()]));
    candidates.into_iter().find_map(|id| {
        let producer = rewriter.producer(id)?;
        let product = producer.lowered::<Product>()?;
        if !rewriter.once(id) || rewriter.draft.shape(id)? != rewriter.draft.shape(node.output(0)?)? {
            return None;
        }
        let mut inputs = producer.inputs.clone();
        let other = node.inputs.iter().flatten().copied().find(|&other| other != id);
        let effect = effect(rewriter.draft, op, &node.inputs, id, other, product)?;
        let mut product = product.clone();
        apply(&mut product, &mut inputs, effect)?;
        Some(with_epilogue(producer, product, inputs))
    })
}

/// A product is known by its own name, not by that of the activation that it took in.
fn with_epilogue(own: &DraftNode, product: Product, inputs: Vec<Option<ValueId>>) -> Rewrite {
    Rewrite { stands_for: Some(own.node), ..Rewrite::new(Kind::lowered(product), inputs) }
}

fn apply(product: &mut Product, inputs: &mut Vec<Option<ValueId>>, effect: Effect) -> Option<()> {
    if let (Activation::Rounded(first), Effect::Activation(Activation::Relu)) = (product.activation, &effect)
    {
        product.activation = Activation::Rounded(first.then_relu());
        return Some(());
    }
    if product.activation != Activation::None {
        return None;
    }
    match effect {
        Effect::Activation(activation) => product.activation = activation,
        Effect::Residual(id) => {
            if std::mem::replace(&mut product.residual, true) {
                return None;
            }
            inputs.push(Some(id));
        }
        Effect::Affine { factor, shift } => {
            if let Some(factor) = factor {
                // Weights that are scaled must not overflow where what they give would not.
                if product.residual || !factor.iter().all(|f| f.abs() <= MOST_FACTOR) {
                    return None;
                }
                product.scale(&factor);
            }
            match (&mut product.bias, shift) {
                (Some(bias), Some(shift)) => bias.iter_mut().zip(shift).for_each(|(b, s)| *b += s),
                (bias @ None, shift) => *bias = shift,
                (Some(_), None) => {}
            }
        }
    }
    Some(())
}

fn effect(
    draft: &Draft<'_>,
    op: &Op,
    inputs: &[Option<ValueId>],
    own: ValueId,
    other: Option<ValueId>,
    product: &Product,
) -> Option<Effect> {
    let shape = draft.shape(own)?;
    let axis = product.channel_axis;
    if shape.get(axis) != Some(&product.channels()) {
        return None;
    }
    let constant = |id: ValueId| draft.channel_constant(id, shape, axis);
    if let Op::Unary(function) = op {
        return activation(*function).map(Effect::Activation);
    }
    if matches!(op, Op::Clip) {
        return clamp(draft, inputs).map(Effect::Activation);
    }
    if let Op::Binary(function) = op {
        let other = other?;
        let values = constant(other);
        return match (function, values) {
            (Binary::Add, Some(shift)) => Some(Effect::Affine { factor: None, shift: Some(shift) }),
            (Binary::Add, None) => (draft.shape(other)? == shape).then_some(Effect::Residual(other)),
            (Binary::Sub, Some(shift)) => {
                Some(Effect::Affine { factor: None, shift: Some(shift.iter().map(|s| -s).collect()) })
            }
            (Binary::Mul, Some(factor)) => Some(Effect::Affine { factor: Some(factor), shift: None }),
            (Binary::Div, Some(divisor)) => {
                let factor: Vec<f32> = divisor.iter().map(|d| 1.0 / d).collect();
                // A divisor beyond 2¹²⁶ has no reciprocal of full precision.
                let exact = factor.iter().all(|f| f.is_normal());
                exact.then_some(Effect::Affine { factor: Some(factor), shift: None })
            }
            _ => None,
        };
    }
    if let Op::BatchNormalization { epsilon } = op
        && axis == 1
    {
        let parameter = |i: usize| draft.f32s(inputs.get(i).copied().flatten()?);
        let (scale, bias, mean, variance) = (parameter(1)?, parameter(2)?, parameter(3)?, parameter(4)?);
        if [scale, bias, mean, variance].iter().any(|p| p.len() != product.channels()) {
            return None;
        }
        let factor: Vec<f32> = scale.iter().zip(variance).map(|(s, v)| s / (v + epsilon).sqrt()).collect();
        let shift = bias.iter().zip(mean).zip(&factor).map(|((b, m), f)| b - m * f).collect();
        return Some(Effect::Affine { factor: Some(factor), shift: Some(shift) });
    }
    None
}

/// What an operator with these inputs does that only bounds the first.
fn bounding(draft: &Draft<'_>, op: &Op, inputs: &[Option<ValueId>]) -> Option<Activation> {
    match op {
        Op::Clip => clamp(draft, inputs),
        Op::Unary(Unary::Relu) => Some(Activation::Relu),
        _ => None,
    }
}

/// What a Clip of these inputs does, if its bounds are known.
fn clamp(draft: &Draft<'_>, inputs: &[Option<ValueId>]) -> Option<Activation> {
    let bound = |i: usize, missing| match inputs.get(i).copied().flatten() {
        Some(id) => draft.scalar(id),
        None => Some(missing),
    };
    let (min, max) = (bound(1, f32::NEG_INFINITY)?, bound(2, f32::INFINITY)?);
    (min <= max).then_some(Activation::Clip { min, max })
}

/// Two activations, one after the other, as one.
fn joined(first: Activation, then: Activation) -> Option<Activation> {
    match (first.bounds(), then) {
        _ if first == Activation::None => Some(then),
        (Some((low, high)), Activation::Rounded(rounding)) => {
            Some(Activation::Rounded(Rounding { clamp: [low, high], ..rounding }))
        }
        (None, Activation::Rounded(rounding)) => match first {
            Activation::Rounded(first) => Some(first.then(rounding)),
            _ => None,
        },
        _ => None,
    }
}

/// The activation that a function is, where the kernels have it.
fn activation(function: Unary) -> Option<Activation> {
    match function {
        Unary::Relu => Some(Activation::Relu),
        Unary::Gelu { approximate: false } => Some(Activation::Gelu),
        Unary::Gelu { approximate: true } => Some(Activation::GeluTanh),
        Unary::Swish { alpha: 1.0 } => Some(Activation::Silu),
        Unary::Sigmoid => Some(Activation::Sigmoid),
        Unary::Tanh => Some(Activation::Tanh),
        Unary::HardSwish => Some(Activation::HardSwish),
        Unary::HardSigmoid { alpha, beta } => Some(Activation::HardSigmoid { alpha, beta }),
        Unary::LeakyRelu { alpha } => Some(Activation::LeakyRelu { alpha }),
        Unary::Elu { alpha } => Some(Activation::Elu { alpha }),
        _ => None,
    }
}
