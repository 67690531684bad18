//! What the kernels need of a CPU beyond [`rten_simd::Isa`]: partial loads and stores, transposes, and broadcasts of
//! weights in pairs. One implementation per instruction set, in a file of its own.
//!
//! A kernel is written once as a `Vectorized` and run by `Supported::run` inside a function that has the instructions enabled,
//! into which everything below is inlined.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;
mod value;
#[cfg(all(target_arch = "x86_64", feature = "quantized"))]
mod vnni;

#[cfg(target_arch = "x86_64")]
use rten_simd::isa::Avx2Isa;
#[cfg(all(target_arch = "x86_64", feature = "avx512"))]
use rten_simd::isa::Avx512Isa;
use rten_simd::isa::GenericIsa;
use rten_simd::ops::{BitOps, IntOps, NumOps};
use rten_simd::{Isa, Simd as _};

pub(crate) use value::Value;
#[cfg(all(target_arch = "x86_64", feature = "avx512", feature = "quantized"))]
pub(crate) use vnni::Avx512Vnni;
#[cfg(all(target_arch = "x86_64", feature = "quantized"))]
pub(crate) use vnni::{AvxVnni, ByteProducts, F32, OnBytes};

/// Vectors of f32 on one instruction set. Values of this type exist only where the CPU has the instructions.
///
/// # Safety
/// `LANES` must be the number of f32 in `Self::F32`.
pub(crate) unsafe trait Simd: Isa + Send + Sync {
    /// Elements of a vector.
    const LANES: usize;
    /// Accumulator rows of a dense tile that is [`Simd::TILE_VECTORS`] vectors wide: what the registers hold.
    const TILE_ROWS: usize;
    /// Vectors along the lanes of a dense tile.
    const TILE_VECTORS: usize = 2;
    /// Whether to ask for a stream of weights ahead of its use. It pays where the CPU's own prefetcher is late and loads are
    /// not what limits a kernel.
    const PREFETCH: bool = false;

    /// The first `n <= LANES` elements at `ptr`, then zeros. Reads no others.
    ///
    /// # Safety
    /// `n` elements at `ptr` must be readable.
    unsafe fn load_first(self, ptr: *const f32, n: usize) -> Self::F32;

    /// `v`, with lanes `from..to` replaced by elements `from..to` at `ptr`. Reads no others.
    ///
    /// # Safety
    /// `from <= to <= LANES`, and those elements must be readable.
    unsafe fn load_between(self, v: Self::F32, ptr: *const f32, from: usize, to: usize) -> Self::F32;

    /// `LANES` stored values as f32.
    ///
    /// # Safety
    /// They must be readable.
    unsafe fn load_values<V: Value>(self, ptr: *const V) -> Self::F32;

    /// Writes the first `n <= LANES` elements to `ptr`, and no others.
    ///
    /// # Safety
    /// `n` elements at `ptr` must be writable.
    unsafe fn store_first(self, v: Self::F32, ptr: *mut f32, n: usize);

    /// Two neighbouring weights, each in every lane of a vector.
    ///
    /// # Safety
    /// Two elements at `weights` must be readable.
    #[inline(always)]
    unsafe fn splat_pair(self, weights: *const f32) -> [Self::F32; 2] {
        // SAFETY: by the caller.
        unsafe { [splat(self, *weights), splat(self, *weights.add(1))] }
    }

    /// The same where both multiply one vector, so that loads are fewer than multiply-adds.
    ///
    /// # Safety
    /// As [`Simd::splat_pair`].
    #[inline(always)]
    unsafe fn splat_shared_pair(self, weights: *const f32) -> [Self::F32; 2] {
        // SAFETY: by the caller.
        unsafe { self.splat_pair(weights) }
    }

    /// The elements of even index of `a` and then of `b`, and those of odd index.
    fn unzip(self, a: Self::F32, b: Self::F32) -> [Self::F32; 2];

    /// The elements of `a` and `b` in turns, the first and the second half: what [`Simd::unzip`] takes apart.
    fn zip(self, a: Self::F32, b: Self::F32) -> [Self::F32; 2];

    /// The sum of the elements.
    #[inline(always)]
    fn total(self, v: Self::F32) -> f32 {
        use rten_simd::Simd as _;
        v.to_array().into_iter().sum()
    }

    /// The greatest of the elements, if none is NaN.
    #[inline(always)]
    fn greatest(self, v: Self::F32) -> f32 {
        use rten_simd::Simd as _;
        v.to_array().into_iter().fold(f32::NEG_INFINITY, |a, b| if a > b { a } else { b })
    }

    /// Clamps to `min..=max` and lets a NaN through.
    #[inline(always)]
    fn clamp(self, x: Self::F32, [min, max]: [Self::F32; 2]) -> Self::F32 {
        use rten_simd::ops::{BitOps, NumOps};
        let ops = self.f32();
        // Comparisons with NaN are false. (`max` and `min` differ in what they do with NaN from one CPU to another.)
        let x = ops.select(min, x, ops.lt(x, min));
        ops.select(max, x, ops.gt(x, max))
    }

    /// As many equal parts of a vector, each full of the element at its pointer.
    ///
    /// # Safety
    /// `parts` must be 1, 2 or 4 and make parts of at least 4 lanes; those elements must be readable.
    #[cfg_attr(not(feature = "structured"), allow(dead_code))]
    unsafe fn splat_parts(self, at: [*const f32; 4], parts: usize) -> Self::F32;

    /// A vector of 4 elements from each pointer, in as many parts as it has.
    ///
    /// # Safety
    /// Those elements must be readable.
    #[cfg_attr(not(feature = "structured"), allow(dead_code))]
    unsafe fn load_parts(self, at: [*const f32; 4]) -> Self::F32;

    /// Writes a vector: first the lanes whose bits are set in `lanes`, in their order, then anything.
    ///
    /// # Safety
    /// `LANES` elements at `dst` must be writable.
    #[inline(always)]
    unsafe fn compress(self, v: Self::F32, lanes: u32, dst: *mut f32) {
        let mut at = 0;
        for (i, lane) in v.to_array().into_iter().enumerate() {
            // SAFETY: `at <= i`; the caller says that a vector is writable.
            unsafe { *dst.add(at) = lane };
            at += (lanes >> i & 1) as usize;
        }
    }

    /// The bits of `bits` where `mask` has ones, next to one another from the lowest on.
    #[inline(always)]
    fn extract(self, bits: u64, mut mask: u64) -> u64 {
        let (mut found, mut at) = (0, 0);
        while mask != 0 {
            found |= (bits >> mask.trailing_zeros() & 1) << at;
            mask &= mask - 1;
            at += 1;
        }
        found
    }

    /// `v`, which the compiler then holds in a register rather than loading it again for a second use.
    #[inline(always)]
    fn keep(self, v: Self::F32) -> Self::F32 {
        v
    }

    /// `address`, which the compiler then holds in a register: loads at a distance from it, which a multiply-add has for an operand,
    /// stay one operation with it on CPUs that split those from the sum of two registers.
    #[inline(always)]
    fn keep_address(self, address: *const f32) -> *const f32 {
        address
    }

    /// `y · 2ⁿ`, or 0 where `hidden`, given `shifted`, the sum of [`SHIFT`] and an integer `n` from −126 to 127 (elsewhere than where
    /// `hidden`).
    #[inline(always)]
    fn scale_by_power(self, y: Self::F32, shifted: Self::F32, hidden: Self::M32) -> Self::F32 {
        let (ops, ints) = (self.f32(), self.i32());
        let exponent = ints.add(Self::I32::from_bits(shifted.to_bits()), ints.splat(127));
        let power = Self::F32::from_bits(ints.shift_left::<23>(exponent).to_bits());
        ops.select(zero(self), ops.mul(y, power), hidden)
    }

    /// Writes the transpose of a block: `dst[c · dst_stride + r] = src[r · src_stride + c]` for `r < rows`, `c < cols`,
    /// both at most `LANES`. Touches nothing else.
    ///
    /// # Safety
    /// Those elements must be readable and writable.
    unsafe fn transpose_block(
        self,
        src: *const f32,
        src_stride: usize,
        rows_cols: [usize; 2],
        dst: *mut f32,
        dst_stride: usize,
    );
}

/// 1.5 · 2²³: adding it rounds to an integer, which then is in the low bits.
pub(crate) const SHIFT: f32 = 12_582_912.0;

/// `x` in every lane.
#[inline(always)]
pub(crate) fn splat<S: Simd>(simd: S, x: f32) -> S::F32 {
    use rten_simd::ops::BitOps;
    simd.f32().splat(x)
}

/// 0 in every lane. (`BitOps::zero` is a call, unless crates are optimised together, and a call spills every register.)
#[inline(always)]
pub(crate) fn zero<S: Simd>(simd: S) -> S::F32 {
    splat(simd, 0.0)
}

/// Code to run with vectors.
pub(crate) trait Vectorized {
    /// What it returns.
    type Output;

    /// Runs it; must be `#[inline(always)]` to be compiled for the instruction set of `S`.
    fn eval<S: Simd>(self, simd: S) -> Self::Output;
}

/// An instruction set that kernels are compiled for: a name only. What runs with it needs a [`Supported`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Level {
    /// What every CPU has.
    Portable,
    /// AVX2 with FMA, F16C, POPCNT, BMI1 and BMI2, which came with it or before.
    Avx2,
    /// AVX-512 F, VL, BW, DQ, with FMA, F16C, POPCNT, BMI1 and BMI2.
    Avx512,
}

impl Level {
    /// The best that this CPU has.
    pub fn best() -> Self {
        Supported::best().level()
    }

    /// The proof that this CPU and its operating system have it, if they do.
    pub fn supported(self) -> Option<Supported> {
        Supported::check(self)
    }

    /// Whether this CPU has it.
    pub fn available(self) -> bool {
        self.supported().is_some()
    }

    /// Elements of an f32 vector.
    pub fn lanes(self) -> usize {
        match self {
            Self::Portable => GenericIsa::LANES,
            Self::Avx2 => 8,
            Self::Avx512 => 16,
        }
    }
}

/// A [`Level`] that this CPU was found to have: the only way to code that uses its instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Supported(Level);

impl Supported {
    /// The best that this CPU has.
    pub fn best() -> Self {
        let levels = [Level::Avx512, Level::Avx2];
        levels.into_iter().find_map(Level::supported).unwrap_or(Self(Level::Portable))
    }

    /// Every feature that some function of the level enables is looked for, and whether the operating system keeps its
    /// registers, which detection includes.
    fn check(level: Level) -> Option<Self> {
        /// Whether all these features were found.
        #[cfg(target_arch = "x86_64")]
        macro_rules! have {
            ($($feature:tt),*) => { $(is_x86_feature_detected!($feature))&&* };
        }
        let found = match level {
            Level::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => {
                have!("avx", "avx2", "fma", "f16c", "popcnt", "bmi1", "bmi2") && Avx2Isa::new().is_some()
            }
            #[cfg(all(target_arch = "x86_64", feature = "avx512"))]
            Level::Avx512 => {
                have!("avx512f", "avx512vl", "avx512bw", "avx512dq", "fma", "f16c", "popcnt", "bmi1", "bmi2")
                    && Avx512Isa::new().is_some()
            }
            #[cfg(not(target_arch = "x86_64"))]
            Level::Avx2 => false,
            #[cfg(not(all(target_arch = "x86_64", feature = "avx512")))]
            Level::Avx512 => false,
        };
        found.then_some(Self(level))
    }

    /// Its name.
    pub fn level(self) -> Level {
        self.0
    }

    /// Elements of an f32 vector.
    pub fn lanes(self) -> usize {
        self.0.lanes()
    }

    /// Runs `op` with these instructions.
    pub(crate) fn run<V: Vectorized>(self, op: V) -> V::Output {
        match self.0 {
            Level::Portable => op.eval(GenericIsa::new()),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => {
                #[target_feature(enable = "avx,avx2,fma,f16c,popcnt,bmi1,bmi2")]
                unsafe fn run<V: Vectorized>(op: V, isa: Avx2Isa) -> V::Output {
                    op.eval(isa)
                }
                let isa = Avx2Isa::new().expect("found by `check`");
                // SAFETY: `check` found these features.
                unsafe { run(op, isa) }
            }
            #[cfg(all(target_arch = "x86_64", feature = "avx512"))]
            Level::Avx512 => {
                #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,f16c,fma,popcnt,bmi1,bmi2")]
                unsafe fn run<V: Vectorized>(op: V, isa: Avx512Isa) -> V::Output {
                    op.eval(isa)
                }
                let isa = Avx512Isa::new().expect("found by `check`");
                // SAFETY: `check` found these features.
                unsafe { run(op, isa) }
            }
            #[cfg(not(target_arch = "x86_64"))]
            Level::Avx2 => unreachable!("`check` found {self:?} on another CPU"),
            #[cfg(not(all(target_arch = "x86_64", feature = "avx512")))]
            Level::Avx512 => unreachable!("`check` found {self:?} where there is none"),
        }
    }
}

#[cfg(test)]
#[allow(clippy::float_cmp, reason = "moved values are bit for bit the same")]
mod tests {
    use super::*;

    struct Check;

    impl Vectorized for Check {
        type Output = ();

        fn eval<S: Simd>(self, simd: S) {
            let lanes = S::LANES;
            let src: Vec<f32> = (0..lanes * (lanes + 3)).map(|i| i as f32).collect();
            for n in 0..=lanes {
                let mut dst = vec![-1.0; lanes + 1];
                // SAFETY: both hold more than `n` elements.
                unsafe { simd.store_first(simd.load_first(src.as_ptr().add(5), n), dst.as_mut_ptr(), lanes) };
                for i in 0..lanes {
                    assert_eq!(dst[i], if i < n { src[5 + i] } else { 0.0 }, "{lanes} lanes, first {n}");
                }
                // SAFETY: `dst` holds `lanes` elements.
                unsafe { simd.store_first(splat(simd, -7.0), dst.as_mut_ptr(), n) };
                assert!(dst[..n].iter().all(|&v| v == -7.0) && dst[n] != -7.0);
            }
            for (from, to) in (0..=lanes).flat_map(|to| (0..=to).map(move |from| (from, to))) {
                let mut dst = vec![-1.0; lanes];
                // SAFETY: `src` holds more than `lanes` elements from 5 on, `dst` a vector.
                unsafe {
                    let v = simd.load_between(splat(simd, -7.0), src.as_ptr().add(5), from, to);
                    simd.store_first(v, dst.as_mut_ptr(), lanes);
                }
                for i in 0..lanes {
                    let expected = if (from..to).contains(&i) { src[5 + i] } else { -7.0 };
                    assert_eq!(dst[i], expected, "{lanes} lanes, {from}..{to}");
                }
            }
            for rows in 1..=lanes {
                for cols in 1..=lanes {
                    let mut dst = vec![-1.0; lanes * (lanes + 2)];
                    let (ss, ds) = (lanes + 3, lanes + 2);
                    // SAFETY: the strides exceed the sides of the block, and the buffers hold `lanes` such rows.
                    unsafe { simd.transpose_block(src.as_ptr(), ss, [rows, cols], dst.as_mut_ptr(), ds) };
                    for c in 0..lanes {
                        for r in 0..ds {
                            let expected = if r < rows && c < cols { src[r * ss + c] } else { -1.0 };
                            assert_eq!(dst[c * ds + r], expected, "{rows} × {cols} of {lanes}");
                        }
                    }
                }
            }
            for parts in [1, 2, 4] {
                if lanes / parts >= 4 {
                    let mut dst = vec![-1.0; lanes];
                    let at = [3, 9, 0, 5].map(|i| src[i..].as_ptr());
                    // SAFETY: `src` holds more than 12 elements, `dst` a vector.
                    unsafe { simd.store_first(simd.splat_parts(at, parts), dst.as_mut_ptr(), lanes) };
                    let expected: Vec<f32> =
                        (0..lanes).map(|i| [3.0, 9.0, 0.0, 5.0][i * parts / lanes]).collect();
                    assert_eq!(dst, expected, "{parts} parts of {lanes} lanes");
                    // SAFETY: as above.
                    unsafe { simd.store_first(simd.load_parts(at), dst.as_mut_ptr(), lanes) };
                    let expected: Vec<f32> =
                        (0..lanes).map(|i| [3.0, 9.0, 0.0, 5.0][i / 4] + (i % 4) as f32).collect();
                    assert_eq!(dst, expected);
                }
            }
            // SAFETY: `src` holds more than a vector.
            let v = unsafe { simd.load_first(src.as_ptr().add(3), lanes) };
            assert_eq!(simd.greatest(v), 2.0 + lanes as f32);
            assert_eq!(simd.total(v), (0..lanes).map(|i| 3.0 + i as f32).sum::<f32>());
            // SAFETY: `src` holds more than two vectors, `dst` one.
            let [a, b] = [0, lanes].map(|i| unsafe { simd.load_first(src.as_ptr().add(i), lanes) });
            for (odd, v) in simd.unzip(a, b).into_iter().enumerate() {
                let mut dst = vec![-1.0; lanes];
                // SAFETY: `dst` holds a vector.
                unsafe { simd.store_first(v, dst.as_mut_ptr(), lanes) };
                assert!(dst.iter().enumerate().all(|(i, &v)| v == src[2 * i + odd]), "{odd}: {dst:?}");
            }
            let [even, odd] = simd.unzip(a, b);
            for (zipped, v) in simd.zip(even, odd).into_iter().zip([a, b]) {
                assert_eq!(zipped.to_array().as_ref(), v.to_array().as_ref());
            }
            // SAFETY: `src` holds more than two elements.
            let pair = unsafe { simd.splat_pair(src.as_ptr().add(1)) };
            let mut dst = vec![0.0; lanes];
            for (i, v) in pair.into_iter().enumerate() {
                // SAFETY: `dst` holds a vector.
                unsafe { simd.store_first(v, dst.as_mut_ptr(), lanes) };
                assert!(dst.iter().all(|&v| v == src[1 + i]));
            }
            for chosen in [0, 1, 0b1010, 0b0111_0110, 0xaaaa, 0xffff] {
                let chosen = chosen & ((1 << lanes) - 1);
                let mut dst = vec![-1.0; lanes];
                // SAFETY: `src` holds more than a vector, `dst` one.
                unsafe { simd.compress(simd.load_first(src.as_ptr(), lanes), chosen, dst.as_mut_ptr()) };
                let expected: Vec<f32> =
                    (0..lanes).filter(|i| chosen >> i & 1 == 1).map(|i| src[i]).collect();
                assert_eq!(dst[..expected.len()], expected, "{chosen:b} of {lanes} lanes");
            }
            for (bits, mask, expected) in [
                (0b1101, 0b0110, 0b10),
                (u64::MAX, u64::MAX, u64::MAX),
                (0x8000_0000_0000_0001, 0xc000_0000_0000_0003, 0b1001),
                (7, 0, 0),
            ] {
                assert_eq!(simd.extract(bits, mask), expected, "{bits:b}, {mask:b}");
            }
        }
    }

    #[test]
    fn every_level_does_what_it_says() {
        for level in [Level::Portable, Level::Avx2, Level::Avx512] {
            if let Some(level) = level.supported() {
                level.run(Check);
            }
        }
        assert!(Level::best().available());
    }
}
