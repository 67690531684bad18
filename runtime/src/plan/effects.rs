//! What each pass does to a model, without packing any weight.

use poda_formats::Graph;

use super::build::{self, Request, Wants};
use super::{PlanError, build::alias};
use crate::optimize::{Effect, Log, Optimized, Passes, live_nodes};

/// What the passes do to a model.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Effects {
    /// One for each of [`PASSES`](crate::PASSES).
    pub passes: Vec<Effect>,
    /// Nodes of the model that its outputs need.
    pub nodes: usize,
    /// As many once the passes are applied that hold for any shapes.
    pub optimized: usize,
    /// Steps of a run, where shapes were given.
    pub steps: Option<usize>,
}

/// What passes do to a graph, and with the shapes of its inputs, in order, also what is done once a shape.
///
/// # Errors
/// When a node does not fit its inputs or is not supported.
pub fn effects(graph: &Graph, shapes: Option<Vec<Vec<usize>>>, on: Passes) -> Result<Effects, PlanError> {
    let mut log = Log::new(on);
    let Optimized { graph: optimized, open, .. } = Optimized::new(graph, on, &mut log);
    let steps = |shapes| {
        let request = Request { shapes, wanted: Wants::Results(Vec::new()) };
        let (graph, analysis) = build::at_shapes(&optimized, &request, (on, open), &mut log)?;
        let draft = build::lowered(&graph, analysis, &request, on, &mut log);
        Ok(draft.nodes.iter().filter(|node| alias(&draft, node).is_none()).count())
    };
    let steps = shapes.map(steps).transpose()?;
    Ok(Effects {
        passes: log.0,
        nodes: live_nodes(graph, &[]),
        optimized: live_nodes(&optimized, &[]),
        steps,
    })
}
