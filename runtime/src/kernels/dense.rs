//! Dense product.

use super::csr::Rows;
use super::{Packed, Problem, WeightMatrix};

/// Packs a weight as dense rows.
pub(super) fn prepare(weight: &WeightMatrix, _: &Problem) -> Box<dyn Packed> {
    let [m, k] = weight.shape().expect("checked by PackedWeight");
    let values = match weight {
        WeightMatrix::Dense(tensor) => tensor.as_slice().expect("checked by PackedWeight").to_vec(),
        WeightMatrix::Csr(csr) => csr.to_dense().expect("checked by PackedWeight"),
    };
    let indices = (0..m * k).map(|i| (i % k.max(1)) as u32).collect();
    Box::new(Rows { m, k, indptr: (0..=m).map(|row| row * k).collect(), indices, values })
}
