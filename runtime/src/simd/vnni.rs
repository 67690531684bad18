//! AVX-512 VNNI: products of bytes, four to a lane, summed in 32 bits.

use core::arch::x86_64::{
    _mm512_add_epi32, _mm512_castps_si512, _mm512_castsi512_ps, _mm512_cvtepi32_ps, _mm512_dpbusd_epi32,
    _mm512_mullo_epi32, _mm512_set1_epi32,
};

use rten_simd::Isa;
use rten_simd::isa::Avx512Isa;

use super::Level;

/// The proof that this CPU has VNNI beside what [`Level::Avx512`] stands for. Vectors are of floats whose bits are bytes or integers.
#[derive(Clone, Copy)]
pub(crate) struct Vnni(Avx512Isa);

type F32 = <Avx512Isa as Isa>::F32;

/// Code to run with these instructions.
pub(crate) trait OnVnni {
    /// Runs it; must be `#[inline(always)]` to be compiled for them.
    fn eval(self, simd: Avx512Isa);
}

#[allow(clippy::unused_self, reason = "what proves that the CPU has the instructions")]
impl Vnni {
    /// Looks for the instructions, and whether this build uses them.
    pub(crate) fn find() -> Option<Self> {
        let found = Level::Avx512.available() && is_x86_feature_detected!("avx512vnni");
        found.then(Avx512Isa::new).flatten().map(Self)
    }

    /// Runs `op` with these instructions.
    pub(crate) fn run<V: OnVnni>(self, op: V) {
        #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx512vnni,f16c,fma,popcnt,bmi1,bmi2")]
        unsafe fn run<V: OnVnni>(op: V, simd: Avx512Isa) {
            op.eval(simd);
        }
        // SAFETY: `find` found these features.
        unsafe { run(op, self.0) }
    }

    /// To each 32-bit sum the products of four bytes without sign and four with one.
    #[inline(always)]
    pub(crate) fn multiply_add(self, sum: F32, unsigned: F32, signed: F32) -> F32 {
        // SAFETY: the CPU has VNNI, because `self` exists.
        unsafe {
            let [sum, unsigned, signed] = [sum, unsigned, signed].map(|v| _mm512_castps_si512(v.0));
            _mm512_castsi512_ps(_mm512_dpbusd_epi32(sum, unsigned, signed))
        }
        .into()
    }

    /// Sums of 32-bit integers.
    #[inline(always)]
    pub(crate) fn add(self, a: F32, b: F32) -> F32 {
        // SAFETY: as above.
        unsafe { _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(a.0), _mm512_castps_si512(b.0))) }
            .into()
    }

    /// Products of 32-bit integers with one.
    #[inline(always)]
    pub(crate) fn multiply(self, a: F32, by: i32) -> F32 {
        // SAFETY: as above.
        unsafe { _mm512_castsi512_ps(_mm512_mullo_epi32(_mm512_castps_si512(a.0), _mm512_set1_epi32(by))) }
            .into()
    }

    /// The floats next to 32-bit integers.
    #[inline(always)]
    pub(crate) fn to_floats(self, integers: F32) -> F32 {
        // SAFETY: as above.
        unsafe { _mm512_cvtepi32_ps(_mm512_castps_si512(integers.0)) }.into()
    }
}
