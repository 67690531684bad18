//! Rows of a vocabulary, cut by a list of ids that stay.
//!
//! The table that a `Gather` looks ids up in keeps the rows of these ids, in their order. Before the `Gather` another maps old ids to the
//! new ones, so that the model is fed as before; ids that went are taken for one that stays, such as that of an unknown word.

use std::collections::BTreeMap;

use poda_formats::weight::SparseError;
use poda_formats::{DataType, Graph, Op, Tensor, ValueId, Weight};
use serde::{Deserialize, Serialize};

use crate::compact::Rewrite;
use crate::masks::Kept;
use crate::names;
use crate::slice::slice_dims;

/// The rows of a table that stay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeptIds {
    /// Name of the table, or a pattern that fits the name of one; see [`crate::names`].
    pub table: String,
    /// Which of them ids that went are taken for.
    pub unknown: u64,
    /// The ids that stay, in any order.
    pub ids: Vec<u64>,
}

/// Why rows of a vocabulary cannot be cut.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum VocabularyError {
    #[error(
        "{pattern:?} fits {found} of the tables that ids are looked up in, expected one; there are {tables}"
    )]
    Table { pattern: String, found: usize, tables: String },
    #[error("id {id} is beyond the {rows} rows of table {table:?}")]
    Id { id: u64, rows: usize, table: String },
    #[error(
        "ids that went from table {table:?} are to be taken for id {unknown}, which does not stay itself: add it to those that stay, \
         or name another"
    )]
    Unknown { table: String, unknown: u64 },
    #[error(
        "table {table:?} is used by node {node:?} ({op}) too, which needs all of its rows; only tables that ids alone are looked \
         up in can lose rows"
    )]
    Used { table: String, node: String, op: String },
    #[error("a sparse weight cannot be read: {0}")]
    Weight(#[from] SparseError),
}

/// `graph` with only these rows of its tables, fed as before; and what stays of each.
///
/// # Errors
/// When a name fits no table or several, an id is out of range, or others need the rows.
pub fn keep_ids(graph: &Graph, tables: &[KeptIds]) -> Result<(Graph, Vec<Kept>), VocabularyError> {
    let mut rewrite = Rewrite::new(graph.clone());
    let mut all = Vec::new();
    for wanted in tables {
        let id = table(graph, &wanted.table)?;
        let name = &graph.value(id).name;
        let Some(weight) = graph.weight(id) else { continue };
        let rows = weight.shape()[0];
        let mut kept = vec![false; rows];
        for &id in &wanted.ids {
            let place = usize::try_from(id).ok().and_then(|at| kept.get_mut(at));
            *place.ok_or_else(|| VocabularyError::Id { id, rows, table: name.clone() })? = true;
        }
        let unknown = usize::try_from(wanted.unknown).ok().filter(|&at| kept.get(at) == Some(&true));
        let unknown = unknown
            .ok_or_else(|| VocabularyError::Unknown { table: name.clone(), unknown: wanted.unknown })?;
        let looked_up = lookups(graph, id)?;
        let indices: Vec<usize> = (0..rows).filter(|&at| kept[at]).collect();
        let mut map = vec![0_i64; rows];
        indices.iter().enumerate().for_each(|(new, &old)| map[old] = new as i64);
        let missing = map[unknown];
        map.iter_mut().zip(&kept).filter(|(_, kept)| !**kept).for_each(|(to, _)| *to = missing);
        let map = rewrite.constant(&format!("{name}.ids"), Tensor::from_slice(&[rows], &map));
        // Ids that several look up are mapped once.
        let mut mapped: BTreeMap<ValueId, ValueId> = BTreeMap::new();
        for node in looked_up {
            let Some(ids) = rewrite.graph.nodes[node].input(1) else { continue };
            let new = *mapped.entry(ids).or_insert_with(|| {
                let base = format!("{}.kept", graph.value(ids).name);
                rewrite.insert_before(node, Op::Gather { axis: 0 }, &[map, ids], &base, ids)
            });
            rewrite.graph.value_mut(new).dtype = Some(DataType::I64);
            rewrite.graph.nodes[node].inputs[1] = Some(new);
        }
        let smaller = slice_dims(&weight.to_dense()?, &[Some(kept)]);
        let value = rewrite.graph.value_mut(id);
        (value.shape, value.weight) = (None, Some(Weight::Tensor(smaller)));
        all.push(Kept { weight: name.clone(), dim: 0, of: rows, indices });
    }
    Ok((rewrite.finish(), all))
}

/// The one table whose name fits.
fn table(graph: &Graph, pattern: &str) -> Result<ValueId, VocabularyError> {
    let mut tables: Vec<ValueId> = graph
        .nodes
        .iter()
        .filter(|node| matches!(node.op, Op::Gather { axis: 0 }))
        .filter_map(|node| node.input(0).filter(|&id| graph.weight(id).is_some_and(|w| w.shape().len() == 2)))
        .collect();
    tables.sort_unstable();
    tables.dedup();
    let name = |id: &ValueId| graph.value(*id).name.as_str();
    let fitting: Vec<ValueId> = tables.iter().copied().filter(|id| names::fits(pattern, name(id))).collect();
    match fitting[..] {
        [table] => Ok(table),
        _ => {
            let names: Vec<&str> = tables.iter().map(name).collect();
            let tables = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            Err(VocabularyError::Table { pattern: pattern.to_owned(), found: fitting.len(), tables })
        }
    }
}

/// The nodes that look ids up in a table; in the body of a loop or a branch nothing may read it.
fn lookups(graph: &Graph, table: ValueId) -> Result<Vec<usize>, VocabularyError> {
    let mut found = Vec::new();
    let name = &graph.value(table).name;
    let used =
        |node: String, op: &str| VocabularyError::Used { table: name.clone(), node, op: op.to_owned() };
    for (index, node) in graph.nodes.iter().enumerate() {
        let within = |body: &Graph| {
            body.with_bodies().iter().any(|graph| graph.values.iter().any(|value| value.name == *name))
        };
        if node.op.bodies().into_iter().any(within) {
            return Err(used(node.name.clone(), node.op.name()));
        }
        for at in (0..node.inputs.len()).filter(|&at| node.inputs[at] == Some(table)) {
            match node.op {
                Op::Gather { axis: 0 } if at == 0 => found.push(index),
                _ => return Err(used(node.name.clone(), node.op.name())),
            }
        }
    }
    if graph.outputs.contains(&table) {
        return Err(used(String::new(), "an output of the model"));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use poda_formats::{Dim, TensorView};
    use poda_runtime::{Model, Options};

    use super::*;

    /// Two lookups of the same ids in a table of 5 rows, and one in another table; `tied` multiplies with the first, too.
    fn graph(tied: bool) -> Graph {
        let mut graph = Graph::default();
        let ids = graph.add_input("ids", DataType::I64, vec![Dim::Symbol("n".into())]);
        let words: Vec<f32> = (0..10).map(|v| v as f32).collect();
        let words = graph.add_weight("words", Tensor::from_slice(&[5, 2], &words));
        let kinds = graph.add_weight("kinds", Tensor::from_slice(&[5, 2], &[0.5_f32; 10]));
        let a = graph.add_node(Op::Gather { axis: 0 }, &[words, ids], "a");
        let b = graph.add_node(Op::Gather { axis: 0 }, &[words, ids], "b");
        let c = graph.add_node(Op::Gather { axis: 0 }, &[kinds, ids], "c");
        graph.outputs = vec![a, b, c];
        if tied {
            let turned = graph.add_node(Op::Transpose { perm: vec![1, 0] }, &[words], "turned");
            let logits = graph.add_node(Op::MatMul, &[a, turned], "logits");
            graph.outputs.push(logits);
        }
        graph
    }

    fn run(graph: &Graph, ids: &[i64]) -> Vec<Vec<f32>> {
        let options = Options { threads: Some(1), tune: false, ..Options::default() };
        let executable = Model::from_graph(graph.clone()).unwrap().prepare(options).unwrap();
        let fed = TensorView::from_slice(&[4], ids);
        let outputs = executable.run(&[("ids", fed)]).unwrap();
        outputs.iter().map(|(_, tensor)| tensor.as_slice::<f32>().unwrap().to_vec()).collect()
    }

    fn wanted(table: &str, ids: &[u64], unknown: u64) -> [KeptIds; 1] {
        [KeptIds { table: table.to_owned(), ids: ids.to_vec(), unknown }]
    }

    #[test]
    fn kept_ids_give_what_they_gave_and_others_the_unknown_one() {
        let graph = graph(false);
        let (smaller, kept) = keep_ids(&graph, &wanted("word*", &[4, 1, 3, 1], 1)).unwrap();
        let expected = Kept { weight: "words".into(), dim: 0, of: 5, indices: vec![1, 3, 4] };
        assert_eq!(kept, [expected]);
        assert_eq!(smaller.weight(smaller.find("words").unwrap()).unwrap().shape(), [3, 2]);
        assert_eq!(smaller.nodes.len(), graph.nodes.len() + 1);
        // Ids that stay, from the end too; 0 and 2 went, from this table only.
        assert_eq!(run(&smaller, &[4, 1, -2, 3]), run(&graph, &[4, 1, -2, 3]));
        let [found, as_unknown] = [run(&smaller, &[0, 2, 4, 1]), run(&graph, &[1, 1, 4, 1])];
        assert_eq!(found[..2], as_unknown[..2]);
        assert_eq!(found[2], run(&graph, &[0, 2, 4, 1])[2]);
    }

    #[test]
    fn what_cannot_be_cut_is_refused() {
        for (graph, wanted, message) in [
            (
                graph(false),
                wanted("w", &[1], 1),
                "\"w\" fits 0 of the tables that ids are looked up in, expected one; there are words, kinds",
            ),
            (
                graph(false),
                wanted("*", &[1], 1),
                "\"*\" fits 2 of the tables that ids are looked up in, expected one; there are words, kinds",
            ),
            (graph(false), wanted("words", &[1, 5], 1), "id 5 is beyond the 5 rows of table \"words\""),
            (
                graph(false),
                wanted("words", &[1], 2),
                "ids that went from table \"words\" are to be taken for id 2, which does not stay itself: add it to those that stay, \
                 or name another",
            ),
            (
                graph(true),
                wanted("words", &[1], 1),
                "table \"words\" is used by node \"turned\" (Transpose) too, which needs all of its rows; only tables that ids \
                 alone are looked up in can lose rows",
            ),
        ] {
            assert_eq!(keep_ids(&graph, &wanted).unwrap_err().to_string(), message);
        }
    }
}
