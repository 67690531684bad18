//! Random inputs that a model accepts: seeded, and valid where the graph tells what valid means.
//!
//! Floats are uniform in -1..1. Integers that index a table (through casts and reshapes) stay within it; other integers,
//! booleans, and whatever is named like a mask are ones.

use std::collections::BTreeMap;

use poda_formats::storage::{AlignedBytes, Storage};
use poda_formats::tensor::checked_bytes;
use poda_formats::{DataType, Graph, Op, Tensor, ValueId};

use crate::analysis::{self, Analysis};

/// Why no feed can be made up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum RandomFeedError {
    #[error("input {input:?} has no element type in the model")]
    NoType { input: String },
    #[error("input {input:?} has no shape")]
    NoShape { input: String },
    #[error("input {input:?}: shape {shape:?} of {dtype} takes more memory than there is")]
    TooLarge { input: String, dtype: DataType, shape: Vec<usize> },
}

/// One tensor for each input of the graph, in order, with its name. `shapes` gives the concrete shape of each input.
///
/// # Errors
/// When an input lacks a type or a shape.
pub fn random_feeds(
    graph: &Graph,
    shapes: &BTreeMap<String, Vec<usize>>,
    seed: u64,
) -> Result<Vec<(String, Tensor)>, RandomFeedError> {
    let facts = analysis::analyze(graph, shapes);
    let consumers = graph.consumers();
    let mut random = SplitMix64(seed);
    let feed = |&id: &ValueId| {
        let value = graph.value(id);
        let input = value.name.clone();
        let Some(dtype) = value.dtype else { return Err(RandomFeedError::NoType { input }) };
        let Some(shape) = shapes.get(&input) else { return Err(RandomFeedError::NoShape { input }) };
        let Some(mut data) = checked_bytes(dtype, shape).and_then(AlignedBytes::try_zeroed) else {
            return Err(RandomFeedError::TooLarge { input, dtype, shape: shape.clone() });
        };
        let mask = input.to_ascii_lowercase().contains("mask");
        let bound = if dtype.is_float() || mask { None } else { table_rows(graph, &facts, &consumers, id) };
        for element in data.chunks_exact_mut(dtype.size()) {
            let bytes = if dtype.is_float() {
                float_bytes(dtype, if mask { 1.0 } else { random.float() })
            } else {
                bound.map_or(1, |rows| random.next() % (rows as u64).max(1)).to_le_bytes()
            };
            element.copy_from_slice(&bytes[..dtype.size()]);
        }
        let tensor =
            Tensor::new(dtype, shape.clone(), Storage::owned(data)).expect("allocated for this shape");
        Ok((input, tensor))
    };
    graph.inputs.iter().map(feed).collect()
}

/// The little-endian bytes of `x` as a number of a float type, in front.
fn float_bytes(dtype: DataType, x: f32) -> [u8; 8] {
    let bits = match dtype {
        DataType::F64 => f64::from(x).to_bits(),
        DataType::F16 => half::f16::from_f32(x).to_bits().into(),
        DataType::BF16 => half::bf16::from_f32(x).to_bits().into(),
        _ => x.to_bits().into(),
    };
    bits.to_le_bytes()
}

/// The smallest extent that elements of `id` index, following them through nodes that only move or cast them.
fn table_rows(graph: &Graph, facts: &Analysis, consumers: &[Vec<usize>], id: ValueId) -> Option<usize> {
    let mut bound = None;
    let mut seen = vec![false; graph.values.len()];
    let mut open = vec![id];
    while let Some(id) = open.pop() {
        if std::mem::replace(&mut seen[id.index()], true) {
            continue;
        }
        for &index in &consumers[id.index()] {
            let node = &graph.nodes[index];
            let extent = |axis: i64| {
                let shape = facts.shape(node.input(0)?)?;
                let axis = if axis < 0 { axis + shape.len() as i64 } else { axis };
                shape.get(usize::try_from(axis).ok()?).copied()
            };
            let indexes = node.input(1) == Some(id);
            let rows = match &node.op {
                Op::Gather { axis } | Op::GatherElements { axis } | Op::ScatterElements { axis, .. }
                    if indexes =>
                {
                    extent(*axis)
                }
                Op::GatherNd { batch_dims } if indexes => extent(*batch_dims as i64),
                Op::ScatterNd { .. } if indexes => extent(0),
                _ => None,
            };
            if rows.is_some() {
                bound = bound.min(rows).or(rows);
            } else if node.input(0) == Some(id) || matches!(node.op, Op::Concat { .. }) {
                let moved = if node.op.moves() { &node.outputs[..] } else { &[] };
                open.extend(moved.iter().flatten());
            }
        }
    }
    bound
}

/// Steele, Lea, Flood: "Fast splittable pseudorandom number generators", OOPSLA 2014.
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in -1..1.
    fn float(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1_u32 << 23) as f32 - 1.0
    }
}

#[cfg(test)]
mod tests {
    use poda_formats::Dim;

    use super::*;

    #[test]
    fn indices_stay_within_the_table_they_reach_and_masks_are_ones() {
        let mut g = Graph::default();
        let ids = g.add_input("ids", DataType::I64, vec![Dim::Fixed(2), Dim::Symbol("s".into())]);
        let mask = g.add_input("attention_mask", DataType::I64, vec![Dim::Fixed(2)]);
        let table = g.add_weight("table", Tensor::zeros(DataType::F32, &[5, 3]));
        let narrow = g.add_node(Op::Cast { to: DataType::I32 }, &[ids], "narrow");
        let y = g.add_node(Op::Gather { axis: 0 }, &[table, narrow], "y");
        let z = g.add_node(Op::Identity, &[mask], "z");
        g.outputs = vec![y, z];
        let shapes =
            BTreeMap::from([("ids".to_owned(), vec![2, 50]), ("attention_mask".to_owned(), vec![2])]);
        let feeds = random_feeds(&g, &shapes, 1).unwrap();
        let ids = feeds[0].1.as_slice::<i64>().unwrap();
        assert!(ids.iter().all(|i| (0..5).contains(i)) && ids.contains(&4) && ids.contains(&0));
        assert_eq!(feeds[1].1.as_slice::<i64>().unwrap(), [1, 1]);
        assert_eq!(feeds, random_feeds(&g, &shapes, 1).unwrap());
        let missing = random_feeds(&g, &BTreeMap::new(), 1);
        assert_eq!(missing, Err(RandomFeedError::NoShape { input: "ids".into() }));
    }
}
