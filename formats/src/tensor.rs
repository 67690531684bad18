//! Dense tensors: a data type, a shape, and row-major elements in shared [`Storage`].

use std::fmt;

use crate::dtype::{DataType, Element};
use crate::storage::{AlignedBytes, Storage};

/// Why bytes and a shape do not form a tensor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TensorError {
    #[error("shape {shape:?} of {dtype} has more bytes than memory can address")]
    #[allow(missing_docs)]
    TooLarge { shape: Vec<usize>, dtype: DataType },
    #[error("shape {shape:?} of {dtype} needs {expected} bytes, found {found}")]
    #[allow(missing_docs)]
    Length { shape: Vec<usize>, dtype: DataType, expected: usize, found: usize },
    #[error("tensor holds {found}, expected {expected}")]
    #[allow(missing_docs)]
    DataType { expected: DataType, found: DataType },
    #[error("not enough memory for {bytes} bytes")]
    #[allow(missing_docs)]
    Memory { bytes: usize },
}

/// A dense, immutable, row-major tensor. Cloning shares the elements.
#[derive(Clone)]
pub struct Tensor {
    dtype: DataType,
    shape: Vec<usize>,
    storage: Storage,
}

/// What the other factors of an empty tensor may come to, in bytes: operators set memory aside for some of them.
const EMPTY_LIMIT: usize = 1 << 30;

/// Bytes of a dense tensor, or `None` when they overflow.
pub fn checked_bytes(dtype: DataType, shape: &[usize]) -> Option<usize> {
    let bytes = shape.iter().try_fold(dtype.size(), |product, &dim| product.checked_mul(dim.max(1)))?;
    let empty = shape.contains(&0);
    if bytes > if empty { EMPTY_LIMIT } else { isize::MAX as usize } {
        return None;
    }
    Some(if empty { 0 } else { bytes })
}

impl Tensor {
    /// A tensor over `storage`, which is copied only if it is not aligned for its elements.
    ///
    /// # Errors
    /// When the bytes of `storage` are not exactly those of the shape.
    pub fn new(dtype: DataType, shape: Vec<usize>, storage: Storage) -> Result<Self, TensorError> {
        let Some(expected) = checked_bytes(dtype, &shape) else {
            return Err(TensorError::TooLarge { shape, dtype });
        };
        if expected != storage.len() {
            return Err(TensorError::Length { shape, dtype, expected, found: storage.len() });
        }
        Ok(Self { dtype, shape, storage: storage.aligned_to(dtype.size()) })
    }

    /// A tensor over bytes of a file that others may write to. Signed 32 and 64-bit integers, which operators take as
    /// positions and sizes, are copied; what other elements become changes numbers only.
    ///
    /// # Errors
    /// As [`Tensor::new`]; also when memory does not hold the copy.
    pub(crate) fn from_file(
        dtype: DataType,
        shape: Vec<usize>,
        storage: Storage,
    ) -> Result<Self, TensorError> {
        let tensor = Self::new(dtype, shape, storage)?;
        match dtype {
            DataType::I32 | DataType::I64 => tensor.private(),
            _ => Ok(tensor),
        }
    }

    /// The same elements, copied if they lie in a mapped file.
    pub(crate) fn private(&self) -> Result<Self, TensorError> {
        if !self.storage.is_mapped() {
            return Ok(self.clone());
        }
        let bytes = self.bytes().len();
        let mut copy = AlignedBytes::try_zeroed(bytes).ok_or(TensorError::Memory { bytes })?;
        copy.copy_from_slice(self.bytes());
        Self::new(self.dtype, self.shape.clone(), Storage::owned(copy))
    }

    /// A tensor with a copy of `values`.
    ///
    /// # Panics
    /// When `values` does not hold as many elements as `shape`.
    pub fn from_slice<T: Element>(shape: &[usize], values: &[T]) -> Self {
        let storage = Storage::owned(AlignedBytes::copy_of(bytemuck::cast_slice(values)));
        Self::new(T::DTYPE, shape.to_vec(), storage).expect("as many values as the shape has")
    }

    /// A tensor of rank 0.
    pub fn scalar<T: Element>(value: T) -> Self {
        Self::from_slice(&[], &[value])
    }

    /// A tensor of zeros (false for booleans).
    ///
    /// # Panics
    /// When the bytes overflow.
    pub fn zeros(dtype: DataType, shape: &[usize]) -> Self {
        let bytes = checked_bytes(dtype, shape).expect("a shape that fits memory");
        Self { dtype, shape: shape.to_vec(), storage: Storage::owned(AlignedBytes::zeroed(bytes)) }
    }

    /// Element type.
    pub fn dtype(&self) -> DataType {
        self.dtype
    }

    /// Shape, outermost dimension first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.shape.contains(&0)
    }

    /// The bytes of the elements, row-major, native-endian (little-endian on every supported CPU).
    pub fn bytes(&self) -> &[u8] {
        self.storage.bytes()
    }

    /// The bytes of the elements as a buffer that nobody else has: see [`Storage::into_owned`].
    pub fn into_bytes(self) -> AlignedBytes {
        self.storage.into_owned()
    }

    /// Where the elements live.
    pub fn storage(&self) -> &Storage {
        &self.storage
    }

    /// The elements.
    ///
    /// # Errors
    /// When `T` is not the element type.
    pub fn as_slice<T: Element>(&self) -> Result<&[T], TensorError> {
        self.view().as_slice()
    }

    /// The same elements in another shape.
    ///
    /// # Errors
    /// When the number of elements differs.
    pub fn reshaped(&self, shape: Vec<usize>) -> Result<Self, TensorError> {
        Self::new(self.dtype, shape, self.storage.clone())
    }

    /// A borrowed view.
    pub fn view(&self) -> TensorView<'_> {
        TensorView { dtype: self.dtype, shape: &self.shape, bytes: self.storage.bytes() }
    }
}

impl PartialEq for Tensor {
    /// Same type, shape and bytes (so NaN equals itself, and 0.0 differs from -0.0).
    fn eq(&self, other: &Self) -> bool {
        self.dtype == other.dtype && self.shape == other.shape && self.bytes() == other.bytes()
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor({} {:?}, {:?})", self.dtype, self.shape, self.storage)
    }
}

/// A borrowed dense tensor: row-major elements, aligned for their type.
#[derive(Debug, Clone, Copy)]
pub struct TensorView<'a> {
    dtype: DataType,
    shape: &'a [usize],
    bytes: &'a [u8],
}

impl<'a> TensorView<'a> {
    /// A view of `values` with `shape`.
    ///
    /// # Panics
    /// When `values` does not hold as many elements as `shape`.
    pub fn from_slice<T: Element>(shape: &'a [usize], values: &'a [T]) -> Self {
        assert_eq!(shape.iter().product::<usize>(), values.len(), "shape {shape:?}");
        Self { dtype: T::DTYPE, shape, bytes: bytemuck::cast_slice(values) }
    }

    /// A view of raw bytes.
    ///
    /// # Errors
    /// When the length is not that of the shape. Alignment is checked when elements are read.
    pub fn from_bytes(dtype: DataType, shape: &'a [usize], bytes: &'a [u8]) -> Result<Self, TensorError> {
        let Some(expected) = checked_bytes(dtype, shape) else {
            return Err(TensorError::TooLarge { shape: shape.to_vec(), dtype });
        };
        if expected != bytes.len() {
            return Err(TensorError::Length { shape: shape.to_vec(), dtype, expected, found: bytes.len() });
        }
        Ok(Self { dtype, shape, bytes })
    }

    /// Element type.
    pub fn dtype(&self) -> DataType {
        self.dtype
    }

    /// Shape, outermost dimension first.
    pub fn shape(&self) -> &'a [usize] {
        self.shape
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.shape.contains(&0)
    }

    /// The bytes of the elements.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The elements.
    ///
    /// # Errors
    /// When `T` is not the element type.
    ///
    /// # Panics
    /// When the bytes are not aligned for `T`; all of Poda's buffers are.
    pub fn as_slice<T: Element>(&self) -> Result<&'a [T], TensorError> {
        if T::DTYPE != self.dtype {
            return Err(TensorError::DataType { expected: T::DTYPE, found: self.dtype });
        }
        // An empty slice may lie anywhere.
        Ok(if self.bytes.is_empty() { &[] } else { bytemuck::cast_slice(self.bytes) })
    }

    /// The same elements in another shape.
    ///
    /// # Errors
    /// When the number of elements differs.
    pub fn reshaped(&self, shape: &'a [usize]) -> Result<Self, TensorError> {
        Self::from_bytes(self.dtype, shape, self.bytes)
    }

    /// An owned copy.
    pub fn to_tensor(&self) -> Tensor {
        Tensor {
            dtype: self.dtype,
            shape: self.shape.to_vec(),
            storage: Storage::owned(AlignedBytes::copy_of(self.bytes)),
        }
    }
}

/// A borrowed dense tensor to be written: row-major elements, aligned for their type.
#[derive(Debug)]
pub struct TensorViewMut<'a> {
    dtype: DataType,
    shape: &'a [usize],
    bytes: &'a mut [u8],
}

impl<'a> TensorViewMut<'a> {
    /// A view of `values` with `shape`.
    ///
    /// # Panics
    /// When `values` does not hold as many elements as `shape`.
    pub fn from_slice<T: Element>(shape: &'a [usize], values: &'a mut [T]) -> Self {
        assert_eq!(shape.iter().product::<usize>(), values.len(), "shape {shape:?}");
        Self { dtype: T::DTYPE, shape, bytes: bytemuck::cast_slice_mut(values) }
    }

    /// Element type.
    pub fn dtype(&self) -> DataType {
        self.dtype
    }

    /// Shape, outermost dimension first.
    pub fn shape(&self) -> &'a [usize] {
        self.shape
    }

    /// The bytes of the elements, row-major, native-endian.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_must_match_its_bytes() {
        let four = || Storage::owned(AlignedBytes::zeroed(4));
        assert!(Tensor::new(DataType::F32, vec![1], four()).is_ok());
        assert!(matches!(
            Tensor::new(DataType::F32, vec![2], four()),
            Err(TensorError::Length { expected: 8, found: 4, .. })
        ));
        assert!(matches!(
            Tensor::new(DataType::F32, vec![usize::MAX, 0, 2], four()),
            Err(TensorError::TooLarge { .. })
        ));
        assert_eq!(checked_bytes(DataType::F32, &[0, 1 << 20]), Some(0));
        assert_eq!(checked_bytes(DataType::F32, &[0, 1 << 40]), None);
    }

    #[test]
    fn a_buffer_is_handed_out_once_and_copied_while_it_is_shared() {
        let tensor = Tensor::from_slice(&[2], &[1.0_f32, 2.0]);
        let (at, shared) = (tensor.bytes().as_ptr(), tensor.clone());
        let copy = tensor.into_bytes();
        assert!(copy.as_ptr() != at && copy[..] == *shared.bytes());
        assert_eq!(shared.into_bytes().as_ptr(), at);
    }

    #[test]
    fn an_unaligned_slice_is_copied_and_an_aligned_one_shared() {
        let storage = Storage::owned(AlignedBytes::copy_of(&[0, 0, 0, 0, 128, 63, 0, 0, 0]));
        let one = Tensor::new(DataType::F32, vec![1], storage.slice(2..6).unwrap()).unwrap();
        assert_eq!(one.as_slice::<f32>().unwrap(), &[1.0]);
        let zero = Tensor::new(DataType::F32, vec![1], storage.slice(0..4).unwrap()).unwrap();
        assert_eq!(zero.bytes().as_ptr(), storage.bytes().as_ptr());
        assert!(storage.slice(8..10).is_none());
        assert!(zero.as_slice::<i32>().is_err());
    }
}
