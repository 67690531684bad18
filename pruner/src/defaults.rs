//! Weights that a run may be fed another value for: inputs with a default.
//!
//! While a model is pruned they are inputs like any other, so that nothing is taken from their elements; afterwards they have their
//! defaults again. An exporter that makes every weight such an input means nothing by it: there all are weights.

use poda_formats::{Graph, Value};

/// `graph` with its defaults taken away, and these.
pub(crate) fn separate(graph: &Graph) -> (Graph, Vec<Value>) {
    let mut graph = graph.clone();
    let weights = || graph.values.iter().filter(|value| value.weight.is_some());
    if weights().all(|value| value.overridable) {
        graph.values.iter_mut().for_each(|value| value.overridable = false);
        return (graph, Vec::new());
    }
    let ids: Vec<_> = (0..graph.values.len() as u32).map(poda_formats::ValueId).collect();
    let mut defaults = Vec::new();
    for id in ids {
        let value = graph.value(id).clone();
        if value.overridable && value.weight.is_some() && graph.make_input(id).is_some() {
            defaults.push(value);
        }
    }
    (graph, defaults)
}

/// Gives inputs their defaults back.
pub(crate) fn restore(graph: &mut Graph, defaults: &[Value]) {
    for default in defaults {
        let Some(id) = graph.find(&default.name) else { continue };
        graph.inputs.retain(|&input| input != id);
        *graph.value_mut(id) = default.clone();
    }
}

#[cfg(test)]
mod tests {
    use poda_formats::op::Binary;
    use poda_formats::{DataType, Dim, Op, Tensor};

    use super::*;

    #[test]
    fn defaults_come_back_and_a_habit_is_no_default() {
        let mut graph = Graph::default();
        let x = graph.add_input("x", DataType::F32, vec![Dim::Fixed(2)]);
        let a = graph.add_weight("a", Tensor::from_slice(&[2], &[1.0_f32, 2.0]));
        let b = graph.add_weight("b", Tensor::from_slice(&[2], &[0.0_f32, 0.0]));
        let y = graph.add_node(Op::Binary(Binary::Mul), &[x, a], "y");
        let y = graph.add_node(Op::Binary(Binary::Add), &[y, b], "z");
        graph.outputs.push(y);
        graph.value_mut(b).overridable = true;
        let (mut separated, defaults) = separate(&graph);
        assert_eq!((separated.inputs.len(), separated.weight(b)), (2, None));
        restore(&mut separated, &defaults);
        assert_eq!(separated, graph);
        graph.value_mut(a).overridable = true;
        let (plain, defaults) = separate(&graph);
        assert!(defaults.is_empty() && plain.values.iter().all(|value| !value.overridable));
    }
}
