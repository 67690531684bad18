//! The masked model: as large as the dense one, with zeros where units are removed.

use poda_formats::op::Binary;
use poda_formats::weight::SparseError;
use poda_formats::{Graph, Op, ValueId, Weight};

use crate::dependency::{DependencyGraph, Removal};
use crate::slice::{fill_dims, one};

/// `graph` with zeros in every float weight's slice of each removed unit, in the layers that make the unit and in those
/// that use it. What divides gets ones instead, so that nothing becomes 0 / 0.
///
/// # Errors
/// When a sparse weight's values are not f32.
pub fn masked(
    graph: &Graph,
    dependencies: &DependencyGraph,
    removal: &Removal,
) -> Result<Graph, SparseError> {
    let mut masked = graph.clone();
    let mut divides = vec![false; graph.values.len()];
    for node in &graph.nodes {
        if let (Op::Binary(Binary::Div), Some(divisor)) = (&node.op, node.input(1)) {
            divides[divisor.index()] = true;
        }
    }
    for (index, value) in masked.values.iter_mut().enumerate() {
        let (Some(weight), Some(layout)) = (&value.weight, dependencies.layout(ValueId(index as u32))) else {
            continue;
        };
        let Some(one) = one(weight.dtype()) else { continue };
        let kept: Vec<_> = layout.axes.iter().map(|&axis| dependencies.kept(axis, removal)).collect();
        if kept.iter().any(Option::is_some) {
            let fill = if divides[index] { one } else { vec![0; one.len()] };
            value.weight = Some(Weight::Tensor(fill_dims(&weight.to_dense()?, &kept, &fill)));
        }
    }
    Ok(masked)
}
