//! What the passes that make models faster do to one.

use anyhow::Result;
use poda::Graph;
use poda::shapes::Shapes;
use poda_runtime::plan;
use serde::Serialize;

use crate::table::{self, print};

/// The passes, in the order in which they are applied.
#[derive(Serialize)]
pub(crate) struct Listing {
    /// Of the model, those that its outputs need.
    nodes: usize,
    /// After what holds for any shapes.
    optimized_nodes: usize,
    /// Steps of a run; `None` when shapes are not known.
    steps: Option<usize>,
    passes: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    name: &'static str,
    on: bool,
    /// Whether it is applied once a shape, not once a model.
    each_shape: bool,
    /// Nodes that it changes; `None` where that depends on shapes which are not known.
    changes: Option<usize>,
    /// Nodes that there are more afterwards, or fewer.
    nodes: Option<isize>,
    about: &'static str,
}

impl Listing {
    pub(crate) fn of(graph: &Graph, shapes: Option<&Shapes>, on: poda::Passes) -> Result<Self> {
        let in_order = |shapes: &Shapes| {
            graph
                .inputs
                .iter()
                .map(|&id| shapes.get(&graph.value(id).name).cloned())
                .collect::<Option<Vec<_>>>()
        };
        let shapes = shapes.and_then(in_order);
        let known = shapes.is_some();
        let effects = plan::effects(graph, shapes, on)?;
        let row = |effect: &poda_runtime::optimize::Effect| {
            let each_shape = effect.pass.is_lowering();
            let told = known || !each_shape;
            Row {
                name: effect.pass.name,
                on: effect.on,
                each_shape,
                changes: told.then_some(effect.changes),
                nodes: told.then_some(effect.nodes),
                about: effect.pass.about,
            }
        };
        Ok(Self {
            nodes: effects.nodes,
            optimized_nodes: effects.optimized,
            steps: effects.steps,
            passes: effects.passes.iter().map(row).collect(),
        })
    }

    pub(crate) fn show(&self) -> Result<()> {
        let mut rows = table::table(&["pass", "what it does", "changes", "nodes"], 2);
        for pass in &self.passes {
            let changes = match (pass.on, pass.changes) {
                (false, _) => "off".to_owned(),
                (true, None) => "?".to_owned(),
                (true, Some(changes)) => changes.to_string(),
            };
            let nodes = pass.nodes.filter(|&nodes| nodes != 0).map_or(String::new(), |n| format!("{n:+}"));
            rows.add_row([pass.name.to_owned(), pass.about.to_owned(), changes, nodes]);
        }
        print(format!("\n{rows}"))?;
        let steps = self.steps.map_or_else(
            || "steps of a run are told with --shape".to_owned(),
            |steps| format!("{steps} steps at these shapes"),
        );
        print(format!("note: {} nodes, {} once optimised, {steps}", self.nodes, self.optimized_nodes))
    }
}
