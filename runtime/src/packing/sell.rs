//! SELL-C-σ: `LANES` rows side by side, sorted by their number of weights within blocks, so that a step multiplies one weight
//! of each. Columns take 16 bits. Rows shorter than the longest of their group are padded with zeros in a column
//! beyond the last.
//!
//! Kreutzer et al., "A unified sparse matrix data format for efficient general sparse matrix-vector multiplication on modern
//! processors with wide SIMD units", SISC 2014, <https://arxiv.org/abs/1307.6209>.

use std::marker::PhantomData;

use poda_formats::Element;
use poda_formats::sparse::CsrView;
use poda_formats::storage::AlignedBytes;

/// Most rows that are sorted among themselves: their places fit a byte. Of a Fashion-MNIST classifier's first layer, whose
/// neurons keep 0 to 394 weights at 95 % of zeros in all, blocks of 64 rows make 2.1 slots per weight in groups of 16, 256 1.5,
/// all rows 1.35.
pub(crate) const MOST_ROWS: usize = 256;

/// A matrix `[m, k]` of values `V` in SELL, `k` less than 2¹⁶.
#[derive(Debug)]
pub(crate) struct Sell<V, const LANES: usize> {
    pub(crate) m: usize,
    pub(crate) k: usize,
    /// Rows that are sorted among themselves, a multiple of 64.
    pub(crate) block: usize,
    /// Steps before each group of rows, and their number.
    pub(crate) starts: Vec<u32>,
    /// u16 `[steps][lane]`; `k` where there is no weight.
    indices: AlignedBytes,
    /// `[steps][lane]`
    values: AlignedBytes,
    stored: PhantomData<V>,
    /// Rows in the order of lanes, counted from the start of their block.
    pub(crate) rows: Vec<u8>,
}

impl<V: Element, const LANES: usize> Sell<V, LANES> {
    /// Packs a matrix in blocks for `parts` threads.
    ///
    /// # Panics
    /// When there are 2¹⁶ columns or more.
    pub(crate) fn pack(csr: CsrView<'_, V>, parts: usize) -> Self {
        let (m, k) = (csr.matrix().rows(), csr.matrix().cols());
        let block = block_rows(m, parts);
        let none = u16::try_from(k).expect("fewer than 2¹⁶ columns");
        let mut rows: Vec<usize> = (0..m).collect();
        let (mut starts, mut steps) = (vec![0], 0);
        for rows in rows.chunks_mut(block) {
            rows.sort_by_key(|&row| csr.row(row).len());
            for group in rows.chunks(LANES) {
                steps += group.last().map_or(0, |&row| csr.row(row).len());
                starts.push(u32::try_from(steps).expect("fewer than 2³² steps"));
            }
        }
        let mut indices = AlignedBytes::zeroed(steps * LANES * size_of::<u16>());
        let mut values = AlignedBytes::zeroed(steps * LANES * size_of::<V>());
        let index: &mut [u16] = bytemuck::cast_slice_mut(&mut indices);
        let value: &mut [V] = bytemuck::cast_slice_mut(&mut values);
        index.fill(none);
        let groups = rows.chunks(block).flat_map(|rows| rows.chunks(LANES));
        for (group, &start) in groups.zip(&starts) {
            for (lane, &row) in group.iter().enumerate() {
                for (step, (col, w)) in csr.row(row).enumerate() {
                    let at = (start as usize + step) * LANES + lane;
                    index[at] = col as u16;
                    value[at] = w;
                }
            }
        }
        let rows = rows.iter().map(|row| (row % block) as u8).collect();
        Self { m, k, block, starts, indices, values, stored: PhantomData, rows }
    }

    /// `[steps][lane]`, 4 in each.
    pub(crate) fn indices(&self) -> &[u64] {
        bytemuck::cast_slice(&self.indices)
    }

    /// `[steps][lane]`
    pub(crate) fn values(&self) -> &[V] {
        bytemuck::cast_slice(&self.values)
    }

    /// Bytes of everything.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&self.starts[..]) + self.indices.len() + self.values.len() + self.rows.len()
    }
}

/// Rows of a block, so that blocks are as large as may be and each of `parts` threads has as many.
pub(super) fn block_rows(m: usize, parts: usize) -> usize {
    let blocks = m.div_ceil(MOST_ROWS).max(1).next_multiple_of(parts.max(1));
    m.div_ceil(blocks).next_multiple_of(64).clamp(64, MOST_ROWS)
}
