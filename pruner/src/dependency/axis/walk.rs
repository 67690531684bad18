//! Reading axes: their leaves, and the units behind each index.

use super::super::reason::Reason;
use super::{Axis, AxisId, AxisTable};

impl AxisTable {
    /// The leaves of an axis, each as often as it occurs, with whether it stands beside other factors.
    pub fn leaves(&self, id: AxisId) -> Vec<AxisId> {
        let id = self.root(id);
        match &self.axes[id.0 as usize] {
            Axis::Leaf { .. } => vec![id],
            Axis::Product(inner) | Axis::Sum(inner) => inner.iter().flat_map(|&i| self.leaves(i)).collect(),
            Axis::Link(_) => Vec::new(),
        }
    }

    /// Why the units of a leaf must stay; `None` when they may go.
    pub fn block_of(&self, leaf: AxisId) -> Option<Reason> {
        match self.axes[self.root(leaf).0 as usize] {
            Axis::Leaf { block, .. } => block,
            Axis::Product(_) | Axis::Sum(_) | Axis::Link(_) => None,
        }
    }

    /// Leaves with the same origin were cut from the units of one layer, and compete with each other when units are
    /// ranked.
    pub fn origin(&self, leaf: AxisId) -> Option<u32> {
        match self.axes[self.root(leaf).0 as usize] {
            Axis::Leaf { origin, .. } => Some(origin),
            Axis::Product(_) | Axis::Sum(_) | Axis::Link(_) => None,
        }
    }

    /// For each product within an axis the leaves of each of its factors.
    pub fn products(&self, id: AxisId) -> Vec<Vec<Vec<AxisId>>> {
        match &self.axes[self.root(id).0 as usize] {
            Axis::Leaf { .. } | Axis::Link(_) => Vec::new(),
            Axis::Sum(parts) => parts.iter().flat_map(|&part| self.products(part)).collect(),
            Axis::Product(factors) => {
                let mut all: Vec<_> = factors.iter().flat_map(|&f| self.products(f)).collect();
                if factors.len() > 1 {
                    all.push(factors.iter().map(|&f| self.leaves(f)).collect());
                }
                all
            }
        }
    }

    /// Calls `visit` with each index of the axis and each unit `(leaf, index in the leaf)` that it needs.
    pub fn for_each_unit(&self, id: AxisId, visit: &mut dyn FnMut(usize, AxisId, usize)) {
        self.visit(id, 0, 1, 1, visit);
    }

    /// Visits the units of `id` for indices `start + (o · size + i) · inner + j`, `o < outer`, `j < inner`.
    fn visit(
        &self,
        id: AxisId,
        start: usize,
        outer: usize,
        inner: usize,
        visit: &mut dyn FnMut(usize, AxisId, usize),
    ) {
        let mut places: Vec<(AxisId, usize, usize, usize, usize)> = Vec::new();
        // (axis, start, copies, distance of copies, elements per unit)
        places.push((id, start, outer, self.size(id) * inner, inner));
        while let Some((id, start, copies, distance, inner)) = places.pop() {
            let id = self.root(id);
            match &self.axes[id.0 as usize] {
                Axis::Leaf { .. } => {
                    for copy in 0..copies {
                        for unit in 0..self.size(id) {
                            for j in 0..inner {
                                visit(start + copy * distance + unit * inner + j, id, unit);
                            }
                        }
                    }
                }
                Axis::Sum(parts) => {
                    let mut at = start;
                    for &part in parts {
                        places.push((part, at, copies, distance, inner));
                        at += self.size(part) * inner;
                    }
                }
                Axis::Product(factors) => {
                    // Every setting of the factors before one is a copy of it.
                    let total: usize = factors.iter().map(|&f| self.size(f)).product::<usize>() * inner;
                    let mut before = 1;
                    let mut after = total;
                    for &factor in factors {
                        let span = after;
                        after /= self.size(factor).max(1);
                        for copy in 0..copies {
                            places.push((factor, start + copy * distance, before, span, after));
                        }
                        before *= self.size(factor);
                    }
                }
                Axis::Link(_) => {}
            }
        }
    }
}
