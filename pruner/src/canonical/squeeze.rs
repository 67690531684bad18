//! A squeeze without axes drops every dimension of size 1; named, it drops those that it drops now.
//!
//! Only where no size is open: there, which dimensions go may depend on the run, and the dependency graph keeps at least
//! two of whatever must not become one.

use poda_formats::{Graph, Op, Tensor};

use crate::dependency::Facts;

/// Names the axes of every such squeeze. Gives the number of nodes changed.
pub(super) fn name_axes(graph: &mut Graph, facts: Facts<'_>) -> usize {
    let mut changed = 0;
    for at in 0..graph.nodes.len() {
        let node = &graph.nodes[at];
        let (Op::Squeeze, None, Some(data)) = (&node.op, node.input(1), node.input(0)) else { continue };
        let Some(shape) = facts.shape(data).filter(|s| (0..s.len()).all(|dim| facts.is_fixed(data, dim)))
        else {
            continue;
        };
        let axes: Vec<i64> = (0..shape.len()).filter(|&dim| shape[dim] == 1).map(|dim| dim as i64).collect();
        let name = graph.unique_name(&format!("{}.axes", node.name));
        if axes.is_empty() {
            // An empty list would mean all.
            graph.nodes[at].op = Op::Identity;
        } else {
            let axes = graph.add_weight(name, Tensor::from_slice(&[axes.len()], &axes));
            graph.nodes[at].inputs = vec![Some(data), Some(axes)];
        }
        changed += 1;
    }
    changed
}

#[cfg(test)]
mod tests {
    use poda_formats::{DataType, Dim};
    use poda_runtime::analysis::analyze;

    use super::*;

    fn squeezed(dims: Vec<Dim>) -> Graph {
        let mut graph = Graph::default();
        let x = graph.add_input("x", DataType::F32, dims);
        let y = graph.add_node(Op::Squeeze, &[x], "y");
        graph.outputs.push(y);
        let settings = crate::settings::Settings::find(&graph, &crate::settings::Shapes::new());
        name_axes(&mut graph, settings.facts());
        graph
    }

    #[test]
    fn axes_are_named_where_all_sizes_are_known() {
        let fixed = |sizes: &[usize]| squeezed(sizes.iter().map(|&s| Dim::Fixed(s)).collect());
        let graph = fixed(&[2, 1, 3, 1]);
        let axes = graph.weight(graph.nodes[0].input(1).unwrap()).unwrap().to_dense().unwrap();
        assert_eq!(axes.as_slice::<i64>().unwrap(), [1, 3]);
        let analysis = analyze(&graph, &std::collections::BTreeMap::new());
        assert_eq!(analysis.shape(graph.outputs[0]), Some(&[2, 3][..]));
        assert_eq!(fixed(&[2, 3]).nodes[0].op, Op::Identity);
        let open = squeezed(vec![Dim::Symbol("batch".into()), Dim::Fixed(3), Dim::Fixed(1)]);
        assert_eq!((open.nodes[0].op.clone(), open.nodes[0].input(1)), (Op::Squeeze, None));
    }
}
