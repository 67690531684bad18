//! One step of a recurrent cell, for all sequences of a batch.

use poda_formats::op::RecurrentKind;

use super::super::real::Real;
use super::Activation;
use super::products::Part;

/// A cell of one direction.
pub(super) struct Cell<'a, R> {
    pub(super) kind: RecurrentKind,
    pub(super) hidden: usize,
    pub(super) activations: &'a [Activation],
    pub(super) clip: Option<R>,
    /// `[hidden]`
    pub(super) reset_bias: Option<&'a [R]>,
    /// `[3 · hidden]`: of input, output and forget gate.
    pub(super) peepholes: Option<&'a [R]>,
}

/// What a direction computes.
pub(super) struct States<R: Real> {
    /// Of every step, zero where a sequence has ended; in the order of X.
    pub(super) all: R::Buffer,
    /// `[batch, hidden]`
    pub(super) last: R::Buffer,
    /// The memory of an LSTM, `[batch, hidden]`.
    pub(super) memory: R::Buffer,
}

impl<R: Real> States<R> {
    /// States to start from.
    pub(super) fn new([last, memory]: [R::Buffer; 2], len: usize) -> Self {
        let mut all = R::buffer(len);
        all.fill(R::default());
        Self { all, last, memory }
    }
}

/// Place for intermediate values.
pub(super) struct Scratch<R: Real> {
    /// The states' share in the gates, `[batch, rows of that product]`.
    from_state: R::Buffer,
    /// `[batch, hidden]`
    reset: R::Buffer,
    /// `[batch, hidden]`
    candidate: R::Buffer,
}

impl<R: Real> Cell<'_, R> {
    /// Rows of the product of the state.
    fn state_rows(&self) -> usize {
        match self.kind {
            RecurrentKind::Gru { linear_before_reset: false } => 2 * self.hidden,
            kind => super::gates(kind) * self.hidden,
        }
    }

    pub(super) fn scratch(&self, batch: usize) -> Scratch<R> {
        let zeros = |len| {
            let mut buffer = R::buffer(len);
            buffer.fill(R::default());
            buffer
        };
        Scratch {
            from_state: zeros(batch * self.state_rows()),
            reset: zeros(batch * self.hidden),
            candidate: zeros(batch * self.hidden),
        }
    }

    /// Moves on the states of every sequence that has a `place`: the number of its row in `from_input`, the input's share in
    /// the gates, which is overwritten, and in `states.all`.
    pub(super) fn step(
        &self,
        batch: usize,
        place: &dyn Fn(usize) -> Option<usize>,
        product: impl Fn(Part, &[R], &mut [R]),
        from_input: &mut [R],
        states: &mut States<R>,
        scratch: &mut Scratch<R>,
    ) {
        let (hidden, rows, state_rows) =
            (self.hidden, super::gates(self.kind) * self.hidden, self.state_rows());
        let Scratch { from_state, reset, candidate } = scratch;
        product(Part::Gates, &states.last, from_state);
        let active = || (0..batch).filter_map(|b| Some((b, place(b)?)));
        for (b, at) in active() {
            let gates = &mut from_input[at * rows..][..rows];
            let share = &mut from_state[b * state_rows..][..state_rows];
            let state = &mut states.last[b * hidden..][..hidden];
            match self.kind {
                RecurrentKind::Rnn => {
                    add(gates, share);
                    self.activate(0, gates);
                    state.copy_from_slice(gates);
                }
                RecurrentKind::Lstm { input_forget } => {
                    add(gates, share);
                    let memory = &mut states.memory[b * hidden..][..hidden];
                    self.lstm(gates, input_forget, candidate, state, memory);
                }
                RecurrentKind::Gru { linear_before_reset } => {
                    let (until, hidden_gate) = gates.split_at_mut(2 * hidden);
                    add(until, &share[..2 * hidden]);
                    self.activate(0, until);
                    let (update, reset_gate) = until.split_at_mut(hidden);
                    if linear_before_reset {
                        let share = &mut share[2 * hidden..];
                        if let Some(bias) = self.reset_bias {
                            add(share, bias);
                        }
                        for ((h, &r), &s) in hidden_gate.iter_mut().zip(&*reset_gate).zip(&*share) {
                            *h += r * s;
                        }
                        self.blend(update, hidden_gate, state);
                    } else {
                        // The reset gate acts on the state, before the product.
                        let reset = &mut reset[b * hidden..][..hidden];
                        reset.iter_mut().zip(&*state).zip(&*reset_gate).for_each(|((y, &h), &r)| *y = h * r);
                    }
                }
            }
        }
        if self.kind == (RecurrentKind::Gru { linear_before_reset: false }) {
            product(Part::Candidate, reset, candidate);
            for (b, at) in active() {
                let gates = &mut from_input[at * rows..][..rows];
                let (update, hidden_gate) = gates.split_at_mut(2 * hidden);
                add(hidden_gate, &candidate[b * hidden..][..hidden]);
                self.blend(&update[..hidden], hidden_gate, &mut states.last[b * hidden..][..hidden]);
            }
        }
        for (b, at) in active() {
            states.all[at * hidden..][..hidden].copy_from_slice(&states.last[b * hidden..][..hidden]);
        }
    }

    /// The end of a step of a GRU: `state = (1 - update) · hidden gate + update · state`.
    fn blend(&self, update: &[R], hidden_gate: &mut [R], state: &mut [R]) {
        self.activate(1, hidden_gate);
        let one = R::from_f64(1.0);
        for ((h, &z), &candidate) in state.iter_mut().zip(update).zip(&*hidden_gate) {
            *h = (one - z) * candidate + z * *h;
        }
    }

    /// Gates are input, output, forget, cell.
    fn lstm(&self, gates: &mut [R], input_forget: bool, output: &mut [R], state: &mut [R], memory: &mut [R]) {
        let hidden = self.hidden;
        let output = &mut output[..hidden];
        if self.peepholes.is_none() && !input_forget {
            // Three gates at once.
            self.activate(0, &mut gates[..3 * hidden]);
        }
        let (input, rest) = gates.split_at_mut(hidden);
        let (output_gate, rest) = rest.split_at_mut(hidden);
        let (forget, candidate) = rest.split_at_mut(hidden);
        let peep = |gate: &mut [R], i: usize, memory: &[R]| {
            if let Some(p) = self.peepholes {
                gate.iter_mut().zip(&p[i * hidden..]).zip(memory).for_each(|((g, &p), &c)| *g += p * c);
            }
            self.activate(0, gate);
        };
        let apart = self.peepholes.is_some() || input_forget;
        if apart {
            peep(input, 0, memory);
            if input_forget {
                forget.iter_mut().zip(&*input).for_each(|(f, &i)| *f = R::from_f64(1.0) - i);
            } else {
                peep(forget, 2, memory);
            }
        }
        self.activate(1, candidate);
        for (((c, &f), &i), &new) in memory.iter_mut().zip(&*forget).zip(&*input).zip(&*candidate) {
            *c = f * *c + i * new;
        }
        if apart {
            peep(output_gate, 1, memory);
        }
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
