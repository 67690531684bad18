//! A graph inside a node: what its results are like, and what they are.

use poda_formats::graph::Node;
use poda_formats::{Graph, Tensor, TensorView, ValueId};

use super::super::{OpError, analyze_from, run};
use crate::info::Info;
use crate::output::Output;

/// Facts about the results of `body` from facts about its inputs.
pub(super) fn infer_body(
    body: &Graph,
    inputs: Vec<Option<Info>>,
    outputs: usize,
) -> Result<Vec<Info>, OpError> {
    check(body, inputs.len(), outputs)?;
    let mut analysis = analyze_from(body, inputs);
    if !analysis.failures.is_empty() {
        let (node, error) = analysis.failures.swap_remove(0);
        return Err(inside(body, &body.nodes[node], error));
    }
    let result = |&id: &ValueId| {
        let unknown = || OpError::Invalid(format!("nothing is known of {:?}", body.value(id).name));
        analysis.info(id).cloned().ok_or_else(unknown)
    };
    body.outputs.iter().map(result).collect()
}

fn check(body: &Graph, inputs: usize, outputs: usize) -> Result<(), OpError> {
    let (formal, given) = (body.inputs.len(), body.outputs.len());
    if [formal, given] == [inputs, outputs] {
        return Ok(());
    }
    Err(OpError::Invalid(format!(
        "body {:?} has {formal} inputs and {given} outputs, its node gives {inputs} and takes {outputs}",
        body.name
    )))
}

/// Names the node of a body in which an error happened.
fn inside(body: &Graph, node: &Node, error: OpError) -> OpError {
    let name = if node.name.is_empty() { "without a name" } else { &node.name };
    match error {
        OpError::Unsupported { op, reason } => {
            OpError::Unsupported { op, reason: format!("{reason} (node {name} of body {:?})", body.name) }
        }
        error => OpError::Invalid(format!("node {name} of body {:?}: {error}", body.name)),
    }
}

/// Something that runs a body.
pub(crate) trait RunBody {
    /// Runs the body on its inputs; gives its outputs, of which there must be so many.
    ///
    /// # Errors
    /// When a node fails.
    fn run(&self, inputs: Vec<Option<Slot<'_>>>, outputs: usize) -> Result<Vec<Tensor>, OpError>;
}

/// A body that is made ready when it is run.
pub(crate) struct Once<'g>(pub(crate) &'g Graph);

impl RunBody for Once<'_> {
    fn run(&self, inputs: Vec<Option<Slot<'_>>>, outputs: usize) -> Result<Vec<Tensor>, OpError> {
        Body::new(self.0)?.run(inputs, outputs)
    }
}

/// A value during a run of a body.
pub(crate) enum Slot<'a> {
    View(TensorView<'a>),
    Owned(Tensor),
}

impl Slot<'_> {
    /// The value.
    pub(crate) fn view(&self) -> TensorView<'_> {
        match self {
            Self::View(view) => *view,
            Self::Owned(tensor) => tensor.view(),
        }
    }

    fn to_tensor(&self) -> Tensor {
        match self {
            Self::View(view) => view.to_tensor(),
            Self::Owned(tensor) => tensor.clone(),
        }
    }
}

/// A body made ready to run any number of times, node by node.
pub(crate) struct Body<'g> {
    graph: &'g Graph,
    weights: Vec<Option<Tensor>>,
    /// For each node, the values that no later node reads.
    done: Vec<Vec<ValueId>>,
}

impl<'g> Body<'g> {
    /// # Errors
    /// When a sparse weight is not valid.
    pub(crate) fn new(graph: &'g Graph) -> Result<Self, OpError> {
        let dense = |weight: &poda_formats::Weight| {
            weight
                .to_dense()
                .map_err(|error| OpError::Invalid(format!("a weight of {:?}: {error}", graph.name)))
        };
        let weights = graph.values.iter().map(|v| v.weight.as_ref().map(dense).transpose());
        let weights = weights.collect::<Result<_, _>>()?;
        let mut used: Vec<bool> = vec![false; graph.values.len()];
        graph.outputs.iter().for_each(|id| used[id.index()] = true);
        let mut done = vec![Vec::new(); graph.nodes.len()];
        for (node, done) in graph.nodes.iter().zip(&mut done).rev() {
            for &id in node.inputs.iter().flatten() {
                if !std::mem::replace(&mut used[id.index()], true) {
                    done.push(id);
                }
            }
        }
        Ok(Self { graph, weights, done })
    }
}

impl RunBody for Body<'_> {
    fn run(&self, inputs: Vec<Option<Slot<'_>>>, outputs: usize) -> Result<Vec<Tensor>, OpError> {
        check(self.graph, inputs.len(), outputs)?;
        let mut values: Vec<Option<Slot<'_>>> =
            self.weights.iter().map(|w| w.as_ref().map(|w| Slot::View(w.view()))).collect();
        for (id, value) in self.graph.inputs.iter().zip(inputs) {
            values[id.index()] = value;
        }
        for (node, done) in self.graph.nodes.iter().zip(&self.done) {
            let results = step(node, &values).map_err(|error| inside(self.graph, node, error))?;
            for (id, result) in node.outputs.iter().zip(results) {
                if let (Some(id), Some(result)) = (id, result) {
                    values[id.index()] = Some(Slot::Owned(result));
                }
            }
            done.iter().for_each(|id| values[id.index()] = None);
        }
        let result = |id: &ValueId| {
            let missing = || OpError::Invalid(format!("{:?} was not made", self.graph.value(*id).name));
            values[id.index()].as_ref().map(Slot::to_tensor).ok_or_else(missing)
        };
        self.graph.outputs.iter().map(result).collect()
    }
}

/// Runs one node.
fn step(node: &Node, values: &[Option<Slot<'_>>]) -> Result<Vec<Option<Tensor>>, OpError> {
    let view = |id: ValueId| values[id.index()].as_ref().map(Slot::view);
    let inputs: Vec<_> = node.inputs.iter().map(|id| id.and_then(view)).collect();
    let mut outputs: Vec<_> = node
        .outputs
        .iter()
        .map(|id| if id.is_some() { Output::Fresh(None) } else { Output::Unused })
        .collect();
    run(&node.op, &inputs, &mut outputs)?;
    let tensor = |(output, id): (Output<'_>, &Option<ValueId>)| id.map(|_| output.into_tensor()).transpose();
    outputs.into_iter().zip(&node.outputs).map(tensor).collect()
}
