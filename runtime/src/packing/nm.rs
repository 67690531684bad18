//! N:M with rows in lanes: every row has as many weights in every group of `X`, so that a group is looked at once for `N`
//! vectors of weights, and neither pointers nor padding are needed.
//!
//! Positions of a lane's weights lie in 32-bit words, 2 or 4 bits each, the first lowest; a word holds whole groups only.

use poda_formats::NmMatrix;
use poda_formats::storage::AlignedBytes;

/// Bits of a word of positions.
const WORD: usize = 32;

/// A matrix `[m, k]` with `N` weights in each group of `M` columns, as many rows side by side as lanes.
#[derive(Debug)]
pub(crate) struct NmLanes {
    pub(crate) m: usize,
    pub(crate) k: usize,
    /// N and M.
    pub(crate) n_of_m: [usize; 2],
    /// Words of positions in a row.
    pub(crate) words: usize,
    /// u32 `[strips][words][lanes]`
    positions: AlignedBytes,
    /// f32 `[strips][words][groups of a word · N][lanes]`
    values: AlignedBytes,
}

/// Bits of a position among `m`.
pub(crate) fn bits(m: usize) -> usize {
    if m <= 4 { 2 } else { 4 }
}

/// Groups whose positions fit a word.
pub(crate) fn groups_of_word([n, m]: [usize; 2]) -> usize {
    WORD / bits(m) / n
}

impl NmLanes {
    /// Packs a matrix.
    ///
    /// # Panics
    /// When the positions of a group do not fit a word, or values are not f32.
    pub(crate) fn pack(matrix: &NmMatrix, lanes: usize) -> Self {
        let ([n, width], (m, k)) = (matrix.sizes(), (matrix.rows(), matrix.cols()));
        let (bits, of_word) = (bits(width), groups_of_word([n, width]));
        assert!(of_word > 0, "{n}:{width} takes more than a word");
        let (groups, words) = (matrix.groups(), matrix.groups().div_ceil(of_word));
        let slots = words * of_word * n;
        let rows = m.next_multiple_of(lanes);
        let mut positions = AlignedBytes::zeroed(rows * words * size_of::<u32>());
        let mut values = AlignedBytes::zeroed(rows * slots * size_of::<f32>());
        let words_out: &mut [u32] = bytemuck::cast_slice_mut(&mut positions);
        let values_out: &mut [f32] = bytemuck::cast_slice_mut(&mut values);
        let stored = matrix.values_f32().expect("checked by PackedWeight");
        for row in 0..m {
            let (strip, lane) = (row / lanes, row % lanes);
            for slot in 0..groups * n {
                let position = matrix.position(row, slot);
                let (word, within) = (slot / (of_word * n), slot % (of_word * n));
                words_out[(strip * words + word) * lanes + lane] |= (position as u32) << (within * bits);
                // What a last group holds beyond the last column means nothing: 0, and there X is 0 as well.
                if slot / n * width + position < k {
                    values_out[(strip * slots + slot) * lanes + lane] = stored[row * groups * n + slot];
                }
            }
        }
        Self { m, k, n_of_m: [n, width], words, positions, values }
    }

    /// `[strips][words][lanes]`
    pub(crate) fn positions(&self) -> &[u32] {
        bytemuck::cast_slice(&self.positions)
    }

    /// `[strips][words][groups of a word · N][lanes]`
    pub(crate) fn values(&self) -> &[f32] {
        bytemuck::cast_slice(&self.values)
    }

    /// Elements that are read beyond the last of a column of `X`: of the groups that a last word lacks, and of a vector.
    pub(crate) fn overread(&self) -> usize {
        self.words * groups_of_word(self.n_of_m) * self.n_of_m[1] - self.k + 16
    }

    /// Bytes of everything.
    pub(crate) fn bytes(&self) -> usize {
        self.positions.len() + self.values.len()
    }
}

#[cfg(test)]
mod tests {
    use poda_formats::CsrMatrix;

    use super::*;

    #[test]
    fn lanes_hold_every_weight_once() {
        for ([n, width], k) in [([2, 4], 38), ([1, 4], 64), ([3, 4], 61), ([4, 8], 100), ([3, 7], 29)] {
            let (m, lanes) = (21, 8);
            let kept = |row: usize, col: usize| (col % width + row * 3 + col / width) % width < n;
            let dense: Vec<f32> =
                (0..m * k).map(|i| if kept(i / k, i % k) { 1.0 + i as f32 } else { 0.0 }).collect();
            let csr = CsrMatrix::from_dense(m, k, &dense);
            let matrix = NmMatrix::from_csr(&csr, [n, width]).unwrap();
            let packed = NmLanes::pack(&matrix, lanes);
            let of_word = groups_of_word([n, width]);
            let mut found = vec![0.0; m * k];
            for row in 0..m {
                for slot in 0..packed.words * of_word * n {
                    let (strip, lane) = (row / lanes, row % lanes);
                    let word = (strip * packed.words + slot / (of_word * n)) * lanes + lane;
                    let shift = slot % (of_word * n) * bits(width);
                    let position = packed.positions()[word] >> shift & ((1 << bits(width)) - 1);
                    let value = packed.values()[(strip * packed.words * of_word * n + slot) * lanes + lane];
                    let col = slot / n * width + position as usize;
                    assert!(col < k + packed.overread());
                    if value != 0.0 {
                        found[row * k + col] += value;
                    }
                }
            }
            assert!(found == dense, "{n}:{width}");
        }
    }
}
