//! The products of a recurrent layer, and its parameters beside them.

use poda_formats::op::RecurrentKind;

use super::super::real::{Mat, Real};
use super::{Layer, Sizes};

/// Which rows of the weights of the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// All; of a GRU that resets first, those of the update and the reset gate.
    Gates,
    /// Those of the hidden gate of a GRU that resets first.
    Candidate,
}

/// Multiplies with the weights of a layer.
pub(crate) trait Products<R>: Sync {
    /// `y = W · x + bias` of direction `d`: `x` `[n, inputs]`, `bias` `[rows]`, `y` `[n, rows]`.
    fn input(&self, d: usize, x: &[R], bias: Option<&[R]>, y: &mut [R]);

    /// `y = R · state` of direction `d`: `state` `[batch, hidden]`, `y` `[batch, rows of the part]`.
    fn state(&self, d: usize, part: Part, state: &[R], y: &mut [R]);

    /// Whether the directions run beside each other, each on one thread, rather than share every product.
    fn one_thread_each(&self) -> bool;
}

/// What a layer adds to its products.
#[derive(Debug, Clone, Default)]
pub(crate) struct Parameters<R> {
    /// Of the input's and the state's share together, `[directions, rows]`.
    bias: Option<Vec<R>>,
    /// Of the state's share in the hidden gate of a GRU, which is reset with it: `[directions, hidden]`.
    reset_bias: Option<Vec<R>>,
    /// Of input, output and forget gate of an LSTM, `[directions, 3 · hidden]`.
    peepholes: Option<Vec<R>>,
}

impl<R: Real> Parameters<R> {
    /// From B `[directions, 2 · rows]`, the input's share first, and P.
    pub(crate) fn new(layer: &Layer, bias: Option<&[R]>, peepholes: Option<&[R]>) -> Self {
        let Sizes { hidden, .. } = layer.sizes;
        let rows = layer.sizes.rows();
        let lstm = matches!(layer.kind, RecurrentKind::Lstm { .. });
        let peepholes = peepholes.filter(|_| lstm).map(<[R]>::to_vec);
        let Some(given) = bias.filter(|_| rows > 0) else {
            return Self { bias: None, reset_bias: None, peepholes };
        };
        // The state's share in the hidden gate counts on its own where it is reset after the product.
        let apart = matches!(layer.kind, RecurrentKind::Gru { linear_before_reset: true });
        let shared = if apart { rows - hidden } else { rows };
        let (mut bias, mut reset_bias) = (Vec::new(), Vec::new());
        for both in given.chunks_exact(2 * rows) {
            let (input, state) = both.split_at(rows);
            bias.extend(input[..shared].iter().zip(state).map(|(&i, &s)| i + s));
            bias.extend_from_slice(&input[shared..]);
            reset_bias.extend_from_slice(&state[shared..]);
        }
        Self { bias: Some(bias), reset_bias: Some(reset_bias).filter(|_| apart), peepholes }
    }

    pub(super) fn bias(&self, d: usize, rows: usize) -> Option<&[R]> {
        self.bias.as_ref().map(|all| &all[d * rows..][..rows])
    }

    pub(super) fn reset_bias(&self, d: usize, hidden: usize) -> Option<&[R]> {
        self.reset_bias.as_ref().map(|all| &all[d * hidden..][..hidden])
    }

    pub(super) fn peepholes(&self, d: usize, hidden: usize) -> Option<&[R]> {
        self.peepholes.as_ref().map(|all| &all[d * 3 * hidden..][..3 * hidden])
    }
}

/// Weights as they lie in their tensors.
pub(crate) struct Plain<'a, R> {
    sizes: Sizes,
    resets_first: bool,
    /// `[directions, rows, inputs]`
    w: &'a [R],
    /// `[directions, rows, hidden]`
    r: &'a [R],
}

impl<'a, R> Plain<'a, R> {
    /// The weights of a layer.
    pub(crate) fn new(layer: &Layer, w: &'a [R], r: &'a [R]) -> Self {
        Self { sizes: layer.sizes, resets_first: layer.resets_first(), w, r }
    }
}

impl<R: Real> Products<R> for Plain<'_, R> {
    fn input(&self, d: usize, x: &[R], bias: Option<&[R]>, y: &mut [R]) {
        let (rows, cols) = (self.sizes.rows(), self.sizes.inputs);
        let w = Mat::new(&self.w[d * rows * cols..][..rows * cols], rows, cols).t();
        R::product(Mat::new(x, self.sizes.steps * self.sizes.batch, cols), w, y);
        if let Some(bias) = bias {
            for row in y.chunks_exact_mut(rows) {
                row.iter_mut().zip(bias).for_each(|(y, &b)| *y += b);
            }
        }
    }

    fn state(&self, d: usize, part: Part, state: &[R], y: &mut [R]) {
        let (rows, hidden) = (self.sizes.rows(), self.sizes.hidden);
        let gates = if self.resets_first { 2 * hidden } else { rows };
        let part = match part {
            Part::Gates => 0..gates,
            Part::Candidate => gates..rows,
        };
        let r = &self.r[(d * rows + part.start) * hidden..][..part.len() * hidden];
        let r = Mat::new(r, part.len(), hidden).t();
        R::product(Mat::new(state, self.sizes.batch, hidden), r, y);
    }

    fn one_thread_each(&self) -> bool {
        true
    }
}
