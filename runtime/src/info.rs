//! What is known of a value before a run: element type, concrete shape, perhaps the elements themselves.

use poda_formats::{DataType, Tensor};

/// Facts about a value, for one set of concrete input shapes.
#[derive(Debug, Clone, PartialEq)]
pub struct Info {
    /// Element type.
    pub dtype: DataType,
    /// Shape; `None` when it depends on the elements of an input (NonZero, a run-time `k`, …).
    pub shape: Option<Vec<usize>>,
    /// The elements, of weights and of whatever follows from weights and shapes alone.
    pub value: Option<Tensor>,
}

impl Info {
    /// A value of known type and shape.
    pub fn new(dtype: DataType, shape: Vec<usize>) -> Self {
        Self { dtype, shape: Some(shape), value: None }
    }

    /// A value whose shape is known only during a run.
    pub fn dynamic(dtype: DataType) -> Self {
        Self { dtype, shape: None, value: None }
    }

    /// A constant.
    pub fn constant(value: Tensor) -> Self {
        Self { dtype: value.dtype(), shape: Some(value.shape().to_vec()), value: Some(value) }
    }
}
