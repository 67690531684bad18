//! What shape functions ask of an input, whether it is planned ([`Info`]) or there ([`TensorView`]): so that
//! [`infer`](super::infer) and [`run`](super::run) share one shape function for each operator.

use poda_formats::{DataType, TensorView};

use super::OpError;
use super::args::{optional, required};
use crate::info::Info;

/// An input as far as shape functions care.
pub(super) trait Fact<'a>: Copy {
    /// Element type.
    fn element_type(self) -> DataType;
    /// Shape, when known.
    fn dims(self) -> Option<&'a [usize]>;
}

impl<'a> Fact<'a> for &'a Info {
    fn element_type(self) -> DataType {
        self.dtype
    }

    fn dims(self) -> Option<&'a [usize]> {
        self.shape.as_deref()
    }
}

impl<'a> Fact<'a> for TensorView<'a> {
    fn element_type(self) -> DataType {
        self.dtype()
    }

    fn dims(self) -> Option<&'a [usize]> {
        Some(self.shape())
    }
}

/// Shape of input `index`, which must be there; `None` when it is not known yet.
pub(super) fn shape<'a, F: Fact<'a>>(
    inputs: &[Option<F>],
    index: usize,
) -> Result<Option<&'a [usize]>, OpError> {
    Ok(required(inputs, index)?.dims())
}

/// Element type of input `index`, which must be a floating-point number.
pub(super) fn float_type<'a, F: Fact<'a>>(inputs: &[Option<F>], index: usize) -> Result<DataType, OpError> {
    let found = required(inputs, index)?.element_type();
    if found.is_float() {
        return Ok(found);
    }
    Err(OpError::InputType { index, expected: "a floating-point type", found })
}

/// Checks that those of the inputs `indices` that are there have this element type.
pub(super) fn same_type<'a, F: Fact<'a>>(
    inputs: &[Option<F>],
    indices: impl IntoIterator<Item = usize>,
    dtype: DataType,
) -> Result<(), OpError> {
    for index in indices {
        match optional(inputs, index).map(Fact::element_type) {
            Some(found) if found != dtype => {
                return Err(OpError::InputType { index, expected: dtype.name(), found });
            }
            _ => {}
        }
    }
    Ok(())
}

/// Checks that input `index`, if its shape is known, has this one.
pub(super) fn expect_shape<'a, F: Fact<'a>>(
    inputs: &[Option<F>],
    index: usize,
    expected: &[usize],
) -> Result<(), OpError> {
    match optional(inputs, index).and_then(Fact::dims) {
        Some(found) if found != expected => Err(bad_shape(index, found, format!("expected {expected:?}"))),
        _ => Ok(()),
    }
}

/// The shape that a shape function found, during a run, where all inputs are known.
pub(super) fn known(infos: &[Info], output: usize) -> &[usize] {
    infos[output].shape.as_deref().expect("inputs of a run have shapes")
}

/// An error about the shape of input `index`.
pub(super) fn bad_shape(index: usize, shape: &[usize], reason: impl Into<String>) -> OpError {
    OpError::InputShape { index, shape: shape.to_vec(), reason: reason.into() }
}
