//! Runs a graph node by node through the operators, and holds [`infer`] against [`run`](ops::run) on the way.

use poda_formats::storage::{AlignedBytes, Storage};
use poda_formats::tensor::checked_bytes;
use poda_formats::{Graph, Node, Tensor, TensorView};
use poda_runtime::ops::{self, OpError, infer};
use poda_runtime::output::FreshTensor;
use poda_runtime::{Info, Output};

use crate::Outcome;

/// The outputs of the graph.
pub(crate) fn run(graph: &Graph, inputs: &[Tensor]) -> Result<Vec<Tensor>, Outcome> {
    if inputs.len() != graph.inputs.len() {
        return Err(Outcome::Failed(format!("{} inputs for {}", inputs.len(), graph.inputs.len())));
    }
    let mut values: Vec<Option<Tensor>> = graph
        .values
        .iter()
        .map(|value| value.weight.as_ref().map(|weight| weight.to_dense().expect("a valid weight")))
        .collect();
    for (&id, tensor) in graph.inputs.iter().zip(inputs) {
        values[id.index()] = Some(tensor.clone());
    }
    for node in &graph.nodes {
        let given: Vec<Option<&Tensor>> =
            node.inputs.iter().map(|id| id.and_then(|id| values[id.index()].as_ref())).collect();
        let outputs = run_node(node, &given)?;
        for (id, tensor) in node.outputs.iter().zip(outputs) {
            if let Some(id) = id {
                values[id.index()] = tensor;
            }
        }
    }
    let outputs = graph.outputs.iter().map(|id| values[id.index()].clone());
    outputs.collect::<Option<_>>().ok_or_else(|| Outcome::Failed("an output was not computed".to_owned()))
}

fn run_node(node: &Node, inputs: &[Option<&Tensor>]) -> Result<Vec<Option<Tensor>>, Outcome> {
    let outcome = |error: OpError| match error {
        OpError::Unsupported { .. } => Outcome::Unsupported(error.to_string()),
        _ => Outcome::Failed(format!("{:?}: {error}", node.op)),
    };
    let count = node.outputs.len();
    // What is known from shapes alone, and from all elements.
    let shapes: Vec<Option<Info>> =
        inputs.iter().map(|t| t.map(|t| Info::new(t.dtype(), t.shape().to_vec()))).collect();
    let elements: Vec<Option<Info>> = inputs.iter().map(|t| t.map(|t| Info::constant(t.clone()))).collect();
    let promises = [&shapes, &elements].map(|infos| {
        let infos: Vec<Option<&Info>> = infos.iter().map(Option::as_ref).collect();
        infer(&node.op, &infos, count)
    });
    let [by_shapes, by_elements] = promises;
    let (by_shapes, by_elements) = (by_shapes.map_err(outcome)?, by_elements.map_err(outcome)?);
    if by_shapes.len() < count || by_elements.len() < count {
        let promised = by_shapes.len();
        return Err(Outcome::Failed(format!("{:?}: infer speaks of {promised} of {count} outputs", node.op)));
    }

    // Planned memory where the shape is known, full of leftovers; fresh memory elsewhere.
    let mut planned: Vec<Option<AlignedBytes>> = (0..count)
        .map(|i| {
            let len = checked_bytes(by_elements[i].dtype, by_elements[i].shape.as_ref()?)?;
            let mut bytes = AlignedBytes::zeroed(len);
            bytes.fill(0xa5);
            Some(bytes)
        })
        .collect();
    let mut outputs: Vec<Output<'_>> = planned
        .iter_mut()
        .enumerate()
        .map(|(i, bytes)| match (node.outputs[i], bytes, &by_elements[i]) {
            (None, ..) => Output::Unused,
            (Some(_), Some(bytes), Info { dtype, shape: Some(shape), .. }) => {
                Output::Planned { dtype: *dtype, shape, bytes }
            }
            (Some(_), ..) => Output::Fresh(None),
        })
        .collect();
    let views: Vec<Option<TensorView<'_>>> = inputs.iter().map(|t| t.map(Tensor::view)).collect();
    ops::run(&node.op, &views, &mut outputs).map_err(outcome)?;

    let fresh: Vec<Option<Tensor>> = outputs
        .into_iter()
        .map(|output| match output {
            Output::Fresh(tensor) => tensor.map(FreshTensor::into_tensor),
            Output::Planned { .. } | Output::Unused => None,
        })
        .collect();
    let mut tensors = Vec::with_capacity(count);
    for (i, (fresh, planned)) in fresh.into_iter().zip(planned).enumerate() {
        if node.outputs[i].is_none() {
            tensors.push(None);
            continue;
        }
        let info = &by_elements[i];
        let tensor = match (fresh, planned, &info.shape) {
            (Some(tensor), ..) => tensor,
            (None, Some(bytes), Some(shape)) => Tensor::new(info.dtype, shape.clone(), Storage::owned(bytes))
                .map_err(|error| Outcome::Failed(error.to_string()))?,
            _ => return Err(Outcome::Failed(format!("{:?}: output {i} was not written", node.op))),
        };
        for info in [&by_shapes[i], info] {
            let shape_differs = info.shape.as_ref().is_some_and(|shape| shape != tensor.shape());
            let value_differs = info.value.as_ref().is_some_and(|value| *value != tensor);
            if info.dtype != tensor.dtype() || shape_differs || value_differs {
                return Err(Outcome::Failed(format!(
                    "{:?}: output {i} is {tensor:?}, infer promised {info:?}",
                    node.op
                )));
            }
        }
        tensors.push(Some(tensor));
    }
    Ok(tensors)
}
