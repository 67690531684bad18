//! Whole residual blocks: where a graph adds `x` and `f(x)`, `f` can go, and `x` stays.
//!
//! A block is found on the graph: an addition of two values of one shape, of which one, `x`, is what the other, `f(x)`, was
//! computed from, and some weight serves `f(x)` alone. Blocks that hold another block are left to it.

use std::collections::{BTreeSet, HashMap};

use poda_formats::op::{Binary, Op};
use poda_formats::{Boolean, Graph, Tensor, ValueId};

use crate::compact::Rewrite;
use crate::dependency::Facts;

/// A residual block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// The name of the node that adds.
    pub name: String,
    /// What it is fed.
    pub input: ValueId,
    /// `f(x)`
    pub branch: ValueId,
    /// Their sum.
    pub output: ValueId,
    /// Matrices that serve it alone.
    pub weights: Vec<ValueId>,
}

/// The residual blocks of `graph`, in its order.
pub fn blocks(graph: &Graph, facts: Facts<'_>) -> Vec<Block> {
    let producers = graph.producers();
    let mut found: Vec<(Block, BTreeSet<usize>)> = Vec::new();
    for (index, node) in graph.nodes.iter().enumerate() {
        let (Op::Binary(Binary::Add), [Some(a), Some(b)], Some(output)) =
            (&node.op, &node.inputs[..], node.output(0))
        else {
            continue;
        };
        for (input, branch) in [(*a, *b), (*b, *a)] {
            let shape = facts.shape(output);
            let alike = shape.is_some() && [input, branch].iter().all(|&id| facts.shape(id) == shape);
            if !alike || input == branch || facts.constant(input).is_some() {
                continue;
            }
            let between = between(graph, &producers, input, branch);
            let weights = weights_of_its_own(graph, index, branch);
            if between.is_empty() || weights.is_empty() {
                continue;
            }
            let block = Block { name: node.name.clone(), input, branch, output, weights };
            found.push((block, between));
        }
    }
    let adds: Vec<Option<usize>> = found.iter().map(|(block, _)| producers[block.output.index()]).collect();
    let holds_another = |between: &BTreeSet<usize>| adds.iter().flatten().any(|add| between.contains(add));
    found.into_iter().filter(|(_, between)| !holds_another(between)).map(|(block, _)| block).collect()
}

/// Nodes on the way from one value to another.
fn between(graph: &Graph, producers: &[Option<usize>], from: ValueId, to: ValueId) -> BTreeSet<usize> {
    // Whether a value follows from `from`; each node is asked once.
    let mut follows: HashMap<ValueId, bool> = HashMap::from([(from, true)]);
    let mut nodes = BTreeSet::new();
    let mut open = vec![(to, false)];
    while let Some((id, inputs_known)) = open.pop() {
        if follows.contains_key(&id) {
            continue;
        }
        let Some(node) = producers[id.index()] else {
            follows.insert(id, false);
            continue;
        };
        let inputs = || graph.nodes[node].inputs.iter().flatten().copied();
        if !inputs_known {
            open.push((id, true));
            open.extend(inputs().map(|input| (input, false)));
            continue;
        }
        let any = inputs().any(|input| follows.get(&input).copied().unwrap_or(false));
        follows.insert(id, any);
        if any {
            nodes.insert(node);
        }
    }
    nodes
}

/// Matrices that nothing needs once the node at `add` no longer reads `branch`.
fn weights_of_its_own(graph: &Graph, add: usize, branch: ValueId) -> Vec<ValueId> {
    let needed = |without: bool| {
        let mut needed = vec![false; graph.values.len()];
        graph.outputs.iter().for_each(|id| needed[id.index()] = true);
        for (index, node) in graph.nodes.iter().enumerate().rev() {
            if node.outputs.iter().flatten().any(|id| needed[id.index()]) {
                let reads = |id: &&ValueId| !(without && index == add && **id == branch);
                node.inputs.iter().flatten().filter(reads).for_each(|id| needed[id.index()] = true);
            }
        }
        needed
    };
    let (with, without) = (needed(false), needed(true));
    let of_its_own = |index: &usize| {
        let matrix = graph.values[*index].weight.as_ref().is_some_and(|weight| weight.shape().len() > 1);
        matrix && with[*index] && !without[*index]
    };
    (0..graph.values.len()).filter(of_its_own).map(|index| ValueId(index as u32)).collect()
}

/// `graph` without these blocks; what only they needed is gone.
pub fn without(graph: &Graph, blocks: &[&Block]) -> Graph {
    let mut smaller = graph.clone();
    let producers = graph.producers();
    for block in blocks {
        let Some(node) = producers[block.output.index()] else { continue };
        // What it is fed may be what another block, which goes too, gives.
        let mut input = block.input;
        while let Some(other) = blocks.iter().find(|other| other.output == input) {
            input = other.input;
        }
        if graph.outputs.contains(&block.output) {
            // It keeps its name.
            smaller.nodes[node].op = Op::Identity;
            smaller.nodes[node].inputs = vec![Some(input)];
            continue;
        }
        let readers = smaller.nodes.iter_mut().flat_map(|node| node.inputs.iter_mut().flatten());
        readers.filter(|id| **id == block.output).for_each(|id| *id = input);
    }
    smaller.remove_unused();
    smaller
}

/// `graph` with `f(x)` at zero in these blocks, whatever it is.
pub(crate) fn zeroed(graph: &Graph, blocks: &[&Block]) -> Graph {
    let producers = graph.producers();
    let mut rewrite = Rewrite::new(graph.clone());
    for block in blocks {
        let Some(node) = producers[block.output.index()] else { continue };
        let base = format!("{}.zeroed", graph.value(block.branch).name);
        let never = rewrite.constant(&base, Tensor::from_slice(&[], &[Boolean(0)]));
        let dtype = graph.value(block.branch).dtype.unwrap_or(poda_formats::DataType::F32);
        let zero = rewrite.constant(&base, Tensor::zeros(dtype, &[]));
        let zeroed =
            rewrite.insert_before(node, Op::Where, &[never, block.branch, zero], &base, block.branch);
        let inputs = rewrite.graph.nodes[node].inputs.iter_mut();
        inputs.filter(|id| **id == Some(block.branch)).for_each(|id| *id = Some(zeroed));
    }
    rewrite.finish()
}

/// `graph` with a gate on `f(x)` of each block: weights of one, in the order of the blocks.
pub(crate) fn gated(graph: &Graph, blocks: &[Block]) -> (Graph, Vec<ValueId>) {
    let producers = graph.producers();
    let mut rewrite = Rewrite::new(graph.clone());
    let mut gates = Vec::new();
    for block in blocks {
        let base = format!("{}.gate", graph.value(block.branch).name);
        let gate = rewrite.constant(&base, Tensor::from_slice(&[1], &[1.0_f32]));
        gates.push(gate);
        let Some(node) = producers[block.output.index()] else { continue };
        let op = Op::Binary(Binary::Mul);
        let gated = rewrite.insert_before(node, op, &[block.branch, gate], &base, block.branch);
        let inputs = rewrite.graph.nodes[node].inputs.iter_mut();
        inputs.filter(|id| **id == Some(block.branch)).for_each(|id| *id = Some(gated));
    }
    (rewrite.finish(), gates)
}
