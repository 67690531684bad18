//! The form in which a graph is pruned: it computes the same, and says more of what pruning must know.
//!
//! * Integers that stand for real numbers are these (`crate::quantised`).
//! * What is computed from weights alone is a weight (`constants`): a weight norm's direction and gain, a standardised
//!   kernel, a logarithm of a parameter. What is pruned is then what products multiply with.
//! * A squeeze names its axes (`squeeze`), so that a layer narrowed to one channel keeps that dimension.
//! * A channel shuffle is a Gather (`shuffle`), so that channels can go one by one.
//! * Nodes that nobody uses are gone, so that nothing is pruned there.
//!
//! Values keep their ids.

mod constants;
mod shuffle;
mod squeeze;

pub use shuffle::shuffles_to_gathers;

use poda_formats::Graph;

use crate::quantised;
use crate::settings::{Settings, Shapes};

/// The canonical form of `graph`, and its settings. Whatever has a name that `excluded` knows is not folded.
pub fn canonical(graph: &Graph, shapes: &Shapes, excluded: &dyn Fn(&str) -> bool) -> (Graph, Settings) {
    let (mut changed, _) = quantised::separate(graph);
    let settings = Settings::find(&changed, shapes);
    let squeezed = squeeze::name_axes(&mut changed, settings.facts());
    let folded = constants::fold(&mut changed, settings.facts(), excluded);
    let gathered = shuffles_to_gathers(&mut changed, settings.facts());
    let unused = drop_unused_nodes(&mut changed);
    if squeezed + folded + gathered + unused == 0 {
        return (changed, settings);
    }
    let settings = Settings::find(&changed, &settings.shapes);
    (changed, settings)
}

/// Removes nodes whose outputs nobody uses; values stay. Gives the number of nodes removed.
pub(crate) fn drop_unused_nodes(graph: &mut Graph) -> usize {
    let mut used = vec![false; graph.values.len()];
    graph.outputs.iter().for_each(|id| used[id.index()] = true);
    let mut keep = vec![false; graph.nodes.len()];
    for (node, keep) in graph.nodes.iter().zip(&mut keep).rev() {
        *keep = node.outputs.iter().flatten().any(|id| used[id.index()]);
        if *keep {
            node.inputs.iter().flatten().for_each(|id| used[id.index()] = true);
        }
    }
    let before = graph.nodes.len();
    let mut keep = keep.into_iter();
    graph.nodes.retain(|_| keep.next().unwrap_or(true));
    before - graph.nodes.len()
}
