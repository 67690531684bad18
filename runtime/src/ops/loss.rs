//! Losses by class numbers: SoftmaxCrossEntropyLoss, NegativeLogLikelihoodLoss.

use poda_formats::DataType;
use poda_formats::op::{LossAttributes, LossReduction};

use super::args::{Infos, integers, optional, required};
use super::facts::{Fact, bad_shape, expect_shape, float_type, same_type, shape};
use super::real::{Real, load, store, with_real};
use super::{Inputs, OpError};
use crate::info::Info;
use crate::output::Output;

fn infos<'a, F: Fact<'a>>(
    attributes: LossAttributes,
    inputs: &[Option<F>],
    outputs: usize,
) -> Result<Vec<Info>, OpError> {
    let dtype = float_type(inputs, 0)?;
    same_type(inputs, [2], dtype)?;
    let labels = required(inputs, 1)?.element_type();
    if !matches!(labels, DataType::I32 | DataType::I64) {
        return Err(OpError::InputType { index: 1, expected: "i32 or i64", found: labels });
    }
    let scores = shape(inputs, 0)?;
    let loss = match (scores, attributes.reduction) {
        (_, LossReduction::Sum | LossReduction::Mean) => Some(Vec::new()),
        (Some([n, _, rest @ ..]), LossReduction::None) => Some([&[*n], rest].concat()),
        (_, LossReduction::None) => None,
    };
    if let Some(scores) = scores {
        let [n, classes, rest @ ..] = scores else {
            return Err(bad_shape(0, scores, "expected [batch, classes, …]"));
        };
        expect_shape(inputs, 1, &[&[*n], rest].concat())?;
        expect_shape(inputs, 2, &[*classes])?;
    }
    let loss = Info { dtype, shape: loss, value: None };
    let logarithms = Info { dtype, shape: scores.map(<[usize]>::to_vec), value: None };
    Ok([loss, logarithms].into_iter().take(outputs.max(1)).collect())
}

pub(super) fn infer_cross_entropy(
    attributes: LossAttributes,
    inputs: &Infos<'_>,
    outputs: usize,
) -> Result<Vec<Info>, OpError> {
    infos(attributes, inputs, outputs)
}

pub(super) fn infer_negative_log_likelihood(
    attributes: LossAttributes,
    inputs: &Infos<'_>,
) -> Result<Vec<Info>, OpError> {
    infos(attributes, inputs, 1)
}

pub(super) fn cross_entropy(
    attributes: LossAttributes,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    infos(attributes, inputs, outputs.len())?;
    let scores = required(inputs, 0)?;
    with_real!(scores.dtype(), R => {
        let mut logarithms = load::<R>(scores).into_owned();
        log_softmax(&mut logarithms, scores.shape());
        losses(attributes, &logarithms, inputs, &mut outputs[0])?;
        match outputs.get_mut(1).filter(|output| output.is_used()) {
            None => Ok(()),
            Some(output) => store::<R>(output, scores.dtype(), scores.shape(), |y| {
                y.copy_from_slice(&logarithms);
                Ok(())
            }),
        }
    })
}

pub(super) fn negative_log_likelihood(
    attributes: LossAttributes,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    infos(attributes, inputs, 1)?;
    let logarithms = required(inputs, 0)?;
    with_real!(logarithms.dtype(), R => {
        losses(attributes, &load::<R>(logarithms), inputs, &mut outputs[0])
    })
}

/// Over the classes of `[batch, classes, …]`, in place.
fn log_softmax<R: Real>(values: &mut [R], shape: &[usize]) {
    let (classes, inner) = (shape[1], shape[2..].iter().product::<usize>());
    if inner == 1 {
        values.chunks_exact_mut(classes.max(1)).for_each(R::log_softmax);
        return;
    }
    let mut row = R::buffer(classes);
    for sample in values.chunks_exact_mut((classes * inner).max(1)) {
        for at in 0..inner {
            row.iter_mut().zip(sample[at..].iter().step_by(inner)).for_each(|(to, &from)| *to = from);
            R::log_softmax(&mut row);
            sample[at..].iter_mut().step_by(inner).zip(&*row).for_each(|(to, &from)| *to = from);
        }
    }
}

fn losses<R: Real>(
    attributes: LossAttributes,
    logarithms: &[R],
    inputs: &Inputs<'_>,
    output: &mut Output<'_>,
) -> Result<(), OpError> {
    let (scores, labels) = (required(inputs, 0)?, required(inputs, 1)?);
    let weights = optional(inputs, 2).map(load::<R>);
    let (classes, inner) = (scores.shape()[1], scores.shape()[2..].iter().product::<usize>());
    let (one, mut total, mut count) = (R::from_f64(1.0), R::default(), R::default());
    let mut each = Vec::with_capacity(labels.len());
    for (i, &label) in integers(labels, 1)?.iter().enumerate() {
        let (weight, loss) = if attributes.ignore_index == Some(label) {
            (R::default(), R::default())
        } else {
            let bound = classes as i64;
            let class = usize::try_from(label).ok().filter(|&class| class < classes);
            let class = class.ok_or(OpError::OutOfRange { name: "label", value: label, bound })?;
            let weight = weights.as_ref().map_or(one, |weights| weights[class]);
            (weight, -(logarithms[(i / inner * classes + class) * inner + i % inner] * weight))
        };
        total += loss;
        count += weight;
        each.push(loss);
    }
    let result = match attributes.reduction {
        LossReduction::None => None,
        LossReduction::Sum => Some(total),
        LossReduction::Mean => Some(total / count),
    };
    let shape = if result.is_some() { &[][..] } else { labels.shape() };
    store::<R>(output, scores.dtype(), shape, |y| {
        match result {
            Some(result) => y[0] = result,
            None => y.copy_from_slice(&each),
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use poda_formats::op::Op;

    use super::super::testing::{apply, assert_close, floats, input};
    use super::*;

    #[test]
    fn losses_match_the_definition() {
        // [1, 3, 2]: two places of three classes.
        let scores = [1.0_f32, 0.5, 2.0, -1.0, 0.0, 3.0];
        let softmax = |at: usize, class: usize| {
            let sum: f32 = (0..3).map(|c| scores[c * 2 + at].exp()).sum();
            (scores[class * 2 + at].exp() / sum).ln()
        };
        let inputs = |labels: [i64; 2]| {
            [input(&[1, 3, 2], &scores), input(&[1, 2], &labels), input(&[3], &[1.0_f32, 2.0, 0.5])]
        };
        let loss =
            |reduction| Op::SoftmaxCrossEntropyLoss(LossAttributes { reduction, ignore_index: Some(-7) });
        let [first, second] = [-2.0 * softmax(0, 1), -0.5 * softmax(1, 2)];
        let found = apply(&loss(LossReduction::Mean), &inputs([1, 2]), 2).unwrap();
        assert_close(floats(&found[0]), &[(first + second) / 2.5], 1e-5);
        assert_close(&floats(&found[1])[..1], &[softmax(0, 0)], 1e-5);
        let found = apply(&loss(LossReduction::None), &inputs([1, -7]), 1).unwrap();
        assert_eq!(found[0].shape(), [1, 2]);
        assert_close(floats(&found[0]), &[first, 0.0], 1e-5);
        let error = apply(&loss(LossReduction::Sum), &inputs([1, 3]), 1).unwrap_err();
        assert_eq!(error, OpError::OutOfRange { name: "label", value: 3, bound: 3 });
    }
}
