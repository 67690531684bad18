//! What is computed from weights alone becomes a weight.
//!
//! Folded is a float value that arithmetic makes of constants and that something else than constants uses: the kernel of a
//! weight norm, of weight standardisation, the reciprocal of a variance. Left as they are: movements and casts, through which
//! pruning sees, and whatever would take more bytes than the weights it is made of, such as a dequantised matrix.

use poda_formats::{Graph, Op, ValueId, Weight};

use crate::dependency::Facts;

/// Folds whatever has no name that `excluded` knows among what it is made of. Gives the number of values folded.
pub(super) fn fold(graph: &mut Graph, facts: Facts<'_>, excluded: &dyn Fn(&str) -> bool) -> usize {
    let producers = graph.producers();
    let constant = |id: ValueId| graph.weight(id).is_some() || facts.constant(id).is_some();
    let is_made = |node: &poda_formats::graph::Node| node.outputs.iter().flatten().all(|&id| constant(id));
    let mut used = vec![false; graph.values.len()];
    graph.outputs.iter().for_each(|id| used[id.index()] = true);
    for node in graph.nodes.iter().filter(|node| !is_made(node)) {
        node.inputs.iter().flatten().for_each(|id| used[id.index()] = true);
    }
    let mut folded = Vec::new();
    for (index, used) in used.iter().enumerate() {
        let id = ValueId(index as u32);
        let (true, Some(_), false) = (*used, producers[index], graph.outputs.contains(&id)) else { continue };
        let Some(tensor) = facts.constant(id).filter(|t| t.dtype().is_float()) else { continue };
        if let Some(id) = last_arithmetic(graph, &producers, id)
            && let Some(tensor) = if id.index() == index { Some(tensor) } else { facts.constant(id) }
            && worth(graph, &producers, id, tensor.bytes().len(), excluded)
        {
            folded.push((id, tensor.clone()));
        }
    }
    folded.sort_by_key(|(id, _)| *id);
    folded.dedup_by_key(|(id, _)| *id);
    let mut gone = vec![false; graph.nodes.len()];
    for (id, tensor) in &folded {
        if let Some(node) = producers[id.index()] {
            gone[node] = true;
        }
        let value = graph.value_mut(*id);
        value.dtype = Some(tensor.dtype());
        value.shape = Some(tensor.shape().iter().map(|&d| poda_formats::Dim::Fixed(d)).collect());
        value.weight = Some(Weight::Tensor(tensor.clone()));
    }
    let mut gone = gone.into_iter();
    graph.nodes.retain(|_| !gone.next().unwrap_or(false));
    folded.len()
}

/// Whether pruning sees through an operator.
fn moves(op: &Op) -> bool {
    op.rearranges() || matches!(op, Op::DequantizeLinear { .. })
}

/// The value itself, or that which was moved to make it, when an operator with a single output computed it.
fn last_arithmetic(graph: &Graph, producers: &[Option<usize>], mut id: ValueId) -> Option<ValueId> {
    loop {
        let node = &graph.nodes[producers[id.index()]?];
        if !moves(&node.op) {
            return (node.outputs.len() == 1 && !node.inputs.is_empty()).then_some(id);
        }
        id = node.input(0)?;
    }
}

/// Bytes of a constant that may take more than what it is made of.
const SMALL: usize = 4 << 10;

/// Whether a value takes no more than the weights behind it, none of which nor any node on the way is excluded. (A value that
/// is excluded itself is folded, and excluded as the weight that it is then.)
fn worth(
    graph: &Graph,
    producers: &[Option<usize>],
    value: ValueId,
    bytes: usize,
    excluded: &dyn Fn(&str) -> bool,
) -> bool {
    let (mut open, mut seen, mut sources) = (vec![value], std::collections::HashSet::new(), 0);
    while let Some(id) = open.pop() {
        if !seen.insert(id) {
            continue;
        }
        if id != value && excluded(&graph.value(id).name) {
            return false;
        }
        if let Some(weight) = graph.weight(id) {
            sources += weight.bytes();
        } else if let Some(node) = producers[id.index()].map(|n| &graph.nodes[n]) {
            if excluded(&node.name) {
                return false;
            }
            open.extend(node.inputs.iter().flatten());
        }
    }
    bytes <= sources || bytes <= SMALL && sources > 0
}

#[cfg(test)]
mod tests {
    use poda_formats::op::{Binary, ReduceKind, Unary};
    use poda_formats::{DataType, Dim, Tensor};

    use super::*;
    use crate::settings::{Settings, Shapes};

    /// `x · (direction / ‖direction‖ · gain)`, the product's weight transposed on the way.
    fn weight_norm() -> Graph {
        let mut g = Graph::default();
        let x = g.add_input("x", DataType::F32, vec![Dim::Symbol("batch".into()), Dim::Fixed(2)]);
        let values = [3.0_f32, 4.0, 0.0, 2.0, 6.0, 8.0];
        let direction = g.add_weight("direction", Tensor::from_slice(&[3, 2], &values));
        let gain = g.add_weight("gain", Tensor::from_slice(&[3, 1], &[1.0_f32, 2.0, 5.0]));
        let axes = g.add_weight("axes", Tensor::from_slice(&[1], &[1_i64]));
        let l2 = Op::Reduce { kind: ReduceKind::L2, keep_dims: true, noop_with_empty_axes: false };
        let norm = g.add_node(l2, &[direction, axes], "norm");
        let unit = g.add_node(Op::Binary(Binary::Div), &[direction, norm], "unit");
        let w = g.add_node(Op::Binary(Binary::Mul), &[unit, gain], "w");
        let turned = g.add_node(Op::Transpose { perm: vec![1, 0] }, &[w], "turned");
        let y = g.add_node(Op::MatMul, &[x, turned], "y");
        g.outputs.push(y);
        g
    }

    fn folded(mut graph: Graph, excluded: &str) -> Graph {
        let settings = Settings::find(&graph, &Shapes::new());
        fold(&mut graph, settings.facts(), &|name| name == excluded);
        graph.remove_unused();
        graph.normalize().unwrap();
        graph
    }

    #[test]
    fn a_weight_norm_becomes_the_weight_that_it_makes() {
        let graph = folded(weight_norm(), "");
        let ops: Vec<_> = graph.nodes.iter().map(|n| n.op.name()).collect();
        assert_eq!(ops, ["Transpose", "MatMul"]);
        let w = graph.weight(graph.find("w").unwrap()).unwrap().to_dense().unwrap();
        let want = [0.6, 0.8, 0.0, 2.0, 3.0, 4.0];
        assert!(w.as_slice::<f32>().unwrap().iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-6));
        assert!(graph.find("direction").is_none());
    }

    #[test]
    fn what_is_excluded_grows_or_only_moves_stays() {
        assert_eq!(folded(weight_norm(), "gain").nodes.len(), 5);
        assert_eq!(folded(weight_norm(), "unit").nodes.len(), 5);
        assert_eq!(folded(weight_norm(), "turned").nodes.len(), 2);
        let mut g = Graph::default();
        let x = g.add_input("x", DataType::F32, vec![Dim::Fixed(1), Dim::Fixed(64)]);
        let narrow = g.add_weight("narrow", Tensor::from_slice(&[64, 64], &[3_i8; 4096]));
        let scale = g.add_weight("scale", Tensor::scalar(0.5_f32));
        let wide = g.add_node(Op::Cast { to: DataType::F32 }, &[narrow], "wide");
        let w = g.add_node(Op::Binary(Binary::Mul), &[wide, scale], "w");
        let y = g.add_node(Op::MatMul, &[x, w], "y");
        let y = g.add_node(Op::Unary(Unary::Relu), &[y], "z");
        g.outputs.push(y);
        assert_eq!(folded(g, "").nodes.len(), 4);
    }
}
