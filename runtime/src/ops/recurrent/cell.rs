//! One step of a recurrent cell.

use poda_formats::op::RecurrentKind;

use super::super::real::{Mat, Real};
use super::Activation;

/// A cell of one direction, with `rows` = gates · hidden.
pub(super) struct Cell<'a, R> {
    pub(super) kind: RecurrentKind,
    pub(super) hidden: usize,
    /// `[rows, inputs]`
    pub(super) w: &'a [R],
    /// `[rows, hidden]`
    pub(super) r: &'a [R],
    /// `[2 · rows]`: of the input's share, then of the state's.
    pub(super) bias: Option<&'a [R]>,
    /// `[3 · hidden]`: of input, output and forget gate.
    pub(super) peepholes: Option<&'a [R]>,
    pub(super) activations: &'a [Activation],
    pub(super) clip: Option<R>,
}

/// Place for intermediate values.
pub(super) struct Scratch<R> {
    /// The states' share in the gates, `[batch, rows]`.
    from_state: Vec<R>,
    /// `[hidden]`
    reset: Vec<R>,
    /// `[hidden]`
    candidate: Vec<R>,
}

impl<R: Real> Cell<'_, R> {
    /// Rows of the weights: gates · hidden.
    pub(super) fn rows(&self) -> usize {
        super::gates(self.kind) * self.hidden
    }

    pub(super) fn scratch(&self, batch: usize) -> Scratch<R> {
        let zeros = |len| vec![R::default(); len];
        Scratch {
            from_state: zeros(batch * self.rows()),
            reset: zeros(self.hidden),
            candidate: zeros(self.hidden),
        }
    }

    /// Computes the share of the states `[batch, hidden]` in the gates.
    pub(super) fn recur(&self, state: &[R], scratch: &mut Scratch<R>) {
        let (rows, batch) = (self.rows(), state.len().checked_div(self.hidden).unwrap_or(0));
        let r = Mat::new(self.r, rows, self.hidden).t();
        R::product(Mat::new(state, batch, self.hidden), r, &mut scratch.from_state);
    }

    /// Moves on the states of sequence `batch`, given the input's share in its gates, which is overwritten.
    pub(super) fn step(
        &self,
        gates: &mut [R],
        batch: usize,
        scratch: &mut Scratch<R>,
        state: &mut [R],
        memory: &mut [R],
    ) {
        let rows = self.rows();
        if let Some(bias) = self.bias {
            add(gates, &bias[..rows]);
        }
        let from_state = &mut scratch.from_state[batch * rows..][..rows];
        if let Some(bias) = self.bias {
            add(from_state, &bias[rows..]);
        }
        match self.kind {
            RecurrentKind::Rnn => {
                add(gates, from_state);
                self.activate(0, gates);
                state.copy_from_slice(gates);
            }
            RecurrentKind::Lstm { input_forget } => {
                add(gates, from_state);
                self.lstm(gates, input_forget, &mut scratch.candidate, state, memory);
            }
            RecurrentKind::Gru { linear_before_reset } => {
                let (until, hidden_gate) = gates.split_at_mut(2 * self.hidden);
                add(until, &from_state[..2 * self.hidden]);
                self.activate(0, until);
                let (update, reset) = until.split_at_mut(self.hidden);
                let share = &mut from_state[2 * self.hidden..];
                if linear_before_reset {
                    multiply(share, reset);
                } else {
                    // The reset gate acts on the state, before the product.
                    scratch.reset.copy_from_slice(state);
                    multiply(&mut scratch.reset, reset);
                    let r = &self.r[2 * self.hidden * self.hidden..];
                    let r = Mat::new(r, self.hidden, self.hidden).t();
                    R::product(Mat::new(&scratch.reset, 1, self.hidden), r, share);
                    if let Some(bias) = self.bias {
                        add(share, &bias[rows + 2 * self.hidden..]);
                    }
                }
                add(hidden_gate, share);
                self.activate(1, hidden_gate);
                let one = R::from_f64(1.0);
                for ((h, &z), &candidate) in state.iter_mut().zip(&*update).zip(&*hidden_gate) {
                    *h = (one - z) * candidate + z * *h;
                }
            }
        }
    }

    /// Gates are input, output, forget, cell.
    fn lstm(&self, gates: &mut [R], input_forget: bool, output: &mut [R], state: &mut [R], memory: &mut [R]) {
        let hidden = self.hidden;
        let (input, rest) = gates.split_at_mut(hidden);
        let (output_gate, rest) = rest.split_at_mut(hidden);
        let (forget, candidate) = rest.split_at_mut(hidden);
        let peep = |gate: &mut [R], i: usize, memory: &[R]| {
            if let Some(p) = self.peepholes {
                gate.iter_mut().zip(&p[i * hidden..]).zip(memory).for_each(|((g, &p), &c)| *g += p * c);
            }
        };
        peep(input, 0, memory);
        self.activate(0, input);
        if input_forget {
            forget.iter_mut().zip(&*input).for_each(|(f, &i)| *f = R::from_f64(1.0) - i);
        } else {
            peep(forget, 2, memory);
            self.activate(0, forget);
        }
        self.activate(1, candidate);
        for (((c, &f), &i), &new) in memory.iter_mut().zip(&*forget).zip(&*input).zip(&*candidate) {
            *c = f * *c + i * new;
        }
        peep(output_gate, 1, memory);
        self.activate(0, output_gate);
        output.copy_from_slice(memory);
        // Unlike the gates, it is not clipped, as in ONNX Runtime.
        self.activations[2].apply(output);
        for ((h, &o), &c) in state.iter_mut().zip(&*output_gate).zip(&*output) {
            *h = o * c;
        }
    }

    /// Clips gates and applies function `index`.
    fn activate(&self, index: usize, values: &mut [R]) {
        if let Some(clip) = self.clip {
            values.iter_mut().for_each(|v| *v = v.larger(-clip).smaller(clip));
        }
        self.activations[index].apply(values);
    }
}

fn add<R: Real>(y: &mut [R], x: &[R]) {
    y.iter_mut().zip(x).for_each(|(y, &x)| *y += x);
}

fn multiply<R: Real>(y: &mut [R], x: &[R]) {
    y.iter_mut().zip(x).for_each(|(y, &x)| *y = *y * x);
}
