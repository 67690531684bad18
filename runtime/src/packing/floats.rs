//! Weights of a packing.

use std::ops::Deref;

use poda_formats::{DataType, Tensor};

/// Weights in memory of their own, or in the file that their packing comes from.
#[derive(Debug)]
pub(crate) enum Floats {
    Own(Vec<f32>),
    /// f32; others may write to the file, which changes numbers only.
    File(Tensor),
}

impl Floats {
    /// Those of a file; `None` of anything but f32.
    pub(crate) fn of_file(tensor: &Tensor) -> Option<Self> {
        (tensor.dtype() == DataType::F32).then(|| Self::File(tensor.clone()))
    }

    /// Memory of their own, to be written to.
    pub(crate) fn to_mut(&mut self) -> &mut Vec<f32> {
        if let Self::File(_) = self {
            *self = Self::Own(self.to_vec());
        }
        let Self::Own(values) = self else { unreachable!("made above") };
        values
    }
}

impl Default for Floats {
    fn default() -> Self {
        Self::Own(Vec::new())
    }
}

impl Deref for Floats {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match self {
            Self::Own(values) => values,
            Self::File(tensor) => bytemuck::cast_slice(tensor.bytes()),
        }
    }
}
