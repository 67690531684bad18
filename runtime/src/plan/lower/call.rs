//! What a plan asks of the operators that it runs, whichever they are.
//!
//! An operator that is only made while lowering (several nodes that became one, a product with a constant weight) is a
//! [`Lowered`] while patterns may still change it, and a [`Call`] once its weights are packed. Plans know none by name: a
//! further one is a file beside this with both traits, and a row of `super::LOWERINGS` for the pattern that makes it.

use std::any::Any;
use std::fmt::Debug;

use poda_formats::{Op, TensorView};

use crate::ops::{self, OpError};
use crate::output::Output;
use crate::plan::build::Context;
use crate::plan::draft::{Draft, DraftNode, Explanation};
use crate::threads::Threads;

/// An operator of a draft that only plans know.
pub(crate) trait Lowered: Any + Debug + Send + Sync {
    /// Chooses kernels and packs weights.
    ///
    /// # Errors
    /// When a weight cannot be read.
    fn prepare(&self, with: &Preparation<'_>) -> Result<Box<dyn Call>, OpError>;

    /// Whether the output may lie where the first input does. Where it does, [`Call::run`] is not given that input.
    fn works_in_place(&self) -> bool {
        false
    }
}

/// What [`Lowered::prepare`] may ask for.
pub(crate) struct Preparation<'a> {
    pub(crate) context: &'a Context<'a>,
    pub(crate) draft: &'a Draft<'a>,
    /// The node that is prepared.
    pub(crate) node: &'a DraftNode,
}

/// What a step computes.
pub(crate) trait Call: Debug + Send + Sync {
    /// How it is computed and why so.
    fn explain(&self) -> Explanation;

    /// Writes every element of the outputs.
    ///
    /// # Errors
    /// When the inputs do not fit, or are not what the plan expects.
    fn run(
        &self,
        inputs: &[Option<TensorView<'_>>],
        outputs: &mut [Output<'_>],
        threads: &Threads,
    ) -> Result<(), OpError>;

    /// Whether the first input is a table of which only what is written is read.
    fn looks_up(&self) -> bool {
        false
    }
}

/// An operator in its general form.
#[derive(Debug)]
pub(crate) struct General(pub(crate) Op);

impl Call for General {
    fn explain(&self) -> Explanation {
        Explanation { name: self.0.name().to_owned(), ..Explanation::default() }
    }

    fn run(
        &self,
        inputs: &[Option<TensorView<'_>>],
        outputs: &mut [Output<'_>],
        _: &Threads,
    ) -> Result<(), OpError> {
        ops::run(&self.0, inputs, outputs)
    }

    fn looks_up(&self) -> bool {
        matches!(self.0, Op::Gather { .. } | Op::GatherElements { .. } | Op::GatherNd { .. })
    }
}

/// The elements of input `index`.
pub(super) fn floats<'a>(inputs: &[Option<TensorView<'a>>], index: usize) -> Result<&'a [f32], OpError> {
    let input = inputs.get(index).copied().flatten().ok_or(OpError::MissingInput { index })?;
    Ok(input.as_slice()?)
}

/// The elements of the one output of a step whose shapes are known.
pub(super) fn planned<'a>(outputs: &'a mut [Output<'_>]) -> &'a mut [f32] {
    match outputs {
        [Output::Planned { bytes: [], .. }] => &mut [],
        [Output::Planned { bytes, .. }] => bytemuck::cast_slice_mut(bytes),
        other => unreachable!("{other:?} is not one planned output"),
    }
}
