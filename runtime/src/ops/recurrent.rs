//! LSTM, GRU and RNN. Hochreiter and Schmidhuber, 1997; Cho et al., 2014, <https://arxiv.org/abs/1406.1078>.

mod activation;
mod cell;

use poda_formats::op::{Direction, RecurrentAttributes, RecurrentKind};

use super::args::{Infos, integers, optional, required};
use super::facts::{Fact, bad_shape, expect_shape, float_type, known, same_type, shape};
use super::real::{Mat, Real, load, store, with_real};
use super::{Inputs, OpError};
use crate::info::Info;
use crate::output::Output;
use crate::threads;
use activation::{Activation, activations};
use cell::Cell;

/// Sizes of a recurrent layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sizes {
    directions: usize,
    steps: usize,
    batch: usize,
    inputs: usize,
    hidden: usize,
    gates: usize,
}

/// Gates of a cell.
fn gates(kind: RecurrentKind) -> usize {
    match kind {
        RecurrentKind::Lstm { .. } => 4,
        RecurrentKind::Gru { .. } => 3,
        RecurrentKind::Rnn => 1,
    }
}

impl Sizes {
    /// Shapes of all states, the last state and the last cell.
    fn outputs(&self, batch_first: bool) -> [Vec<usize>; 3] {
        let Self { directions, steps, batch, hidden, .. } = *self;
        if batch_first {
            let last = vec![batch, directions, hidden];
            [vec![batch, steps, directions, hidden], last.clone(), last]
        } else {
            let last = vec![directions, batch, hidden];
            [vec![steps, directions, batch, hidden], last.clone(), last]
        }
    }
}

fn sizes<'a, F: Fact<'a>>(
    attributes: &RecurrentAttributes,
    inputs: &[Option<F>],
) -> Result<Option<Sizes>, OpError> {
    let (Some(x), Some(w), Some(r)) = (shape(inputs, 0)?, shape(inputs, 1)?, shape(inputs, 2)?) else {
        return Ok(None);
    };
    let &[first, second, width] = x else { return Err(bad_shape(0, x, "expected 3 axes")) };
    let [steps, batch] = if attributes.batch_first { [second, first] } else { [first, second] };
    let directions = if attributes.direction == Direction::Bidirectional { 2 } else { 1 };
    let gates = gates(attributes.kind);
    // The size may be left out of the attributes.
    let hidden = r.get(2).copied().unwrap_or(0);
    if attributes.hidden_size != 0 && attributes.hidden_size != hidden {
        return Err(bad_shape(2, r, format!("the hidden size should be {}", attributes.hidden_size)));
    }
    let Some(rows) = hidden.checked_mul(2 * gates).map(|rows| rows / 2) else {
        return Err(bad_shape(2, r, "its hidden size is too large"));
    };
    for (index, found, expected) in [(1, w, [directions, rows, width]), (2, r, [directions, rows, hidden])] {
        if found != expected {
            return Err(bad_shape(index, found, format!("expected {expected:?}")));
        }
    }
    let state =
        if attributes.batch_first { [batch, directions, hidden] } else { [directions, batch, hidden] };
    expect_shape(inputs, 3, &[directions, 2 * rows])?;
    expect_shape(inputs, 4, &[batch])?;
    expect_shape(inputs, 5, &state)?;
    if matches!(attributes.kind, RecurrentKind::Lstm { .. }) {
        expect_shape(inputs, 6, &state)?;
        expect_shape(inputs, 7, &[directions, 3 * hidden])?;
    }
    Ok(Some(Sizes { directions, steps, batch, inputs: width, hidden, gates }))
}

fn infos<'a, F: Fact<'a>>(
    attributes: &RecurrentAttributes,
    inputs: &[Option<F>],
    outputs: usize,
) -> Result<Vec<Info>, OpError> {
    let dtype = float_type(inputs, 0)?;
    same_type(inputs, [1, 2, 3, 5, 6, 7], dtype)?;
    let count = if matches!(attributes.kind, RecurrentKind::Lstm { .. }) { 3 } else { 2 };
    if outputs > count {
        return Err(OpError::Invalid(format!(
            "{outputs} outputs of {:?}, which has {count}",
            attributes.kind
        )));
    }
    activations(attributes)?;
    let dims = sizes(attributes, inputs)?.map(|s| s.outputs(attributes.batch_first));
    let shape = |i: usize| dims.as_ref().map(|d| d[i].clone());
    Ok((0..outputs.max(1)).map(|i| Info { dtype, shape: shape(i), value: None }).collect())
}

pub(super) fn infer_recurrent(
    attributes: &RecurrentAttributes,
    inputs: &Infos<'_>,
    outputs: usize,
) -> Result<Vec<Info>, OpError> {
    infos(attributes, inputs, outputs)
}

/// What one direction gives.
struct States<R> {
    /// `[steps, batch, hidden]`
    all: Vec<R>,
    /// `[batch, hidden]`
    last: Vec<R>,
    /// `[batch, hidden]`
    cell: Vec<R>,
}

pub(super) fn recurrent(
    attributes: &RecurrentAttributes,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    let infos = infos(attributes, inputs, outputs.len())?;
    let dtype = required(inputs, 0)?.dtype();
    let Some(sizes) = sizes(attributes, inputs)? else { return Err(OpError::MissingInput { index: 0 }) };
    let lengths = lengths(inputs, &sizes)?;
    with_real!(dtype, R => {
        let states = compute::<R>(attributes, inputs, &sizes, &lengths)?;
        for (i, output) in outputs.iter_mut().enumerate() {
            store::<R>(output, dtype, known(&infos, i), |y| {
                assemble(&states, i, &sizes, attributes.batch_first, y);
                Ok(())
            })?;
        }
        Ok(())
    })
}

/// Valid steps of each sequence.
fn lengths(inputs: &Inputs<'_>, sizes: &Sizes) -> Result<Vec<usize>, OpError> {
    let Some(view) = optional(inputs, 4) else { return Ok(vec![sizes.steps; sizes.batch]) };
    let bound = sizes.steps as i64;
    integers(view, 4)?
        .into_iter()
        .map(|value| match usize::try_from(value) {
            Ok(length) if length <= sizes.steps => Ok(length),
            _ => Err(OpError::OutOfRange { name: "sequence length", value, bound }),
        })
        .collect()
}

fn compute<R: Real>(
    attributes: &RecurrentAttributes,
    inputs: &Inputs<'_>,
    sizes: &Sizes,
    lengths: &[usize],
) -> Result<Vec<States<R>>, OpError> {
    let Sizes { directions, steps, batch, inputs: width, hidden, gates } = *sizes;
    let rows = gates * hidden;
    let values = |index| optional(inputs, index).map(load::<R>);
    let (w, r) = (load::<R>(required(inputs, 1)?), load::<R>(required(inputs, 2)?));
    let (bias, peepholes) = (values(3), values(7).filter(|_| gates == 4));
    let mut x = load::<R>(required(inputs, 0)?);
    let mut initial = [values(5), values(6).filter(|_| gates == 4)];
    if attributes.batch_first {
        x = swap_outer(&x, batch, steps, width).into();
        initial = initial.map(|state| state.map(|s| swap_outer(&s, batch, directions, hidden).into()));
    }
    let functions = activations(attributes)?;
    let direction = |d: usize| {
        let part = |all: &[R], len: usize| all[d * len..][..len].to_vec();
        let state = |i: usize| {
            let given = initial[i].as_deref();
            given.map_or_else(|| vec![R::default(); batch * hidden], |all| part(all, batch * hidden))
        };
        let cell = Cell {
            kind: attributes.kind,
            hidden,
            w: &w[d * rows * width..][..rows * width],
            r: &r[d * rows * hidden..][..rows * hidden],
            bias: bias.as_deref().map(|b| &b[d * 2 * rows..][..2 * rows]),
            peepholes: peepholes.as_deref().map(|p| &p[d * 3 * hidden..][..3 * hidden]),
            activations: &functions[d],
            clip: attributes.clip.map(|c| R::from_f64(c.into())),
        };
        let reverse = attributes.direction == Direction::Reverse || d == 1;
        run_direction(&cell, &x, [state(0), state(1)], [steps, width], lengths, reverse)
    };
    let mut states: Vec<Option<States<R>>> = (0..directions).map(|_| None).collect();
    threads::for_each_chunk(&mut states, 1, 1, |d, state| state[0] = Some(direction(d)));
    Ok(states.into_iter().flatten().collect())
}

/// Swaps the two outer axes of `[a, b, inner]`.
fn swap_outer<R: Real>(x: &[R], a: usize, b: usize, inner: usize) -> Vec<R> {
    (0..b).flat_map(|j| (0..a).flat_map(move |i| x[(i * b + j) * inner..][..inner].iter().copied())).collect()
}

/// Runs a cell over `x` `[steps, batch, inputs]` from states `[batch, hidden]` on.
fn run_direction<R: Real>(
    cell: &Cell<'_, R>,
    x: &[R],
    [mut last, mut memory]: [Vec<R>; 2],
    [steps, width]: [usize; 2],
    lengths: &[usize],
    reverse: bool,
) -> States<R> {
    let (batch, hidden) = (lengths.len(), cell.hidden);
    let rows = cell.rows();
    // The share of the input in the gates, for all steps at once.
    let mut from_input = vec![R::default(); steps * batch * rows];
    R::product(Mat::new(x, steps * batch, width), Mat::new(cell.w, rows, width).t(), &mut from_input);
    let mut all = vec![R::default(); steps * batch * hidden];
    let mut scratch = cell.scratch(batch);
    for step in 0..steps.min(lengths.iter().copied().max().unwrap_or(0)) {
        cell.recur(&last, &mut scratch);
        for (b, &length) in lengths.iter().enumerate().filter(|&(_, &length)| step < length) {
            let at = (if reverse { length - 1 - step } else { step }) * batch + b;
            let state = b * hidden..(b + 1) * hidden;
            let gates = &mut from_input[at * rows..][..rows];
            cell.step(gates, b, &mut scratch, &mut last[state.clone()], &mut memory[state.clone()]);
            all[at * hidden..][..hidden].copy_from_slice(&last[state]);
        }
    }
    States { all, last, cell: memory }
}

/// Writes output `index` from the states of each direction.
fn assemble<R: Real>(states: &[States<R>], index: usize, sizes: &Sizes, batch_first: bool, y: &mut [R]) {
    let Sizes { directions, steps, batch, hidden, .. } = *sizes;
    let steps = if index == 0 { steps } else { 1 };
    for (i, y) in y.chunks_exact_mut(hidden.max(1)).enumerate() {
        let [t, d, b] = if batch_first {
            [i / directions % steps, i % directions, i / (directions * steps)]
        } else {
            [i / (batch * directions), i / batch % directions, i % batch]
        };
        let from = match index {
            0 => &states[d].all,
            1 => &states[d].last,
            _ => &states[d].cell,
        };
        y.copy_from_slice(&from[(t * batch + b) * hidden..][..hidden]);
    }
}

#[cfg(test)]
mod tests;
