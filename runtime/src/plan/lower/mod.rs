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

mod activation;
mod attention;
mod call;
mod chain;
mod control;
mod einsum;
mod epilogue;
mod heads;
mod integer;
mod norm;
mod packed;
mod product;
mod recurrent;
mod rounding;
mod simplify;
mod transposed;

use poda_formats::op::{Binary, Unary};
use poda_formats::{Op, ValueId};

use super::draft::{Draft, DraftNode, Kind};

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

/// What operators become of several, in the order in which they are tried. The names are for reading only.
const OPERATORS: &[(&str, Pattern)] = &[
    ("activation spelled out", activation::rewrite),
    ("normalisation spelled out", norm::rewrite),
    ("scale and bias of a normalisation", norm::affine),
    ("pads of a convolution", simplify::pad),
    ("rounding to integers and back", rounding::rewrite),
];

/// How operators are then lowered: a product takes what follows it into its epilogue.
const LOWERINGS: &[(&str, Pattern)] = &[
    ("attention spelled out", attention::rewrite),
    ("transpose after attention", attention::transposed),
    PRODUCT,
    RECURRENT,
    CONTROL,
    ("epilogue of a product", epilogue::absorb),
];

const PRODUCT: (&str, Pattern) = ("product", product::rewrite);
const RECURRENT: (&str, Pattern) = ("recurrent layer", recurrent::rewrite);
const CONTROL: (&str, Pattern) = ("bodies of control flow", control::rewrite);

/// Applies every pattern. Without `fuse`, only operators that have weights or bodies are lowered.
pub(super) fn lower(draft: &mut Draft<'_>, fuse: bool) {
    if fuse {
        simplify::forward(draft);
    }
    einsum::lower(draft);
    if !fuse {
        return sweep(draft, &[PRODUCT, RECURRENT, CONTROL]);
    }
    integer::lower(draft);
    sweep(draft, OPERATORS);
    sweep(draft, LOWERINGS);
    sweep(draft, &[("functions in a row", chain::rewrite)]);
}

/// Tries the patterns at every node, in order.
fn sweep(draft: &mut Draft<'_>, patterns: &[(&str, Pattern)]) {
    let count = draft.nodes.len();
    let mut rewriter = Rewriter::new(draft);
    for at in 0..count {
        while !rewriter.dead[at] {
            let Some(rewrite) = patterns.iter().find_map(|(_, pattern)| pattern(&mut rewriter, at)) else {
                break;
            };
            rewriter.replace(at, rewrite);
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

    fn replace(&mut self, at: usize, Rewrite { kind, inputs, stands_for }: Rewrite) {
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
                released.extend(node.inputs.iter().flatten());
            }
        }
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

    /// Whether a value is used once.
    fn once(&self, id: ValueId) -> bool {
        self.uses[id.index()] == 1
    }

    /// The input of the function `f` that makes a value.
    fn unary(&self, id: ValueId, f: Unary) -> Option<ValueId> {
        let (op, node) = self.op(id)?;
        (*op == Op::Unary(f)).then(|| node.input(0))?
    }

    /// The inputs of the function `f` that makes a value.
    fn binary(&self, id: ValueId, f: Binary) -> Option<(ValueId, ValueId)> {
        let (op, node) = self.op(id)?;
        (*op == Op::Binary(f)).then(|| node.input(0).zip(node.input(1)))?
    }

    /// The other input and the scalar of a commutative function `f` that makes a value.
    fn with_scalar(&self, id: ValueId, f: Binary) -> Option<(ValueId, f32)> {
        let (a, b) = self.binary(id, f)?;
        let (x, scalar) = match (self.draft.scalar(a), self.draft.scalar(b)) {
            (_, Some(scalar)) => (a, scalar),
            (Some(scalar), None) => (b, scalar),
            (None, None) => return None,
        };
        Some((x, scalar))
    }

    /// A value as a product: its factors and a coefficient. Goes through multiplications, divisions by scalars, negations
    /// and small powers, as long as nobody else uses what they give.
    fn factors(&self, id: ValueId) -> (Vec<ValueId>, f32) {
        let (mut factors, mut coefficient) = (Vec::new(), 1.0);
        let mut open = vec![id];
        while let Some(value) = open.pop() {
            if let Some(scalar) = self.draft.scalar(value) {
                coefficient *= scalar;
                continue;
            }
            // Beyond a few factors no pattern is looked for.
            if factors.len() + open.len() > 8 || (value != id && !self.once(value)) {
                factors.push(value);
                continue;
            }
            if let Some((a, b)) = self.binary(value, Binary::Mul) {
                open.extend([a, b]);
            } else if let Some((a, scalar)) = self.with_divisor(value) {
                coefficient /= scalar;
                open.push(a);
            } else if let Some(a) = self.unary(value, Unary::Neg) {
                coefficient = -coefficient;
                open.push(a);
            } else if let Some((base, power)) = self.power(value) {
                open.extend(std::iter::repeat_n(base, power));
            } else {
                factors.push(value);
            }
        }
        factors.sort_unstable();
        (factors, coefficient)
    }

    fn with_divisor(&self, id: ValueId) -> Option<(ValueId, f32)> {
        let (a, b) = self.binary(id, Binary::Div)?;
        Some((a, self.draft.scalar(b)?))
    }

    fn power(&self, id: ValueId) -> Option<(ValueId, usize)> {
        let (base, exponent) = self.binary(id, Binary::Pow)?;
        let exponent = self.draft.scalar(exponent)?;
        [1, 2, 3].into_iter().find(|&n| n as f32 == exponent).map(|n| (base, n))
    }
}

/// Whether a constant, perhaps the product of several, is `b` but for its rounding to f32. A constant that is written with
/// fewer digits is another function.
fn close(a: f32, b: f32) -> bool {
    (a - b).abs() <= 4.0 * f32::EPSILON * b.abs()
}
