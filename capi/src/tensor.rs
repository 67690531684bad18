//! Tensors as C has them.

use std::ffi::{c_char, c_void};

use poda::{DataType, TensorView};

use crate::error::{PodaError, PodaStatus};
use crate::guard::{array, check_array, text};

/// Element types.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PodaType {
    /// The model does not say.
    Unknown = 0,
    /// 32-bit floats.
    F32 = 1,
    /// 16-bit floats of IEEE 754.
    F16 = 2,
    /// 16-bit floats with the range of 32-bit ones.
    Bf16 = 3,
    /// 64-bit floats.
    F64 = 4,
    /// Signed integers of 8 bits.
    I8 = 5,
    /// Signed integers of 16 bits.
    I16 = 6,
    /// Signed integers of 32 bits.
    I32 = 7,
    /// Signed integers of 64 bits.
    I64 = 8,
    /// Unsigned integers of 8 bits.
    U8 = 9,
    /// Unsigned integers of 16 bits.
    U16 = 10,
    /// Unsigned integers of 32 bits.
    U32 = 11,
    /// Unsigned integers of 64 bits.
    U64 = 12,
    /// Bytes that are 0 or not.
    Bool = 13,
}

/// Types by their number in C.
const TYPES: [DataType; 13] = [
    DataType::F32,
    DataType::F16,
    DataType::BF16,
    DataType::F64,
    DataType::I8,
    DataType::I16,
    DataType::I32,
    DataType::I64,
    DataType::U8,
    DataType::U16,
    DataType::U32,
    DataType::U64,
    DataType::Bool,
];

impl From<Option<DataType>> for PodaType {
    fn from(dtype: Option<DataType>) -> Self {
        match dtype {
            None => Self::Unknown,
            Some(DataType::F32) => Self::F32,
            Some(DataType::F16) => Self::F16,
            Some(DataType::BF16) => Self::Bf16,
            Some(DataType::F64) => Self::F64,
            Some(DataType::I8) => Self::I8,
            Some(DataType::I16) => Self::I16,
            Some(DataType::I32) => Self::I32,
            Some(DataType::I64) => Self::I64,
            Some(DataType::U8) => Self::U8,
            Some(DataType::U16) => Self::U16,
            Some(DataType::U32) => Self::U32,
            Some(DataType::U64) => Self::U64,
            Some(DataType::Bool) => Self::Bool,
        }
    }
}

/// An array of the caller's, or one of Poda's that the caller looks at: row-major, native-endian, `data` aligned for its
/// elements. `type` is a PodaType.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct PodaTensor {
    /// The name of the input or output that it is.
    pub name: *const c_char,
    /// The sizes, `rank` of them; may be NULL where `rank` is 0.
    pub shape: *const usize,
    /// Number of dimensions.
    pub rank: usize,
    /// The elements; may be NULL where there are none.
    pub data: *mut c_void,
    /// Bytes of the elements.
    pub bytes: usize,
    /// Their type, a PodaType.
    pub dtype: u32,
}

impl PodaTensor {
    pub(crate) fn data_type(&self) -> Result<DataType, PodaError> {
        let index = (self.dtype as usize).checked_sub(1);
        let dtype = index.and_then(|index| TYPES.get(index)).copied();
        dtype.ok_or_else(|| PodaError::argument(format!("{} is no element type", self.dtype)))
    }

    /// Its name.
    ///
    /// # Safety
    /// `name` is NULL or a text that lives for `'a`.
    pub(crate) unsafe fn name<'a>(&self) -> Result<&'a str, PodaError> {
        // SAFETY: by the contract.
        unsafe { text(self.name, "a tensor's name") }
    }

    /// Its shape.
    ///
    /// # Safety
    /// `shape` is NULL or points to `rank` sizes that live for `'a`.
    pub(crate) unsafe fn shape<'a>(&self) -> Result<&'a [usize], PodaError> {
        // SAFETY: by the contract.
        unsafe { array(self.shape, self.rank, "a tensor's shape") }
    }

    /// The whole as an input.
    ///
    /// # Safety
    /// Its pointers are NULL, or point to what the fields say, which lives unchanged for `'a`.
    pub(crate) unsafe fn view<'a>(&self) -> Result<(&'a str, TensorView<'a>), PodaError> {
        // SAFETY: by the contract.
        let (name, shape, bytes) = unsafe {
            (
                self.name()?,
                self.shape()?,
                array(self.data.cast::<u8>().cast_const(), self.bytes, "a tensor's data")?,
            )
        };
        let view = TensorView::from_bytes(self.data_type()?, shape, bytes);
        Ok((
            name,
            view.map_err(|error| PodaError::new(PodaStatus::Input, format!("input {name:?}: {error}")))?,
        ))
    }

    /// Whether its data may be written, as far as that can be told.
    pub(crate) fn check_data(&self) -> Result<(), PodaError> {
        if self.bytes == 0 {
            Ok(())
        } else {
            check_array(self.data.cast::<u8>(), self.bytes, "a tensor's data")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_have_their_numbers() {
        for (index, dtype) in TYPES.into_iter().enumerate() {
            assert_eq!(PodaType::from(Some(dtype)) as usize, index + 1);
        }
    }
}
