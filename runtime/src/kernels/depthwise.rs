//! Depthwise convolution, direct and dense: every output channel reads one input channel.
//!
//! A channel is copied with its pads into *phases*: for stride `s`, pixel `(y, x)` of the padded plane goes to phase
//! `(y % s, x % s)` at `(y / s, x / s)`. There, output pixel `(oy, ox)` finds tap `(ky, kx)` at a distance from `(oy, ox)` that
//! depends on the tap alone, so that vectors run along `x` for every stride and dilation. Where rows are much shorter than a
//! vector, vectors run on over the ends of rows, and the columns in between are left out when rows are written.

use std::ops::Range;

use rten_simd::ops::{BitOps, NumOps};

use super::Epilogue;
use super::simd::{Level, Simd, Vectorized, clamp, splat};
use crate::packing::ConvGeometry;
use crate::packing::scratch::Scratch;
use crate::packing::tile::copy_padded;
use crate::threads::{Split, SyncPtr, Threads};

/// Multiply-adds below which another thread does not pay.
const PARALLEL: usize = 1 << 17;
/// Vectors of sums at a time.
const VECTORS: usize = 8;

/// Weights of a depthwise convolution.
#[derive(Debug, Clone)]
pub struct Depthwise {
    level: Level,
    channels: usize,
    multiplier: usize,
    taps: usize,
    weights: Vec<f32>,
}

impl Depthwise {
    /// Takes weights `[channels · multiplier, kh · kw]`. Output channel `c` reads input channel `c / multiplier`.
    ///
    /// # Panics
    /// When the weights are not a multiple of `channels · kh · kw`.
    pub fn prepare(weights: &[f32], geometry: &ConvGeometry) -> Self {
        Self::with_level(weights, geometry, Level::best())
    }

    /// The same, for a given instruction set.
    ///
    /// # Panics
    /// As [`Depthwise::prepare`], and in [`Depthwise::run`] when the CPU lacks the instructions.
    pub fn with_level(weights: &[f32], geometry: &ConvGeometry, level: Level) -> Self {
        let [kh, kw] = geometry.kernel();
        let (channels, taps) = (geometry.channels(), kh * kw);
        let multiplier = weights.len() / (channels * taps).max(1);
        assert_eq!(weights.len(), channels * taps * multiplier, "{} weights, {geometry:?}", weights.len());
        Self { level, channels, multiplier, taps, weights: weights.to_vec() }
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
        let phases = Phases::new(geometry, self.level.lanes());
        let plan = Plan::new(geometry, phases, self.level.lanes());
        let plan = plan.view();
        let parts = threads.count().min(y.len() * self.taps / PARALLEL).max(1);
        let split = Split::even(self.channels, parts);
        let y = SyncPtr(y.as_mut_ptr());
        threads.for_each(split.parts(), |i| {
            self.level.run(Part {
                weights: self,
                x,
                y,
                geometry,
                epilogue,
                phases,
                plan,
                channels: split.part(i),
            });
        });
    }

    /// Bytes of the weights.
    pub fn bytes(&self) -> usize {
        size_of_val(&self.weights[..])
    }
}

/// Where a padded channel lies in scratch.
#[derive(Debug, Clone, Copy)]
struct Phases {
    /// Between rows of a phase.
    pitch: usize,
    /// Between phases.
    plane: usize,
    /// Whether vectors run on over the ends of rows.
    flat: bool,
    /// Elements of all phases, and room to read a vector at the last one.
    len: usize,
}

impl Phases {
    fn new(geometry: &ConvGeometry, lanes: usize) -> Self {
        let ([oh, ow], [kh, kw]) = (geometry.output(), geometry.kernel());
        let ([sy, sx], [dy, dx]) = (geometry.stride(), geometry.dilation());
        let (rows, width) = (oh + (kh - 1) * dy / sy, ow + (kw - 1) * dx / sx);
        // Share of lanes that count, with whole vectors for each row and with vectors that run on.
        let by_rows = ow as f32 / ow.next_multiple_of(lanes) as f32;
        let flat = ow as f32 / width as f32 > 1.2 * by_rows;
        let pitch = if flat { width } else { width.next_multiple_of(lanes) };
        let plane = rows * pitch;
        Self { pitch, plane, flat, len: plane * sy * sx + (VECTORS + 1) * lanes }
    }
}

/// Offsets that every channel shares, in scratch that is read as integers.
struct Plan {
    numbers: Scratch,
    vectors: usize,
}

impl Plan {
    fn new(geometry: &ConvGeometry, phases: Phases, lanes: usize) -> Self {
        let ([oh, ow], [kh, kw]) = (geometry.output(), geometry.kernel());
        let ([sy, sx], [dy, dx]) = (geometry.stride(), geometry.dilation());
        let Phases { pitch, plane, flat, .. } = phases;
        let by_row = ow.div_ceil(lanes);
        let vectors = if flat { (oh * pitch).div_ceil(lanes) } else { oh * by_row };
        let mut numbers = Scratch::new(3 * vectors + kh * kw);
        let mut put = |at: usize, number: usize| numbers[at] = f32::from_bits(number as u32);
        for vector in 0..vectors {
            let (input, output, count) = if flat {
                (vector * lanes, vector * lanes, lanes)
            } else {
                let (row, x) = (vector / by_row, vector % by_row * lanes);
                (row * pitch + x, row * ow + x, lanes.min(ow - x))
            };
            put(vector, input);
            put(vectors + vector, output);
            put(2 * vectors + vector, count);
        }
        for tap in 0..kh * kw {
            let (y, x) = (tap / kw * dy, tap % kw * dx);
            put(3 * vectors + tap, (y % sy * sx + x % sx) * plane + y / sy * pitch + x / sx);
        }
        Self { numbers, vectors }
    }

    /// As slices.
    fn view(&self) -> PlanView<'_> {
        let numbers: &[u32] = bytemuck::cast_slice(&self.numbers);
        let (inputs, rest) = numbers.split_at(self.vectors);
        let (outputs, rest) = rest.split_at(self.vectors);
        let (lanes, taps) = rest.split_at(self.vectors);
        PlanView { inputs, outputs, lanes, taps }
    }
}

/// The parts of a [`Plan`].
#[derive(Clone, Copy)]
struct PlanView<'a> {
    /// Where each vector reads its first tap.
    inputs: &'a [u32],
    /// Where each goes: within the channel, or within the flat sums.
    outputs: &'a [u32],
    /// Elements of each.
    lanes: &'a [u32],
    /// Distance of each tap from the first.
    taps: &'a [u32],
}

/// Some channels of one image.
struct Part<'a> {
    weights: &'a Depthwise,
    x: &'a [f32],
    y: SyncPtr,
    geometry: &'a ConvGeometry,
    epilogue: &'a Epilogue<'a>,
    phases: Phases,
    plan: PlanView<'a>,
    channels: Range<usize>,
}

/// The epilogue of one output channel.
#[derive(Clone, Copy)]
struct Finish<V> {
    y: *mut f32,
    /// Null when there is none.
    residual: *const f32,
    bias: V,
    limits: [V; 2],
}

impl Vectorized for Part<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<S: Simd>(self, simd: S) {
        let [oh, ow] = self.geometry.output();
        let Phases { pitch, flat, len, .. } = self.phases;
        // Pads are zeroed once: every channel leaves them alone.
        let mut padded = Scratch::new(len);
        padded.fill(0.0);
        let vectors = self.plan.inputs.len();
        let mut flat_sums = Scratch::new(if flat { vectors * S::LANES } else { 0 });
        let bounds = self.epilogue.activation.bounds();
        let (min, max) = bounds.unwrap_or((f32::NEG_INFINITY, f32::INFINITY));
        let limits = [splat(simd, min), splat(simd, max)];
        for channel in self.channels.clone() {
            // SAFETY: lengths were checked by `run`; channels of `y` are this part's.
            unsafe {
                self.pad(simd, channel, &mut padded);
                for output in channel * self.weights.multiplier..(channel + 1) * self.weights.multiplier {
                    let at = output * oh * ow;
                    let finish = Finish {
                        y: self.y.get().add(at),
                        residual: self.epilogue.residual.map_or(std::ptr::null(), |r| r.as_ptr().add(at)),
                        bias: splat(simd, self.epilogue.bias.map_or(0.0, |bias| bias[output])),
                        limits,
                    };
                    let sums = flat.then_some(flat_sums.as_mut_ptr());
                    let group = Group { output, padded: &padded, finish, sums };
                    let mut start = 0;
                    while start < vectors {
                        let count = VECTORS.min(vectors - start);
                        match count {
                            1 => self.group::<S, 1>(simd, group, start),
                            2 => self.group::<S, 2>(simd, group, start),
                            3 => self.group::<S, 3>(simd, group, start),
                            4 => self.group::<S, 4>(simd, group, start),
                            5 => self.group::<S, 5>(simd, group, start),
                            6 => self.group::<S, 6>(simd, group, start),
                            7 => self.group::<S, 7>(simd, group, start),
                            _ => self.group::<S, VECTORS>(simd, group, start),
                        }
                        start += count;
                    }
                    if flat {
                        for row in 0..oh {
                            for x in (0..ow).step_by(S::LANES) {
                                let lanes = S::LANES.min(ow - x);
                                let sum = simd.load_first(flat_sums.as_ptr().add(row * pitch + x), lanes);
                                finish.write(simd, sum, row * ow + x, lanes);
                            }
                        }
                    }
                    if bounds.is_none() {
                        self.epilogue.activation.apply(std::slice::from_raw_parts_mut(finish.y, oh * ow));
                    }
                }
            }
        }
    }
}

/// What the vectors of an output channel share.
#[derive(Clone, Copy)]
struct Group<'a, V> {
    output: usize,
    padded: &'a [f32],
    finish: Finish<V>,
    /// Where sums go that run on over the ends of rows.
    sums: Option<*mut f32>,
}

impl Part<'_> {
    /// Copies a channel into the phases.
    ///
    /// # Safety
    /// `padded` must be as long as [`Phases`] says.
    #[inline(always)]
    unsafe fn pad<S: Simd>(&self, simd: S, channel: usize, padded: &mut [f32]) {
        let ([height, width], [sy, sx]) = (self.geometry.input(), self.geometry.stride());
        let [top, left, ..] = self.geometry.pads();
        let Phases { pitch, plane, .. } = self.phases;
        let rows = plane / pitch;
        // Columns that some tap reads; beyond them a phase has no room.
        let used = (pitch * sx).saturating_sub(left).min(width);
        // Where the first `sx` columns of a row go; the others follow them at a distance of 1.
        let place = |x: usize| (x + left) % sx * plane + (x + left) / sx;
        let places = [place(0), place(1)];
        let (mut phase, mut to) = (top % sy, top / sy);
        for row in 0..height {
            if to >= rows {
                break;
            }
            // SAFETY: column `x` goes to a place before the end of its phase's row `to < rows`.
            unsafe {
                let src = self.x.as_ptr().add((channel * height + row) * width);
                let dst = padded.as_mut_ptr().add(phase * sx * plane + to * pitch);
                match sx {
                    1 => copy_padded(simd, src, used, dst.add(places[0]), used),
                    2 => {
                        let [even, odd] = places.map(|place| dst.add(place));
                        for x in (0..used).step_by(2 * S::LANES) {
                            let n = (2 * S::LANES).min(used - x);
                            let [a, b] = simd.load_deinterleaved(src.add(x), n);
                            simd.store_first(a, even.add(x / 2), n.div_ceil(2));
                            simd.store_first(b, odd.add(x / 2), n / 2);
                        }
                    }
                    _ => {
                        for x in 0..used {
                            *dst.add(place(x)) = *src.add(x);
                        }
                    }
                }
            }
            phase += 1;
            if phase == sy {
                (phase, to) = (0, to + 1);
            }
        }
    }

    /// Sums `N` vectors over all taps and writes them.
    ///
    /// # Safety
    /// The vectors must be those of the plan.
    #[inline(always)]
    #[allow(
        clippy::needless_range_loop,
        clippy::manual_memcpy,
        reason = "constant bounds keep the sums in registers"
    )]
    unsafe fn group<S: Simd, const N: usize>(&self, simd: S, group: Group<'_, S::F32>, start: usize) {
        let ops = simd.f32();
        let Group { output, padded, finish, sums: flat } = group;
        let plan = self.plan;
        let mut inputs = [padded.as_ptr(); N];
        for i in 0..N {
            // SAFETY: the start of the vector lies within phase 0.
            inputs[i] = unsafe { inputs[i].add(plan.inputs[start + i] as usize) };
        }
        let mut sums = [ops.zero(); N];
        let weights = &self.weights.weights[output * self.weights.taps..][..self.weights.taps];
        for (&weight, offset) in weights.iter().zip(plan.taps) {
            let (weight, offset) = (splat(simd, weight), *offset as usize);
            for i in 0..N {
                // SAFETY: the tap of every output pixel lies within its phase; lanes beyond the last pixel read on into what
                // follows, for which the last phase has room.
                sums[i] = ops.mul_add(weight, unsafe { ops.load_ptr(inputs[i].add(offset)) }, sums[i]);
            }
        }
        // A copy in memory for the long loop below, so that the loop above keeps its sums in registers.
        let mut done = [ops.zero(); N];
        for i in 0..N {
            done[i] = sums[i];
        }
        for i in 0..N {
            let (at, lanes) = (plan.outputs[start + i] as usize, plan.lanes[start + i] as usize);
            // SAFETY: by the caller.
            unsafe {
                match flat {
                    Some(flat) => ops.store_ptr(done[i], flat.add(at)),
                    None => finish.write(simd, done[i], at, lanes),
                }
            }
        }
    }
}

impl<V: Copy> Finish<V> {
    /// Finishes the first `lanes` of a vector at pixel `at` and writes them.
    ///
    /// # Safety
    /// They must lie within the channel.
    #[inline(always)]
    unsafe fn write<S: Simd<F32 = V>>(self, simd: S, sum: V, at: usize, lanes: usize)
    where
        V: rten_simd::Simd,
    {
        let mut sum = simd.f32().add(sum, self.bias);
        // SAFETY: by the caller; a residual is as long as `y`.
        unsafe {
            if !self.residual.is_null() {
                sum = simd.f32().add(sum, simd.load_first(self.residual.add(at), lanes));
            }
            simd.store_first(clamp(simd, sum, self.limits), self.y.add(at), lanes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Activation;

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
                            if !level.available() {
                                continue;
                            }
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
