//! Which units go.

use serde::{Deserialize, Serialize};

use super::Shares;
use super::width::units_to_keep;
use crate::dependency::{ChannelGroup, DependencyGraph, GroupId, Removal};

/// Among what units (or weights) compete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// As the criterion is meant: within each layer, or within each output.
    #[default]
    Auto,
    /// Within each output of a layer: every row of its matrix loses the same share. Of channels and blocks the same as `layer`.
    Row,
    /// Within each layer: every layer loses the same share.
    Layer,
    /// Within each layer, small layers keeping more: by Erdős–Rényi, see [`erdos_renyi`](super::erdos_renyi). Of channels the
    /// same as `layer`.
    #[serde(rename = "erdos-renyi")]
    ErdosRenyi,
    /// Within the model: layers that matter less lose more.
    Global,
}

/// Most of a group that a global ranking may take.
const MOST_OF_A_GROUP: f64 = 0.9;

/// How much nearer to the share asked for a group must come to be taken instead of one of wider units.
const WIDER_IS_BETTER: f64 = 0.08;

/// The units that go when such shares of each group (or of all units together) are to go, lowest scores first.
///
/// Of groups that are factors of one dimension only one takes part: the one that comes nearest to the share, wide units
/// (heads) before narrow ones. `excluded` groups stay whole.
pub fn allocate(
    dependencies: &DependencyGraph,
    scores: &[f64],
    excluded: &[bool],
    shares: Shares<'_>,
    round_to: usize,
) -> Removal {
    let Shares { scope, share: sparsity, .. } = shares;
    let groups = dependencies.groups();
    let keep = |group: &ChannelGroup, share: f64| {
        units_to_keep(group.units.len(), group.fixed, group.width, share, round_to)
    };
    let active = choose_groups(dependencies, excluded, sparsity, &keep);
    let mut removal = Removal::none(dependencies);
    let shares: Vec<f64> = match scope {
        Scope::Auto | Scope::Row | Scope::Layer | Scope::ErdosRenyi => {
            (0..groups.len()).map(|id| shares.of(id)).collect()
        }
        Scope::Global => {
            let compete: Vec<bool> =
                (0..groups.len()).map(|id| active[id] && shares.own(id).is_none()).collect();
            let among = global_shares(dependencies, scores, &compete, shares);
            among.into_iter().enumerate().map(|(id, share)| shares.own(id).unwrap_or(share)).collect()
        }
    };
    for (id, group) in groups.iter().enumerate() {
        if !active[id] || shares[id] <= 0.0 {
            continue;
        }
        let mut ranked = group.units.clone();
        ranked.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]).then(a.cmp(&b)));
        let gone = group.units.len() - keep(group, shares[id]);
        ranked[..gone].iter().for_each(|&unit| removal.remove(unit));
    }
    keep_enough_of_each(dependencies, scores, &mut removal);
    removal
}

fn choose_groups(
    dependencies: &DependencyGraph,
    excluded: &[bool],
    sparsity: f64,
    keep: &dyn Fn(&ChannelGroup, f64) -> usize,
) -> Vec<bool> {
    let groups = dependencies.groups();
    let mut active: Vec<bool> = (0..groups.len()).map(|id| !excluded.get(id).is_some_and(|&e| e)).collect();
    let gap = |id: GroupId| {
        let group = &groups[id];
        let gone = (group.units.len() - keep(group, sparsity)) as f64 / group.units.len() as f64;
        (gone - sparsity).abs()
    };
    for set in dependencies.alternatives() {
        let mut open: Vec<GroupId> = set.iter().copied().filter(|&id| active[id]).collect();
        open.sort_by_key(|&id| std::cmp::Reverse(groups[id].width));
        let Some(&widest) = open.first() else { continue };
        let best = open.iter().copied().min_by(|&a, &b| gap(a).total_cmp(&gap(b))).unwrap_or(widest);
        let chosen = if gap(widest) <= gap(best) + WIDER_IS_BETTER { widest } else { best };
        open.into_iter().filter(|&id| id != chosen).for_each(|id| active[id] = false);
    }
    active
}

/// The share of each group among the lowest scores of all active ones.
fn global_shares(
    dependencies: &DependencyGraph,
    scores: &[f64],
    active: &[bool],
    shares: Shares<'_>,
) -> Vec<f64> {
    let groups = dependencies.groups();
    let mut ranked: Vec<(f64, usize, GroupId)> = Vec::new();
    for (id, group) in groups.iter().enumerate().filter(|&(id, _)| active[id]) {
        ranked.extend(group.units.iter().map(|&unit| (scores[unit], unit, id)));
    }
    ranked.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let wanted = (ranked.len() as f64 * shares.share).round() as usize;
    let mut taken = vec![0_usize; groups.len()];
    let mut total = 0;
    for (_, _, id) in ranked {
        let most = (groups[id].units.len() as f64 * MOST_OF_A_GROUP.min(shares.most(id))) as usize;
        if total < wanted && taken[id] < most {
            taken[id] += 1;
            total += 1;
        }
    }
    taken.iter().zip(groups).map(|(&n, group)| n as f64 / group.units.len() as f64).collect()
}

/// Puts units with the highest scores back wherever fewer would be left of a dimension than it must keep.
pub fn keep_enough_of_each(dependencies: &DependencyGraph, scores: &[f64], removal: &mut Removal) {
    for axis in dependencies.shrinking_axes() {
        while dependencies.kept_count(axis, removal) < dependencies.least(axis) {
            let mut best = None;
            dependencies.for_each_unit(axis, &mut |_, unit| {
                if removal.contains(unit) && best.is_none_or(|b: usize| scores[unit] > scores[b]) {
                    best = Some(unit);
                }
            });
            match best {
                Some(unit) => removal.restore(unit),
                None => break,
            }
        }
    }
}
