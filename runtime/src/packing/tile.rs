//! Tiles of `X` as the kernels read them: `[rows of X][width columns]`, whole vectors wide, zeros beyond the last column.

use std::ops::Range;

use super::ConvGeometry;
use super::scratch::Scratch;
use super::transpose::transpose;
use crate::kernels::simd::{Simd, splat};
use crate::kernels::{Layout, X};

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
    fn len(self) -> usize {
        match self {
            Self::Range { start, end } => end - start,
            Self::List(rows) => rows.len(),
        }
    }

    #[inline(always)]
    fn get(self, i: usize) -> usize {
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
    x: &X<'_>,
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
            X::Matrix { data, layout: Layout::FeatureMajor } => {
                for i in 0..rows.len() {
                    let src = data.as_ptr().add(rows.get(i) * n + cols.start);
                    copy_padded(simd, src, len, dst.add(i * width), width);
                }
            }
            X::Matrix { data, layout: Layout::TokenMajor } => {
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
            X::Image { data, geometry } => pack_image(simd, data, geometry, rows, cols, width, dst),
        }
    }
}

/// [`pack_tile`] of the im2col matrix of `image`.
///
/// Rows of the same kernel tap read the same pixels of their channels, so where each tap reads is worked out once: divisions
/// and clipping for each row cost more than the copies where lines are short.
///
/// # Safety
/// As [`pack_tile`]; `rows` ascend.
#[inline(always)]
unsafe fn pack_image<S: Simd>(
    simd: S,
    image: &[f32],
    geometry: &ConvGeometry,
    rows: Rows<'_>,
    cols: Range<usize>,
    width: usize,
    dst: *mut f32,
) {
    if rows.len() == 0 || cols.is_empty() {
        return;
    }
    let taps = geometry.kernel()[0] * geometry.kernel()[1];
    let pixels = geometry.input()[0] * geometry.input()[1];
    let step = geometry.stride()[1];
    let ow = geometry.output()[1];
    let lines = (cols.end - 1) / ow - cols.start / ow + 1;
    let entry = 1 + 3 * lines;
    let mut table = Scratch::new(taps * entry);
    let table: &mut [u32] = bytemuck::cast_slice_mut(&mut table);
    tap_runs(geometry, cols, lines, table);
    let mut channel = rows.get(0) / taps;
    for i in 0..rows.len() {
        let row = rows.get(i);
        while row >= (channel + 1) * taps {
            channel += 1;
        }
        let entry = &table[(row - channel * taps) * entry..][..entry];
        // SAFETY: runs lie within a channel and within the tile's columns, both by `tap_runs`; a row of `dst` holds `width`.
        unsafe {
            let src = image.as_ptr().add(channel * pixels);
            let dst = dst.add(i * width);
            if (entry[0] as usize) < width {
                fill(simd, 0.0, dst, width);
            }
            for run in entry[1..].chunks_exact(3) {
                let (len, src, dst) = (run[1] as usize, src.add(run[2] as usize), dst.add(run[0] as usize));
                if step == 1 {
                    copy_padded(simd, src, len, dst, len);
                } else {
                    for i in 0..len {
                        *dst.add(i) = *src.add(i * step);
                    }
                }
            }
        }
    }
}

/// For each kernel tap, how many of the columns `cols` read inside the image, then three numbers for each of the `lines`
/// output lines that `cols` touch: the first such column (counted from the start of `cols`), how many there are, and the
/// pixel of the channel that the first one reads.
fn tap_runs(geometry: &ConvGeometry, cols: Range<usize>, lines: usize, table: &mut [u32]) {
    let [height, width] = geometry.input();
    let kw = geometry.kernel()[1];
    let ow = geometry.output()[1];
    let ([sy, sx], [dy, dx]) = (geometry.stride(), geometry.dilation());
    let [top, left, ..] = geometry.pads();
    let first_line = cols.start / ow;
    for (tap, entry) in table.chunks_exact_mut(1 + 3 * lines).enumerate() {
        let (ky, shift) = (tap / kw, tap % kw * dx);
        // Output columns `inside` of a line read column `ox · sx + shift - left` of the image; the others read pads.
        let first = left.saturating_sub(shift).div_ceil(sx);
        let inside = first..(width + left).saturating_sub(shift).div_ceil(sx).max(first);
        let mut covered = 0;
        for (line, run) in (first_line..).zip(entry[1..].chunks_exact_mut(3)) {
            let y = (line * sy + ky * dy).wrapping_sub(top);
            let from = cols.start.max(line * ow + inside.start);
            let to = cols.end.min(line * ow + inside.end.min(ow));
            let numbers = if y < height && from < to {
                [from - cols.start, to - from, y * width + (from - line * ow) * sx + shift - left]
            } else {
                [0; 3]
            };
            covered += numbers[1];
            // (A geometry's sizes fit 32 bits.)
            run.copy_from_slice(&numbers.map(|v| v as u32));
        }
        entry[0] = covered as u32;
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
