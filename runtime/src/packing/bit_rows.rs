//! A sparse matrix as bits: what a bitmap stores, and what other weights are made into, so that what rows share is found by counting.

use std::borrow::Cow;
use std::ops::Range;

use poda_formats::weight::Bitmap;
use poda_formats::{CsrView, Places};

/// A matrix `[m, k]`: a bit for each column of each row, and the weights row by row.
pub(crate) struct BitRows<'a> {
    m: usize,
    k: usize,
    /// `[m]`, each as a [`Bitmap`] has it.
    bits: Cow<'a, [u8]>,
    /// Where the weights of each row begin, `[m + 1]`.
    starts: Cow<'a, [u32]>,
    values: &'a [f32],
}

impl<'a> From<CsrView<'a>> for BitRows<'a> {
    fn from(view: CsrView<'a>) -> Self {
        let matrix = view.matrix();
        let (m, k) = (matrix.rows(), matrix.cols());
        let mut bits = vec![0; m * Bitmap::row_bytes(k)];
        for (row, bits) in bits.chunks_exact_mut(Bitmap::row_bytes(k)).enumerate() {
            matrix.row_columns(row).for_each(|column| set(bits, column));
        }
        Self { m, k, bits: bits.into(), starts: matrix.row_offsets().into(), values: view.values() }
    }
}

impl<'a> BitRows<'a> {
    /// Of a bitmap with its values, one for each bit.
    pub(crate) fn new([m, k]: [usize; 2], bitmap: &'a Bitmap, values: &'a [f32]) -> Self {
        let starts = starts([m, k], bitmap, values.len()).into();
        Self { m, k, bits: bitmap.bits().into(), starts, values }
    }

    /// Rows and columns, `[m, k]`.
    pub(super) fn shape(&self) -> [usize; 2] {
        [self.m, self.k]
    }

    /// Where the weights of each row begin, `[m + 1]`.
    pub(super) fn starts(&self) -> &[u32] {
        &self.starts
    }

    /// The weights, row by row.
    pub(super) fn values(&self) -> &'a [f32] {
        self.values
    }

    fn row(&self, row: usize) -> &[u8] {
        &self.bits[row * Bitmap::row_bytes(self.k)..][..Bitmap::row_bytes(self.k)]
    }

    /// Columns that hold any weight, ascending.
    pub(super) fn used(&self) -> Vec<u32> {
        let mut used = vec![0; Bitmap::row_bytes(self.k)];
        for row in self.bits.chunks_exact(Bitmap::row_bytes(self.k)) {
            used.iter_mut().zip(row).for_each(|(used, bits)| *used |= bits);
        }
        columns(&used).collect()
    }

    /// The same matrix without any but these columns, which are all that are used.
    pub(super) fn only(self, used: &[u32]) -> Self {
        let mut place = vec![0; self.k];
        (0..).zip(used).for_each(|(i, &column)| place[column as usize] = i);
        let k = used.len();
        let mut bits = vec![0; self.m * Bitmap::row_bytes(k)];
        for (row, bits) in bits.chunks_exact_mut(Bitmap::row_bytes(k)).enumerate() {
            columns(self.row(row)).for_each(|column| set(bits, place[column as usize]));
        }
        Self { k, bits: bits.into(), ..self }
    }

    /// The bits of some columns of a row, from the first on; those beyond the last column are none.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "part of a kernel's loop")]
    pub(super) fn within<const WORDS: usize>(&self, row: usize, columns: &Range<usize>) -> [u64; WORDS] {
        let row = self.row(row);
        let (first, shift) = (columns.start / 8, columns.start % 8);
        std::array::from_fn(|word| {
            let at = first + 8 * word;
            let mut bits = load(row, at) >> shift;
            if shift > 0 {
                bits |= u64::from(row.get(at + 8).copied().unwrap_or(0)) << (64 - shift);
            }
            match columns.len().saturating_sub(64 * word) {
                left @ 0..64 => bits & ((1 << left) - 1),
                _ => bits,
            }
        })
    }
}

/// Where the weights of each row of a bitmap begin, `[m + 1]`.
pub(crate) fn starts(shape: [usize; 2], bitmap: &Bitmap, values: usize) -> Vec<u32> {
    let mut starts = Vec::with_capacity(shape[0] + 1);
    starts.push(0);
    bitmap.runs(shape, &mut |_, weights| starts.push(weights.end as u32));
    debug_assert_eq!(starts.last(), Some(&(values as u32)));
    starts
}

/// The eight bytes from `at` on, as far as there are any, the first lowest.
#[inline(always)]
#[allow(clippy::inline_always, reason = "part of a kernel's loop")]
fn load(bytes: &[u8], at: usize) -> u64 {
    if let Some(Ok(bytes)) = bytes.get(at..at + 8).map(<[u8; 8]>::try_from) {
        return u64::from_le_bytes(bytes);
    }
    let rest = bytes.get(at..).unwrap_or_default();
    rest.iter().rev().fold(0, |bits, &byte| bits << 8 | u64::from(byte))
}

fn set(bits: &mut [u8], column: u32) {
    bits[column as usize / 8] |= 1 << (column % 8);
}

/// The columns whose bits are set, ascending.
fn columns(bits: &[u8]) -> impl Iterator<Item = u32> + '_ {
    (0..)
        .zip(bits)
        .flat_map(|(at, &byte)| (0..8).filter(move |bit| byte >> bit & 1 == 1).map(move |bit| 8 * at + bit))
}

#[cfg(test)]
mod tests {
    use poda_formats::CsrMatrix;

    use super::*;

    #[test]
    fn any_columns_of_a_row_are_found() {
        let (m, k) = (3, 301);
        let kept = |i: usize| i * 7919 % 10 < 3;
        let dense: Vec<f32> = (0..m * k).map(|i| if kept(i) { 1.0 + i as f32 } else { 0.0 }).collect();
        let matrix = CsrMatrix::from_dense(m, k, &dense);
        let rows = BitRows::from(matrix.view().unwrap());
        for columns in [0..1, 0..64, 0..100, 7..9, 65..190, 192..301, 192..384, 296..500, 299..300] {
            for row in 0..m {
                let found: [u64; 4] = rows.within(row, &columns);
                for at in 0..256 {
                    let column = columns.start + at;
                    let expected = at < columns.len() && column < k && kept(row * k + column);
                    assert_eq!(
                        found[at / 64] >> (at % 64) & 1 == 1,
                        expected,
                        "{columns:?}: {column} of row {row}"
                    );
                }
            }
        }
    }
}
