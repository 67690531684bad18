//! Losses as nodes: scalars that [`super::differentiate`] starts from.

use poda_formats::op::{Binary, LossAttributes, LossReduction, Op, ReduceKind, SoftmaxKind, Unary};
use poda_formats::{Graph, Tensor, ValueId};

/// What an output is held against.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Loss {
    /// Class numbers i64 `[batch, …]`, for scores `[batch, classes, …]`: mean cross-entropy. An output that is a softmax, or
    /// the logarithm of one, counts as what it is.
    CrossEntropy,
    /// Values of the output's shape: mean squared difference.
    Mse,
    /// Scores of another model, of the output's shape with classes last: `T² · KL(softmax(target / T) ‖ softmax(output / T))`,
    /// mean over rows. Hinton, Vinyals and Dean, 2015, <https://arxiv.org/abs/1503.02531>.
    Kl {
        /// `T`
        temperature: f32,
    },
    /// Values of the output's shape: one less the mean cosine between samples, which the first axis counts.
    Cosine,
}

/// Appends the loss of `output` held against `target`; gives the scalar.
pub fn append(graph: &mut Graph, loss: Loss, output: ValueId, target: ValueId) -> ValueId {
    let mut nodes = Nodes { graph };
    match loss {
        Loss::CrossEntropy => nodes.cross_entropy(output, target),
        Loss::Mse => {
            let difference = nodes.binary(Binary::Sub, output, target);
            let square = nodes.binary(Binary::Mul, difference, difference);
            nodes.reduce(ReduceKind::Mean, square, None)
        }
        Loss::Kl { temperature } => nodes.kl(output, target, temperature),
        Loss::Cosine => nodes.cosine(output, target),
    }
}

/// Appends `Σ factor · loss`; gives the scalar.
pub fn weighted_sum(graph: &mut Graph, losses: &[(ValueId, f32)]) -> Option<ValueId> {
    let mut nodes = Nodes { graph };
    let mut sum = None;
    for &(loss, factor) in losses {
        let term = if factor == 1.0 {
            loss
        } else {
            let factor = nodes.number(factor);
            nodes.binary(Binary::Mul, loss, factor)
        };
        sum = Some(sum.map_or(term, |sum| nodes.binary(Binary::Add, sum, term)));
    }
    sum
}

struct Nodes<'a> {
    graph: &'a mut Graph,
}

impl Nodes<'_> {
    fn node(&mut self, op: Op, inputs: &[ValueId]) -> ValueId {
        let name = self.graph.unique_name("loss");
        self.graph.add_node(op, inputs, name)
    }

    fn number(&mut self, value: f32) -> ValueId {
        let name = self.graph.unique_name("loss_factor");
        self.graph.add_weight(name, Tensor::scalar(value))
    }

    fn binary(&mut self, op: Binary, a: ValueId, b: ValueId) -> ValueId {
        self.node(Op::Binary(op), &[a, b])
    }

    /// Over the last axis, which goes, or over all.
    fn reduce(&mut self, kind: ReduceKind, x: ValueId, axis: Option<i64>) -> ValueId {
        let op = Op::Reduce { kind, keep_dims: false, noop_with_empty_axes: false };
        match axis {
            None => self.node(op, &[x]),
            Some(axis) => {
                let name = self.graph.unique_name("loss_axes");
                let axes = self.graph.add_weight(name, Tensor::from_slice(&[1], &[axis]));
                self.node(op, &[x, axes])
            }
        }
    }

    fn cross_entropy(&mut self, output: ValueId, labels: ValueId) -> ValueId {
        let mean = LossAttributes { reduction: LossReduction::Mean, ignore_index: None };
        match softmax_of(self.graph, output) {
            Some((SoftmaxKind::LogSoftmax, _)) => {
                self.node(Op::NegativeLogLikelihoodLoss(mean), &[output, labels])
            }
            Some((SoftmaxKind::Softmax, scores)) => {
                self.node(Op::SoftmaxCrossEntropyLoss(mean), &[scores, labels])
            }
            Some((SoftmaxKind::Hardmax, _)) | None => {
                self.node(Op::SoftmaxCrossEntropyLoss(mean), &[output, labels])
            }
        }
    }

    fn kl(&mut self, output: ValueId, target: ValueId, temperature: f32) -> ValueId {
        let rate = self.number(1.0 / temperature);
        let softmax = |kind| Op::Softmax { kind, axis: -1 };
        let (ours, theirs) = (self.binary(Binary::Mul, output, rate), self.binary(Binary::Mul, target, rate));
        let ours = self.node(softmax(SoftmaxKind::LogSoftmax), &[ours]);
        let logarithm = self.node(softmax(SoftmaxKind::LogSoftmax), &[theirs]);
        let share = self.node(Op::Unary(Unary::Exp), &[logarithm]);
        let difference = self.binary(Binary::Sub, logarithm, ours);
        let product = self.binary(Binary::Mul, share, difference);
        let rows = self.reduce(ReduceKind::Sum, product, Some(-1));
        let mean = self.reduce(ReduceKind::Mean, rows, None);
        let square = self.number(temperature * temperature);
        self.binary(Binary::Mul, mean, square)
    }

    fn cosine(&mut self, output: ValueId, target: ValueId) -> ValueId {
        let flat = |nodes: &mut Self, x| nodes.node(Op::Flatten { axis: 1 }, &[x]);
        let (a, b) = (flat(self, output), flat(self, target));
        let product = self.binary(Binary::Mul, a, b);
        let dot = self.reduce(ReduceKind::Sum, product, Some(-1));
        let norm = |nodes: &mut Self, x| {
            let square = nodes.reduce(ReduceKind::SumSquare, x, Some(-1));
            // No row of zeros divides by zero.
            let least = nodes.number(1e-12);
            let square = nodes.binary(Binary::Add, square, least);
            nodes.node(Op::Unary(Unary::Sqrt), &[square])
        };
        let (a, b) = (norm(self, a), norm(self, b));
        let norms = self.binary(Binary::Mul, a, b);
        let cosine = self.binary(Binary::Div, dot, norms);
        let mean = self.reduce(ReduceKind::Mean, cosine, None);
        let one = self.number(1.0);
        self.binary(Binary::Sub, one, mean)
    }
}

/// The softmax over classes (the second axis, or the last of two) that an output is, with what it is of.
pub(crate) fn softmax_of(graph: &Graph, output: ValueId) -> Option<(SoftmaxKind, ValueId)> {
    let node = graph.nodes.iter().find(|node| node.output(0) == Some(output))?;
    match &node.op {
        // (Softmax in the middle of an image is over classes if over axis 1, too.)
        Op::Softmax { kind, axis: 1 | -1 } => Some((*kind, node.input(0)?)),
        Op::Identity => softmax_of(graph, node.input(0)?),
        _ => None,
    }
}
