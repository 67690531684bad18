//! Weights of a part of a model, trained on what flows into it and what should come out: batches of several shapes, for each of
//! which the part is a graph of its own.

use std::collections::BTreeMap;

use poda_formats::{Graph, Tensor, ValueId};

use super::state::{State, shuffled};
use super::step::Step;
use super::{Batch, FineTuneError, Options, Term};

/// What is fed at once.
#[derive(Debug)]
pub(crate) struct Sample {
    /// The number of the graph that takes it.
    pub(crate) form: usize,
    /// Whether it is to judge by.
    pub(crate) held_out: bool,
    pub(crate) batch: Batch,
}

/// What training came to: mean losses on what is kept aside.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Losses {
    pub(crate) before: f64,
    pub(crate) after: f64,
}

/// `graph` with other elements in `weights`, trained on `samples`, each of which is a step; its parts `forms` have its values under
/// the same numbers. Zeros of weights with two axes or more stay zero. The result is the state after the epoch, or the start, that does
/// best on samples kept aside, or on all where there are none such.
///
/// # Errors
/// When an operator of the part has no gradient, or a run fails.
pub(crate) fn train(
    graph: &Graph,
    forms: &BTreeMap<usize, Graph>,
    weights: &[ValueId],
    terms: &[Term],
    samples: &[Sample],
    options: &Options,
) -> Result<(Graph, Losses), FineTuneError> {
    let mut state = State::new(graph, weights, options)?;
    let (mut steps, mut forward) = (BTreeMap::new(), BTreeMap::new());
    for (number, form) in forms {
        let Some(sample) = samples.iter().find(|sample| sample.form == *number) else { continue };
        let batch = &sample.batch;
        steps.insert(*number, Step::new(form, weights, terms, batch, false, options.threads)?);
        forward.insert(*number, Step::forward(form, weights, terms, batch, options.threads)?);
    }
    let aside = samples.iter().any(|sample| sample.held_out);
    let loss = |state: &State| {
        let (mut sum, mut all) = (0.0, 0.0);
        for sample in samples.iter().filter(|sample| sample.held_out == aside) {
            let loss = forward[&sample.form].run(&sample.batch, &state.shapes, &state.weights, &mut [])?;
            let elements = sample.batch.targets.iter().map(Tensor::len).sum::<usize>() as f64;
            sum += f64::from(loss) * elements;
            all += elements;
        }
        Ok::<f64, FineTuneError>(sum / f64::max(all, 1.0))
    };
    let fitted: Vec<&Sample> = samples.iter().filter(|sample| !sample.held_out).collect();
    let before = loss(&state)?;
    if before == 0.0 {
        return Ok((graph.clone(), Losses { before, after: before }));
    }
    state.best_score = Some(-before);
    let all = fitted.len() as u64 * options.epochs;
    'training: for epoch in 0..options.epochs {
        for number in shuffled(fitted.len(), options.seed, epoch) {
            let (sample, rate) = (fitted[number], options.rate.at(state.step, all));
            let loss = steps[&sample.form].run(
                &sample.batch,
                &state.shapes,
                &state.weights,
                &mut state.gradients,
            )?;
            // The best state so far is the result.
            if !loss.is_finite() || !state.update(options, rate) {
                break 'training;
            }
            state.loss += f64::from(loss) / fitted.len() as f64;
            state.step += 1;
        }
        let score = -loss(&state)?;
        state.end_epoch(state.loss, Some(score), graph);
    }
    let after = state.best_score.map_or(before, |score| -score);
    Ok((state.best_graph(graph), Losses { before, after }))
}
