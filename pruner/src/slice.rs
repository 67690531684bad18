//! Slices of tensors of any element type.

use poda_formats::storage::{AlignedBytes, Storage};
use poda_formats::{DataType, Tensor};

/// `tensor` with only the indices kept along each dimension; `None` keeps all.
pub(crate) fn slice_dims(tensor: &Tensor, kept: &[Option<Vec<bool>>]) -> Tensor {
    let mut result = tensor.clone();
    for (dim, kept) in kept.iter().enumerate() {
        if let Some(kept) = kept {
            result = slice_dim(&result, dim, kept);
        }
    }
    result
}

fn slice_dim(tensor: &Tensor, dim: usize, kept: &[bool]) -> Tensor {
    let mut shape = tensor.shape().to_vec();
    let row = shape[dim + 1..].iter().product::<usize>() * tensor.dtype().size();
    let count = kept.iter().filter(|&&k| k).count();
    let outer: usize = shape[..dim].iter().product();
    let mut bytes = AlignedBytes::zeroed(outer * count * row);
    if row > 0 && count > 0 {
        let from = tensor.bytes().chunks_exact(row).zip(kept.iter().cycle()).filter(|(_, keep)| **keep);
        for (to, (from, _)) in bytes.chunks_exact_mut(row).zip(from) {
            to.copy_from_slice(from);
        }
    }
    shape[dim] = count;
    Tensor::new(tensor.dtype(), shape, Storage::owned(bytes)).expect("bytes of the kept elements")
}

/// `tensor` with every element that is not kept along some dimension replaced by `fill` (the bytes of an element).
pub(crate) fn fill_dims(tensor: &Tensor, kept: &[Option<Vec<bool>>], fill: &[u8]) -> Tensor {
    let size = tensor.dtype().size();
    let mut bytes = AlignedBytes::copy_of(tensor.bytes());
    for (dim, kept) in kept.iter().enumerate() {
        let Some(kept) = kept else { continue };
        let row = tensor.shape()[dim + 1..].iter().product::<usize>() * size;
        if row == 0 {
            continue;
        }
        for (row, keep) in bytes.chunks_exact_mut(row).zip(kept.iter().cycle()) {
            if !keep {
                row.chunks_exact_mut(size).for_each(|element| element.copy_from_slice(fill));
            }
        }
    }
    Tensor::new(tensor.dtype(), tensor.shape().to_vec(), Storage::owned(bytes)).expect("as many bytes")
}

/// The bytes of 1 in a float type, `None` for others.
pub(crate) fn one(dtype: DataType) -> Option<Vec<u8>> {
    match dtype {
        DataType::F32 => Some(1.0_f32.to_le_bytes().to_vec()),
        DataType::F64 => Some(1.0_f64.to_le_bytes().to_vec()),
        DataType::F16 => Some(half::f16::ONE.to_le_bytes().to_vec()),
        DataType::BF16 => Some(half::bf16::ONE.to_le_bytes().to_vec()),
        DataType::I8
        | DataType::I16
        | DataType::I32
        | DataType::I64
        | DataType::U8
        | DataType::U16
        | DataType::U32
        | DataType::U64
        | DataType::Bool => None,
    }
}
