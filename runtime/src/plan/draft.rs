//! The graph while it is being lowered: nodes that still name values by id, of kinds beyond [`Op`].

use poda_formats::{Graph, Op, ValueId};

use crate::analysis::Analysis;
use crate::info::Info;

/// What a step computes.
#[derive(Debug)]
pub(crate) enum Kind {
    /// An operator in its general form.
    Op(Op),
}

/// What a profile says of a step.
#[derive(Debug, Default)]
pub(crate) struct Explanation {
    pub(crate) name: String,
    pub(crate) reason: String,
    pub(crate) macs: u64,
    pub(crate) macs_nonzero: u64,
    pub(crate) weight_bytes: usize,
}

impl Kind {
    /// How it is computed and why so.
    pub(crate) fn explain(&self) -> Explanation {
        match self {
            Self::Op(op) => Explanation { name: op.name().to_owned(), ..Explanation::default() },
        }
    }
}

/// A node of a [`Draft`].
#[derive(Debug)]
pub(crate) struct DraftNode {
    pub(crate) kind: Kind,
    /// The node of the graph that it stands for; with fused nodes, the last.
    pub(crate) node: usize,
    pub(crate) inputs: Vec<Option<ValueId>>,
    pub(crate) outputs: Vec<Option<ValueId>>,
}

/// What is left of a graph once constants are folded.
#[derive(Debug)]
pub(crate) struct Draft<'a> {
    pub(crate) graph: &'a Graph,
    pub(crate) infos: Vec<Option<Info>>,
    pub(crate) nodes: Vec<DraftNode>,
    /// What the run gives.
    pub(crate) wanted: Vec<ValueId>,
}

impl<'a> Draft<'a> {
    /// The nodes whose outputs are not constants and are needed for `wanted`.
    pub(crate) fn new(graph: &'a Graph, analysis: Analysis, wanted: Vec<ValueId>) -> Self {
        let nodes = graph.nodes.iter().enumerate().map(|(index, node)| DraftNode {
            kind: Kind::Op(node.op.clone()),
            node: index,
            inputs: node.inputs.clone(),
            outputs: node.outputs.clone(),
        });
        let mut draft = Self { graph, infos: analysis.infos, nodes: nodes.collect(), wanted };
        draft.remove_unused();
        draft
    }

    /// Drops nodes that nothing reads, and outputs that nothing reads.
    pub(crate) fn remove_unused(&mut self) {
        let infos = &self.infos;
        let mut used = vec![false; infos.len()];
        self.wanted.iter().for_each(|id| used[id.index()] = true);
        let mut keep = vec![false; self.nodes.len()];
        for (node, keep) in self.nodes.iter_mut().zip(&mut keep).rev() {
            for output in &mut node.outputs {
                // Constants are folded, whoever makes them.
                let constant = |id: ValueId| infos[id.index()].as_ref().is_some_and(|i| i.value.is_some());
                *output = output.filter(|&id| used[id.index()] && !constant(id));
                *keep |= output.is_some();
            }
            if *keep {
                node.inputs.iter().flatten().for_each(|id| used[id.index()] = true);
            }
        }
        let mut keep = keep.into_iter();
        self.nodes.retain(|_| keep.next().expect("one flag for each node"));
    }
}
