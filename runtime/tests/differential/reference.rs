//! The specification: every operator on its own, in order, with fresh outputs; in f32, and in f64 to know how exact f32
//! can be.

use std::collections::HashMap;

use poda_formats::{DataType, Graph, Tensor, ValueId};
use poda_runtime::{Output, ops};

/// Values of the graph, by id, from these feeds.
pub(crate) fn run(graph: &Graph, feeds: &[(String, Tensor)]) -> HashMap<ValueId, Tensor> {
    let mut values: HashMap<ValueId, Tensor> = HashMap::new();
    for (index, value) in graph.values.iter().enumerate() {
        let id = ValueId(index as u32);
        if let Some(weight) = &value.weight {
            values.insert(id, weight.to_dense().expect("a valid weight"));
        } else if let Some((_, tensor)) = feeds.iter().find(|(name, _)| *name == value.name) {
            values.insert(id, tensor.clone());
        }
    }
    for node in &graph.nodes {
        let inputs: Vec<_> = node.inputs.iter().map(|i| i.map(|id| values[&id].view())).collect();
        let mut outputs: Vec<_> = node.outputs.iter().map(|_| Output::Fresh(None)).collect();
        ops::run(&node.op, &inputs, &mut outputs).unwrap_or_else(|e| panic!("{}: {e}", node.op.name()));
        for (id, output) in node.outputs.iter().zip(outputs) {
            let Output::Fresh(Some(tensor)) = output else { panic!("{} left {output:?}", node.op.name()) };
            values.insert(id.expect("every output has a name"), tensor.into_tensor());
        }
    }
    values
}

/// The same graph in f64.
pub(crate) fn widened(graph: &Graph) -> Graph {
    let mut graph = graph.clone();
    for value in &mut graph.values {
        if let Some(weight) = &value.weight {
            value.weight = Some(wide(&weight.to_dense().expect("a valid weight")).into());
        }
    }
    graph
}

/// A tensor in f64, if it is of f32.
pub(crate) fn wide(tensor: &Tensor) -> Tensor {
    match tensor.as_slice::<f32>() {
        Ok(values) if tensor.dtype() == DataType::F32 => {
            Tensor::from_slice(tensor.shape(), &values.iter().map(|&v| f64::from(v)).collect::<Vec<_>>())
        }
        _ => tensor.clone(),
    }
}

/// Whether `found` is `exact` as well as f32 can: `plain` is what the operators give in f32, one by one.
pub(crate) fn compare(found: &Tensor, plain: &Tensor, exact: &Tensor) -> Result<(), String> {
    if (found.dtype(), found.shape()) != (plain.dtype(), plain.shape()) {
        return Err(format!(
            "{} {:?}, expected {} {:?}",
            found.dtype(),
            found.shape(),
            plain.dtype(),
            plain.shape()
        ));
    }
    let shape = found.shape();
    let (Ok(found), Ok(plain), Ok(exact)) =
        (found.as_slice::<f32>(), plain.as_slice::<f32>(), exact.as_slice::<f64>())
    else {
        return if found.bytes() == plain.bytes() {
            Ok(())
        } else {
            Err(format!("{found:?}, expected {plain:?}"))
        };
    };
    // Roundings of other orders of the same sums are about as large.
    let error = plain.iter().zip(exact).map(|(&p, &e)| (f64::from(p) - e).abs());
    let error = error.filter(|e| e.is_finite()).fold(0.0, f64::max);
    for (i, ((&found, &plain), &exact)) in found.iter().zip(plain).zip(exact).enumerate() {
        let agrees = if exact.is_nan() {
            found.is_nan()
        } else if !exact.is_finite() || !plain.is_finite() {
            // Beyond what f32 holds.
            true
        } else {
            (f64::from(found) - exact).abs() <= 3e-5 * (1.0 + exact.abs()) + 16.0 * error
        };
        if !agrees {
            return Err(format!(
                "element {i} of {shape:?} is {found}, expected {exact} ({plain} by operators in f32)"
            ));
        }
    }
    Ok(())
}
