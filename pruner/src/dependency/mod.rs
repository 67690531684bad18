//! Which weights must shrink together.
//!
//! The [`DependencyGraph`] gives every dimension of every value an [`axis`]. Each operator's rule (`rules`) makes axes
//! the same, blocks them with a reason, or notes what else changes when units go ([`Fix`]); weights are values like
//! any others, whose axes start free. What is left unblocked in the end can be removed, a *unit* (channel, head, head
//! dimension, hidden unit, …) at a time, from every weight that has it.
//!
//! **What removal means.** The masked model has zero in every weight slice of a removed unit, in the layers that make
//! it *and* in those that use it. Rules block whatever else a unit could reach: sums where it would not be zero,
//! softmax, means and variances. The compacted model therefore computes what the masked one does. Means over zeros
//! that have gone are rescaled ([`Fix::Mean`]), so that root-mean-square normalisation is no obstacle; layer
//! normalisation is one, because its mean shifts even the removed units.

pub mod axis;
mod build;
pub mod facts;
mod group;
mod reason;
mod rules;
#[cfg(test)]
mod tests;
mod units;

pub use build::{Contraction, Fix, Layout, Selection};
pub use facts::Facts;
pub use group::{ChannelGroup, GroupId, Member, RefusedGroup};
pub use reason::{Reason, Why};
pub use units::{Removal, UnitId};

use std::collections::HashMap;

use poda_formats::{Graph, ValueId};

use axis::{AxisId, AxisTable};

/// Axes of all values of a graph, and the groups of units that go together.
#[derive(Debug, Clone)]
pub struct DependencyGraph {
    table: AxisTable,
    layouts: Vec<Option<Layout>>,
    fixes: Vec<(usize, Fix)>,
    contractions: Vec<Contraction>,
    wide: Vec<AxisId>,
    /// First unit of each leaf that may shrink.
    first_unit: HashMap<AxisId, UnitId>,
    units: usize,
    groups: Vec<ChannelGroup>,
    refused: Vec<RefusedGroup>,
    alternatives: Vec<Vec<GroupId>>,
}

impl DependencyGraph {
    /// Follows every dimension through `graph`. Near linear in the number of nodes.
    pub fn new(graph: &Graph, facts: Facts<'_>) -> Self {
        let mut builder = build::Builder::new(graph, facts);
        builder.walk();
        let build::Builder { table, layouts, fixes, contractions, wide, .. } = builder;
        let wide = wide.into_iter().map(|axis| table.root(axis)).collect();
        let mut this = Self {
            table,
            layouts,
            fixes,
            contractions,
            wide,
            first_unit: HashMap::new(),
            units: 0,
            groups: Vec::new(),
            refused: Vec::new(),
            alternatives: Vec::new(),
        };
        this.collect_groups(graph);
        this
    }

    /// Groups of units that may go.
    pub fn groups(&self) -> &[ChannelGroup] {
        &self.groups
    }

    /// Groups that must stay whole, and why.
    pub fn refused(&self) -> &[RefusedGroup] {
        &self.refused
    }

    /// Sets of groups that are factors of one dimension (heads and head size, groups and channels of a group): taking
    /// a share of several of them takes more than that share of the dimension.
    pub fn alternatives(&self) -> &[Vec<GroupId>] {
        &self.alternatives
    }

    /// Number of units in all groups.
    pub fn unit_count(&self) -> usize {
        self.units
    }

    /// What nodes need when units go, by node.
    pub fn fixes(&self) -> &[(usize, Fix)] {
        &self.fixes
    }

    /// Where axes end.
    pub fn contractions(&self) -> &[Contraction] {
        &self.contractions
    }

    /// The axes of a value, when its shape is known.
    pub fn layout(&self, id: ValueId) -> Option<&Layout> {
        self.layouts.get(id.index())?.as_ref()
    }

    /// How many indices of an axis must stay: one, or two where a size of one would mean something else.
    pub fn least(&self, axis: AxisId) -> usize {
        let two = self.size(axis) > 1 && self.wide.contains(&self.table.root(axis));
        1 + usize::from(two)
    }

    /// Number of indices along an axis before removal.
    pub fn size(&self, axis: AxisId) -> usize {
        self.table.size(axis)
    }
}
