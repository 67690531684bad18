//! Operators: for each what its outputs look like ([`infer`]) and what they are ([`run`]).
//!
//! A file holds one family. Both functions are one exhaustive match on [`Op`], so the compiler names every operator that
//! lacks an implementation. Hot operators (products, convolution, attention, …) are lowered by the plan to steps with
//! packed weights; what is here is their general form, which also folds constants.

use poda_formats::op::Op;
use poda_formats::{DataType, TensorView};

use crate::info::Info;
use crate::output::Output;

/// Why an operator cannot be applied to its inputs.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum OpError {
    #[error("{op} is not supported: {reason}")]
    Unsupported { op: String, reason: String },
    #[error("input {index} is missing")]
    MissingInput { index: usize },
    #[error("input {index} is {found}, expected {expected}")]
    InputType { index: usize, expected: &'static str, found: DataType },
    #[error("input {index} has shape {shape:?}: {reason}")]
    InputShape { index: usize, shape: Vec<usize>, reason: String },
    #[error("shapes {left:?} and {right:?} do not broadcast")]
    Broadcast { left: Vec<usize>, right: Vec<usize> },
    #[error("{name} {value} is out of range for {bound}")]
    OutOfRange { name: &'static str, value: i64, bound: i64 },
    #[error("{0}")]
    Invalid(String),
    #[error("the plan expects {planned:?}, the operator gives {found:?}")]
    Plan { planned: (DataType, Vec<usize>), found: (DataType, Vec<usize>) },
    #[error("shape {shape:?} of {dtype} has more bytes than memory can address")]
    TooLarge { dtype: DataType, shape: Vec<usize> },
    #[error("an output that nobody asked for was written")]
    UnusedOutput,
    #[error(transparent)]
    Tensor(#[from] poda_formats::tensor::TensorError),
}

/// Inputs of an operator during a run; omitted optional inputs are `None`.
pub type Inputs<'a> = [Option<TensorView<'a>>];

/// Facts about the outputs of `op`, from facts about its inputs. `outputs` is the number that the node has.
///
/// When every input's elements are known the caller folds the node by [`run`]; this function need only give `value`s
/// where they follow from shapes alone (Shape, Size).
///
/// # Errors
/// When the operator is not supported or its inputs do not fit.
pub fn infer(op: &Op, inputs: &[Option<&Info>], outputs: usize) -> Result<Vec<Info>, OpError> {
    let _ = (inputs, outputs);
    Err(OpError::Unsupported { op: format!("{op:?}"), reason: "no operator is implemented yet".into() })
}

/// Computes the outputs of `op`. Heavy operators split their work over the rayon pool that the caller is in.
///
/// # Errors
/// When the operator is not supported or its inputs do not fit.
pub fn run(op: &Op, inputs: &Inputs<'_>, outputs: &mut [Output<'_>]) -> Result<(), OpError> {
    let _ = (inputs, outputs);
    Err(OpError::Unsupported { op: format!("{op:?}"), reason: "no operator is implemented yet".into() })
}
