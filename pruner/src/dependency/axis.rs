//! Axes: what the indices along a dimension of a value stand for.
//!
//! Two dimensions that must keep or lose the same indices have the same axis, so coupling is *unification* of axes,
//! as in type inference. An axis is one of
//! * a **leaf**: so many units, each of which can go on its own;
//! * a **product**, row-major: heads × head size, channels × height × width. An index stays if its unit of every
//!   factor stays;
//! * a **sum**: parts side by side, as Concat makes them and Split and Slice take them.
//!
//! Reshape factors axes, Concat and Split cut them, a constant Gather cuts them into single units; the refinement
//! reaches every dimension that shares the axis, because a leaf is refined in place. Whatever cannot be expressed
//! blocks the leaves involved, with a reason: blocked units never go, so no structure is needed for them.

#[cfg(test)]
mod tests;
mod walk;

use super::reason::{Reason, Why};

/// Index of an axis in its [`AxisTable`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AxisId(u32);

/// The axis of every dimension of size 1: it has no unit that could go.
pub(crate) const ONE: AxisId = AxisId(0);

#[derive(Debug, Clone)]
enum Axis {
    Link(AxisId),
    Leaf { origin: u32, block: Option<Reason> },
    Product(Vec<AxisId>),
    Sum(Vec<AxisId>),
}

/// All axes of a graph.
#[derive(Debug, Clone)]
pub struct AxisTable {
    axes: Vec<Axis>,
    sizes: Vec<usize>,
    /// Number of leaves made, not counting parts of others; see [`AxisTable::origin`].
    origins: u32,
}

impl Default for AxisTable {
    fn default() -> Self {
        Self { axes: vec![Axis::Product(Vec::new())], sizes: vec![1], origins: 0 }
    }
}

impl AxisTable {
    fn push(&mut self, size: usize, axis: Axis) -> AxisId {
        let id = AxisId(u32::try_from(self.axes.len()).expect("fewer than 2^32 axes"));
        self.axes.push(axis);
        self.sizes.push(size);
        id
    }

    fn push_leaf(&mut self, size: usize, block: Option<Reason>) -> AxisId {
        self.origins += 1;
        self.push(size, Axis::Leaf { origin: self.origins, block })
    }

    /// A new axis of `size` units.
    pub fn leaf(&mut self, size: usize) -> AxisId {
        if size == 1 { ONE } else { self.push_leaf(size, None) }
    }

    /// A new axis none of whose units can go.
    pub fn blocked(&mut self, size: usize, reason: Reason) -> AxisId {
        if size == 1 { ONE } else { self.push_leaf(size, Some(reason)) }
    }

    /// The row-major product of `factors`.
    pub fn product(&mut self, factors: &[AxisId]) -> AxisId {
        let mut flat = Vec::with_capacity(factors.len());
        for &factor in factors {
            let factor = self.find(factor);
            match &self.axes[factor.0 as usize] {
                Axis::Product(inner) => flat.extend_from_slice(inner),
                Axis::Leaf { .. } | Axis::Sum(_) | Axis::Link(_) => flat.push(factor),
            }
        }
        if let [only] = flat[..] {
            return only;
        }
        if flat.is_empty() {
            return ONE;
        }
        if flat.iter().any(|&f| self.size(f) == 0) {
            return self.push_leaf(0, None);
        }
        let size = flat.iter().map(|&f| self.size(f)).product();
        self.push(size, Axis::Product(flat))
    }

    /// `parts` side by side. A part of size 1 never goes.
    pub fn sum(&mut self, parts: &[AxisId], reason: Reason) -> AxisId {
        if let [only] = *parts {
            return only;
        }
        let flat: Vec<AxisId> = parts
            .iter()
            .flat_map(|&part| match self.find(part) {
                ONE => vec![self.push_leaf(1, Some(reason))],
                part => self.segments(part),
            })
            .collect();
        let size = flat.iter().map(|&f| self.size(f)).sum();
        self.push(size, Axis::Sum(flat))
    }

    /// Number of indices.
    pub fn size(&self, id: AxisId) -> usize {
        self.sizes[id.0 as usize]
    }

    /// The representative of an axis.
    pub fn find(&mut self, id: AxisId) -> AxisId {
        let root = self.root(id);
        let mut at = id;
        while let Axis::Link(next) = self.axes[at.0 as usize] {
            self.axes[at.0 as usize] = Axis::Link(root);
            at = next;
        }
        root
    }

    /// As [`AxisTable::find`], without shortening paths.
    pub fn root(&self, mut id: AxisId) -> AxisId {
        while let Axis::Link(next) = self.axes[id.0 as usize] {
            id = next;
        }
        id
    }

    /// The parts of a sum, however deep; the axis itself when it is none.
    fn segments(&mut self, id: AxisId) -> Vec<AxisId> {
        let id = self.find(id);
        match self.axes[id.0 as usize].clone() {
            Axis::Sum(parts) => parts.into_iter().flat_map(|part| self.segments(part)).collect(),
            Axis::Product(factors) => {
                // (a ⊕ b) × c = a × c ⊕ b × c, in row-major order for the first factor only.
                let Some(first) = self.first_factor(&factors) else { return vec![id] };
                let parts = self.segments(factors[first]);
                if parts.len() == 1 {
                    return vec![id];
                }
                parts.into_iter().map(|part| self.with_factor(&factors, first, part)).collect()
            }
            Axis::Leaf { .. } | Axis::Link(_) => vec![id],
        }
    }

    /// Where the first factor of several units is. Single units before it cannot be cut.
    fn first_factor(&self, factors: &[AxisId]) -> Option<usize> {
        factors.iter().position(|&f| self.size(f) > 1)
    }

    fn with_factor(&mut self, factors: &[AxisId], at: usize, factor: AxisId) -> AxisId {
        let mut factors = factors.to_vec();
        factors[at] = factor;
        self.product(&factors)
    }

    /// The factors of a product, however deep; the axis itself when it is none.
    fn factors(&mut self, id: AxisId) -> Vec<AxisId> {
        let id = self.find(id);
        match self.axes[id.0 as usize].clone() {
            Axis::Product(factors) => factors.into_iter().flat_map(|factor| self.factors(factor)).collect(),
            Axis::Leaf { .. } | Axis::Sum(_) | Axis::Link(_) => vec![id],
        }
    }

    /// Blocks every unit of an axis. The first reason stays.
    pub fn block(&mut self, id: AxisId, reason: Reason) {
        let id = self.find(id);
        match &mut self.axes[id.0 as usize] {
            Axis::Leaf { block, .. } => {
                block.get_or_insert(reason);
            }
            Axis::Product(inner) | Axis::Sum(inner) => {
                for part in inner.clone() {
                    self.block(part, reason);
                }
            }
            Axis::Link(_) => {}
        }
    }

    /// Makes two axes one. `reason` is given to what cannot be kept in step.
    pub fn unify(&mut self, a: AxisId, b: AxisId, reason: Reason) {
        let (a, b) = (self.several(a, reason), self.several(b, reason));
        if a == b {
            return;
        }
        if self.size(a) != self.size(b) {
            self.block(a, reason);
            self.block(b, reason);
            return;
        }
        match (&self.axes[a.0 as usize], &self.axes[b.0 as usize]) {
            (Axis::Leaf { .. }, _) => self.bind(a, b, reason),
            (_, Axis::Leaf { .. }) => self.bind(b, a, reason),
            (Axis::Product(_), Axis::Product(_)) => {
                if !self.unify_factors(a, b, reason) {
                    self.block(a, reason);
                    self.block(b, reason);
                }
            }
            (Axis::Sum(_), _) => self.unify_segments(a, b, reason),
            (_, _) => self.unify_segments(b, a, reason),
        }
    }

    /// A product without its factors of a single unit, which would have to go without the others and so must stay.
    fn several(&mut self, id: AxisId, reason: Reason) -> AxisId {
        let id = self.find(id);
        if !matches!(self.axes[id.0 as usize], Axis::Product(_)) {
            return id;
        }
        let factors = self.factors(id);
        if factors.iter().all(|&factor| self.size(factor) > 1) {
            return id;
        }
        let (single, rest): (Vec<AxisId>, Vec<AxisId>) = factors.iter().partition(|&&f| self.size(f) == 1);
        single.into_iter().for_each(|factor| self.block(factor, reason));
        self.product(&rest)
    }

    fn bind(&mut self, leaf: AxisId, to: AxisId, reason: Reason) {
        let Axis::Leaf { block, .. } = self.axes[leaf.0 as usize] else { return };
        if self.contains(to, leaf) {
            self.block(to, reason);
            return;
        }
        if let Some(reason) = block {
            self.block(to, reason);
        }
        self.axes[leaf.0 as usize] = Axis::Link(to);
    }

    /// Whether an axis is `inner` or made of it; what replaced `inner` then would contain itself (the occurs check of
    /// unification). `inner` must be its own representative.
    fn contains(&self, id: AxisId, inner: AxisId) -> bool {
        let id = self.root(id);
        id == inner
            || match &self.axes[id.0 as usize] {
                Axis::Product(parts) | Axis::Sum(parts) => {
                    parts.iter().any(|&part| self.contains(part, inner))
                }
                Axis::Leaf { .. } | Axis::Link(_) => false,
            }
    }

    fn unify_segments(&mut self, sum: AxisId, other: AxisId, reason: Reason) {
        let parts = self.segments(sum);
        let sizes: Vec<usize> = parts.iter().map(|&p| self.size(p)).collect();
        let others = self.cut(other, &sizes, reason);
        for (&part, &other) in parts.iter().zip(&others) {
            self.unify(part, other, reason);
        }
        let (sum, other) = (self.find(sum), self.find(other));
        if sum == other || matches!(self.axes[sum.0 as usize], Axis::Leaf { .. }) {
            return;
        }
        if self.contains(other, sum) {
            self.block(other, reason);
        } else {
            self.axes[sum.0 as usize] = Axis::Link(other);
        }
    }

    fn unify_factors(&mut self, a: AxisId, b: AxisId, reason: Reason) -> bool {
        let sizes: Vec<usize> = self.factors(b).iter().map(|&f| self.size(f)).collect();
        let targets = self.factors(b);
        let factors = self.factors(a);
        let Some(parts) = self.refactor(&factors, &sizes, reason) else { return false };
        for (part, &target) in parts.into_iter().zip(&targets) {
            let part = self.product(&part);
            self.unify(part, target, reason);
        }
        true
    }

    /// Splits `factors` so that they line up with `sizes`, which have the same product: what belongs to each size.
    /// `None` when some boundary is not one of rows, columns, planes, ….
    pub(crate) fn refactor(
        &mut self,
        factors: &[AxisId],
        sizes: &[usize],
        reason: Reason,
    ) -> Option<Vec<Vec<AxisId>>> {
        let mut waiting: Vec<AxisId> = factors.iter().rev().copied().collect();
        let mut parts = Vec::with_capacity(sizes.len());
        for &size in sizes {
            let mut part = Vec::new();
            let mut left = size;
            while left > 1 {
                let factor = waiting.pop()?;
                let factor = self.find(factor);
                let n = self.size(factor);
                if n == 1 {
                    if factor != ONE {
                        self.block(factor, reason);
                    }
                } else if matches!(self.axes[factor.0 as usize], Axis::Product(_)) {
                    waiting.extend(self.factors(factor).into_iter().rev());
                } else if left.is_multiple_of(n) {
                    left /= n;
                    part.push(factor);
                } else if n.is_multiple_of(left) {
                    self.factor(factor, left, reason);
                    waiting.push(factor);
                } else {
                    return None;
                }
            }
            parts.push(part);
        }
        Some(parts)
    }

    /// Turns a leaf or a sum into a product whose first factor has `rows` units.
    fn factor(&mut self, id: AxisId, rows: usize, reason: Reason) {
        let columns = self.size(id) / rows;
        let inner = match self.axes[id.0 as usize] {
            Axis::Leaf { block, .. } => [self.push_leaf(rows, block), self.push_leaf(columns, block)],
            Axis::Sum(_) => {
                // Parts side by side seen as rows: they must keep the same columns.
                let parts = self.cut(id, &vec![columns; rows], reason);
                for &part in &parts[1..] {
                    self.unify(parts[0], part, reason);
                }
                let reason = reason.because(Why::Concatenated);
                let columns_axis = if self.contains(parts[0], id) {
                    self.block(id, reason);
                    self.push_leaf(columns, Some(reason))
                } else {
                    parts[0]
                };
                [self.push_leaf(rows, Some(reason)), columns_axis]
            }
            Axis::Product(_) | Axis::Link(_) => return,
        };
        self.axes[id.0 as usize] = Axis::Product(inner.to_vec());
    }

    /// Cuts an axis into parts of `sizes` (which add up to its size), and gives them.
    pub fn cut(&mut self, id: AxisId, sizes: &[usize], reason: Reason) -> Vec<AxisId> {
        let id = self.find(id);
        if sizes.len() == 1 {
            return vec![id];
        }
        match self.axes[id.0 as usize].clone() {
            Axis::Leaf { origin, block } if !sizes.contains(&0) => {
                let parts: Vec<AxisId> =
                    sizes.iter().map(|&size| self.push(size, Axis::Leaf { origin, block })).collect();
                self.axes[id.0 as usize] = Axis::Sum(parts.clone());
                parts
            }
            Axis::Sum(_) if !sizes.contains(&0) => self.cut_sum(id, sizes, reason),
            Axis::Product(factors) if !sizes.contains(&0) => {
                let Some(first) = self.first_factor(&factors) else { return self.give_up(id, sizes, reason) };
                let rest = self.size(id) / self.size(factors[first]);
                if sizes.iter().any(|size| !size.is_multiple_of(rest)) {
                    return self.give_up(id, sizes, reason);
                }
                let sizes: Vec<usize> = sizes.iter().map(|size| size / rest).collect();
                let parts = self.cut(factors[first], &sizes, reason);
                parts.into_iter().map(|part| self.with_factor(&factors, first, part)).collect()
            }
            Axis::Leaf { .. } | Axis::Sum(_) | Axis::Product(_) | Axis::Link(_) => {
                self.give_up(id, sizes, reason)
            }
        }
    }

    fn give_up(&mut self, id: AxisId, sizes: &[usize], reason: Reason) -> Vec<AxisId> {
        let reason = reason.because(Why::NotAligned);
        self.block(id, reason);
        sizes.iter().map(|&size| self.push_leaf(size, Some(reason))).collect()
    }

    fn cut_sum(&mut self, id: AxisId, sizes: &[usize], reason: Reason) -> Vec<AxisId> {
        let mut waiting: Vec<AxisId> = self.segments(id).into_iter().rev().collect();
        let mut parts = Vec::with_capacity(sizes.len());
        for &size in sizes {
            let mut part = Vec::new();
            let mut left = size;
            while left > 0 {
                let segment = waiting.pop().expect("sizes add up to the size of the sum");
                let n = self.size(segment);
                if n <= left {
                    left -= n;
                    part.push(segment);
                } else {
                    let halves = self.cut(segment, &[left, n - left], reason);
                    waiting.extend([halves[1], halves[0]]);
                }
            }
            parts.push(if let [only] = part[..] { only } else { self.push(size, Axis::Sum(part)) });
        }
        parts
    }

    /// The axis of `indices` taken from an axis, in that order.
    pub fn select(&mut self, id: AxisId, indices: &[usize], reason: Reason) -> AxisId {
        let size = self.size(id);
        if let (Some(&first), Some(&last)) = (indices.first(), indices.last())
            && indices.windows(2).all(|w| w[0] + 1 == w[1])
            && last < size
        {
            let sizes = [first, last + 1 - first, size - last - 1];
            let used: Vec<usize> = sizes.into_iter().filter(|&s| s > 0).collect();
            let part = self.cut(id, &used, reason)[usize::from(first > 0)];
            return self.never_alone(part, reason);
        }
        if indices.is_empty() || indices.iter().any(|&i| i >= size) {
            self.block(id, reason);
            return self.blocked(indices.len(), reason);
        }
        let units = self.cut(id, &vec![1; size], reason);
        let picked: Vec<AxisId> = indices.iter().map(|&i| units[i]).collect();
        self.push(picked.len(), Axis::Sum(picked))
    }

    /// A dimension of size 1 broadcasts, so its only unit must stay.
    pub(crate) fn never_alone(&mut self, id: AxisId, reason: Reason) -> AxisId {
        if self.size(id) != 1 {
            return id;
        }
        self.block(id, reason);
        ONE
    }

    /// The axes of the dimensions `shape` when a value with axes `from` is reshaped.
    pub fn reshape(&mut self, from: &[AxisId], shape: &[usize], reason: Reason) -> Vec<AxisId> {
        let mut factors = Vec::with_capacity(from.len());
        for &axis in from {
            factors.extend(self.factors(axis));
        }
        let empty = shape.contains(&0) || from.iter().any(|&axis| self.size(axis) == 0);
        if !empty && let Some(parts) = self.refactor(&factors, shape, reason) {
            return parts.into_iter().map(|part| self.product(&part)).collect();
        }
        let reason = reason.because(Why::NotAligned);
        from.iter().for_each(|&axis| self.block(axis, reason));
        shape.iter().map(|&size| self.blocked(size, reason)).collect()
    }
}
