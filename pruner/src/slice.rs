//! Slices of tensors of any element type.

use poda_formats::Tensor;
use poda_formats::storage::{AlignedBytes, Storage};

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
