//! Images laid out so that a tile of their im2col matrix is a few loads for each of its rows.

use std::ops::{Deref, Range};

use rten_simd::ops::BitOps;
use smallvec::SmallVec;

use super::ConvGeometry;
use super::scratch::Scratch;
use super::tile::Rows;
use crate::simd::{Simd, Supported, Vectorized, splat};
use crate::threads;

/// Elements that pay for another thread to pad them.
const GRAIN: usize = 1 << 14;

/// The image of a convolution with its pads, apart by what the strides skip: for each channel a plane of every row and column
/// modulo the strides that a kernel tap reads. All outputs of a line then read neighbours, and each row of the im2col matrix
/// reads what row 0 reads at a constant distance. Pads are zeros, so nothing needs to be clipped.
pub(crate) struct PaddedImage<'a> {
    geometry: ConvGeometry,
    /// Height and width of what a kernel writes for an image.
    output: [usize; 2],
    data: Data<'a>,
    /// The images without pads; none of those that were made of others.
    #[cfg(all(target_arch = "x86_64", feature = "quantized"))]
    given: &'a [f32],
    /// From one image to the next.
    image: usize,
    /// From one output line to the next.
    line: usize,
    /// Where each row of the im2col matrix reads for the first output, as bits of a `u32`.
    starts: Scratch,
}

enum Data<'a> {
    Padded(Scratch),
    /// Nothing had to be moved.
    Same(&'a [f32]),
}

impl Deref for Data<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match self {
            Self::Padded(data) => data,
            Self::Same(data) => data,
        }
    }
}

/// One axis of the planes: `lines` of each of `count` phases, the taps' positions modulo the stride.
#[derive(Clone, Copy)]
struct Phases {
    stride: usize,
    dilation: usize,
    count: usize,
    lines: usize,
}

impl Phases {
    fn new(geometry: &ConvGeometry, axis: usize) -> Self {
        let (kernel, stride) = (geometry.kernel()[axis], geometry.stride()[axis]);
        let dilation = geometry.dilation()[axis];
        // Positions modulo the stride repeat after as many taps.
        let period = stride / gcd(stride, dilation);
        let lines = geometry.output()[axis] + (kernel - 1) * dilation / stride;
        Self { stride, dilation, count: period.min(kernel), lines }
    }

    /// Phase and line that a tap reads for the first output.
    fn tap(&self, tap: usize) -> [usize; 2] {
        [tap % self.count, tap * self.dilation / self.stride]
    }

    /// The first position of a phase, in the padded image.
    fn first(&self, phase: usize) -> usize {
        phase * self.dilation % self.stride
    }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// How a channel lies once it is padded.
struct Planes {
    axes: [Phases; 2],
}

impl Planes {
    fn new(geometry: &ConvGeometry) -> Self {
        Self { axes: [0, 1].map(|axis| Phases::new(geometry, axis)) }
    }

    /// From one output line to the next.
    fn line(&self) -> usize {
        self.axes[1].lines
    }

    /// Elements of a channel.
    fn len(&self) -> usize {
        let [vertical, horizontal] = self.axes;
        vertical.lines * vertical.count * horizontal.lines * horizontal.count
    }

    /// Where a tap `(ky, kx)` reads for the first output.
    fn tap(&self, [ky, kx]: [usize; 2]) -> usize {
        let [vertical, horizontal] = self.axes;
        let ([py, y], [px, x]) = (vertical.tap(ky), horizontal.tap(kx));
        ((py * horizontal.count + px) * vertical.lines + y) * horizontal.lines + x
    }
}

/// One channel to be padded.
struct Pad<'a> {
    from: &'a [f32],
    to: &'a mut [f32],
    geometry: &'a ConvGeometry,
    axes: [Phases; 2],
}

impl<'a> PaddedImage<'a> {
    /// `images` is `[images, channels, h, w]`; the columns of the im2col matrix are those of the first image, then those of the
    /// next. A column is what a square of `tile` × `tile` outputs reads ([`ConvGeometry::tiled`]).
    ///
    /// # Panics
    /// When it has not the elements of whole images.
    pub(crate) fn new(images: &'a [f32], geometry: &ConvGeometry, tile: usize) -> Self {
        let output = geometry.output();
        let geometry = if tile == 1 { geometry.clone() } else { geometry.tiled(tile) };
        let count = images.len() / geometry.image_len().max(1);
        assert_eq!(images.len(), count * geometry.image_len(), "{geometry:?}");
        let planes = Planes::new(&geometry);
        let same = geometry.stride() == [1, 1] && geometry.pads() == [0; 4];
        let channel = if same { planes.len() } else { channel_stride(planes.len()) };
        let data = if same {
            Data::Same(images)
        } else {
            let pixels = geometry.input()[0] * geometry.input()[1];
            let mut padded = Scratch::new(count * geometry.channels() * channel);
            threads::for_each_chunk(&mut padded, channel, GRAIN.div_ceil(channel), |i, to| {
                let from = &images[i * pixels..][..pixels];
                Supported::best().run(Pad { from, to, geometry: &geometry, axes: planes.axes });
            });
            Data::Padded(padded)
        };
        let mut starts = Scratch::new(geometry.k());
        let [kh, kw] = geometry.kernel();
        let taps: SmallVec<[usize; 64]> =
            (0..kh).flat_map(|ky| (0..kw).map(move |kx| [ky, kx])).map(|tap| planes.tap(tap)).collect();
        let rows = bytemuck::cast_slice_mut::<f32, u32>(&mut starts).chunks_exact_mut(taps.len());
        for (c, rows) in rows.enumerate() {
            // (Padded images have fewer than 2³² elements.)
            rows.iter_mut().zip(&taps).for_each(|(to, tap)| *to = (c * channel + tap) as u32);
        }
        let image = geometry.channels() * channel;
        Self {
            geometry,
            output,
            data,
            #[cfg(all(target_arch = "x86_64", feature = "quantized"))]
            given: images,
            image,
            line: planes.line(),
            starts,
        }
    }

    /// The images that were padded.
    #[cfg(all(target_arch = "x86_64", feature = "quantized"))]
    pub(crate) fn given(&self) -> &'a [f32] {
        self.given
    }

    /// The same convolution of images with `count` channels in each element, which `merge` makes of their planes, each of a
    /// length: of fewer at the end of an image. A part is worth `grain` elements.
    #[cfg(all(target_arch = "x86_64", feature = "quantized"))]
    pub(crate) fn together(
        &self,
        count: usize,
        grain: usize,
        merge: impl Fn(&[f32], usize, &mut [f32]) + Sync,
    ) -> PaddedImage<'static> {
        let channels = self.geometry.channels();
        let (plane, merged) = (self.image / channels.max(1), channels.div_ceil(count));
        let images = self.data.len() / self.image.max(1);
        let mut data = Scratch::new(images * merged * plane);
        threads::for_each_chunk(&mut data, plane, grain.div_ceil(plane.max(1)), |i, to| {
            let (image, first) = (i / merged, i % merged * count);
            let planes = first * plane..channels.min(first + count) * plane;
            merge(&self.data[image * self.image..][planes], plane, to);
        });
        // (The first channels' rows lie where these do.)
        let geometry = self.geometry.with_channels(merged);
        let mut starts = Scratch::new(geometry.k());
        starts.copy_from_slice(&self.starts[..geometry.k()]);
        let image = merged * plane;
        PaddedImage {
            geometry,
            output: self.output,
            data: Data::Padded(data),
            given: &[],
            image,
            line: self.line,
            starts,
        }
    }

    /// Height and width of what a kernel writes for an image.
    pub(crate) fn output(&self) -> [usize; 2] {
        self.output
    }

    /// Columns of the im2col matrix that are of one image, along both axes.
    pub(crate) fn columns(&self) -> [usize; 2] {
        self.geometry.output()
    }

    /// Writes the im2col matrix of one image, `[channels · kh · kw, oh · ow]`.
    ///
    /// # Panics
    /// When `out` has not as many elements.
    pub(crate) fn unroll(&self, out: &mut [f32]) {
        struct Unroll<'a>(&'a PaddedImage<'a>, Range<usize>, &'a mut [f32]);
        impl Vectorized for Unroll<'_> {
            type Output = ();

            #[inline(always)]
            fn eval<S: Simd>(self, simd: S) {
                let Self(image, Range { start, end }, out) = self;
                let n = image.geometry.n();
                // SAFETY: `out` holds those rows of the `[k, n]` of the whole, of which they are a chunk.
                unsafe { image.pack(simd, Rows::Range { start, end }, 0..n, n, out.as_mut_ptr()) };
            }
        }
        let n = self.geometry.n();
        assert_eq!(out.len(), self.geometry.k() * n, "{:?}", self.geometry);
        if n == 0 {
            return;
        }
        let rows = GRAIN.div_ceil(n);
        threads::for_each_chunk(out, rows * n, 1, |i, out| {
            let rows = i * rows..i * rows + out.len() / n;
            Supported::best().run(Unroll(self, rows, out));
        });
    }

    /// Writes `rows` × `cols` of the im2col matrix to `dst` `[rows][width]`, zeros beyond the columns.
    ///
    /// # Safety
    /// `rows` and `cols` must lie within the matrix, `width` be at least `cols.len()`, and `dst` hold `rows · width` elements.
    #[inline(always)]
    pub(crate) unsafe fn pack<S: Simd>(
        &self,
        simd: S,
        rows: Rows<'_>,
        cols: Range<usize>,
        width: usize,
        dst: *mut f32,
    ) {
        let (n, ow) = (self.geometry.n(), self.geometry.output()[1]);
        for start in (0..width).step_by(S::LANES) {
            let first = cols.start + start;
            let end = cols.end.min(first + S::LANES);
            // Lanes `from..to` of a vector are outputs of one line; `at` is where lane 0 would read.
            let mut runs = SmallVec::<[Run; 16]>::new();
            let mut pixel = first;
            while pixel < end {
                let (image, y, x) = (pixel / n, pixel % n / ow, pixel % n % ow);
                let to = end.min(pixel + ow - x);
                let at = (image * self.image + y * self.line + x).wrapping_sub(pixel - first);
                runs.push(Run { from: pixel - first, to: to - first, at });
                pixel = to;
            }
            let (lanes, dst) = (S::LANES.min(width - start), dst.wrapping_add(start));
            // SAFETY: lanes of a run are outputs of a line, whose taps lie within the padded image; by the caller `dst` holds
            // `lanes` elements each `width`.
            unsafe {
                match runs[..] {
                    [a] => self.pack_vectors(simd, rows, &[a], dst, width, lanes),
                    [a, b] => self.pack_vectors(simd, rows, &[a, b], dst, width, lanes),
                    [a, b, c] => self.pack_vectors(simd, rows, &[a, b, c], dst, width, lanes),
                    _ => self.pack_vectors(simd, rows, &runs, dst, width, lanes),
                }
            }
        }
    }

    /// A vector of each row, from the runs that it consists of.
    ///
    /// # Safety
    /// Every row must have the elements of all runs, and `dst` `lanes` elements each `stride`.
    #[inline(always)]
    unsafe fn pack_vectors<S: Simd>(
        &self,
        simd: S,
        rows: Rows<'_>,
        runs: &[Run],
        dst: *mut f32,
        stride: usize,
        lanes: usize,
    ) {
        let starts: &[u32] = bytemuck::cast_slice(&self.starts);
        let image = self.data.as_ptr();
        for i in 0..rows.len() {
            // SAFETY: by the caller. (`wrapping_add`: lane 0 of a run that starts later may lie before the image.)
            unsafe {
                let row = image.add(starts[rows.get(i)] as usize);
                let mut v = splat(simd, 0.0);
                for run in runs {
                    v = simd.load_between(v, row.wrapping_add(run.at), run.from, run.to);
                }
                simd.store_first(v, dst.add(i * stride), lanes);
            }
        }
    }
}

/// Part of a vector that outputs of one line fill.
#[derive(Clone, Copy)]
struct Run {
    from: usize,
    to: usize,
    at: usize,
}

/// A whole and odd number of cache lines: planes an even number apart would compete for a few sets of the cache.
fn channel_stride(len: usize) -> usize {
    let lines = len.div_ceil(16);
    (lines | 1) * 16
}

impl Vectorized for Pad<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<S: Simd>(self, simd: S) {
        let Self { from, to, geometry, axes: [vertical, horizontal] } = self;
        let [height, width] = geometry.input();
        let [top, left, ..] = geometry.pads();
        let (step, length) = (horizontal.stride, horizontal.lines);
        let plane = vertical.lines * length;
        // Without a stride there is one phase whatever the dilation.
        let whole = horizontal.count == step && (step == 1 || horizontal.dilation == 1);
        if whole && matches!(step, 1 | 2 | 4) {
            // All phases at once: each reads the lines that the others read.
            for (py, to) in to.chunks_exact_mut(step * plane).take(vertical.count).enumerate() {
                for line in 0..vertical.lines {
                    let y = (line * vertical.stride + vertical.first(py)).wrapping_sub(top);
                    let from = if y < height { &from[y * width..][..width] } else { &[] };
                    // SAFETY: `to` is as many planes, of which this is a line each.
                    unsafe {
                        let to = to.as_mut_ptr().add(line * length);
                        match step {
                            1 => pad_line::<S, 1>(simd, from, left, to, plane, length),
                            2 => pad_line::<S, 2>(simd, from, left, to, plane, length),
                            _ => pad_line::<S, 4>(simd, from, left, to, plane, length),
                        }
                    }
                }
            }
            return;
        }
        let mut lines = to.chunks_exact_mut(length);
        for py in 0..vertical.count {
            for px in 0..horizontal.count {
                let shift = horizontal.first(px);
                // Elements `inside` of a line are the image's, from element `at` of its line on.
                let first = left.saturating_sub(shift).div_ceil(step).min(length);
                let inside = first..(width + left).saturating_sub(shift).div_ceil(step).clamp(first, length);
                for (line, to) in (0..vertical.lines).zip(&mut lines) {
                    let y = (line * vertical.stride + vertical.first(py)).wrapping_sub(top);
                    if y >= height || inside.is_empty() {
                        to.fill(0.0);
                        continue;
                    }
                    let from = &from[y * width..][..width];
                    let at = inside.start * step + shift - left;
                    to[..inside.start].fill(0.0);
                    to[inside.end..].fill(0.0);
                    let to = &mut to[inside.clone()];
                    match step {
                        2 => every_second(simd, &from[at..], to),
                        _ => to.iter_mut().zip(from[at..].iter().step_by(step)).for_each(|(to, &v)| *to = v),
                    }
                }
            }
        }
    }
}

/// Writes elements 0, 2, 4 … of `from` to `to`.
///
/// # Panics
/// When `from` has not as many.
#[inline(always)]
fn every_second<S: Simd>(simd: S, from: &[f32], to: &mut [f32]) {
    assert!(from.len() + 1 >= 2 * to.len(), "{} of {}", to.len(), from.len());
    for start in (0..to.len()).step_by(S::LANES) {
        let left = from.len() - 2 * start;
        // SAFETY: as many elements are read as `from` has left, and as many written as `to` has.
        unsafe {
            let at = from.as_ptr().add(2 * start);
            let a = simd.load_first(at, left.min(S::LANES));
            let b = simd.load_first(at.wrapping_add(S::LANES), left.saturating_sub(S::LANES).min(S::LANES));
            let [even, _] = simd.unzip(a, b);
            simd.store_first(even, to.as_mut_ptr().add(start), S::LANES.min(to.len() - start));
        }
    }
}

/// Writes a line with `left` zeros before it, and zeros behind it, to `N` lines of `length`, `plane` apart: elements 0, `N`, `2 · N`
/// … to the first, elements 1, `N + 1` … to the second, and so on.
///
/// # Safety
/// Those lines must be writable.
#[inline(always)]
unsafe fn pad_line<S: Simd, const N: usize>(
    simd: S,
    line: &[f32],
    left: usize,
    to: *mut f32,
    plane: usize,
    length: usize,
) {
    let ops = simd.f32();
    for start in (0..length).step_by(S::LANES) {
        let first = N * start;
        let whole = first >= left && first + N * S::LANES <= left + line.len();
        let mut v = [splat(simd, 0.0); N];
        for (i, v) in v.iter_mut().enumerate() {
            let at = first + i * S::LANES;
            let lane = |place: usize| place.saturating_sub(at).min(S::LANES);
            let (begin, end) = (lane(left), lane(left + line.len()));
            // (Nothing is loaded where there is nothing: CPUs take hundreds of cycles to find that no lane of an unmapped page is meant.)
            if begin < end {
                let from = line.as_ptr().wrapping_add(at).wrapping_sub(left);
                // SAFETY: the elements of the line are lanes from `left` on.
                *v = unsafe {
                    if whole { ops.load_ptr(from) } else { simd.load_between(*v, from, begin, end) }
                };
            }
        }
        match v.as_mut_slice() {
            [a, b] => [*a, *b] = simd.unzip(*a, *b),
            [a, b, c, d] => {
                let ([even, odd], [then_even, then_odd]) = (simd.unzip(*a, *b), simd.unzip(*c, *d));
                ([*a, *c], [*b, *d]) = (simd.unzip(even, then_even), simd.unzip(odd, then_odd));
            }
            _ => {}
        }
        for (i, v) in v.into_iter().enumerate() {
            // SAFETY: by the caller.
            unsafe {
                let to = to.add(i * plane + start);
                if start + S::LANES <= length {
                    ops.store_ptr(v, to);
                } else {
                    simd.store_first(v, to, length - start);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn unrolling_is_im2col(
            channels in 1_usize..4, input in [1_usize..20, 1_usize..40], kernel in [1_usize..5, 1_usize..5],
            stride in [1_usize..5, 1_usize..5], dilation in [1_usize..4, 1_usize..4],
            pads in [0_usize..4, 0_usize..9, 0_usize..4, 0_usize..9],
        ) {
            let Ok(geometry) = ConvGeometry::new(channels, input, kernel, stride, dilation, pads) else {
                return Ok(());
            };
            let image: Vec<f32> = (0..geometry.image_len()).map(|i| 1.0 + i as f32).collect();
            let mut expected = vec![f32::NAN; geometry.k() * geometry.n()];
            crate::packing::im2col(&image, &geometry, &mut expected);
            let mut unrolled = vec![f32::NAN; expected.len()];
            PaddedImage::new(&image, &geometry, 1).unroll(&mut unrolled);
            prop_assert_eq!(unrolled, expected);
        }

        #[test]
        fn tiles_are_what_squares_of_outputs_read(
            channels in 1_usize..4, input in [1_usize..20, 1_usize..140], kernel in [1_usize..5, 1_usize..5],
            pads in [0_usize..4, 0_usize..9, 0_usize..4, 0_usize..9], side in 1_usize..6,
        ) {
            let Ok(geometry) = ConvGeometry::new(channels, input, kernel, [1, 1], [1, 1], pads) else {
                return Ok(());
            };
            let image: Vec<f32> = (0..geometry.image_len()).map(|i| 1.0 + i as f32).collect();
            let mut outputs = vec![f32::NAN; geometry.k() * geometry.n()];
            crate::packing::im2col(&image, &geometry, &mut outputs);
            let tiles = PaddedImage::new(&image, &geometry, side);
            let ([height, width], [down, across]) = (geometry.output(), tiles.columns());
            prop_assert_eq!([down, across], [height.div_ceil(side), width.div_ceil(side)]);
            let window = kernel.map(|size| size + side - 1);
            let mut unrolled = vec![f32::NAN; channels * window[0] * window[1] * down * across];
            tiles.unroll(&mut unrolled);
            for (i, &output) in outputs.iter().enumerate() {
                let (row, pixel) = (i / (height * width), i % (height * width));
                let [c, ky, kx] = [row / (kernel[0] * kernel[1]), row / kernel[1] % kernel[0], row % kernel[1]];
                let [y, x] = [pixel / width, pixel % width];
                let tap = (c * window[0] + ky + y % side) * window[1] + kx + x % side;
                prop_assert_eq!(unrolled[tap * down * across + y / side * across + x / side], output);
            }
        }
    }
}
