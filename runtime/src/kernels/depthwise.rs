//! Depthwise convolution, direct and dense: every output channel reads one input channel.
//!
//! Vectors run along channels. As many channels as a vector has lanes are transposed, a band of rows at a time, into
//! `[row][column][channel]` with the pads written out; then stride and dilation are only distances between vectors, every
//! load is aligned, and weights are vectors too. Sums are transposed back when they are written. Two transposes cost less than
//! what vectors along a row lose to loads across cache lines and to rows that are no multiple of a vector.

use std::ops::Range;

use rten_simd::ops::{BitOps, NumOps};

use super::Epilogue;
use crate::packing::ConvGeometry;
use crate::packing::scratch::Scratch;
use crate::packing::tile::fill;
use crate::packing::transpose::transpose;
use crate::simd::{Simd, Supported, Vectorized, splat};
use crate::threads::{Split, SyncPtr, Threads};

/// Multiply-adds below which another thread does not pay.
const PARALLEL: usize = 1 << 15;
/// Output pixels at a time.
const PIXELS: usize = 8;
/// Bytes of a band of the input: a part of L2.
const BAND: usize = 128 << 10;

/// Weights of a depthwise convolution.
#[derive(Debug, Clone)]
pub struct Depthwise {
    level: Supported,
    channels: usize,
    multiplier: usize,
    taps: usize,
    /// `[block of channels][multiple][tap][lane]`, zeros beyond the last channel.
    weights: Vec<f32>,
}

impl Depthwise {
    /// Packs weights `[channels · multiplier, kh · kw]`. Output channel `c` reads input channel `c / multiplier`.
    ///
    /// # Panics
    /// When the weights are not a multiple of `channels · kh · kw`.
    pub fn prepare(weights: &[f32], geometry: &ConvGeometry) -> Self {
        Self::with_level(weights, geometry, Supported::best())
    }

    /// The same, for a given instruction set.
    ///
    /// # Panics
    /// As [`Depthwise::prepare`].
    pub fn with_level(weights: &[f32], geometry: &ConvGeometry, level: Supported) -> Self {
        let [kh, kw] = geometry.kernel();
        let (channels, taps, lanes) = (geometry.channels(), kh * kw, level.lanes());
        let multiplier = weights.len() / (channels * taps).max(1);
        assert_eq!(weights.len(), channels * taps * multiplier, "{} weights, {geometry:?}", weights.len());
        let mut packed = vec![0.0; channels.next_multiple_of(lanes) * multiplier * taps];
        for (i, &weight) in weights.iter().enumerate() {
            let (channel, multiple, tap) = (i / taps / multiplier, i / taps % multiplier, i % taps);
            let (block, lane) = (channel / lanes, channel % lanes);
            packed[((block * multiplier + multiple) * taps + tap) * lanes + lane] = weight;
        }
        Self { level, channels, multiplier, taps, weights: packed }
    }

    /// Convolves one image `[channels, h, w]` to `y` `[channels · multiplier, oh, ow]`. The size of the image may differ
    /// from call to call; bias is `[channels · multiplier]`, a residual lies as `y`.
    ///
    /// # Panics
    /// When a slice has not the length that the geometry gives it, or the kernel size differs from the packed one.
    pub fn run(
        &self,
        x: &[f32],
        geometry: &ConvGeometry,
        y: &mut [f32],
        epilogue: &Epilogue<'_>,
        threads: &Threads,
    ) {
        let ([kh, kw], n) = (geometry.kernel(), geometry.n());
        let outputs = self.channels * self.multiplier;
        assert_eq!([self.channels, self.taps], [geometry.channels(), kh * kw], "{geometry:?}");
        assert_eq!(x.len(), geometry.image_len(), "x");
        assert_eq!(y.len(), outputs * n, "y");
        assert!(epilogue.bias.is_none_or(|bias| bias.len() == outputs), "bias");
        assert!(epilogue.residual.is_none_or(|residual| residual.len() == y.len()), "residual");
        let parts = threads.count().min(y.len() * self.taps / PARALLEL).max(1);
        let split = Split::even(self.channels.div_ceil(self.level.lanes()), parts);
        let y = SyncPtr(y.as_mut_ptr());
        threads.for_each(split.parts(), |i| {
            self.level.run(Part { depthwise: self, x, y, geometry, epilogue, blocks: split.part(i) });
        });
    }

    /// Bytes of the weights.
    pub fn bytes(&self) -> usize {
        size_of_val(&self.weights[..])
    }
}

/// Some blocks of channels of one image.
struct Part<'a> {
    depthwise: &'a Depthwise,
    x: &'a [f32],
    y: SyncPtr,
    geometry: &'a ConvGeometry,
    epilogue: &'a Epilogue<'a>,
    blocks: Range<usize>,
}

impl Vectorized for Part<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<S: Simd>(self, simd: S) {
        let Depthwise { channels, multiplier, taps, .. } = *self.depthwise;
        let ([oh, ow], [kh, kw]) = (self.geometry.output(), self.geometry.kernel());
        let ([sy, sx], [dy, dx]) = (self.geometry.stride(), self.geometry.dilation());
        // Columns of the padded input that any tap reads, and rows that one output row reads.
        let pitch = (ow - 1) * sx + (kw - 1) * dx + 1;
        let reach = (kh - 1) * dy + 1;
        let row_bytes = pitch * S::LANES * size_of::<f32>();
        let band = ((BAND / row_bytes).saturating_sub(reach) / sy + 1).min(oh);
        let mut padded_buffer = Scratch::new(((band - 1) * sy + reach) * pitch * S::LANES);
        let padded: &mut [f32] = &mut padded_buffer;
        let mut sums_buffer = Scratch::new(band * ow * S::LANES);
        let sums: &mut [f32] = &mut sums_buffer;
        let mut bias_lanes = [0.0; 16];
        let bounds = self.epilogue.activation.bounds();
        let (min, max) = bounds.unwrap_or((f32::NEG_INFINITY, f32::INFINITY));
        let limits = [splat(simd, min), splat(simd, max)];
        let unbounded = [splat(simd, f32::NEG_INFINITY), splat(simd, f32::INFINITY)];
        for block in self.blocks.clone() {
            let first = block * S::LANES;
            let lanes = S::LANES.min(channels - first);
            for start in (0..oh).step_by(band) {
                let rows = start..oh.min(start + band);
                // SAFETY: `run` checked the lengths of `x` and `y`; the buffers hold a band of rows and its sums; these channels of `y` are this part's.
                unsafe {
                    self.pad(simd, [first, lanes], rows.clone(), pitch, padded.as_mut_ptr());
                    for multiple in 0..multiplier {
                        for (lane, b) in bias_lanes.iter_mut().enumerate().take(lanes) {
                            let channel = (first + lane) * multiplier + multiple;
                            *b = self.epilogue.bias.map_or(0.0, |bias| bias[channel]);
                        }
                        let output = Output {
                            weights: self.depthwise.weights
                                [(block * multiplier + multiple) * taps * S::LANES..]
                                .as_ptr(),
                            bias: simd.load_first(bias_lanes.as_ptr(), S::LANES),
                            limits: if self.epilogue.residual.is_none() { limits } else { unbounded },
                        };
                        for (i, _) in rows.clone().enumerate() {
                            let x = padded.as_ptr().add(i * sy * pitch * S::LANES);
                            let y = sums.as_mut_ptr().add(i * ow * S::LANES);
                            let mut at = 0;
                            while at < ow {
                                // As even as possible: 14 pixels are 7 and 7.
                                let count = (ow - at).div_ceil((ow - at).div_ceil(PIXELS));
                                let x = x.add(at * sx * S::LANES);
                                let y = y.add(at * S::LANES);
                                match count {
                                    1 => self.pixels::<S, 1>(simd, output, pitch, x, y),
                                    2 => self.pixels::<S, 2>(simd, output, pitch, x, y),
                                    3 => self.pixels::<S, 3>(simd, output, pitch, x, y),
                                    4 => self.pixels::<S, 4>(simd, output, pitch, x, y),
                                    5 => self.pixels::<S, 5>(simd, output, pitch, x, y),
                                    6 => self.pixels::<S, 6>(simd, output, pitch, x, y),
                                    7 => self.pixels::<S, 7>(simd, output, pitch, x, y),
                                    _ => self.pixels::<S, PIXELS>(simd, output, pitch, x, y),
                                }
                                at += count;
                            }
                        }
                        let n = oh * ow;
                        let at = (first * multiplier + multiple) * n + rows.start * ow;
                        let pixels = rows.len() * ow;
                        let y = self.y.get().add(at);
                        transpose(simd, sums.as_ptr(), S::LANES, [pixels, lanes], y, n * multiplier);
                        self.finish(simd, at, [lanes, pixels], limits);
                    }
                }
            }
        }
    }
}

/// What the pixels of a block of output channels share.
#[derive(Clone, Copy)]
struct Output<V> {
    /// `[tap][lane]`
    weights: *const f32,
    bias: V,
    limits: [V; 2],
}

impl Part<'_> {
    /// Writes the padded input of output rows `rows` as `[row][column][lane]`.
    ///
    /// # Safety
    /// `dst` must hold those rows of `pitch` columns.
    #[inline(always)]
    unsafe fn pad<S: Simd>(
        &self,
        simd: S,
        [first, lanes]: [usize; 2],
        rows: Range<usize>,
        pitch: usize,
        dst: *mut f32,
    ) {
        let ([height, width], [kh, _]) = (self.geometry.input(), self.geometry.kernel());
        let (sy, dy) = (self.geometry.stride()[0], self.geometry.dilation()[0]);
        let [top, left, ..] = self.geometry.pads();
        // Columns of the image that any tap reads, and where they begin and end in a padded row.
        let inside = left.min(pitch)..(left + width).min(pitch);
        let count = (rows.len() - 1) * sy + (kh - 1) * dy + 1;
        for i in 0..count {
            let y = (rows.start * sy + i).wrapping_sub(top);
            // SAFETY: row `i` of `dst` holds `pitch` vectors, of which `inside` come from row `y` of the image.
            unsafe {
                let dst = dst.add(i * pitch * S::LANES);
                if y >= height {
                    fill(simd, 0.0, dst, pitch * S::LANES);
                    continue;
                }
                fill(simd, 0.0, dst, inside.start * S::LANES);
                fill(simd, 0.0, dst.add(inside.end * S::LANES), (pitch - inside.end) * S::LANES);
                let src = self.x.as_ptr().add((first * height + y) * width);
                let dst = dst.add(inside.start * S::LANES);
                if lanes < S::LANES {
                    // Lanes beyond the last channel: zeros, so that no stray NaN slows the arithmetic.
                    fill(simd, 0.0, dst, inside.len() * S::LANES);
                }
                transpose(simd, src, height * width, [lanes, inside.len()], dst, S::LANES);
            }
        }
    }

    /// Sums `N` neighbouring output pixels over all taps, and clamps them unless a residual comes first.
    ///
    /// # Safety
    /// `x` must point to the first input of the first pixel, `y` to where its sums go.
    #[inline(always)]
    #[allow(clippy::needless_range_loop, reason = "constant bounds keep the sums in registers")]
    unsafe fn pixels<S: Simd, const N: usize>(
        &self,
        simd: S,
        output: Output<S::F32>,
        pitch: usize,
        x: *const f32,
        y: *mut f32,
    ) {
        let ops = simd.f32();
        let [kh, kw] = self.geometry.kernel();
        let ([_, sx], [dy, dx]) = (self.geometry.stride(), self.geometry.dilation());
        let step = sx * S::LANES;
        let mut sums = [output.bias; N];
        let mut weights = output.weights;
        // SAFETY: the taps of all pixels lie within the padded rows, by the caller.
        unsafe {
            for ky in 0..kh {
                let mut x = x.add(ky * dy * pitch * S::LANES);
                for _ in 0..kw {
                    let weight = ops.load_ptr(weights);
                    for i in 0..N {
                        sums[i] = ops.mul_add(weight, ops.load_ptr(x.add(i * step)), sums[i]);
                    }
                    weights = weights.add(S::LANES);
                    x = x.wrapping_add(dx * S::LANES);
                }
            }
            for i in 0..N {
                ops.store_ptr(simd.clamp(sums[i], output.limits), y.add(i * S::LANES));
            }
        }
    }

    /// Residual and activation of a part of `lanes` output channels, `pixels` each, from element `at` of `y` on.
    ///
    /// # Safety
    /// The part must be this thread's.
    #[inline(always)]
    unsafe fn finish<S: Simd>(&self, simd: S, at: usize, [lanes, pixels]: [usize; 2], limits: [S::F32; 2]) {
        let Epilogue { residual, activation, .. } = *self.epilogue;
        if residual.is_none() && activation.bounds().is_some() {
            return;
        }
        let stride = self.geometry.n() * self.depthwise.multiplier;
        for lane in 0..lanes {
            let at = at + lane * stride;
            // SAFETY: by the caller; a residual is as long as `y`.
            unsafe {
                let y = self.y.get().add(at);
                if let Some(residual) = residual {
                    for i in (0..pixels).step_by(S::LANES) {
                        let count = S::LANES.min(pixels - i);
                        let sum = simd.load_first(y.add(i), count);
                        let sum = simd.f32().add(sum, simd.load_first(residual.as_ptr().add(at + i), count));
                        simd.store_first(simd.clamp(sum, limits), y.add(i), count);
                    }
                }
                if activation.rounds() {
                    activation.round(simd, y, 0, [1, pixels]);
                } else if activation.bounds().is_none() {
                    activation.apply(std::slice::from_raw_parts_mut(y, pixels));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::{Activation, Level};

    /// The specification.
    fn reference(
        x: &[f32],
        w: &[f32],
        multiplier: usize,
        g: &ConvGeometry,
        epilogue: &Epilogue<'_>,
    ) -> Vec<f32> {
        let ([h, wd], [kh, kw], [oh, ow]) = (g.input(), g.kernel(), g.output());
        let ([sy, sx], [dy, dx]) = (g.stride(), g.dilation());
        let [top, left, ..] = g.pads();
        let mut y = vec![0.0; g.channels() * multiplier * oh * ow];
        for (i, y) in y.iter_mut().enumerate() {
            let (channel, oy, ox) = (i / (oh * ow), i / ow % oh, i % ow);
            for tap in 0..kh * kw {
                let row = (oy * sy + tap / kw * dy).wrapping_sub(top);
                let col = (ox * sx + tap % kw * dx).wrapping_sub(left);
                if row < h && col < wd {
                    *y += w[channel * kh * kw + tap] * x[channel / multiplier * h * wd + row * wd + col];
                }
            }
            *y += epilogue.bias.map_or(0.0, |b| b[channel]) + epilogue.residual.map_or(0.0, |r| r[i]);
        }
        epilogue.activation.apply(&mut y);
        y
    }

    #[test]
    fn every_geometry_matches_the_reference() {
        let values = |len: usize, seed: usize| -> Vec<f32> {
            (0..len).map(|i| ((i * 7919 + seed * 104_729) % 1000) as f32 / 500.0 - 1.0).collect()
        };
        let pads = [[0; 4], [1; 4], [0, 1, 2, 0], [2; 4], [5, 4, 3, 6]];
        let mut cases = 0;
        for input in [[1, 1], [1, 40], [3, 5], [7, 7], [14, 14], [6, 17], [5, 33], [20, 112]] {
            for kernel in [[1, 1], [3, 3], [5, 5], [1, 3], [2, 4]] {
                for (stride, dilation) in
                    [([1, 1], [1, 1]), ([2, 2], [1, 1]), ([1, 2], [2, 1]), ([3, 3], [1, 2]), ([2, 1], [1, 3])]
                {
                    for pads in pads {
                        let Ok(g) = ConvGeometry::new(3, input, kernel, stride, dilation, pads) else {
                            continue;
                        };
                        let multiplier = 1 + cases % 2;
                        cases += 1;
                        let outputs = 3 * multiplier;
                        let (x, w) = (values(g.image_len(), 1), values(outputs * kernel[0] * kernel[1], 2));
                        let (bias, residual) = (values(outputs, 3), values(outputs * g.n(), 4));
                        let epilogue = Epilogue {
                            bias: (cases % 3 > 0).then_some(&bias),
                            residual: (cases % 5 == 0).then_some(&residual),
                            activation: [Activation::Clip { min: -0.5, max: 0.5 }, Activation::Silu]
                                [cases % 2],
                        };
                        let expected = reference(&x, &w, multiplier, &g, &epilogue);
                        for level in [Level::Portable, Level::Avx2, Level::Avx512] {
                            let Some(level) = level.supported() else { continue };
                            let mut y = vec![f32::NAN; outputs * g.n()];
                            let threads = Threads::new(1 + cases % 2).unwrap();
                            Depthwise::with_level(&w, &g, level).run(&x, &g, &mut y, &epilogue, &threads);
                            for (i, (a, b)) in y.iter().zip(&expected).enumerate() {
                                assert!((a - b).abs() < 1e-5, "{level:?}: y[{i}] = {a}, expected {b}: {g:?}");
                            }
                        }
                    }
                }
            }
        }
        assert!(cases > 500);
    }
}
