//! Where an operator writes: a planned place in the arena, or fresh memory when the shape was not known before the run.

use poda_formats::storage::{AlignedBytes, Storage};
use poda_formats::tensor::checked_bytes;
use poda_formats::{DataType, Element, Tensor};

use crate::ops::OpError;

/// One output of a node during a run. Every buffer starts on a multiple of 64 bytes.
#[derive(Debug)]
pub enum Output<'a> {
    /// A place that the plan set aside.
    #[allow(missing_docs)]
    Planned { dtype: DataType, shape: &'a [usize], bytes: &'a mut [u8] },
    /// To be allocated by the operator.
    Fresh(Option<FreshTensor>),
    /// Nobody asked for it.
    Unused,
}

/// Memory that an operator allocated for an output.
#[allow(missing_docs)]
pub struct FreshTensor {
    pub dtype: DataType,
    pub shape: Vec<usize>,
    pub bytes: AlignedBytes,
}

impl std::fmt::Debug for FreshTensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FreshTensor({} {:?})", self.dtype, self.shape)
    }
}

impl FreshTensor {
    /// As an immutable tensor.
    ///
    /// # Panics
    /// Never: the bytes are those of the shape.
    pub fn into_tensor(self) -> Tensor {
        Tensor::new(self.dtype, self.shape, Storage::owned(self.bytes)).expect("allocated for this shape")
    }
}

impl Output<'_> {
    /// The tensor that an operator allocated in a [`Output::Fresh`].
    ///
    /// # Errors
    /// When it did not write the output.
    pub(crate) fn into_tensor(self) -> Result<Tensor, OpError> {
        match self {
            Self::Fresh(Some(tensor)) => Ok(tensor.into_tensor()),
            Self::Fresh(None) | Self::Planned { .. } | Self::Unused => {
                Err(OpError::Invalid("the operator left an output unwritten".into()))
            }
        }
    }

    /// Whether somebody reads this output.
    pub fn is_used(&self) -> bool {
        !matches!(self, Self::Unused)
    }

    /// The elements to write, for an output of type `T` and this shape. Fresh memory is zero; planned memory holds
    /// leftovers and must be written whole.
    ///
    /// # Errors
    /// When the plan expects another type or shape, when nobody asked for the output, or when the bytes overflow.
    pub fn alloc<T: Element>(&mut self, shape: &[usize]) -> Result<&mut [T], OpError> {
        let bytes = self.alloc_bytes(T::DTYPE, shape)?;
        // An empty slice may lie anywhere.
        Ok(if bytes.is_empty() { &mut [] } else { bytemuck::cast_slice_mut(bytes) })
    }

    /// As [`Output::alloc`], for a type known only at run time.
    ///
    /// # Errors
    /// As [`Output::alloc`].
    pub fn alloc_bytes(&mut self, dtype: DataType, shape: &[usize]) -> Result<&mut [u8], OpError> {
        match self {
            Self::Planned { dtype: planned, shape: planned_shape, bytes } => {
                if *planned != dtype || *planned_shape != shape {
                    return Err(OpError::Plan {
                        planned: (*planned, planned_shape.to_vec()),
                        found: (dtype, shape.to_vec()),
                    });
                }
                Ok(bytes)
            }
            Self::Fresh(tensor) => {
                let Some(len) = checked_bytes(dtype, shape) else {
                    return Err(OpError::TooLarge { dtype, shape: shape.to_vec() });
                };
                // What cannot be had is an error of this run, not the end of the process.
                let too_large = || OpError::TooLarge { dtype, shape: shape.to_vec() };
                if len > crate::memory::limit() {
                    return Err(too_large());
                }
                let bytes = AlignedBytes::try_zeroed(len).ok_or_else(too_large)?;
                Ok(&mut tensor.insert(FreshTensor { dtype, shape: shape.to_vec(), bytes }).bytes)
            }
            Self::Unused => Err(OpError::UnusedOutput),
        }
    }
}
