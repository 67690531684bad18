//! What counts as a parameter: the elements of every float weight, and of every weight of integers that stands for real
//! numbers, where a zero is what the zero point says. Bodies of control flow are counted too.

use crate::graph::Node;
use crate::{DataType, Graph, Op, Tensor, ValueId};

/// The parameters of one weight, or sums over several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Parameters {
    /// Elements.
    pub count: u64,
    /// Elements that do not stand for zero.
    pub nonzero: u64,
    /// Of the elements, those of tables whose rows are looked up.
    pub embeddings: u64,
}

impl std::iter::Sum for Parameters {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |a, b| Self {
            count: a.count + b.count,
            nonzero: a.nonzero + b.nonzero,
            embeddings: a.embeddings + b.embeddings,
        })
    }
}

impl Graph {
    /// The parameters of this graph and its bodies.
    pub fn parameters(&self) -> Parameters {
        self.with_bodies().into_iter().map(Self::own_parameters).sum()
    }

    fn own_parameters(&self) -> Parameters {
        let producers = self.producers();
        let mut tables = vec![false; self.values.len()];
        // By quantised weight its zero points, and the dimension that these go along.
        let mut zeros: Vec<Option<(Option<ValueId>, i64)>> = vec![None; self.values.len()];
        for node in &self.nodes {
            if let (Op::Gather { axis: 0 }, Some(table)) = (&node.op, node.input(0)) {
                tables[table.index()] = true;
            }
            if let Some((weight, zero, axis)) = quantised(node)
                && let Some(id) = node.input(weight)
            {
                let (source, axis) = self.moved_from(&producers, id, axis);
                zeros[source.index()] = Some((node.input(zero), axis));
            }
        }
        let of = |(index, value): (usize, &crate::Value)| {
            let weight = value.weight.as_ref()?;
            let count = weight.len() as u64;
            let nonzero = if weight.dtype().is_float() {
                weight.nnz() as u64
            } else {
                let (zero, axis) = zeros[index]?;
                let zero = zero.and_then(|id| self.weight(id)).and_then(|zero| zero.to_dense().ok());
                // Zero points that a run computes are taken for zeros.
                weight.to_dense().ok().map_or(count, |tensor| beside(&tensor, zero.as_ref(), axis))
            };
            Some(Parameters { count, nonzero, embeddings: if tables[index] { count } else { 0 } })
        };
        self.values.iter().enumerate().filter_map(of).sum()
    }

    /// The value that movements made `id` of. What goes along `axis` then goes along none.
    fn moved_from(&self, producers: &[Option<usize>], mut id: ValueId, mut axis: i64) -> (ValueId, i64) {
        while let Some(node) = producers[id.index()].map(|at| &self.nodes[at]) {
            let Some(source) = node.input(0).filter(|_| node.op.rearranges()) else { break };
            (id, axis) = (source, i64::MAX);
        }
        (id, axis)
    }
}

/// Of an operator that takes a quantised matrix: which input that is, which its zero points, and along which dimension these go.
fn quantised(node: &Node) -> Option<(usize, usize, i64)> {
    match &node.op {
        Op::DequantizeLinear { axis, .. } => Some((0, 2, *axis)),
        Op::QLinearConv(_) => Some((3, 5, 0)),
        Op::QLinearMatMul => Some((3, 5, -1)),
        Op::ConvInteger(_) => Some((1, 3, 0)),
        Op::MatMulInteger => Some((1, 3, -1)),
        _ => None,
    }
}

/// Elements that differ from their zero point. Zero points of another number than the dimension's (blocks) count as zeros.
fn beside(tensor: &Tensor, zero: Option<&Tensor>, axis: i64) -> u64 {
    let size = tensor.dtype().size();
    let elements = tensor.bytes().chunks_exact(size);
    let none = vec![0; size];
    let zero = zero.filter(|z| z.dtype() == tensor.dtype() && tensor.dtype() != DataType::Bool);
    let points: Vec<&[u8]> = zero.map_or_else(Vec::new, |z| z.bytes().chunks_exact(size).collect());
    let rank = tensor.rank() as i64;
    let dim = usize::try_from(if axis < 0 { axis + rank } else { axis }).unwrap_or(usize::MAX);
    let count = match (&points[..], tensor.shape().get(dim)) {
        ([point], _) => elements.filter(|element| element != point).count(),
        (points, Some(&n)) if points.len() == n && n > 0 => {
            let inner: usize = tensor.shape()[dim + 1..].iter().product();
            elements.enumerate().filter(|(i, element)| element != &points[i / inner % n]).count()
        }
        _ => elements.filter(|element| *element != &none[..]).count(),
    };
    count as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Dim;

    #[test]
    fn quantised_weights_count_and_their_zero_is_the_zero_point() {
        let count = |points: &[i8], axis: i64| {
            let mut g = Graph::default();
            let weight = g.add_weight("weight", Tensor::from_slice(&[2, 3], &[0_i8, 1, 1, 0, 0, 1]));
            let scale = g.add_weight("scale", Tensor::from_slice(&[2], &[1.0_f32, 0.0]));
            let zero = g.add_weight("zero", Tensor::from_slice(&[points.len()], points));
            g.add_weight("shape", Tensor::from_slice(&[3], &[1_i64, 2, 3]));
            let y = g.add_node(Op::DequantizeLinear { axis, block_size: 0 }, &[weight, scale, zero], "y");
            g.outputs.push(y);
            g.parameters()
        };
        // With the scale's two elements, of which one is zero.
        let of = |nonzero: u64| Parameters { count: 8, nonzero: nonzero + 1, embeddings: 0 };
        assert_eq!(count(&[0], 0), of(3));
        assert_eq!(count(&[1], 0), of(3));
        assert_eq!(count(&[0, 1], 0), of(2 + 2));
        assert_eq!(count(&[0, 0, 1], 1), of(1));
    }

    #[test]
    fn bodies_and_tables_count() {
        let mut body = Graph::default();
        let w = body.add_weight("w", Tensor::from_slice(&[2], &[0.0_f32, 2.0]));
        body.outputs.push(w);
        let mut g = Graph::default();
        let condition = g.add_input("condition", DataType::Bool, vec![]);
        let ids = g.add_input("ids", DataType::I64, vec![Dim::Fixed(1)]);
        let table = g.add_weight("table", Tensor::from_slice(&[2, 2], &[1.0_f32, 0.0, 0.0, 0.0]));
        let row = g.add_node(Op::Gather { axis: 0 }, &[table, ids], "row");
        let branch = Op::If { then_branch: Box::new(body.clone()), else_branch: Box::new(body) };
        let y = g.add_node(branch, &[condition], "y");
        g.outputs.extend([row, y]);
        assert_eq!(g.parameters(), Parameters { count: 8, nonzero: 3, embeddings: 4 });
    }
}
