//! Lowers a draft for one set of shapes: several nodes become one, and operators become those that only plans know, with
//! kernels of their own ([`Lowered`]).
//!
//! A pattern looks at one node and backwards from it. Where it matches, the node is replaced and what only it needed
//! goes. Nodes are visited in order, so that a later pattern builds on what an earlier one made. Operators are put together
//! before any is lowered: a spelled-out GELU first becomes the operator, which the product before it then takes into its
//! epilogue.
//!
//! A pattern proves what it needs: the shapes of every operand, not numbers of elements that may coincide; ranks, which
//! broadcasting counts from the end; constants to their last bits. Where it cannot, nodes stay as they are.

mod attention;
mod call;
mod chain;
mod control;
mod dynamic;
mod einsum;
mod epilogue;
mod grid;
mod heads;
mod integer;
mod packed;
mod product;
mod recurrent;
mod requantize;
mod reshapes;
mod rounding;
mod transposed;

use poda_formats::{Op, Tensor, ValueId};

use super::draft::{Draft, DraftNode, Kind};
use crate::optimize::matching::View;
use crate::optimize::{Log, Passes};

pub(crate) use call::{Call, General, Lowered, Preparation};

/// What a node becomes.
struct Rewrite {
    kind: Kind,
    inputs: Vec<Option<ValueId>>,
    /// The node of the graph that it then stands for, if not the same.
    stands_for: Option<usize>,
}

impl Rewrite {
    fn new(kind: Kind, inputs: Vec<Option<ValueId>>) -> Self {
        Self { kind, inputs, stands_for: None }
    }
}

/// Looks at a node; says what it becomes, if it does.
type Pattern = fn(&mut Rewriter<'_, '_>, usize) -> Option<Rewrite>;

/// A pattern with the pass that switches it; what has constant weights or bodies is always lowered.
type Lowering = (Option<&'static str>, Option<Pattern>);

/// A pattern of a family of operators: none where this build leaves the family out, so that its code is not linked.
macro_rules! family {
    ($family:literal, $pattern:expr) => {
        if cfg!(feature = $family) { Some($pattern as Pattern) } else { None }
    };
}

/// Patterns in the order in which they are tried at a node; each slice is a sweep over all nodes.
const LOWERINGS: &[&[Lowering]] = &[
    &[(Some("roundings"), family!("quantized", rounding::rewrite))],
    &[
        (Some("attention"), family!("sequences", attention::rewrite)),
        (Some("attention"), family!("sequences", attention::transposed)),
        (None, Some(product::rewrite)),
        (None, family!("sequences", recurrent::rewrite)),
        (None, family!("control-flow", control::rewrite)),
        (Some("epilogues"), Some(epilogue::absorb)),
    ],
    // What nothing else takes.
    &[(Some("chains"), Some(chain::rewrite))],
];

/// Lowers every node of a draft as far as passes are switched on.
pub(super) fn lower(draft: &mut Draft<'_>, passes: Passes, log: &mut Log) {
    if passes.has("reshapes") {
        let before = draft.nodes.len();
        let changes = reshapes::forward(draft);
        log.add("reshapes", changes, [before, draft.nodes.len()]);
    }
    if cfg!(feature = "sequences") {
        einsum::lower(draft);
    }
    if cfg!(feature = "quantized") && passes.has("integers") {
        let before = draft.nodes.len();
        let changes = integer::lower(draft, passes.has("bytes"));
        dynamic::lower(draft);
        log.add("integers", changes, [before, draft.nodes.len()]);
    }
    for patterns in LOWERINGS {
        sweep(draft, patterns, passes, log);
    }
    if cfg!(feature = "quantized") && passes.has("bytes") {
        log.add("bytes", grid::find(draft), [0, 0]);
    }
}

/// Tries the patterns at every node, in order.
fn sweep(draft: &mut Draft<'_>, patterns: &[Lowering], passes: Passes, log: &mut Log) {
    let on = |pass: Option<&str>| pass.is_none_or(|name| passes.has(name));
    let patterns = patterns.iter().filter(|(pass, _)| on(*pass));
    let patterns: Vec<_> = patterns.filter_map(|&(pass, pattern)| Some((pass, pattern?))).collect();
    let count = draft.nodes.len();
    let mut rewriter = Rewriter::new(draft);
    for at in 0..count {
        while !rewriter.dead[at] {
            let found =
                patterns.iter().find_map(|&(pass, pattern)| Some((pass, pattern(&mut rewriter, at)?)));
            let Some((pass, rewrite)) = found else { break };
            let gone = rewriter.replace(at, rewrite);
            if let Some(name) = pass {
                log.add(name, 1, [gone, 0]);
            }
        }
    }
    let mut dead = rewriter.dead.into_iter();
    draft.nodes.retain(|_| !dead.next().expect("one flag for each node"));
    draft.remove_unused();
}

/// A draft with who makes and how many use each value.
struct Rewriter<'d, 'g> {
    draft: &'d mut Draft<'g>,
    /// By value: the node that makes it.
    producers: Vec<Option<usize>>,
    /// By value: number of uses, as an input or as a result.
    uses: Vec<u32>,
    /// By node.
    dead: Vec<bool>,
}

impl<'d, 'g> Rewriter<'d, 'g> {
    fn new(draft: &'d mut Draft<'g>) -> Self {
        let mut producers = vec![None; draft.infos.len()];
        let mut uses = vec![0; draft.infos.len()];
        for (at, node) in draft.nodes.iter().enumerate() {
            node.outputs.iter().flatten().for_each(|id| producers[id.index()] = Some(at));
            node.inputs.iter().flatten().for_each(|id| uses[id.index()] += 1);
        }
        draft.wanted.iter().for_each(|id| uses[id.index()] += 1);
        let dead = vec![false; draft.nodes.len()];
        Self { draft, producers, uses, dead }
    }

    /// Gives how many nodes go with what only this one read.
    fn replace(&mut self, at: usize, Rewrite { kind, inputs, stands_for }: Rewrite) -> usize {
        let mut gone = 0;
        self.producers.resize(self.draft.infos.len(), None);
        self.uses.resize(self.draft.infos.len(), 0);
        inputs.iter().flatten().for_each(|id| self.uses[id.index()] += 1);
        let node = &mut self.draft.nodes[at];
        node.kind = kind;
        node.node = stands_for.unwrap_or(node.node);
        let old = std::mem::replace(&mut node.inputs, inputs);
        let mut released: Vec<ValueId> = old.into_iter().flatten().collect();
        while let Some(id) = released.pop() {
            self.uses[id.index()] -= 1;
            let Some(maker) = self.producers[id.index()].filter(|&maker| !self.dead[maker]) else { continue };
            let node = &self.draft.nodes[maker];
            if node.outputs.iter().flatten().all(|id| self.uses[id.index()] == 0) {
                self.dead[maker] = true;
                gone += 1;
                released.extend(node.inputs.iter().flatten());
            }
        }
        gone
    }

    fn node(&self, at: usize) -> &DraftNode {
        &self.draft.nodes[at]
    }

    /// The node that makes a value, if it has only this output in use.
    fn producer(&self, id: ValueId) -> Option<&DraftNode> {
        let node = &self.draft.nodes[self.producers[id.index()]?];
        (node.output(0) == Some(id)).then_some(node)
    }

    /// The operator that makes a value.
    fn op(&self, id: ValueId) -> Option<(&Op, &DraftNode)> {
        let node = self.producer(id)?;
        Some((node.op()?, node))
    }
}

impl View for Rewriter<'_, '_> {
    fn made_by(&self, id: ValueId) -> Option<(&Op, &[Option<ValueId>])> {
        let (op, node) = self.op(id)?;
        Some((op, &node.inputs))
    }

    fn constant(&self, id: ValueId) -> Option<&Tensor> {
        self.draft.constant(id)
    }

    fn once(&self, id: ValueId) -> bool {
        self.uses[id.index()] == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::optimize::PASSES;

    #[test]
    fn every_pass_of_lowering_is_done_here() {
        let patterns = LOWERINGS.iter().copied().flatten().filter_map(|(pass, _)| *pass);
        let here: Vec<&str> = patterns.chain(["transposes", "reshapes", "integers", "bytes"]).collect();
        for pass in PASSES {
            assert_eq!(pass.is_lowering(), here.contains(&pass.name), "{}", pass.name);
        }
        assert!(here.iter().all(|name| PASSES.iter().any(|pass| pass.name == *name)));
    }
}
