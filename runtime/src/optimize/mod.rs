//! Optimises a model once, whatever the shapes of its inputs: passes from graph to graph.
//!
//! A pass replaces nodes by others that compute the same at every shape that the inputs may take. It proves that from
//! ranks, constants, and sizes where weights fix them (`facts`). Where a pattern asks for what only concrete shapes tell, the
//! model counts as *open*, and its passes run once more when a plan is made. What needs shapes in any case (products with their
//! epilogues, attention over strided heads) is lowered once a shape, in `plan::lower`: such an operator could not be said as
//! nodes of a graph, for its strides and layouts are the shapes'. [`PASSES`] names both kinds, and [`Passes`] switches each.
//!
//! Values keep their ids and names, and nodes that nothing reads any more stay until a plan drops them, so that every
//! value of the model can still be asked for.

mod facts;
pub(crate) mod matching;
mod passes;
mod rewriter;
mod switches;

use poda_formats::{Graph, ValueId};

use crate::analysis::{self, Analysis};
use facts::Facts;
use rewriter::{Rewrite, Rewriter};

pub(crate) use passes::transposes::rewrite as sink_transposes;
pub use switches::{Passes, PassesError};

/// One way in which a model is made faster without changing what it computes.
#[derive(Debug)]
pub struct Pass {
    /// A word by which it is switched.
    pub name: &'static str,
    /// What it does, in at most 40 characters.
    pub about: &'static str,
    stage: Stage,
}

impl Pass {
    /// Whether it is applied while lowering, once a shape.
    pub fn is_lowering(&self) -> bool {
        matches!(self.stage, Stage::Lowering)
    }
}

/// When a pass is applied.
#[derive(Debug)]
enum Stage {
    /// To the graph, once a model.
    Graph(fn(&mut Rewriter<'_>)),
    /// Once a shape: `plan` asks for the switch.
    Lowering,
}

const fn graph(name: &'static str, about: &'static str, apply: fn(&mut Rewriter<'_>)) -> Pass {
    Pass { name, about, stage: Stage::Graph(apply) }
}

const fn lowering(name: &'static str, about: &'static str) -> Pass {
    Pass { name, about, stage: Stage::Lowering }
}

/// Every pass, in the order in which they are applied.
pub static PASSES: &[Pass] = &[
    graph("fold", "compute small constants of weights alone", passes::fold::apply),
    graph("identity", "read past nodes that change nothing", passes::identity::apply),
    graph("activations", "put GELU, SiLU, Mish and others together", |r| {
        r.sweep(passes::activations::rewrite);
    }),
    graph("norms", "put LayerNorm and RMSNorm together", |r| r.sweep(passes::norms::rewrite)),
    graph("norm-parameters", "give norms the scale and bias after them", |r| {
        r.sweep(passes::norm_parameters::rewrite);
    }),
    graph("pads", "let convolutions do the pads before them", |r| r.sweep(passes::pads::rewrite)),
    lowering("transposes", "move transposes until they cancel out"),
    lowering("reshapes", "read past reshapes that change nothing"),
    lowering("integers", "multiply small integers as exact floats"),
    lowering("roundings", "quantise and dequantise in one step"),
    lowering("attention", "put spelled-out attention together"),
    lowering("epilogues", "let products do what follows them"),
    lowering("chains", "join elementwise functions in a row"),
    lowering("bytes", "multiply bytes where both sides are such"),
];

/// What a pass did.
#[derive(Debug, Clone, Copy)]
pub struct Effect {
    /// The pass.
    pub pass: &'static Pass,
    /// Whether it was applied.
    pub on: bool,
    /// Nodes that it changed.
    pub changes: usize,
    /// Nodes that there are more afterwards, or fewer.
    pub nodes: isize,
}

/// What the passes did, one entry for each of [`PASSES`].
pub(crate) struct Log(pub(crate) Vec<Effect>);

impl Log {
    pub(crate) fn new(on: Passes) -> Self {
        let effect = |pass: &'static Pass| Effect { pass, on: on.has(pass.name), changes: 0, nodes: 0 };
        Self(PASSES.iter().map(effect).collect())
    }

    /// Adds what a pass did to so many nodes.
    ///
    /// # Panics
    /// When no pass has that name.
    pub(crate) fn add(&mut self, name: &str, changes: usize, [before, after]: [usize; 2]) {
        let entry = self.0.iter_mut().find(|effect| effect.pass.name == name).expect("a name of the table");
        entry.changes += changes;
        entry.nodes += after as isize - before as isize;
    }
}

/// A model with the passes applied that hold for any shapes.
#[derive(Debug)]
pub(crate) struct Optimized {
    pub(crate) graph: Graph,
    /// By [`ValueId`]: whether the elements are known at whatever shapes, from weights alone.
    pub(crate) constant: Vec<bool>,
    /// Whether a pass asked for what only shapes tell.
    pub(crate) open: bool,
}

impl Optimized {
    /// Applies the passes that are switched on.
    pub(crate) fn new(graph: &Graph, on: Passes, log: &mut Log) -> Self {
        let mut graph = graph.clone();
        let facts = Facts::new(&graph, analysis::analyze_with(&graph, &|_| None));
        let (facts, _) = apply(&mut graph, facts, &[], on, log);
        let ids = (0..graph.values.len() as u32).map(ValueId);
        // (Elements of a weight that is stored as a matrix are not among the facts.)
        let stored = |id: ValueId| graph.weight(id).is_some() && !graph.inputs.contains(&id);
        let constant = ids.map(|id| stored(id) || facts.constant(id).is_some()).collect();
        Self { graph, constant, open: facts.open() }
    }
}

/// Applies the passes once more, now that shapes are known. `wanted` are values that are read beside the graph's outputs. Gives
/// the analysis back where nothing changes.
pub(crate) fn again(
    graph: &mut Graph,
    analysis: Analysis,
    wanted: &[ValueId],
    on: Passes,
    log: &mut Log,
) -> Option<Analysis> {
    let facts = Facts::new(graph, analysis);
    let (facts, changes) = apply(graph, facts, wanted, on, log);
    (changes == 0).then(|| facts.into_analysis())
}

/// The graph as the passes leave it that are applied once a model, without nodes that nothing reads any more. (Ids change.)
pub fn optimize(graph: &Graph, on: Passes) -> Graph {
    let mut graph = Optimized::new(graph, on, &mut Log::new(on)).graph;
    graph.remove_unused();
    graph
}

/// Number of nodes whose outputs are read.
pub(crate) fn live_nodes(graph: &Graph, wanted: &[ValueId]) -> usize {
    rewriter::uses(graph, wanted).1.iter().filter(|&&dead| !dead).count()
}

/// Gives the facts, and how many nodes were changed.
fn apply(graph: &mut Graph, facts: Facts, wanted: &[ValueId], on: Passes, log: &mut Log) -> (Facts, usize) {
    let mut rewriter = Rewriter::new(graph, facts, wanted);
    for pass in PASSES {
        let Stage::Graph(apply) = pass.stage else { continue };
        if on.has(pass.name) {
            let (changes, nodes) = (rewriter.changes(), rewriter.live());
            apply(&mut rewriter);
            log.add(pass.name, rewriter.changes() - changes, [nodes, rewriter.live()]);
        }
    }
    let changes = rewriter.changes();
    (rewriter.facts, changes)
}
