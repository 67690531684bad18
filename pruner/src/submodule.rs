//! Pieces of a model that can be trained by themselves: what lies between two places through which all that depends on weights
//! passes as one value.
//!
//! In a residual network these places are the additions, with the norm or activation after them where that alone reads them; in a chain of
//! layers every layer lies between two. A model is not asked for names.

use std::ops::Range;

use poda_formats::{Graph, ValueId};

/// How much is trained together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// One layer.
    Layer,
    /// What lies between two places that all passes.
    Submodule,
}

/// Where more layers than this lie between such places (a U-net, many heads), each is taken by itself.
const MOST_LAYERS: usize = 16;

/// Nodes that are trained together, and what later nodes need of theirs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submodule {
    /// By index.
    pub nodes: Range<usize>,
    /// Of these values, those that depend on a weight, in order.
    pub outputs: Vec<ValueId>,
}

/// The pieces of `graph`, in order, that hold products with `weights`.
pub fn submodules(graph: &Graph, weights: &[ValueId], extent: Extent) -> Vec<Submodule> {
    let lives = lives(graph, weights);
    let products: Vec<usize> = (0..graph.nodes.len())
        .filter(|&node| graph.nodes[node].inputs.iter().flatten().any(|id| weights.contains(id)))
        .collect();
    let alone = |&node: &usize| submodule(&lives, node..node + 1);
    if extent == Extent::Layer {
        return products.iter().filter_map(alone).collect();
    }
    let cuts = cuts(&lives, graph.nodes.len());
    let (mut found, mut at, mut start) = (Vec::new(), 0, 0);
    while at < products.len() {
        let first = products[at];
        let end = cuts.iter().copied().find(|&cut| cut > first).unwrap_or(graph.nodes.len());
        let layers = products[at..].iter().take_while(|&&node| node < end).count();
        let next = products.get(at + layers).copied().unwrap_or(graph.nodes.len());
        // Up to the next product, as far as it is one value still: norms and activations.
        let end = cuts.iter().copied().filter(|&cut| cut <= next).fold(end, usize::max);
        // What comes before the first product is the same in the dense model.
        let nodes = if start == 0 { first..end } else { start..end };
        if layers > MOST_LAYERS {
            found.extend(products[at..at + layers].iter().filter_map(alone));
        } else {
            found.extend(submodule(&lives, nodes));
        }
        (at, start) = (at + layers, end);
    }
    found
}

/// Whether some of `weights` are trained together: a chain of layers has no submodules but these.
pub fn any_joined(graph: &Graph, weights: &[ValueId]) -> bool {
    let [together, apart] =
        [Extent::Submodule, Extent::Layer].map(|extent| submodules(graph, weights, extent));
    together.len() < apart.len()
}

/// A value that depends on a weight, or that the first weights are multiplied with, and the places between nodes, `from..until`, at
/// which it is there and still needed. Place 0 is before all nodes.
struct Life {
    value: ValueId,
    from: usize,
    until: usize,
}

fn lives(graph: &Graph, weights: &[ValueId]) -> Vec<Life> {
    let mut depends = vec![false; graph.values.len()];
    for node in &graph.nodes {
        let inputs = || node.inputs.iter().flatten().filter(|id| graph.weight(**id).is_none());
        if node.inputs.iter().flatten().any(|id| weights.contains(id)) {
            inputs().for_each(|id| depends[id.index()] = true);
        }
        if inputs().any(|id| depends[id.index()]) {
            node.outputs.iter().flatten().for_each(|id| depends[id.index()] = true);
        }
    }
    let mut place: Vec<Option<usize>> = vec![None; graph.values.len()];
    let mut lives: Vec<Life> = Vec::new();
    let begin = |place: &mut Vec<Option<usize>>, lives: &mut Vec<Life>, value: ValueId, from: usize| {
        if depends[value.index()] {
            place[value.index()] = Some(lives.len());
            lives.push(Life { value, from, until: from });
        }
    };
    graph.inputs.iter().for_each(|&id| begin(&mut place, &mut lives, id, 0));
    for (index, node) in graph.nodes.iter().enumerate() {
        for life in node.inputs.iter().flatten().filter_map(|id| place[id.index()]) {
            lives[life].until = index + 1;
        }
        node.outputs.iter().flatten().for_each(|&id| begin(&mut place, &mut lives, id, index + 1));
    }
    for life in graph.outputs.iter().filter_map(|id| place[id.index()]) {
        lives[life].until = graph.nodes.len() + 1;
    }
    lives
}

/// Places before which one such value is made that is read after them, and no other.
fn cuts(lives: &[Life], nodes: usize) -> Vec<usize> {
    let mut change = vec![0_i64; nodes + 2];
    for life in lives {
        change[life.from] += 1;
        change[life.until] -= 1;
    }
    let mut live = 0;
    let counts = (0..=nodes).map(|place| {
        live += change[place];
        (place, live)
    });
    counts.filter(|&(_, live)| live == 1).map(|(place, _)| place).collect()
}

fn submodule(lives: &[Life], nodes: Range<usize>) -> Option<Submodule> {
    let given =
        lives.iter().filter(|life| life.from > nodes.start && (life.from..life.until).contains(&nodes.end));
    let outputs: Vec<ValueId> = given.map(|life| life.value).collect();
    (!outputs.is_empty()).then_some(Submodule { nodes, outputs })
}

#[cfg(test)]
mod tests {
    use poda_formats::op::{Binary, Unary};
    use poda_formats::{DataType, Dim, Op, Tensor};

    use super::*;

    /// `blocks` times `x + (relu(x · w)) · v`, then a product without a skip; an activation after each addition.
    fn residual(blocks: usize) -> (Graph, Vec<ValueId>) {
        let mut graph = Graph::default();
        let mut weights = Vec::new();
        let mut weight = |graph: &mut Graph| {
            let name = format!("w{}", weights.len());
            weights.push(graph.add_weight(name, Tensor::from_slice(&[2, 2], &[1.0_f32, -0.5, 0.25, 2.0])));
            weights[weights.len() - 1]
        };
        let input = graph.add_input("input", DataType::F32, vec![Dim::Fixed(3), Dim::Fixed(2)]);
        let mut x = graph.add_node(Op::Unary(Unary::Tanh), &[input], "x");
        for block in 0..blocks {
            let (w, v) = (weight(&mut graph), weight(&mut graph));
            let inner = graph.add_node(Op::MatMul, &[x, w], format!("inner{block}"));
            let inner = graph.add_node(Op::Unary(Unary::Relu), &[inner], format!("hidden{block}"));
            let branch = graph.add_node(Op::MatMul, &[inner, v], format!("branch{block}"));
            let sum = graph.add_node(Op::Binary(Binary::Add), &[x, branch], format!("sum{block}"));
            x = graph.add_node(Op::Unary(Unary::Relu), &[sum], format!("out{block}"));
        }
        let w = weight(&mut graph);
        let y = graph.add_node(Op::MatMul, &[x, w], "y");
        graph.outputs.push(y);
        (graph, weights)
    }

    fn names(graph: &Graph, found: &[Submodule]) -> Vec<(Range<usize>, Vec<String>)> {
        let name = |id: &ValueId| graph.value(*id).name.clone();
        found.iter().map(|s| (s.nodes.clone(), s.outputs.iter().map(name).collect())).collect()
    }

    #[test]
    fn a_submodule_reaches_from_one_addition_to_the_next_and_a_layer_of_a_chain_is_one() {
        let (graph, weights) = residual(2);
        let found = submodules(&graph, &weights, Extent::Submodule);
        let expected = [(1..6, "out0"), (6..11, "out1"), (11..12, "y")];
        let expected = expected.map(|(nodes, name)| (nodes, vec![name.to_owned()]));
        assert_eq!(names(&graph, &found), expected);
        assert!(any_joined(&graph, &weights) && !any_joined(&graph, &weights[3..]));
        let layers = submodules(&graph, &weights, Extent::Layer);
        let ends: Vec<String> = names(&graph, &layers).into_iter().flat_map(|(_, names)| names).collect();
        assert_eq!(ends, ["inner0", "branch0", "inner1", "branch1", "y"]);
        // What is not trained counts as any other node.
        let last = submodules(&graph, &weights[3..], Extent::Submodule);
        assert_eq!(names(&graph, &last), [(8..11, vec!["out1".to_owned()]), (11..12, vec!["y".to_owned()])]);
    }

    #[test]
    fn without_a_place_that_all_passes_layers_are_taken_one_by_one() {
        let (mut graph, weights) = residual(9);
        // The first value is read to the last.
        let (first, last) = (graph.find("inner0").unwrap(), graph.outputs[0]);
        let sum = graph.add_node(Op::Binary(Binary::Add), &[first, last], "all");
        graph.outputs = vec![sum];
        let found = submodules(&graph, &weights, Extent::Submodule);
        assert_eq!(found, submodules(&graph, &weights, Extent::Layer));
        // Few are one submodule, with two values that are needed at its end.
        let (mut graph, weights) = residual(1);
        graph.outputs.push(graph.find("hidden0").unwrap());
        let found = submodules(&graph, &weights, Extent::Submodule);
        assert_eq!(names(&graph, &found), [(1..7, vec!["hidden0".to_owned(), "y".to_owned()])]);
    }
}
