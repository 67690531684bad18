//! A plan: everything about a run that follows from the shapes of its inputs, decided once.
//!
//! `graph + shapes → analysis → draft (fused nodes) → steps with places`. Each value has a place: a range of the
//! arena, an output buffer, a feed, a constant, or the heap where its shape is known only during the run. Reshapes and
//! the like are places shared, not steps.

mod arena;
mod batch;
mod build;
mod draft;
mod effects;
mod inline;
mod kept;
mod lower;
mod profile;
mod run;
#[cfg(test)]
pub(crate) mod tests;
mod weights;

use poda_formats::dtype::DataType;
use poda_formats::{Tensor, ValueId};

use crate::ops::OpError;
use crate::threads::Pace;
use arena::Need;
use batch::Split;
use lower::Call;

pub use effects::{Effects, effects};

pub(crate) use arena::{Arenas, Segment};
pub(crate) use batch::{is_apart, plan};
pub(crate) use build::{Context, Request, Wants, check};
pub(crate) use run::{Between, Buffers, Halt, Run};
pub(crate) use weights::Weights;

/// Why no plan could be made.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum PlanError {
    #[error("node {node:?} ({op}): {source}")]
    Node { node: String, op: String, source: OpError },
    #[error("value {name:?}: nothing is known of it, not even its type")]
    Unknown { name: String },
    #[error("the activations of one run would take more than {limit} bytes")]
    Memory { limit: usize },
}

impl PlanError {
    /// Whether an operator is not supported.
    pub fn is_unsupported(&self) -> bool {
        matches!(self, Self::Node { source: OpError::Unsupported { .. }, .. })
    }
}

/// Where the elements of a value are during a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// What the run was fed, by position.
    Feed(usize),
    /// A constant of the plan.
    Constant(usize),
    /// A range of the arena.
    #[allow(missing_docs)]
    Arena { offset: usize, len: usize },
    /// The buffer of a result.
    Output(usize),
    /// Allocated during the run, of a shape that only the run knows.
    Heap(usize),
}

/// A value that a step reads or writes.
#[derive(Debug, Clone)]
pub(crate) struct Operand {
    pub(crate) place: Place,
    pub(crate) dtype: DataType,
    /// Empty for values on the heap.
    pub(crate) shape: Vec<usize>,
}

/// One call of an operator.
#[derive(Debug)]
pub(crate) struct Step {
    /// Name of the node that it stands for, or of that node's output.
    pub(crate) name: String,
    /// Its operator.
    pub(crate) op: String,
    pub(crate) call: Box<dyn Call>,
    pub(crate) inputs: Vec<Option<Operand>>,
    /// `None` for outputs that nobody reads.
    pub(crate) outputs: Vec<Option<Operand>>,
    /// The ranges of the arena that it touches, disjoint and ascending.
    pub(crate) segments: Vec<Segment>,
}

/// One result of a run.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) id: ValueId,
    pub(crate) operand: Operand,
}

/// A value that is shown as it arises.
#[derive(Debug)]
pub(crate) struct Tap {
    /// Steps before it is there.
    pub(crate) after: usize,
    /// Which of the values that were asked for.
    pub(crate) index: usize,
    pub(crate) operand: Operand,
}

/// Steps with places, for one set of input shapes.
#[derive(Debug)]
pub(crate) struct Plan {
    /// None where the batch is run in parts.
    steps: Vec<Step>,
    pub(crate) constants: Vec<Tensor>,
    /// None where values are tapped.
    pub(crate) outputs: Vec<Wanted>,
    /// In the order in which they arise.
    pub(crate) taps: Vec<Tap>,
    /// Bytes of each buffer that is handed out as a result.
    pub(crate) buffers: Vec<usize>,
    /// Number of values on the heap.
    pub(crate) heap: usize,
    /// Of all parts that run at once.
    pub(crate) arena_bytes: usize,
    /// None where the batch is run in parts, which have their own.
    arena: Option<Need>,
    /// How runs go: on the caller alone, or shared.
    pub(crate) pace: Pace,
    /// Parts that the batch is run in.
    split: Option<Split>,
}

impl Plan {
    /// The steps of a run; where the batch is run in parts, of each of them.
    pub(crate) fn steps(&self) -> &[Step] {
        self.split.as_ref().map_or(&self.steps, Split::steps)
    }

    /// How often each step runs.
    fn parts(&self) -> usize {
        self.split.as_ref().map_or(1, Split::parts)
    }
}
