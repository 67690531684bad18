//! Groups: units of one kind, made by the same layers, that compete for removal.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use poda_formats::{Graph, Op, ValueId};

use super::axis::AxisId;
use super::reason::{Reason, Why};
use super::{DependencyGraph, UnitId};

/// Number of a group within its [`DependencyGraph`].
pub type GroupId = usize;

/// A dimension of a weight that has units of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    /// The weight.
    pub weight: ValueId,
    /// Its dimension.
    pub dim: usize,
}

/// Units that may go, each with its slice of every member.
#[derive(Debug, Clone)]
pub struct ChannelGroup {
    /// Names the first layer that has it.
    pub name: String,
    /// Its units.
    pub units: Vec<UnitId>,
    /// Units that share the group's layers but must stay.
    pub fixed: usize,
    /// The weights that shrink.
    pub members: Vec<Member>,
    /// Elements that a unit is wide in the narrowest dimension that has it: the head size for a head.
    pub width: usize,
}

/// Units that must stay.
#[derive(Debug, Clone)]
pub struct RefusedGroup {
    /// Names the first layer that has it.
    pub name: String,
    /// Number of units.
    pub units: usize,
    /// The weights that have them.
    pub members: Vec<Member>,
    /// Why they must stay.
    pub reason: Reason,
}

#[derive(Default)]
struct Draft {
    leaves: BTreeSet<AxisId>,
    members: Vec<Member>,
    width: Option<usize>,
}

impl DependencyGraph {
    pub(super) fn collect_groups(&mut self, graph: &Graph) {
        // By first use, so that groups come in the order of the layers.
        let mut order: Vec<ValueId> = Vec::new();
        let mut seen = vec![false; graph.values.len()];
        let mut user: HashMap<ValueId, usize> = HashMap::new();
        for (at, node) in graph.nodes.iter().enumerate() {
            for &id in node.inputs.iter().flatten() {
                if graph.weight(id).is_some() && !std::mem::replace(&mut seen[id.index()], true) {
                    order.push(id);
                    user.insert(id, at);
                }
            }
        }
        let mut drafts: BTreeMap<u32, Draft> = BTreeMap::new();
        let mut rank: Vec<u32> = Vec::new();
        let mut factors: Vec<Vec<Vec<AxisId>>> = Vec::new();
        for &id in &order {
            let is_parameter = graph.weight(id).is_some_and(|w| w.dtype().is_float() && w.shape().len() > 1);
            let Some(layout) = &self.layouts[id.index()] else { continue };
            for (dim, &axis) in layout.axes.iter().enumerate() {
                let leaves = self.table.leaves(axis);
                for &leaf in &leaves {
                    let Some(origin) = self.table.origin(leaf) else { continue };
                    let draft = drafts.entry(origin).or_insert_with(|| {
                        rank.push(origin);
                        Draft::default()
                    });
                    draft.leaves.insert(leaf);
                    let member = Member { weight: id, dim };
                    if draft.members.last() != Some(&member) {
                        draft.members.push(member);
                    }
                    if is_parameter && self.table.size(leaf) > 0 {
                        let total: usize = leaves
                            .iter()
                            .filter(|&&l| self.table.origin(l) == Some(origin))
                            .map(|&l| self.table.size(l))
                            .sum();
                        let width = (self.table.size(axis) / total.max(1)).max(1);
                        draft.width = Some(draft.width.map_or(width, |w| w.min(width)));
                    }
                }
                if leaves.len() > 1 {
                    factors.extend(self.table.products(axis));
                }
            }
        }
        let mut group_of: HashMap<u32, GroupId> = HashMap::new();
        for origin in rank {
            let draft = &drafts[&origin];
            // Without a matrix there is no parameter to save.
            let Some(width) = draft.width else { continue };
            let name = Self::name_of(graph, draft, &user);
            let free = |leaf: &&AxisId| self.table.block_of(**leaf).is_none();
            let (open, shut): (Vec<&AxisId>, Vec<&AxisId>) = draft.leaves.iter().partition(free);
            let fixed = shut.iter().map(|&&leaf| self.table.size(leaf)).sum();
            let total: usize = open.iter().map(|&&leaf| self.table.size(leaf)).sum();
            if total + fixed < 2 {
                continue;
            }
            if open.is_empty() {
                let reason = shut.iter().find_map(|&&leaf| self.table.block_of(leaf));
                if let Some(reason) = reason.filter(|r| !matches!(r.why, Why::Spatial | Why::Parameter)) {
                    let members = draft.members.clone();
                    self.refused.push(RefusedGroup { name, units: fixed, members, reason });
                }
                continue;
            }
            group_of.insert(origin, self.groups.len());
            let mut units = Vec::with_capacity(total);
            for &&leaf in &open {
                self.first_unit.insert(leaf, self.units);
                units.extend(self.units..self.units + self.table.size(leaf));
                self.units += self.table.size(leaf);
            }
            self.groups.push(ChannelGroup { name, units, fixed, members: draft.members.clone(), width });
        }
        let group = |leaf: &AxisId| group_of.get(&self.table.origin(*leaf)?).copied();
        let mut alternatives: BTreeSet<Vec<GroupId>> = BTreeSet::new();
        for product in &factors {
            let mut set: Vec<GroupId> = product.iter().flatten().filter_map(group).collect();
            set.sort_unstable();
            set.dedup();
            if set.len() > 1 {
                alternatives.insert(set);
            }
        }
        self.alternatives = alternatives.into_iter().collect();
    }

    /// The first product's matrix, or the name of the product when an exporter made up that of the matrix.
    fn name_of(graph: &Graph, draft: &Draft, user: &HashMap<ValueId, usize>) -> String {
        let is_product = |member: &&Member| {
            let node = user.get(&member.weight).map(|&at| &graph.nodes[at].op);
            node.is_some_and(|op| {
                matches!(
                    op,
                    Op::MatMul | Op::Gemm { .. } | Op::Conv(_) | Op::ConvTranspose { .. } | Op::Recurrent(_)
                )
            })
        };
        let product = draft.members.iter().find(is_product);
        let matrix =
            draft.members.iter().find(|m| graph.weight(m.weight).is_some_and(|w| w.shape().len() > 1));
        let Some(member) = product.or(matrix).or(draft.members.first()) else { return String::new() };
        let name = &graph.value(member.weight).name;
        let node = user.get(&member.weight).map(|&at| graph.nodes[at].name.as_str()).unwrap_or_default();
        let made_up = name.starts_with("onnx::")
            || name.starts_with("val_")
            || name.bytes().all(|b| b.is_ascii_digit());
        let base = if made_up && !node.is_empty() { node } else { name };
        format!("{base}[{}]", member.dim)
    }
}
