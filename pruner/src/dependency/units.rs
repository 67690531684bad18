//! Units, sets of removed ones, and what they leave of an axis.

use super::DependencyGraph;
use super::axis::AxisId;

/// Number of a unit within its [`DependencyGraph`].
pub type UnitId = usize;

/// A set of removed units.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removal {
    removed: Vec<bool>,
}

impl Removal {
    /// No unit of `dependencies`.
    pub fn none(dependencies: &DependencyGraph) -> Self {
        Self { removed: vec![false; dependencies.unit_count()] }
    }

    /// Adds a unit.
    ///
    /// # Panics
    /// When the unit is of another graph.
    pub fn remove(&mut self, unit: UnitId) {
        self.removed[unit] = true;
    }

    /// Takes a unit out of the set.
    ///
    /// # Panics
    /// When the unit is of another graph.
    pub fn restore(&mut self, unit: UnitId) {
        self.removed[unit] = false;
    }

    /// Whether a unit is in the set.
    ///
    /// # Panics
    /// When the unit is of another graph.
    pub fn contains(&self, unit: UnitId) -> bool {
        self.removed[unit]
    }

    /// Number of units in the set.
    pub fn len(&self) -> usize {
        self.removed.iter().filter(|&&r| r).count()
    }

    /// Whether nothing is removed.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl DependencyGraph {
    /// Calls `visit` with each index of an axis and each unit, of those that may go, that it needs.
    pub fn for_each_unit(&self, axis: AxisId, visit: &mut dyn FnMut(usize, UnitId)) {
        self.table.for_each_unit(axis, &mut |index, leaf, unit| {
            if let Some(first) = self.first_unit.get(&leaf) {
                visit(index, first + unit);
            }
        });
    }

    /// The axes of all values of which some unit may go, each once.
    pub fn shrinking_axes(&self) -> Vec<AxisId> {
        let roots = self.layouts.iter().flatten().flat_map(|l| &l.axes).map(|&axis| self.table.root(axis));
        let mut axes: Vec<AxisId> = roots.collect();
        axes.sort_unstable();
        axes.dedup();
        axes.retain(|&axis| self.can_shrink(axis));
        axes
    }

    /// Whether some unit of an axis may go.
    pub fn can_shrink(&self, axis: AxisId) -> bool {
        self.table.leaves(axis).iter().any(|leaf| self.first_unit.contains_key(leaf))
    }

    /// For each index of an axis whether it stays; `None` when all do.
    pub fn kept(&self, axis: AxisId, removal: &Removal) -> Option<Vec<bool>> {
        if !self.can_shrink(axis) {
            return None;
        }
        let mut kept = vec![true; self.size(axis)];
        self.for_each_unit(axis, &mut |index, unit| kept[index] &= !removal.contains(unit));
        kept.contains(&false).then_some(kept)
    }

    /// Number of indices of an axis that stay.
    pub fn kept_count(&self, axis: AxisId, removal: &Removal) -> usize {
        self.kept(axis, removal).map_or(self.size(axis), |kept| kept.iter().filter(|&&k| k).count())
    }
}
