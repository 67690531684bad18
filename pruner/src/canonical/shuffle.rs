//! A channel shuffle, written as Reshape, Transpose, Reshape, becomes the Gather that it is.
//!
//! Seen as rows and columns, channels could only go in whole columns, which chains all blocks of a ShuffleNet together.
//! As constant indices they go one by one.

use poda_formats::{Graph, Node, Op, Tensor};

use crate::dependency::Facts;

/// Replaces every chain Reshape → Transpose → Reshape that permutes one dimension. Value ids stay. Gives the number of
/// chains replaced.
pub fn shuffles_to_gathers(graph: &mut Graph, facts: Facts<'_>) -> usize {
    let (producers, consumers) = (graph.producers(), graph.consumers());
    let mut replaced = Vec::new();
    for (last, node) in graph.nodes.iter().enumerate() {
        if let Some((chain, indices, dim)) = shuffle(graph, facts, &producers, &consumers, node) {
            replaced.push((chain, last, indices, dim));
        }
    }
    let mut gone = vec![false; graph.nodes.len()];
    for ([first, middle], last, indices, dim) in &replaced {
        let name = graph.unique_name(&format!("{}.indices", graph.nodes[*last].name));
        let indices = graph.add_weight(name, Tensor::from_slice(&[indices.len()], indices));
        let data = graph.nodes[*first].input(0);
        let node = &mut graph.nodes[*last];
        node.op = Op::Gather { axis: *dim as i64 };
        node.inputs = vec![data, Some(indices)];
        (gone[*first], gone[*middle]) = (true, true);
    }
    let mut gone = gone.into_iter();
    graph.nodes.retain(|_| !gone.next().unwrap_or(false));
    replaced.len()
}

/// The two nodes before `last`, the indices and the dimension, when `last` ends a shuffle.
fn shuffle(
    graph: &Graph,
    facts: Facts<'_>,
    producers: &[Option<usize>],
    consumers: &[Vec<usize>],
    last: &Node,
) -> Option<([usize; 2], Vec<i64>, usize)> {
    if !matches!(last.op, Op::Reshape { .. }) {
        return None;
    }
    // Both must be used by nothing else.
    let before = |node: &Node| {
        let value = node.input(0)?;
        let alone = consumers[value.index()].len() == 1 && !graph.outputs.contains(&value);
        producers[value.index()].filter(|_| alone)
    };
    let middle = before(last)?;
    let Op::Transpose { perm } = &graph.nodes[middle].op else { return None };
    let first = before(&graph.nodes[middle])?;
    if !matches!(graph.nodes[first].op, Op::Reshape { .. }) {
        return None;
    }
    let data = graph.nodes[first].input(0)?;
    let (whole, split) = (facts.shape(data)?, facts.shape(graph.nodes[first].output(0)?)?);
    let result = last.output(0)?;
    if facts.shape(result)? != whole || perm.len() != split.len() {
        return None;
    }
    let moved: Vec<usize> = perm.iter().map(|&p| split[p]).collect();
    let (inside, outside) = (parts(whole, split)?, parts(whole, &moved)?);
    let mut shuffled = None;
    for (dim, (inside, outside)) in inside.iter().zip(&outside).enumerate() {
        let order: Vec<usize> = outside.iter().map(|&at| perm[at]).filter(|&d| split[d] != 1).collect();
        let was: Vec<usize> = inside.iter().copied().filter(|&d| split[d] != 1).collect();
        if order == was {
            continue;
        }
        let mut sorted = order.clone();
        sorted.sort_unstable();
        if sorted != was || shuffled.is_some() || !facts.is_fixed(data, dim) {
            return None;
        }
        shuffled = Some((dim, was, order));
    }
    let (dim, was, order) = shuffled?;
    let strides: Vec<usize> = order
        .iter()
        .map(|&d| was.iter().skip_while(|&&w| w != d).skip(1).map(|&w| split[w]).product())
        .collect();
    let indices = (0..whole[dim]).map(|mut at| {
        let mut index = 0;
        for (&d, stride) in order.iter().zip(&strides).rev() {
            index += at % split[d] * stride;
            at /= split[d];
        }
        index as i64
    });
    Some(([first, middle], indices.collect(), dim))
}

/// For each dimension of `whole` the dimensions of `split` that make it.
fn parts(whole: &[usize], split: &[usize]) -> Option<Vec<Vec<usize>>> {
    let mut at = 0;
    let mut parts = Vec::with_capacity(whole.len());
    for &size in whole {
        let mut part = Vec::new();
        let mut left = size;
        while left > 1 {
            let n = *split.get(at)?;
            if n == 0 || !left.is_multiple_of(n) {
                return None;
            }
            left /= n;
            part.push(at);
            at += 1;
        }
        parts.push(part);
    }
    Some(parts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use poda_formats::op::Unary;
    use poda_formats::{DataType, Dim, Element};
    use poda_runtime::analysis::analyze;

    fn constant<T: Element>(graph: &mut Graph, name: &str, values: &[T]) -> poda_formats::ValueId {
        graph.add_weight(name, Tensor::from_slice(&[values.len()], values))
    }

    #[test]
    fn a_shuffle_becomes_a_gather() {
        let mut graph = Graph::default();
        let x = graph.add_input("x", DataType::F32, [1, 6, 2, 2].map(Dim::Fixed).to_vec());
        let split = constant(&mut graph, "split", &[1_i64, 2, 3, 2, 2]);
        let back = constant(&mut graph, "back", &[1_i64, 6, 2, 2]);
        let a = graph.add_node(Op::Reshape { allow_zero: false }, &[x, split], "a");
        let b = graph.add_node(Op::Transpose { perm: vec![0, 2, 1, 3, 4] }, &[a], "b");
        let c = graph.add_node(Op::Reshape { allow_zero: false }, &[b, back], "c");
        let y = graph.add_node(Op::Unary(Unary::Relu), &[c], "y");
        graph.outputs.push(y);
        let facts = analyze(&graph, &std::collections::BTreeMap::new());
        let facts = Facts::new(&facts, &[]);
        assert_eq!(shuffles_to_gathers(&mut graph, facts), 1);
        assert_eq!(graph.nodes.len(), 2);
        let indices = graph.weight(graph.nodes[0].input(1).unwrap()).unwrap().to_dense().unwrap();
        assert_eq!(indices.as_slice::<i64>().unwrap(), [0, 3, 1, 4, 2, 5]);
        // A transposition of whole dimensions is none.
        let mut graph = Graph::default();
        let x = graph.add_input("x", DataType::F32, [2, 6].map(Dim::Fixed).to_vec());
        let split = constant(&mut graph, "split", &[2_i64, 2, 3]);
        let back = constant(&mut graph, "back", &[2_i64, 6]);
        let a = graph.add_node(Op::Reshape { allow_zero: false }, &[x, split], "a");
        let b = graph.add_node(Op::Transpose { perm: vec![1, 0, 2] }, &[a], "b");
        let c = graph.add_node(Op::Reshape { allow_zero: false }, &[b, back], "c");
        graph.outputs.push(c);
        let facts = analyze(&graph, &std::collections::BTreeMap::new());
        let facts = Facts::new(&facts, &[]);
        assert_eq!(shuffles_to_gathers(&mut graph, facts), 0);
    }
}
