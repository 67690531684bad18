//! Products of bytes, four to a lane, summed in 32 bits: AVX-512 VNNI, and AVX-VNNI on CPUs that have only that.

use core::arch::x86_64::{
    _mm256_add_epi32, _mm256_castps_si256, _mm256_castsi256_ps, _mm256_cvtepi32_ps, _mm256_dpbusd_avx_epi32,
    _mm256_mullo_epi32, _mm256_set1_epi32,
};
#[cfg(feature = "avx512")]
use core::arch::x86_64::{
    _mm512_add_epi32, _mm512_castps_si512, _mm512_castsi512_ps, _mm512_cvtepi32_ps, _mm512_dpbusd_epi32,
    _mm512_mullo_epi32, _mm512_set1_epi32,
};

use rten_simd::isa::Avx2Isa;
#[cfg(feature = "avx512")]
use rten_simd::isa::Avx512Isa;

use super::{Level, Simd};

/// The proof that this CPU multiplies bytes beside what the level of `Isa` stands for. Vectors are of floats whose bits are
/// bytes or integers.
pub(crate) trait ByteProducts: Copy + Send + Sync {
    /// The instructions for everything else.
    type Isa: Simd;

    /// Looks for the instructions, and whether this build uses them.
    fn find() -> Option<Self>;

    /// Runs `op` with these instructions.
    fn run<V: OnBytes<Self::Isa>>(self, op: V);

    /// To each 32-bit sum the products of four bytes without sign and four with one.
    fn multiply_add(self, sum: F32<Self>, unsigned: F32<Self>, signed: F32<Self>) -> F32<Self>;

    /// Sums of 32-bit integers.
    fn add(self, a: F32<Self>, b: F32<Self>) -> F32<Self>;

    /// Products of 32-bit integers with one.
    fn multiply(self, a: F32<Self>, by: i32) -> F32<Self>;

    /// The floats next to 32-bit integers.
    fn to_floats(self, integers: F32<Self>) -> F32<Self>;
}

/// A vector: floats, bytes or integers.
pub(crate) type F32<B> = <<B as ByteProducts>::Isa as rten_simd::Isa>::F32;

/// Code to run with these instructions.
pub(crate) trait OnBytes<S: Simd> {
    /// Runs it; must be `#[inline(always)]` to be compiled for them.
    fn eval(self, simd: S);
}

macro_rules! byte_products {
    (
        $(#[$about:meta])* $name:ident($isa:ty, $level:expr, $detected:tt, $features:literal)
        $to_integers:ident $to_bits:ident $multiply_add:ident $add:ident $multiply:ident $splat:ident $to_floats:ident
    ) => {
        $(#[$about])*
        #[derive(Clone, Copy)]
        pub(crate) struct $name($isa);

        impl ByteProducts for $name {
            type Isa = $isa;

            fn find() -> Option<Self> {
                let found = $level.available() && is_x86_feature_detected!($detected);
                found.then(<$isa>::new).flatten().map(Self)
            }

            fn run<V: OnBytes<$isa>>(self, op: V) {
                #[target_feature(enable = $features)]
                unsafe fn run<V: OnBytes<$isa>>(op: V, simd: $isa) {
                    op.eval(simd);
                }
                // SAFETY: `find` found these features.
                unsafe { run(op, self.0) }
            }

            #[inline(always)]
            fn multiply_add(self, sum: F32<Self>, unsigned: F32<Self>, signed: F32<Self>) -> F32<Self> {
                // SAFETY: the CPU has the instructions, because `self` exists.
                unsafe {
                    let [sum, unsigned, signed] = [sum, unsigned, signed].map(|v| $to_integers(v.0));
                    $to_bits($multiply_add(sum, unsigned, signed))
                }
                .into()
            }

            #[inline(always)]
            fn add(self, a: F32<Self>, b: F32<Self>) -> F32<Self> {
                // SAFETY: as above.
                unsafe { $to_bits($add($to_integers(a.0), $to_integers(b.0))) }.into()
            }

            #[inline(always)]
            fn multiply(self, a: F32<Self>, by: i32) -> F32<Self> {
                // SAFETY: as above.
                unsafe { $to_bits($multiply($to_integers(a.0), $splat(by))) }.into()
            }

            #[inline(always)]
            fn to_floats(self, integers: F32<Self>) -> F32<Self> {
                // SAFETY: as above.
                unsafe { $to_floats($to_integers(integers.0)) }.into()
            }
        }
    };
}

#[cfg(feature = "avx512")]
byte_products! {
    /// 512 bits at a time.
    Avx512Vnni(
        Avx512Isa, Level::Avx512, "avx512vnni",
        "avx512f,avx512vl,avx512bw,avx512dq,avx512vnni,f16c,fma,popcnt,bmi1,bmi2"
    )
    _mm512_castps_si512 _mm512_castsi512_ps _mm512_dpbusd_epi32 _mm512_add_epi32 _mm512_mullo_epi32 _mm512_set1_epi32
    _mm512_cvtepi32_ps
}

byte_products! {
    /// 256 bits at a time.
    AvxVnni(Avx2Isa, Level::Avx2, "avxvnni", "avx2,avxvnni,f16c,fma,popcnt,bmi1,bmi2")
    _mm256_castps_si256 _mm256_castsi256_ps _mm256_dpbusd_avx_epi32 _mm256_add_epi32 _mm256_mullo_epi32 _mm256_set1_epi32
    _mm256_cvtepi32_ps
}
