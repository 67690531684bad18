//! Bitmap: a bit for every weight of the dense matrix, 64 columns a word, and the kept values row by row. The smallest
//! lossless layout above a density of about 1/16.

use std::marker::PhantomData;

use poda_formats::Element;
use poda_formats::storage::AlignedBytes;
use poda_formats::weight::CsrView;

/// Columns of a word.
pub(crate) const WORD: usize = u64::BITS as usize;
/// Values that may be read beyond the last.
pub(crate) const OVERREAD: usize = 16;

/// A matrix `[m, k]` of values `V` as a bitmap.
#[derive(Debug)]
pub(crate) struct Bitmap<V> {
    pub(crate) m: usize,
    pub(crate) k: usize,
    /// `[m][k / 64]`, rounded up; the lowest bit is the first column.
    pub(crate) words: Vec<u64>,
    /// Values before each row, and their number.
    pub(crate) starts: Vec<u32>,
    /// `[nnz]`, followed by [`OVERREAD`] zeros.
    values: AlignedBytes,
    stored: PhantomData<V>,
}

impl<V: Element> Bitmap<V> {
    /// Packs a matrix.
    pub(crate) fn pack(csr: CsrView<'_, V>) -> Self {
        let matrix = csr.matrix();
        let (m, k) = (matrix.rows(), matrix.cols());
        let width = k.div_ceil(WORD);
        let mut words = vec![0_u64; m * width];
        for row in 0..m {
            for col in matrix.row_columns(row) {
                words[row * width + col as usize / WORD] |= 1 << (col as usize % WORD);
            }
        }
        let values = csr.values();
        let mut padded = AlignedBytes::zeroed((values.len() + OVERREAD) * size_of::<V>());
        bytemuck::cast_slice_mut(&mut padded)[..values.len()].copy_from_slice(values);
        Self { m, k, words, starts: matrix.row_offsets().to_vec(), values: padded, stored: PhantomData }
    }

    /// The values and what may be read beyond.
    pub(crate) fn values(&self) -> &[V] {
        bytemuck::cast_slice(&self.values)
    }

    /// Bytes of everything.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&self.words[..]) + size_of_val(&self.starts[..]) + self.values.len()
    }
}
