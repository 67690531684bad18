//! Sparse × dense product straight from CSR: each stored weight scales one row of `X`. Simple, and fit for every CPU.

use super::{Call, Layout, Packed, Params, Problem, Right, WeightMatrix};
use crate::packing::scratch::Scratch;
use crate::packing::transpose_matrix;
use crate::simd::Supported;

/// Rows of (column, value).
pub(super) struct Rows {
    pub(super) m: usize,
    pub(super) k: usize,
    pub(super) indptr: Vec<usize>,
    pub(super) indices: Vec<u32>,
    pub(super) values: Vec<f32>,
}

/// Packs a CSR weight.
///
/// # Panics
/// When the weight is not CSR; the table says that it must be.
pub(super) fn prepare(weight: &WeightMatrix, _: &Problem, _: Supported, _: Params) -> Box<dyn Packed> {
    let Some(csr) = weight.csr() else { panic!("the csr kernel takes CSR weights") };
    let view = csr.view().expect("f32 is checked by PackedWeight");
    Box::new(Rows {
        m: csr.rows(),
        k: csr.cols(),
        indptr: csr.row_offsets().iter().map(|&offset| offset as usize).collect(),
        indices: csr.columns(),
        values: view.values().to_vec(),
    })
}

impl Packed for Rows {
    fn run(&self, call: Call<'_>) {
        let (m, k, n) = (self.m, self.k, call.n);
        let packed = &mut *Scratch::new(k * n);
        let x: &[f32] = match call.x {
            Right::Matrix { data, layout: Layout::FeatureMajor } => data,
            Right::Matrix { data, layout: Layout::TokenMajor } => {
                transpose_matrix(data, [n, k], packed);
                packed
            }
            Right::Image(image) => {
                image.unroll(packed);
                packed
            }
            Right::Images { .. } => unreachable!("takes one image"),
        };
        match call.y_layout {
            Layout::FeatureMajor => self.multiply(x, n, call.y),
            Layout::TokenMajor => {
                let y = &mut *Scratch::new(m * n);
                self.multiply(x, n, y);
                transpose_matrix(y, [m, n], call.y);
            }
        }
        for (i, y) in call.y.iter_mut().enumerate() {
            let row = match call.y_layout {
                Layout::FeatureMajor => i / n,
                Layout::TokenMajor => i % m,
            };
            *y += call.epilogue.bias.map_or(0.0, |bias| bias[row]);
            *y += call.epilogue.residual.map_or(0.0, |residual| residual[i]);
        }
        call.epilogue.activation.apply(call.y);
    }

    fn bytes(&self) -> usize {
        size_of_val(&self.indptr[..]) + size_of_val(&self.indices[..]) + size_of_val(&self.values[..])
    }
}

impl Rows {
    fn multiply(&self, x: &[f32], n: usize, y: &mut [f32]) {
        for (row, y) in y.chunks_exact_mut(n).enumerate() {
            y.fill(0.0);
            let range = self.indptr[row]..self.indptr[row + 1];
            for (&col, &weight) in self.indices[range.clone()].iter().zip(&self.values[range]) {
                for (y, &x) in y.iter_mut().zip(&x[col as usize * n..][..n]) {
                    *y += weight * x;
                }
            }
        }
    }
}
