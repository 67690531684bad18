//! Blocks for few columns of `X`: tall ones, whose weights of a column are a vector of rows, and wide ones, whose weights of a
//! row are a vector of columns. Either way a vector of weights is one load, and what it meets in `X` needs no gather.

use poda_formats::BlockMatrix;
use poda_formats::storage::AlignedBytes;

/// Strips of `height` rows that keep the same columns, or single rows of pieces of `width` columns.
#[derive(Debug)]
pub(crate) struct Blocks {
    pub(crate) m: usize,
    pub(crate) k: usize,
    /// Slots before each strip or row, and their number.
    pub(crate) starts: Vec<u32>,
    /// Of each slot the (first) column; `k` where there is none.
    pub(crate) columns: Vec<u16>,
    /// f32 `[slots][size]`
    values: AlignedBytes,
}

impl Blocks {
    /// Packs a matrix in strips of `height` rows, each with a multiple of `multiple` columns.
    ///
    /// # Panics
    /// When the rows of its blocks are no multiple of `height`, there are 2¹⁶ - 1 columns or more, or values are not f32.
    pub(crate) fn tall(matrix: &BlockMatrix, height: usize, multiple: usize) -> Self {
        let ([r, c], (m, k)) = (matrix.block(), (matrix.rows(), matrix.cols()));
        assert!(r.is_multiple_of(height), "strips of {height} rows of blocks of {r}");
        let values = matrix.values_f32().expect("checked by PackedWeight");
        Self::pack([m, k], m.div_ceil(height), height, multiple, |strip, slot| {
            let (row, within) = (strip * height / r, strip * height % r);
            let first = matrix.row_offsets()[row] as usize;
            // What a block holds beyond the last row or column means nothing.
            let rows = height.min(m - strip * height);
            for (col, block) in matrix.row_columns(row).zip(first..) {
                let start = col as usize * c;
                for col in start..k.min(start + c) {
                    let at = (block * r + within) * c + col - start;
                    slot(col, &mut (0..rows).map(|i| values[at + i * c]));
                }
            }
        })
    }

    /// Packs a matrix in rows of pieces of `width` columns, a multiple of `multiple` in each.
    ///
    /// # Panics
    /// When the columns of its blocks are no multiple of `width`, there are 2¹⁶ - 1 columns or more, or values are not f32.
    pub(crate) fn wide(matrix: &BlockMatrix, width: usize, multiple: usize) -> Self {
        let ([r, c], (m, k)) = (matrix.block(), (matrix.rows(), matrix.cols()));
        assert!(c.is_multiple_of(width), "pieces of {width} columns of blocks of {c}");
        let values = matrix.values_f32().expect("checked by PackedWeight");
        Self::pack([m, k], m, width, multiple, |row, slot| {
            let (strip, within) = (row / r, row % r);
            let first = matrix.row_offsets()[strip] as usize;
            for (col, block) in matrix.row_columns(strip).zip(first..) {
                for piece in (0..c).step_by(width) {
                    let start = col as usize * c + piece;
                    let at = (block * r + within) * c + piece;
                    if start < k {
                        slot(start, &mut values[at..at + width.min(k - start)].iter().copied());
                    }
                }
            }
        })
    }

    /// Collects what `of` gives for each of `count` strips: a column and at most `size` weights for each slot.
    fn pack(
        [m, k]: [usize; 2],
        count: usize,
        size: usize,
        multiple: usize,
        of: impl Fn(usize, &mut dyn FnMut(usize, &mut dyn Iterator<Item = f32>)),
    ) -> Self {
        let none = u16::try_from(k).expect("fewer than 2¹⁶ columns");
        let (mut starts, mut columns) = (vec![0], Vec::new());
        for strip in 0..count {
            of(strip, &mut |col, _| columns.push(col as u16));
            columns.resize(columns.len().next_multiple_of(multiple), none);
            starts.push(u32::try_from(columns.len()).expect("fewer than 2³² slots"));
        }
        let mut values = AlignedBytes::zeroed(columns.len() * size * size_of::<f32>());
        let out: &mut [f32] = bytemuck::cast_slice_mut(&mut values);
        for (strip, &start) in starts[..count].iter().enumerate() {
            let mut at = start as usize * size;
            of(strip, &mut |_, weights| {
                out[at..at + size].iter_mut().zip(weights).for_each(|(out, w)| *out = w);
                at += size;
            });
        }
        Self { m, k, starts, columns, values }
    }

    /// `[slots][size]`
    pub(crate) fn values(&self) -> &[f32] {
        bytemuck::cast_slice(&self.values)
    }

    /// Bytes of everything.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&self.starts[..]) + size_of_val(&self.columns[..]) + self.values.len()
    }
}
