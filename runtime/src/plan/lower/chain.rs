//! Elementwise functions that follow each other become one step, which may work in place. Runs after all other patterns, which
//! look for these functions one by one.

use poda_formats::{DataType, Op, TensorView, ValueId};
use smallvec::SmallVec;

use super::call::{Call, Lowered, Preparation, planned};
use super::{Rewrite, Rewriter};
use crate::ops::OpError;
use crate::ops::elementwise::chain::{Arithmetic, Chain, Link, is_float};
use crate::optimize::matching::View;
use crate::output::Output;
use crate::plan::draft::{Explanation, Kind};
use crate::threads::Threads;

/// Most inputs of a chain: each is one more stream from memory.
const INPUTS: usize = 6;

/// Functions and their inputs, of which the first is the one that the chain starts from.
struct Links {
    links: Vec<Link>,
    inputs: Vec<ValueId>,
}

pub(super) fn rewrite(r: &mut Rewriter<'_, '_>, at: usize) -> Option<Rewrite> {
    let node = r.node(at);
    let output = node.output(0)?;
    let shape = r.draft.shape(output)?.to_vec();
    let single = |id: ValueId| r.draft.dtype(id) == Some(DataType::F32);
    let Links { mut links, mut inputs } = links(r, at)?;
    if !single(output) || !inputs.iter().all(|&id| single(id) && r.draft.shape(id).is_some()) {
        return None;
    }
    // Prefer to go on with a chain, whichever side it is on.
    if let [Link::Binary { swapped, other: 1, .. }] = &mut links[..]
        && before(r, inputs[0], &shape).is_none()
        && (before(r, inputs[1], &shape).is_some() || r.draft.shape(inputs[0]) != Some(&shape[..]))
    {
        inputs.swap(0, 1);
        *swapped = !*swapped;
    }
    if let Some((chain, first)) = before(r, inputs[0], &shape)
        && first.len() + inputs.len() - 1 <= INPUTS
    {
        let mut all = first;
        let mut joined = chain.links.clone();
        for link in links {
            joined.push(match link {
                Link::Binary { function, other, swapped } => {
                    let id = inputs[other];
                    let other = all.iter().position(|&known| known == id).unwrap_or_else(|| {
                        all.push(id);
                        all.len() - 1
                    });
                    Link::Binary { function, other, swapped }
                }
                link => link,
            });
        }
        (links, inputs) = (joined, all);
    } else {
        // (What is a chain already stays one.)
        r.node(at).op()?;
    }
    let shapes: Option<Vec<&[usize]>> = inputs.iter().map(|&id| r.draft.shape(id)).collect();
    let chain = Chain::new(links, &shape, &shapes?);
    Some(Rewrite::new(Kind::lowered(chain), inputs.into_iter().map(Some).collect()))
}

/// The chain that makes a value of this shape which nobody else uses, with its inputs.
fn before<'r>(r: &'r Rewriter<'_, '_>, id: ValueId, shape: &[usize]) -> Option<(&'r Chain, Vec<ValueId>)> {
    let node = r.producer(id).filter(|_| r.once(id) && r.draft.shape(id) == Some(shape))?;
    Some((node.lowered()?, node.inputs.iter().copied().collect::<Option<_>>()?))
}

/// What the operator of a node is as a chain.
fn links(r: &Rewriter<'_, '_>, at: usize) -> Option<Links> {
    let node = r.node(at);
    let x = node.input(0)?;
    let one = |link| Some(Links { links: vec![link], inputs: vec![x] });
    if let Some([link @ Link::Activation(_)]) = node.lowered::<Chain>().map(|chain| &chain.links[..]) {
        return one(*link);
    }
    match node.op()? {
        Op::Unary(function) if is_float(*function) => one(Link::Unary(*function)),
        Op::Binary(function) => {
            let (function, b) = (Arithmetic::new(*function)?, node.input(1)?);
            let other = usize::from(b != x);
            let inputs = if b == x { vec![x] } else { vec![x, b] };
            Some(Links { links: vec![Link::Binary { function, other, swapped: false }], inputs })
        }
        Op::Clip => {
            let bound = |index, open: f32| node.input(index).map_or(Some(open), |id| r.draft.scalar(id));
            one(Link::Clip { low: bound(1, f32::NEG_INFINITY)?, high: bound(2, f32::INFINITY)? })
        }
        _ => None,
    }
}

impl Lowered for Chain {
    fn prepare(&self, _: &Preparation<'_>) -> Result<Box<dyn Call>, OpError> {
        Ok(Box::new(self.clone()))
    }

    fn works_in_place(&self) -> bool {
        !self.reads_first_again()
    }
}

impl Call for Chain {
    fn explain(&self) -> Explanation {
        Explanation { name: self.name(), ..Explanation::default() }
    }

    fn run(
        &self,
        inputs: &[Option<TensorView<'_>>],
        outputs: &mut [Output<'_>],
        _: &Threads,
    ) -> Result<(), OpError> {
        let values = inputs.iter().map(|view| view.map(|view| view.as_slice()).transpose());
        let values = values.collect::<Result<SmallVec<[Option<&[f32]>; 8]>, _>>()?;
        Self::run(self, &values, planned(outputs));
        Ok(())
    }
}
