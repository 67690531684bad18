//! Which values are multiples of a number that 8 bits tell apart: what roundings leave, and what only moves that. A product of
//! such a value may be one of bytes.

use poda_formats::op::{PoolKind, Unary};
use poda_formats::{DataType, Op};

use super::dynamic::DynamicRounding;
use super::integer::integers;
use super::product::Product;
use super::requantize::Requantize;
use super::rounding::range_of;
use crate::kernels::{Activation, Grid};
use crate::ops::elementwise::chain::{Chain, Link};
use crate::plan::draft::{Draft, DraftNode, Kind};

/// Writes down what is known of every value; gives how many products may be of bytes.
pub(super) fn find(draft: &mut Draft<'_>) -> usize {
    let mut grids = vec![None; draft.infos.len()];
    let mut products = 0;
    for node in &draft.nodes {
        let input = |index: usize| grids[node.input(index)?.index()];
        products += usize::from(node.lowered::<Product>().is_some() && input(0).is_some());
        let grid = of_output(draft, node, input);
        // (Of several outputs all are parts of one value, but for what says how a value was rounded.)
        let same = if node.lowered::<DynamicRounding>().is_some() { 1 } else { node.outputs.len() };
        node.outputs[..same].iter().flatten().for_each(|id| grids[id.index()] = grid);
    }
    draft.grids = grids;
    products
}

/// What a node gives, by what is known of its inputs.
fn of_output(draft: &Draft<'_>, node: &DraftNode, input: impl Fn(usize) -> Option<Grid>) -> Option<Grid> {
    if let Some(product) = node.lowered::<Product>() {
        return of_activation(product.activation);
    }
    if let Some(chain) = node.lowered::<Chain>() {
        return match chain.links.last()? {
            Link::Activation(activation) => of_activation(*activation),
            _ => None,
        };
    }
    if let Some(requantize) = node.lowered::<Requantize>() {
        return requantize.grid();
    }
    if node.lowered::<DynamicRounding>().is_some() {
        return Grid::new(1.0, None);
    }
    let Kind::Op(op) = &node.kind else { return None };
    match op {
        Op::DequantizeLinear { block_size: 0, .. } => {
            let range = range_of(draft.dtype(node.input(0)?)?).filter(|[low, high]| high - low < 256.0)?;
            let zero = match node.input(2).map(|id| (draft.constant(id), draft.shape(id))) {
                None => Some(0.0),
                Some((Some(constant), _)) => match integers(constant)?[..] {
                    [zero] => Some(zero),
                    _ => return None,
                },
                // One for all, found in each run.
                Some((None, shape)) => shape?.iter().all(|&d| d == 1).then_some(None)?,
            };
            let range = zero.map(|zero| range.map(|bound| bound - zero));
            Grid::new(draft.scalar(node.input(1)?)?, range)
        }
        Op::Identity | Op::Unary(Unary::Relu) => input(0),
        Op::Pool(pool) if pool.kind == PoolKind::Max => input(0),
        Op::Concat { .. } => {
            // (Two of which the least is not known may be further apart than 256 multiples.)
            let first = input(0).filter(|grid| grid.least().is_some())?;
            (1..node.inputs.len()).all(|i| input(i) == Some(first)).then_some(first)
        }
        Op::Reshape { .. }
        | Op::Transpose { .. }
        | Op::Flatten { .. }
        | Op::Squeeze
        | Op::Unsqueeze
        | Op::Slice
        | Op::Split { .. }
        | Op::Expand => {
            let moved = node.input(0)?;
            (draft.dtype(moved) == Some(DataType::F32)).then(|| input(0)).flatten()
        }
        _ => None,
    }
}

/// What a function gives whatever it is given.
fn of_activation(activation: Activation) -> Option<Grid> {
    match activation {
        Activation::Rounded(rounding) | Activation::RoundedTwice(_, rounding) => rounding.grid(),
        Activation::Requantized(rounding, steps) => {
            let range = [rounding.range[0] * rounding.to, steps.top];
            Grid::new(steps.of, Some(range.map(f32::round_ties_even)))
        }
        _ => None,
    }
}
