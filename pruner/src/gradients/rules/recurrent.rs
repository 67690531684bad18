//! Recurrent layers unrolled, step by step: back-propagation through time. Werbos, 1990.
//!
//! Gates are in ONNX's order: input, output, forget, cell (LSTM); update, reset, hidden (GRU).

use poda_formats::op::{Direction, Op, RecurrentAttributes, RecurrentKind, Unary};
use poda_formats::{Node, ValueId};

use crate::gradients::{Emit, Refusal};

/// The weights of one direction, and the functions of its gates.
struct Cell {
    kind: RecurrentKind,
    hidden: usize,
    functions: Vec<Unary>,
    /// `[hidden, gates · hidden]`
    r: ValueId,
    /// Recurrent bias of a GRU's hidden gate, where the reset gate acts after the product: `[hidden]`.
    reset_bias: Option<ValueId>,
}

fn functions(attributes: &RecurrentAttributes, direction: usize) -> Result<Vec<Unary>, Refusal> {
    let default: &[&str] = match attributes.kind {
        RecurrentKind::Lstm { .. } => &["Sigmoid", "Tanh", "Tanh"],
        RecurrentKind::Gru { .. } => &["Sigmoid", "Tanh"],
        RecurrentKind::Rnn => &["Tanh"],
    };
    let given = attributes.activations.get(direction * default.len()..).unwrap_or(&[]);
    let name = |i: usize| given.get(i).map_or(default[i], String::as_str);
    (0..default.len())
        .map(|i| match name(i).to_ascii_lowercase().as_str() {
            "sigmoid" => Ok(Unary::Sigmoid),
            "tanh" => Ok(Unary::Tanh),
            "relu" => Ok(Unary::Relu),
            "softsign" => Ok(Unary::Softsign),
            "softplus" => Ok(Unary::Softplus),
            _ => Err(Refusal::Unsupported(
                "of its activations sigmoid, tanh, relu, softsign and softplus have one",
            )),
        })
        .collect()
}

pub(super) fn recurrent(e: &mut Emit, node: &Node) -> Result<Vec<Option<ValueId>>, Refusal> {
    let Op::Recurrent(attributes) = &node.op else { return Err(Refusal::NoRule) };
    let (Some(mut x), Some(w), Some(r)) = (node.input(0), node.input(1), node.input(2)) else {
        return Err(Refusal::NoRule);
    };
    if node.input(4).is_some() || node.input(7).is_some() || attributes.clip.is_some() {
        return Err(Refusal::Unsupported("it has lengths of sequences, peepholes or a clip"));
    }
    if matches!(attributes.kind, RecurrentKind::Lstm { input_forget: true }) {
        return Err(Refusal::Unsupported("its input and forget gates are coupled"));
    }
    if attributes.batch_first {
        x = e.transpose(x, &[1, 0, 2])?;
    }
    let [steps, batch, _] = e.shape(x)?[..] else { return Err(Refusal::NoRule) };
    let [directions, rows, hidden] = e.shape(r)?[..] else { return Err(Refusal::NoRule) };
    let mut all = Vec::with_capacity(directions);
    for d in 0..directions {
        let part = |e: &mut Emit, id: ValueId, at: usize, shape: &[usize]| {
            let part = e.slice(id, 0, at, 1)?;
            e.reshape(part, shape)
        };
        let width = e.shape(w)?[2];
        let (w, r) = (part(e, w, d, &[rows, width])?, part(e, r, d, &[rows, hidden])?);
        let (w, r) = (e.transpose(w, &[1, 0])?, e.transpose(r, &[1, 0])?);
        let mut from_input = e.matmul(x, w)?;
        let mut reset_bias = None;
        if let Some(bias) = node.input(3) {
            let bias = part(e, bias, d, &[2 * rows])?;
            let (of_input, of_state) = (e.slice(bias, 0, 0, rows)?, e.slice(bias, 0, rows, rows)?);
            from_input = e.add(from_input, of_input)?;
            if attributes.kind == (RecurrentKind::Gru { linear_before_reset: true }) {
                let gates = e.slice(of_state, 0, 0, 2 * hidden)?;
                reset_bias = Some(e.slice(of_state, 0, 2 * hidden, hidden)?);
                let zeros = e.zeros(&[hidden], gates)?;
                let gates = e.node(Op::Concat { axis: 0 }, &[gates, zeros])?;
                from_input = e.add(from_input, gates)?;
            } else {
                from_input = e.add(from_input, of_state)?;
            }
        }
        let mut state = [None, None];
        for (state, input) in state.iter_mut().zip([node.input(5), node.input(6)]) {
            *state = Some(match input {
                Some(input) if attributes.batch_first => {
                    let part = e.slice(input, 1, d, 1)?;
                    e.reshape(part, &[batch, hidden])?
                }
                Some(input) => part(e, input, d, &[batch, hidden])?,
                None => e.zeros(&[batch, hidden], x)?,
            });
        }
        let [Some(mut h), Some(mut c)] = state else { return Err(Refusal::NoRule) };
        let functions = functions(attributes, d)?;
        let cell = Cell { kind: attributes.kind, hidden, functions, r, reset_bias };
        let reverse = d == 1 || attributes.direction == Direction::Reverse;
        let mut states = vec![h; steps];
        for step in 0..steps {
            let t = if reverse { steps - 1 - step } else { step };
            let gates = part(e, from_input, t, &[batch, rows])?;
            (h, c) = cell.step(e, gates, h, c)?;
            states[t] = e.reshape(h, &[1, 1, batch, hidden])?;
        }
        let sequence = e.node(Op::Concat { axis: 0 }, &states)?;
        let last = [e.reshape(h, &[1, batch, hidden])?, e.reshape(c, &[1, batch, hidden])?];
        all.push((sequence, last));
    }
    let join = |e: &mut Emit, parts: &[ValueId], axis: i64| {
        if parts.len() == 1 { Ok(parts[0]) } else { e.node(Op::Concat { axis }, parts) }
    };
    let sequences: Vec<ValueId> = all.iter().map(|(sequence, _)| *sequence).collect();
    let mut outputs = vec![join(e, &sequences, 1)?];
    for i in 0..2 {
        let last: Vec<ValueId> = all.iter().map(|(_, last)| last[i]).collect();
        outputs.push(join(e, &last, 0)?);
    }
    if attributes.batch_first {
        outputs[0] = e.transpose(outputs[0], &[2, 0, 1, 3])?;
        outputs[1] = e.transpose(outputs[1], &[1, 0, 2])?;
        outputs[2] = e.transpose(outputs[2], &[1, 0, 2])?;
    }
    Ok(outputs.into_iter().map(Some).collect())
}

impl Cell {
    /// State and memory after a step, `[batch, hidden]` each, from the input's share in the gates.
    fn step(
        &self,
        e: &mut Emit,
        gates: ValueId,
        h: ValueId,
        c: ValueId,
    ) -> Result<(ValueId, ValueId), Refusal> {
        let hidden = self.hidden;
        let gate = |e: &mut Emit, all: ValueId, i: usize| e.slice(all, 1, i * hidden, hidden);
        match self.kind {
            RecurrentKind::Rnn => {
                let share = e.matmul(h, self.r)?;
                let sum = e.add(gates, share)?;
                Ok((e.unary(self.functions[0], sum)?, c))
            }
            RecurrentKind::Lstm { .. } => {
                let share = e.matmul(h, self.r)?;
                let sum = e.add(gates, share)?;
                let mut of = |i: usize, function: usize| {
                    let part = gate(e, sum, i)?;
                    e.unary(self.functions[function], part)
                };
                let (input, output, forget, new) = (of(0, 0)?, of(1, 0)?, of(2, 0)?, of(3, 1)?);
                let (kept, added) = (e.mul(forget, c)?, e.mul(input, new)?);
                let c = e.add(kept, added)?;
                let shown = e.unary(self.functions[2], c)?;
                Ok((e.mul(output, shown)?, c))
            }
            RecurrentKind::Gru { linear_before_reset } => {
                let first = e.slice(self.r, 1, 0, 2 * hidden)?;
                let last = e.slice(self.r, 1, 2 * hidden, hidden)?;
                let share = e.matmul(h, first)?;
                let both = e.slice(gates, 1, 0, 2 * hidden)?;
                let both = e.add(both, share)?;
                let both = e.unary(self.functions[0], both)?;
                let (update, reset) = (gate(e, both, 0)?, gate(e, both, 1)?);
                let share = if linear_before_reset {
                    let mut share = e.matmul(h, last)?;
                    if let Some(bias) = self.reset_bias {
                        share = e.add(share, bias)?;
                    }
                    e.mul(reset, share)?
                } else {
                    let reset = e.mul(reset, h)?;
                    e.matmul(reset, last)?
                };
                let new = gate(e, gates, 2)?;
                let new = e.add(new, share)?;
                let new = e.unary(self.functions[1], new)?;
                // (1 − z) · new + z · h
                let difference = e.sub(h, new)?;
                let moved = e.mul(update, difference)?;
                Ok((e.add(new, moved)?, c))
            }
        }
    }
}
