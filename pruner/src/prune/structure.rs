//! What there is to remove from a graph, and what the recipe excludes.

use poda_formats::{Graph, Op, ValueId};

use crate::allocation::{FEW_INPUTS, Scope, erdos_renyi, share_of, spare_few_inputs};
use crate::dependency::{ChannelGroup, DependencyGraph, Removal};
use crate::recipe::Recipe;
use crate::settings::Settings;
use crate::structured::Matrix;

/// Dependencies of a graph, and what the recipe excludes.
pub(super) struct Structure {
    pub(super) dependencies: DependencyGraph,
    pub(super) excluded: Vec<bool>,
}

impl Structure {
    pub(super) fn of(graph: &Graph, settings: &Settings, recipe: &Recipe) -> Self {
        let dependencies = DependencyGraph::new(graph, settings.facts());
        let mut users: Vec<Vec<usize>> = Vec::new();
        if !recipe.exclude.is_empty() {
            users = graph.consumers();
        }
        let excludes = |id: ValueId| {
            recipe.excludes(&graph.value(id).name)
                || users
                    .get(id.index())
                    .is_some_and(|u| u.iter().any(|&n| recipe.excludes(&graph.nodes[n].name)))
        };
        let excluded =
            dependencies.groups().iter().map(|g| g.members.iter().any(|m| excludes(m.weight))).collect();
        Self { dependencies, excluded }
    }

    /// Excludes groups with a unit that has no score, and names them.
    pub(super) fn exclude_unseen(&mut self, scores: &[f64]) -> Vec<String> {
        let mut names = Vec::new();
        for (group, excluded) in self.dependencies.groups().iter().zip(&mut self.excluded) {
            if !*excluded && group.units.iter().any(|&unit| scores[unit].is_nan()) {
                *excluded = true;
                names.push(group.name.clone());
            }
        }
        names
    }

    /// Shares of their own, by group, of the last pattern that fits one of its weights or of the nodes that use them.
    pub(super) fn own_shares(&self, graph: &Graph, recipe: &Recipe) -> Vec<Option<f64>> {
        if recipe.layers.is_empty() {
            return Vec::new();
        }
        let users = graph.consumers();
        let of = |group: &ChannelGroup| {
            let names = group.members.iter().flat_map(|member| names_of(graph, &users, member.weight));
            share_of(&recipe.layers, &names.collect::<Vec<_>>())
        };
        self.dependencies.groups().iter().map(of).collect()
    }

    /// The most that may go of each group; empty where nothing says so.
    pub(super) fn most(&self, graph: &Graph, recipe: &Recipe) -> Vec<f64> {
        if recipe.floors.is_empty() {
            return Vec::new();
        }
        let users = graph.consumers();
        let of = |group: &ChannelGroup| {
            let names = group.members.iter().flat_map(|member| names_of(graph, &users, member.weight));
            1.0 - share_of(&recipe.floors, &names.collect::<Vec<_>>()).unwrap_or(0.0)
        };
        self.dependencies.groups().iter().map(of).collect()
    }

    /// The float weights that lose units when a group that is not excluded does.
    pub(super) fn members(&self, graph: &Graph) -> Vec<ValueId> {
        let groups =
            self.dependencies.groups().iter().zip(&self.excluded).filter(|(_, excluded)| !**excluded);
        let mut members: Vec<ValueId> =
            groups.flat_map(|(g, _)| g.members.iter().map(|m| m.weight)).collect();
        members.sort_unstable();
        members.dedup();
        members.retain(|&id| graph.weight(id).is_some_and(|w| w.dtype().is_float()));
        members
    }
}

/// Shares of their own, by weight: of the last pattern that fits, else by the shapes of the layers where the scope says so.
pub(super) fn own_shares(
    recipe: &Recipe,
    graph: &Graph,
    weights: &[ValueId],
    scope: Scope,
    share: f64,
) -> Vec<Option<f64>> {
    if recipe.layers.is_empty() && scope != Scope::ErdosRenyi {
        return Vec::new();
    }
    let users = graph.consumers();
    let by_name = |&id: &ValueId| share_of(&recipe.layers, &names_of(graph, &users, id));
    let mut own: Vec<Option<f64>> = weights.iter().map(by_name).collect();
    if scope == Scope::ErdosRenyi {
        let open: Vec<usize> = (0..own.len()).filter(|&at| own[at].is_none()).collect();
        let shape = |&at: &usize| graph.weight(weights[at]).map_or_else(Vec::new, |w| w.shape().to_vec());
        let shares = erdos_renyi(&open.iter().map(shape).collect::<Vec<_>>(), share);
        open.into_iter().zip(shares).for_each(|(at, share)| own[at] = Some(share));
    }
    own
}

/// As [`own_shares`], of matrices that are fitted to data and share the loss alike: those of few inputs are spared where no
/// scope was asked for. With what is to be told of that.
pub(super) fn spared_shares(
    recipe: &Recipe,
    graph: &Graph,
    matrices: &[Matrix],
    scope: Scope,
    share: f64,
) -> (Vec<Option<f64>>, Option<String>) {
    let weights: Vec<ValueId> = matrices.iter().map(|matrix| matrix.id).collect();
    let mut own = own_shares(recipe, graph, &weights, scope, share);
    let alike = matches!(scope, Scope::Row | Scope::Layer) && recipe.scope == Scope::Auto;
    if !alike || recipe.implied_sparsity().is_some() {
        return (own, None);
    }
    own.resize(matrices.len(), None);
    let open: Vec<usize> = (0..own.len()).filter(|&at| own[at].is_none()).collect();
    let layers: Vec<[usize; 2]> =
        open.iter().map(|&at| [matrices[at].rows * matrices[at].cols, matrices[at].cols]).collect();
    let Some(shares) = spare_few_inputs(&layers, share) else { return (own, None) };
    let few = layers.iter().filter(|layer| layer[1] < FEW_INPUTS).count();
    let of = |few: bool| {
        let found = layers.iter().zip(&shares).find(|(layer, _)| (layer[1] < FEW_INPUTS) == few);
        found.map_or(0.0, |(_, share)| share * 100.0)
    };
    let note = format!(
        "{few} layers with less than {FEW_INPUTS} inputs to an output lose {:.1} % of their weights, the others {:.1} %; --scope layer treats all alike",
        of(true),
        of(false)
    );
    open.into_iter().zip(shares).for_each(|(at, share)| own[at] = Some(share));
    (own, Some(note))
}

/// The most that may go of each weight; empty where nothing says so.
pub(super) fn most_shares(recipe: &Recipe, graph: &Graph, weights: &[ValueId]) -> Vec<f64> {
    if recipe.floors.is_empty() {
        return Vec::new();
    }
    let users = graph.consumers();
    let of = |&id: &ValueId| 1.0 - share_of(&recipe.floors, &names_of(graph, &users, id)).unwrap_or(0.0);
    weights.iter().map(of).collect()
}

/// What is to be told of floors that leave less to go than `share` of all weights together: every other layer then loses all.
pub(super) fn floors_too_high(
    graph: &Graph,
    weights: &[ValueId],
    most: &[f64],
    share: f64,
) -> Option<String> {
    let len =
        |id: &ValueId| graph.weight(*id).map_or(0, |weight| weight.shape().iter().product::<usize>()) as f64;
    let all: f64 = weights.iter().map(len).sum();
    let may_go: f64 = weights.iter().zip(most).map(|(id, most)| len(id) * most).sum();
    let too_high = !most.is_empty() && may_go <= share * all;
    too_high.then(|| {
        format!(
            "floors let {:.1} % of the weights go where {:.1} % were asked for: the layers without a floor lose all of theirs; \
             lower a floor or --sparsity",
            may_go / all * 100.0,
            share * 100.0
        )
    })
}

/// What a layer may be called: its weight, and the nodes that use it.
fn names_of<'g>(graph: &'g Graph, users: &[Vec<usize>], weight: ValueId) -> Vec<&'g str> {
    let nodes = users[weight.index()].iter().map(|&node| graph.nodes[node].name.as_str());
    nodes.chain([graph.value(weight).name.as_str()]).collect()
}

/// Share of the float parameters, embedding left_out aside, that a removal takes.
pub(super) fn removed_share(graph: &Graph, dependencies: &DependencyGraph, removal: &Removal) -> f64 {
    let mut left_out = vec![true; graph.values.len()];
    graph
        .nodes
        .iter()
        .flat_map(|node| node.inputs.iter().flatten())
        .for_each(|id| left_out[id.index()] = false);
    for node in &graph.nodes {
        if let (Op::Gather { axis: 0 }, Some(table)) = (&node.op, node.input(0)) {
            left_out[table.index()] = true;
        }
    }
    let (mut before, mut after) = (0.0, 0.0);
    for (index, value) in graph.values.iter().enumerate() {
        let Some(weight) = value.weight.as_ref().filter(|w| w.dtype().is_float() && !left_out[index]) else {
            continue;
        };
        before += weight.len() as f64;
        after += match dependencies.layout(ValueId(index as u32)) {
            Some(layout) => {
                layout.axes.iter().map(|&axis| dependencies.kept_count(axis, removal) as f64).product()
            }
            None => weight.len() as f64,
        };
    }
    if before > 0.0 { 1.0 - after / before } else { 0.0 }
}
