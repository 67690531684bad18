//! The graph while it is being lowered: nodes that still name values by id, of kinds beyond [`Op`].

use std::any::Any;

use poda_formats::{DataType, Graph, Op, Tensor, ValueId, Weight};

use super::lower::Lowered;
use crate::analysis::Analysis;
use crate::info::Info;
use crate::kernels::Grid;
use crate::profile::WeightProfile;

/// What a node of a draft computes.
#[derive(Debug)]
pub(crate) enum Kind {
    /// An operator of the graph.
    Op(Op),
    /// One that only plans know.
    Lowered(Box<dyn Lowered>),
}

impl Kind {
    /// A lowered operator.
    pub(crate) fn lowered(operator: impl Lowered) -> Self {
        Self::Lowered(Box::new(operator))
    }
}

/// What a profile says of a step.
#[derive(Debug, Default)]
pub(crate) struct Explanation {
    /// Name of the kernel.
    pub(crate) name: String,
    /// Why that kernel.
    pub(crate) reason: String,
    /// As if dense.
    pub(crate) macs: u64,
    /// Those whose weight is not zero.
    pub(crate) macs_nonzero: u64,
    /// Bytes of the packed weight.
    pub(crate) weight_bytes: usize,
    /// The weight of a product, with the kernels that were considered for it.
    pub(crate) weight: Option<WeightProfile>,
}

/// A node of a [`Draft`].
#[derive(Debug)]
pub(crate) struct DraftNode {
    pub(crate) kind: Kind,
    /// The node of the graph that it stands for: of several the last, but a product whatever its epilogue takes in.
    pub(crate) node: usize,
    pub(crate) inputs: Vec<Option<ValueId>>,
    pub(crate) outputs: Vec<Option<ValueId>>,
}

impl DraftNode {
    /// The operator, unless the node was lowered.
    pub(crate) fn op(&self) -> Option<&Op> {
        match &self.kind {
            Kind::Op(op) => Some(op),
            Kind::Lowered(_) => None,
        }
    }

    /// The lowered operator, if it is a `T`.
    pub(crate) fn lowered<T: Lowered>(&self) -> Option<&T> {
        match &self.kind {
            Kind::Op(_) => None,
            Kind::Lowered(lowered) => (&**lowered as &dyn Any).downcast_ref(),
        }
    }

    /// Input `index`, when present.
    pub(crate) fn input(&self, index: usize) -> Option<ValueId> {
        self.inputs.get(index).copied().flatten()
    }

    /// Output `index`, when somebody reads it.
    pub(crate) fn output(&self, index: usize) -> Option<ValueId> {
        self.outputs.get(index).copied().flatten()
    }
}

/// What is left of a graph once constants are folded. Its values are those of the graph, and perhaps further constants.
#[derive(Debug)]
pub(crate) struct Draft<'a> {
    pub(crate) graph: &'a Graph,
    pub(crate) infos: Vec<Option<Info>>,
    pub(crate) nodes: Vec<DraftNode>,
    /// What the run gives.
    pub(crate) wanted: Vec<ValueId>,
    /// By value: what its elements are multiples of; known once it is lowered.
    pub(crate) grids: Vec<Option<Grid>>,
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
        let mut draft =
            Self { graph, infos: analysis.infos, nodes: nodes.collect(), wanted, grids: Vec::new() };
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

    /// A further constant.
    pub(crate) fn add_constant(&mut self, tensor: Tensor) -> ValueId {
        self.add_value(Info::constant(tensor))
    }

    /// A further value that a node makes.
    pub(crate) fn add_value(&mut self, info: Info) -> ValueId {
        self.infos.push(Some(info));
        ValueId(self.infos.len() as u32 - 1)
    }

    /// Facts about a value.
    pub(crate) fn info(&self, id: ValueId) -> Option<&Info> {
        self.infos[id.index()].as_ref()
    }

    /// What the elements of a value are multiples of, if that is known.
    pub(crate) fn grid(&self, id: ValueId) -> Option<Grid> {
        self.grids.get(id.index()).copied().flatten()
    }

    /// Name of a value, for messages.
    pub(crate) fn name(&self, id: ValueId) -> String {
        self.graph.values.get(id.index()).map_or_else(|| format!("constant {}", id.0), |v| v.name.clone())
    }

    /// Element type of a value.
    pub(crate) fn dtype(&self, id: ValueId) -> Option<DataType> {
        Some(self.info(id)?.dtype)
    }

    /// Shape of a value, when it is known.
    pub(crate) fn shape(&self, id: ValueId) -> Option<&[usize]> {
        self.info(id)?.shape.as_deref()
    }

    /// Elements of a dense constant.
    pub(crate) fn constant(&self, id: ValueId) -> Option<&Tensor> {
        self.info(id)?.value.as_ref()
    }

    /// Elements of a dense f32 constant.
    pub(crate) fn f32s(&self, id: ValueId) -> Option<&[f32]> {
        self.constant(id)?.as_slice().ok()
    }

    /// The one element of an f32 constant.
    pub(crate) fn scalar(&self, id: ValueId) -> Option<f32> {
        match *self.f32s(id)? {
            [value] => Some(value),
            _ => None,
        }
    }

    /// A constant, dense or sparse.
    pub(crate) fn weight(&self, id: ValueId) -> Option<Weight> {
        let stored = || self.graph.values.get(id.index())?.weight.clone();
        self.constant(id).cloned().map(Weight::Tensor).or_else(stored)
    }

    /// Whether a value is an f32 constant.
    pub(crate) fn is_weight(&self, id: ValueId) -> bool {
        let stored = || self.graph.values.get(id.index()).is_some_and(|v| v.weight.is_some());
        self.dtype(id) == Some(DataType::F32) && (self.constant(id).is_some() || stored())
    }

    /// The elements of an f32 constant that, broadcast to `shape`, varies along `axis` at most: one for each index of it.
    pub(crate) fn channel_constant(&self, id: ValueId, shape: &[usize], axis: usize) -> Option<Vec<f32>> {
        let own = self.shape(id)?;
        let values = self.f32s(id)?;
        let before = shape.len().checked_sub(own.len())?;
        let size = shape[axis];
        let fits = own.iter().enumerate().all(|(i, &d)| d == 1 || (i + before == axis && d == size));
        match *values {
            _ if !fits => None,
            [value] => Some(vec![value; size]),
            _ => Some(values.to_vec()),
        }
    }
}
