//! Tiles of `X` as the kernels read them: `[rows of X][width columns]`, whole vectors wide, zeros beyond the last column.

use std::ops::Range;

use super::operand::{Layout, Right};
use super::transpose::transpose;
use crate::simd::{Simd, splat};

/// Which rows of `X` a tile holds.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Rows<'a> {
    /// Consecutive ones.
    Range { start: usize, end: usize },
    /// Ascending ones.
    List(&'a [u32]),
}

impl Rows<'_> {
    #[inline(always)]
    pub(super) fn len(self) -> usize {
        match self {
            Self::Range { start, end } => end - start,
            Self::List(rows) => rows.len(),
        }
    }

    #[inline(always)]
    pub(super) fn get(self, i: usize) -> usize {
        match self {
            Self::Range { start, .. } => start + i,
            Self::List(rows) => rows[i] as usize,
        }
    }
}

/// Packs `rows` × `cols` of `X` `[k, n]` into `dst` `[rows][width]`.
///
/// # Safety
/// `x` must be a valid `[k, n]`, `rows` and `cols` lie within it, `width` be a multiple of `S::LANES` and at least
/// `cols.len()`, and `dst` hold `rows · width` elements.
#[inline(always)]
pub(crate) unsafe fn pack_tile<S: Simd>(
    simd: S,
    x: &Right<'_>,
    [k, n]: [usize; 2],
    rows: Rows<'_>,
    cols: Range<usize>,
    width: usize,
    dst: *mut f32,
) {
    let len = cols.len();
    // SAFETY: every row of `dst` holds `width` elements; sources lie within `x`, by the caller.
    unsafe {
        match *x {
            Right::Matrix { data, layout: Layout::FeatureMajor } => {
                for i in 0..rows.len() {
                    let src = data.as_ptr().add(rows.get(i) * n + cols.start);
                    copy_padded(simd, src, len, dst.add(i * width), width);
                }
            }
            Right::Matrix { data, layout: Layout::TokenMajor } => {
                if len < width {
                    for i in 0..rows.len() {
                        fill(simd, 0.0, dst.add(i * width + len), width - len);
                    }
                }
                match rows {
                    Rows::Range { start, end } => {
                        let src = data.as_ptr().add(cols.start * k + start);
                        transpose(simd, src, k, [len, end - start], dst, width);
                    }
                    Rows::List(list) => {
                        for (i, &row) in list.iter().enumerate() {
                            for (j, col) in cols.clone().enumerate() {
                                *dst.add(i * width + j) = *data.as_ptr().add(col * k + row as usize);
                            }
                        }
                    }
                }
            }
            Right::Image(image) => image.pack(simd, rows, cols, width, dst),
            Right::Images { data, pixels } => {
                for i in 0..rows.len() {
                    let (row, dst) = (rows.get(i), dst.add(i * width));
                    let mut col = cols.start;
                    while col < cols.end {
                        let (image, pixel) = (col / pixels, col % pixels);
                        let end = cols.end.min(col + pixels - pixel);
                        let src = data.as_ptr().add((image * k + row) * pixels + pixel);
                        // The last piece fills the rest of the row with zeros.
                        let room = if end == cols.end { cols.start + width } else { end } - col;
                        copy_padded(simd, src, end - col, dst.add(col - cols.start), room);
                        col = end;
                    }
                }
            }
        }
    }
}

/// Packs `rows` × `cols` of `X` as tiles of `width` columns, `[rows][width]` each, one after another.
///
/// # Safety
/// As [`pack_tile`]; `dst` must hold all tiles.
#[inline(always)]
pub(crate) unsafe fn pack_tiles<S: Simd>(
    simd: S,
    x: &Right<'_>,
    [k, n]: [usize; 2],
    rows: Rows<'_>,
    cols: Range<usize>,
    width: usize,
    dst: *mut f32,
) {
    use rten_simd::ops::BitOps;
    let tile = rows.len() * width;
    let mut dst = dst;
    let mut start = cols.start;
    // SAFETY: by the caller.
    unsafe {
        if let Right::Matrix { data, layout: Layout::FeatureMajor } = *x {
            // Whole tiles row by row, so that each row is read in one go.
            let whole = cols.len() / width;
            for i in 0..rows.len() {
                let mut src = data.as_ptr().add(rows.get(i) * n + start);
                let mut dst = dst.add(i * width);
                for _ in 0..whole {
                    for lane in (0..width).step_by(S::LANES) {
                        simd.f32().store_ptr(simd.f32().load_ptr(src.add(lane)), dst.add(lane));
                    }
                    (src, dst) = (src.add(width), dst.wrapping_add(tile));
                }
            }
            (start, dst) = (start + whole * width, dst.wrapping_add(whole * tile));
        }
        while start < cols.end {
            pack_tile(simd, x, [k, n], rows, start..cols.end.min(start + width), width, dst);
            (start, dst) = (start + width, dst.wrapping_add(tile));
        }
    }
}

/// `len` elements, then zeros up to `width`.
///
/// # Safety
/// `len <= width`; `len` elements of `src` and `width` of `dst` must be accessible.
#[inline(always)]
pub(crate) unsafe fn copy_padded<S: Simd>(simd: S, src: *const f32, len: usize, dst: *mut f32, width: usize) {
    use rten_simd::ops::BitOps;
    let mut i = 0;
    // SAFETY: at most the rest of `src` is read, and at most the rest of `dst` written.
    unsafe {
        while i + S::LANES <= len {
            simd.f32().store_ptr(simd.f32().load_ptr(src.add(i)), dst.add(i));
            i += S::LANES;
        }
        while i < width {
            // (`wrapping_add`: beyond `len` nothing is read, but the address is computed.)
            let v = simd.load_first(src.wrapping_add(i), len.saturating_sub(i));
            simd.store_first(v, dst.add(i), S::LANES.min(width - i));
            i += S::LANES;
        }
    }
}

/// `len` times `value`.
///
/// # Safety
/// `len` elements of `dst` must be writable.
#[inline(always)]
pub(crate) unsafe fn fill<S: Simd>(simd: S, value: f32, dst: *mut f32, len: usize) {
    use rten_simd::ops::BitOps;
    let value = splat(simd, value);
    let mut i = 0;
    // SAFETY: at most the rest of `dst` is written.
    unsafe {
        while i + S::LANES <= len {
            simd.f32().store_ptr(value, dst.add(i));
            i += S::LANES;
        }
        if i < len {
            simd.store_first(value, dst.add(i), len - i);
        }
    }
}
