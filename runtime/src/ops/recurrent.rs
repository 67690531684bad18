//! LSTM, GRU and RNN. Hochreiter and Schmidhuber, 1997; Cho et al., 2014, <https://arxiv.org/abs/1406.1078>.
//!
//! A [`Layer`] is prepared once for the shapes of its inputs and run by any [`Products`]: those of packed weights in a plan
//! (`plan::recurrent`), or of plain matrices here, which is the general form (any float type, weights that are computed).

mod activation;
mod cell;
mod products;

use poda_formats::op::{Direction, RecurrentAttributes, RecurrentKind};
use poda_formats::{DataType, TensorView};

use super::args::{Infos, integers, optional, required};
use super::facts::{Fact, bad_shape, expect_shape, float_type, same_type, shape};
use super::real::{Real, load, store, with_real};
use super::{Inputs, OpError};
use crate::info::Info;
use crate::output::Output;
use crate::threads;
use activation::{Activation, activations};
use cell::{Cell, States};

pub(crate) use products::{Parameters, Part, Plain, Products};

/// Sizes of a recurrent layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sizes {
    pub(crate) directions: usize,
    pub(crate) steps: usize,
    pub(crate) batch: usize,
    pub(crate) inputs: usize,
    pub(crate) hidden: usize,
    pub(crate) gates: usize,
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
    /// Rows of the weights of one direction.
    pub(crate) fn rows(&self) -> usize {
        self.gates * self.hidden
    }

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

/// A layer made ready for the shapes of its inputs.
#[derive(Debug, Clone)]
pub(crate) struct Layer {
    kind: RecurrentKind,
    pub(crate) sizes: Sizes,
    /// Whether the first direction goes backwards.
    reverse: bool,
    batch_first: bool,
    clip: Option<f32>,
    /// Of each direction.
    functions: Vec<Vec<Activation>>,
}

impl Layer {
    /// `None` while shapes are not known.
    ///
    /// # Errors
    /// When the inputs do not fit each other or the attributes.
    pub(crate) fn new(
        attributes: &RecurrentAttributes,
        inputs: &[Option<&Info>],
    ) -> Result<Option<Self>, OpError> {
        Self::from_facts(attributes, inputs)
    }

    fn from_facts<'a, F: Fact<'a>>(
        attributes: &RecurrentAttributes,
        inputs: &[Option<F>],
    ) -> Result<Option<Self>, OpError> {
        let functions = activations(attributes)?;
        let RecurrentAttributes { kind, direction, clip, batch_first, .. } = *attributes;
        let reverse = direction == Direction::Reverse;
        let layer = |sizes| Self { kind, sizes, reverse, batch_first, clip, functions };
        Ok(sizes(attributes, inputs)?.map(layer))
    }

    /// Whether a GRU's reset gate acts on the state before the product with its weights, which then is one of two.
    pub(crate) fn resets_first(&self) -> bool {
        matches!(self.kind, RecurrentKind::Gru { linear_before_reset: false })
    }

    /// Name of the kind, for profiles.
    pub(crate) fn name(&self) -> &'static str {
        match self.kind {
            RecurrentKind::Lstm { .. } => "lstm",
            RecurrentKind::Gru { .. } => "gru",
            RecurrentKind::Rnn => "rnn",
        }
    }

    /// Computes the outputs, of type `dtype`. Of `inputs` only X, the lengths and the first states are read.
    ///
    /// # Errors
    /// When a length is out of range, or an output is not as planned.
    pub(crate) fn run<R: Real>(
        &self,
        products: &impl Products<R>,
        parameters: &Parameters<R>,
        dtype: DataType,
        inputs: &Inputs<'_>,
        outputs: &mut [Output<'_>],
    ) -> Result<(), OpError> {
        let lengths = self.lengths(optional(inputs, 4))?;
        let x = load::<R>(required(inputs, 0)?);
        let lstm = matches!(self.kind, RecurrentKind::Lstm { .. });
        let initial = [optional(inputs, 5), optional(inputs, 6).filter(|_| lstm)].map(|i| i.map(load::<R>));
        let mut states: Vec<Option<States<R>>> = (0..self.sizes.directions).map(|_| None).collect();
        let direction = |d: usize| {
            let state = |i: usize| self.first_state(initial[i].as_deref(), d);
            self.direction(d, products, parameters, &x, [state(0), state(1)], &lengths)
        };
        if products.one_thread_each() {
            threads::for_each_chunk(&mut states, 1, 1, |d, state| state[0] = Some(direction(d)));
        } else {
            states.iter_mut().enumerate().for_each(|(d, state)| *state = Some(direction(d)));
        }
        let states: Vec<States<R>> = states.into_iter().flatten().collect();
        let shapes = self.sizes.outputs(self.batch_first);
        for (i, (output, shape)) in outputs.iter_mut().zip(&shapes).enumerate() {
            store::<R>(output, dtype, shape, |y| {
                self.assemble(&states, i, y);
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Valid steps of each sequence.
    fn lengths(&self, view: Option<TensorView<'_>>) -> Result<Vec<usize>, OpError> {
        let Sizes { steps, batch, .. } = self.sizes;
        let Some(view) = view else { return Ok(vec![steps; batch]) };
        let bound = steps as i64;
        integers(view, 4)?
            .into_iter()
            .map(|value| match usize::try_from(value) {
                Ok(length) if length <= steps => Ok(length),
                _ => Err(OpError::OutOfRange { name: "sequence length", value, bound }),
            })
            .collect()
    }

    /// `[batch, hidden]` of direction `d`: given ones, or zeros.
    fn first_state<R: Real>(&self, given: Option<&[R]>, d: usize) -> R::Buffer {
        let Sizes { directions, batch, hidden, .. } = self.sizes;
        let mut state = R::buffer(batch * hidden);
        match given {
            None => state.fill(R::default()),
            Some(all) => {
                for (b, to) in state.chunks_exact_mut(hidden.max(1)).enumerate() {
                    let at = if self.batch_first { b * directions + d } else { d * batch + b };
                    to.copy_from_slice(&all[at * hidden..][..hidden]);
                }
            }
        }
        state
    }

    /// Runs one direction over `x` from states `[batch, hidden]` on.
    fn direction<R: Real>(
        &self,
        d: usize,
        products: &impl Products<R>,
        parameters: &Parameters<R>,
        x: &[R],
        first: [R::Buffer; 2],
        lengths: &[usize],
    ) -> States<R> {
        let Sizes { steps, batch, hidden, .. } = self.sizes;
        let rows = self.sizes.rows();
        // The share of the input in the gates, for all steps at once: in the order of `x`.
        let mut from_input = R::buffer(steps * batch * rows);
        products.input(d, x, parameters.bias(d, rows), &mut from_input);
        let cell = Cell {
            kind: self.kind,
            hidden,
            activations: &self.functions[d],
            clip: self.clip.map(|c| R::from_f64(c.into())),
            reset_bias: parameters.reset_bias(d, hidden),
            peepholes: parameters.peepholes(d, hidden),
        };
        let reverse = self.reverse || d == 1;
        let longest = lengths.iter().copied().max().unwrap_or(0).min(steps);
        // Where the elements of sequence `b` are at its step number `step`, while it lasts.
        let place = |step: usize, b: usize| {
            let length = lengths[b];
            let t = (step < length).then(|| if reverse { length - 1 - step } else { step })?;
            Some(if self.batch_first { b * steps + t } else { t * batch + b })
        };
        let mut states = States::new(first, steps * batch * hidden);
        let mut scratch = cell.scratch(batch);
        for step in 0..longest {
            cell.step(
                batch,
                &|b| place(step, b),
                |part, state, y| products.state(d, part, state, y),
                &mut from_input,
                &mut states,
                &mut scratch,
            );
        }
        states
    }

    /// Writes output `index` from the states of each direction.
    fn assemble<R: Real>(&self, states: &[States<R>], index: usize, y: &mut [R]) {
        let Sizes { directions, steps, batch, hidden, .. } = self.sizes;
        // All states lie in the order of X, the last ones sequence by sequence.
        let of = |d: usize| match index {
            0 => &states[d].all[..],
            1 => &states[d].last[..],
            _ => &states[d].memory[..],
        };
        let steps = if index == 0 { steps } else { 1 };
        for (i, y) in y.chunks_exact_mut(hidden.max(1)).enumerate() {
            let [d, at] = if self.batch_first {
                [i % directions, i / directions]
            } else {
                let (t, rest) = (i / (batch * directions), i % (batch * directions));
                [rest / batch, t * batch + rest % batch]
            };
            debug_assert!(at < steps * batch, "within the states");
            y.copy_from_slice(&of(d)[at * hidden..][..hidden]);
        }
    }
}

pub(super) fn recurrent(
    attributes: &RecurrentAttributes,
    inputs: &Inputs<'_>,
    outputs: &mut [Output<'_>],
) -> Result<(), OpError> {
    infos(attributes, inputs, outputs.len())?;
    let (x, w, r) = (required(inputs, 0)?, required(inputs, 1)?, required(inputs, 2)?);
    let Some(layer) = Layer::from_facts(attributes, inputs)? else {
        return Err(OpError::MissingInput { index: 0 });
    };
    with_real!(x.dtype(), R => {
        let values = |index| optional(inputs, index).map(load::<R>);
        let parameters = Parameters::<R>::new(&layer, values(3).as_deref(), values(7).as_deref());
        let (w, r) = (load::<R>(w), load::<R>(r));
        layer.run(&Plain::new(&layer, &w, &r), &parameters, x.dtype(), inputs, outputs)
    })
}

#[cfg(test)]
mod tests;
