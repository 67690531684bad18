//! Outputs of the model that say the same of every sample, because none of their weights is left.

use poda_formats::op::{Op, OpClass};
use poda_formats::{Graph, ValueId};

use crate::criterion::float_values;

/// A note on each matrix that makes an output of the model, where rows of it have gone that were there in `dense`. Criteria by
/// gradients do that when layers do not compete: a class that the model never takes for another has none to speak of.
pub(crate) fn silent_outputs(dense: &Graph, pruned: &Graph) -> Vec<String> {
    let empty = |graph: &Graph, id: ValueId| -> Option<[usize; 2]> {
        let form = *graph.matrix_uses().get(&id)?;
        let values = float_values(&graph.weight(id)?.to_dense().ok()?)?;
        let (rows, cols) = (form.rows_of(&values), form.cols.max(1));
        let empty = rows.chunks(cols).filter(|row| row.iter().all(|&v| v == 0.0)).count();
        Some([empty, rows.len() / cols])
    };
    let note = |id: ValueId| {
        let name = &pruned.value(id).name;
        let [now, of] = empty(pruned, id)?;
        let [before, _] = dense.find(name).and_then(|id| empty(dense, id)).unwrap_or_default();
        (now > before && now < of).then(|| {
            format!(
                "no weight is left of {now} of the {of} outputs of {name:?}, which are the model's: these say the same of every \
                 sample; leave it alone (exclude), or let layers compete (scope global)"
            )
        })
    };
    last_matrices(pruned).into_iter().filter_map(note).collect()
}

/// The matrices after which only elementwise operators, softmax and movements come.
fn last_matrices(graph: &Graph) -> Vec<ValueId> {
    let (producers, uses) = (graph.producers(), graph.matrix_uses());
    let (mut left, mut seen, mut found) =
        (graph.outputs.clone(), vec![false; graph.values.len()], Vec::new());
    while let Some(id) = left.pop() {
        let Some(index) = producers[id.index()].filter(|_| !std::mem::replace(&mut seen[id.index()], true))
        else {
            continue;
        };
        let node = &graph.nodes[index];
        let inputs = || node.inputs.iter().flatten().copied();
        let matrices: Vec<ValueId> = inputs().filter(|id| uses.contains_key(id)).collect();
        if !matrices.is_empty() {
            found.extend(matrices);
            continue;
        }
        let passes = matches!(node.op, Op::Softmax { .. })
            || node.op.rearranges()
            || node.op.class() == OpClass::Elementwise;
        // With two that are computed, such as where a shortcut is added, the other still speaks.
        let computed: Vec<ValueId> = inputs().filter(|&id| graph.weight(id).is_none()).collect();
        if let ([one], true) = (&computed[..], passes) {
            left.push(*one);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use poda_formats::op::{Binary, SoftmaxKind, Unary};
    use poda_formats::{DataType, Dim, Tensor};

    use super::*;

    /// Scores of three classes from two features; a bias or a shortcut, softmax.
    fn graph(head: [f32; 6], shortcut: bool) -> Graph {
        let mut graph = Graph::default();
        let x = graph.add_input("x", DataType::F32, vec![Dim::Symbol("batch".into()), Dim::Fixed(2)]);
        let hidden = graph.add_weight("hidden", Tensor::from_slice(&[2, 2], &[0.0_f32, 1.0, 0.0, 1.0]));
        let head = graph.add_weight("head", Tensor::from_slice(&[2, 3], &head));
        let bias = graph.add_weight("bias", Tensor::from_slice(&[3], &[1.0_f32, 2.0, 3.0]));
        let y = graph.add_node(Op::MatMul, &[x, hidden], "features");
        let scores = graph.add_node(Op::MatMul, &[y, head], "scores");
        let other = if shortcut { graph.add_node(Op::Unary(Unary::Relu), &[scores], "other") } else { bias };
        let y = graph.add_node(Op::Binary(Binary::Add), &[scores, other], "sum");
        let y = graph.add_node(Op::Softmax { axis: -1, kind: SoftmaxKind::Softmax }, &[y], "shares");
        graph.outputs.push(y);
        graph
    }

    #[test]
    fn classes_without_weights_are_told() {
        let dense = graph([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], false);
        // (As [2, 3]: a column is a class. Hidden units may go.)
        let notes = silent_outputs(&dense, &graph([0.0, 2.0, 0.0, 0.0, 5.0, 0.0], false));
        assert!(
            matches!(&notes[..], [note] if note.starts_with("no weight is left of 2 of the 3 outputs of \"head\""))
        );
        let quiet = graph([0.0, 2.0, 0.0, 0.0, 5.0, 0.0], false);
        for (dense, pruned) in [
            (&dense, graph([1.0, 0.0, 3.0, 0.0, 5.0, 0.0], false)),
            (&quiet, quiet.clone()),
            (&dense, graph([0.0; 6], false)),
            (&dense, graph([0.0, 2.0, 0.0, 0.0, 5.0, 0.0], true)),
        ] {
            assert_eq!(silent_outputs(dense, &pruned), [""; 0]);
        }
    }
}
