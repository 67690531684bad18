//! SELL-C-σ: `LANES` rows side by side, sorted by their number of weights within blocks, so that a step multiplies one weight
//! of each. Columns take 16 bits. Rows shorter than the longest of their group are padded with zeros in a column beyond the
//! last; a row that is much longer than others is folded: it takes several lanes, whose sums are added.
//!
//! Kreutzer et al., "A unified sparse matrix data format for efficient general sparse matrix-vector multiplication on modern
//! processors with wide SIMD units", SISC 2014, <https://arxiv.org/abs/1307.6209>.

use std::marker::PhantomData;
use std::ops::Range;

use poda_formats::storage::AlignedBytes;
use poda_formats::weight::CsrView;
use poda_formats::{CsrMatrix, Element};

use crate::threads::Split;

/// Most rows that are sorted among themselves: their places fit a byte. Of a Fashion-MNIST classifier's first layer, whose
/// neurons keep 0 to 394 weights at 95 % of zeros in all, blocks of 64 rows make 2.1 slots per weight in groups of 16, 256 1.5,
/// all rows 1.35.
pub(crate) const MOST_ROWS: usize = 256;
/// Rows longer than this times the mean of their block are folded. With rows of log-normal length (deviation 1.5) and 95 % zeros
/// that makes 1.08 slots per weight in place of 1.54 (blocks of 192 rows of 768, groups of 8); on uniform masks it never applies.
const FOLD: f64 = 1.5;
/// Weights in a lane below which folding does not pay.
const LEAST: usize = 8;

/// A matrix `[m, k]` of values `V` in SELL, `k` less than 2¹⁶.
#[derive(Debug)]
pub(crate) struct Sell<V, const LANES: usize> {
    pub(crate) m: usize,
    pub(crate) k: usize,
    /// Rows that are sorted among themselves, a multiple of 64.
    pub(crate) block: usize,
    /// Groups before each block, and their number.
    groups: Vec<u32>,
    /// Steps before each group, and their number.
    starts: Vec<u32>,
    /// u16 `[steps][lane]`; `k` where there is no weight.
    indices: AlignedBytes,
    /// `[steps][lane]`
    values: AlignedBytes,
    stored: PhantomData<V>,
    /// `[groups][lane]`: the row that a lane's sum belongs to, counted from the start of its block.
    rows: Vec<u8>,
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
        let (mut groups, mut starts, mut steps) = (vec![0], vec![0], 0);
        let mut lanes = Vec::new();
        for first in (0..m).step_by(block) {
            let mut folded = fold(csr.matrix(), first..m.min(first + block));
            folded.sort_by_key(|lane| lane.weights.len());
            for group in folded.chunks(LANES) {
                steps += group.last().map_or(0, |lane| lane.weights.len());
                starts.push(u32::try_from(steps).expect("fewer than 2³² steps"));
            }
            groups.push((starts.len() - 1) as u32);
            folded.resize(folded.len().next_multiple_of(LANES), Lane { row: first, weights: 0..0 });
            lanes.extend(folded);
        }
        let mut indices = AlignedBytes::zeroed(steps * LANES * size_of::<u16>());
        let mut values = AlignedBytes::zeroed(steps * LANES * size_of::<V>());
        let index: &mut [u16] = bytemuck::cast_slice_mut(&mut indices);
        let value: &mut [V] = bytemuck::cast_slice_mut(&mut values);
        index.fill(none);
        for (group, &start) in lanes.chunks(LANES).zip(&starts) {
            for (i, lane) in group.iter().enumerate() {
                let weights = csr.row(lane.row).skip(lane.weights.start).take(lane.weights.len());
                for (step, (col, w)) in weights.enumerate() {
                    let at = (start as usize + step) * LANES + i;
                    index[at] = col as u16;
                    value[at] = w;
                }
            }
        }
        let rows = lanes.iter().map(|lane| (lane.row % block) as u8).collect();
        Self { m, k, block, groups, starts, indices, values, stored: PhantomData, rows }
    }

    /// Slots before block `block`, which may be the number of blocks.
    pub(crate) fn slots(&self, block: usize) -> usize {
        let group = self.groups[block.min(self.groups.len() - 1)];
        self.starts[group as usize] as usize * LANES
    }

    /// The steps of each group of a block, and the rows of its lanes.
    pub(crate) fn groups(&self, block: usize) -> impl Iterator<Item = (Range<usize>, &[u8])> {
        let [first, end] = [0, 1].map(|i| self.groups[block + i] as usize);
        let steps = self.starts[first..=end].windows(2).map(|pair| pair[0] as usize..pair[1] as usize);
        steps.zip(self.rows[first * LANES..end * LANES].chunks(LANES))
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
        size_of_val(&self.groups[..])
            + size_of_val(&self.starts[..])
            + self.indices.len()
            + self.values.len()
            + self.rows.len()
    }
}

/// Some weights of a row, next to each other.
#[derive(Clone)]
struct Lane {
    row: usize,
    /// Counted from the first of the row.
    weights: Range<usize>,
}

/// The lanes of a block: its rows, the long ones in parts of nearly equal length. Rows without weights take none.
fn fold(matrix: &CsrMatrix, rows: Range<usize>) -> Vec<Lane> {
    let lens = rows.map(|row| (row, matrix.row_columns(row).len())).filter(|&(_, len)| len > 0);
    let lens: Vec<(usize, usize)> = lens.collect();
    let mean = lens.iter().map(|&(_, len)| len).sum::<usize>() as f64 / lens.len().max(1) as f64;
    let most = ((FOLD * mean) as usize).max(LEAST);
    let parts = |(row, len): (usize, usize)| {
        let parts = Split::even(len, len.div_ceil(most));
        (0..parts.parts()).map(move |i| Lane { row, weights: parts.part(i) })
    };
    lens.into_iter().flat_map(parts).collect()
}

/// Rows of a block, so that blocks are as large as may be and each of `parts` threads has as many.
pub(super) fn block_rows(m: usize, parts: usize) -> usize {
    let blocks = m.div_ceil(MOST_ROWS).max(1).next_multiple_of(parts.max(1));
    m.div_ceil(blocks).next_multiple_of(64).clamp(64, MOST_ROWS)
}
