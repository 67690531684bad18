//! A small perceptron, and samples for it, that tests work out by hand.

use poda_formats::op::{Op, Unary};
use poda_formats::{DataType, Dim, Graph, Tensor};

use super::{Example, Feeds, Samples, SamplesError};

pub(crate) const ROWS: [[f32; 3]; 5] =
    [[1.0, 0.5, -0.5], [0.0, 1.0, 1.0], [2.0, -1.0, 0.25], [-1.0, 0.5, 0.75], [0.5, -0.5, 1.5]];
pub(crate) const LABELS: [i64; 5] = [1, 0, 1, 1, 0];
/// `[3, 4]`
pub(crate) const FIRST: [f32; 12] = [0.5, -1.0, 2.0, 0.25, -0.75, 1.5, 0.85, -0.3, 0.6, -0.2, -0.4, 1.1];
/// `[4, 2]`
pub(crate) const SECOND: [f32; 8] = [1.0, -0.5, 0.3, 0.7, -0.9, 0.4, 0.2, -0.6];

/// `relu(x · FIRST) · SECOND`
pub(crate) fn perceptron() -> Graph {
    let mut graph = Graph::default();
    let x = graph.add_input("x", DataType::F32, vec![Dim::Symbol("batch".into()), Dim::Fixed(3)]);
    let first = graph.add_weight("first", Tensor::from_slice(&[3, 4], &FIRST));
    let second = graph.add_weight("second", Tensor::from_slice(&[4, 2], &SECOND));
    let made = graph.add_node(Op::MatMul, &[x, first], "made");
    let hidden = graph.add_node(Op::Unary(Unary::Relu), &[made], "hidden");
    let y = graph.add_node(Op::MatMul, &[hidden, second], "y");
    graph.outputs.push(y);
    graph
}

/// What its hidden units are worth.
pub(crate) fn hidden(x: &[f32; 3]) -> [f64; 4] {
    std::array::from_fn(|unit| (0..3).map(|i| f64::from(x[i] * FIRST[i * 4 + unit])).sum::<f64>().max(0.0))
}

/// Its outputs from these.
pub(crate) fn outputs(hidden: [f64; 4]) -> [f64; 2] {
    std::array::from_fn(|j| (0..4).map(|unit| hidden[unit] * f64::from(SECOND[unit * 2 + j])).sum())
}

/// Softmax less the class.
pub(crate) fn errors(outputs: [f64; 2], label: i64) -> [f64; 2] {
    let sum: f64 = outputs.iter().map(|y| y.exp()).sum();
    std::array::from_fn(|j| outputs[j].exp() / sum - f64::from(u8::from(j as i64 == label)))
}

/// [`ROWS`], one a batch, with their [`LABELS`] or without.
pub(crate) struct Labelled(pub(crate) bool);

impl Samples for Labelled {
    fn batches(&self) -> usize {
        ROWS.len()
    }

    fn feeds(&self, batch: usize) -> Result<Feeds, SamplesError> {
        Ok(vec![("x".to_owned(), Tensor::from_slice(&[1, 3], &ROWS[batch]))])
    }

    fn held_out(&self, _: usize) -> bool {
        false
    }

    fn examples(&self, batch: usize, _: usize) -> Result<Vec<Example>, SamplesError> {
        let labels = self.0.then(|| Tensor::from_slice(&[1], &LABELS[batch..=batch]));
        Ok(vec![Example { feeds: self.feeds(batch)?, labels }])
    }
}
